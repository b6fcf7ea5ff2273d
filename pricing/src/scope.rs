//! What a rule applies to.

use hourglass_units::{Platform, ProjectId, Region};
use serde::{Deserialize, Serialize};

use crate::card::{PurchaseModel, Sku};

/// Which GPU-hours a rule is about. What is absent does not matter.
///
/// All fields are always written, here and in [`crate::terms`]: a contract is also stored in a binary
/// form that knows fields by their place alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// Of this project.
    #[serde(default)]
    pub project: Option<ProjectId>,
    /// On this platform.
    #[serde(default)]
    pub platform: Option<Platform>,
    /// In this region.
    #[serde(default)]
    pub region: Option<Region>,
    /// Sold like this.
    #[serde(default)]
    pub model: Option<PurchaseModel>,
}

impl Scope {
    /// Whether it is about everything.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// Whether GPU-hours of the project and SKU are within it.
    pub fn covers(&self, project: &ProjectId, sku: &Sku) -> bool {
        self.project.as_ref().is_none_or(|it| it == project) && self.covers_sku(sku)
    }

    /// Whether GPU-hours of the SKU are within it, whatever their project.
    pub fn covers_sku(&self, sku: &Sku) -> bool {
        self.platform.as_ref().is_none_or(|it| *it == sku.platform)
            && self.region.as_ref().is_none_or(|it| *it == sku.region)
            && self.model.is_none_or(|it| it == sku.model)
    }

    /// Whether anything can be within both.
    pub fn overlaps(&self, other: &Self) -> bool {
        fn meet<T: PartialEq>(a: Option<&T>, b: Option<&T>) -> bool {
            a.zip(b).is_none_or(|(a, b)| a == b)
        }
        meet(self.project.as_ref(), other.project.as_ref())
            && meet(self.platform.as_ref(), other.platform.as_ref())
            && meet(self.region.as_ref(), other.region.as_ref())
            && meet(self.model.as_ref(), other.model.as_ref())
    }
}
