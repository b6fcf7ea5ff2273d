//! Tax on an invoice.

use hourglass_units::Percent;
use serde::{Deserialize, Serialize};

/// Whether prices hold the tax.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaxKind {
    /// It comes on top.
    Exclusive,
    /// It is within.
    Inclusive,
}

/// What is rounded to minor units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaxRounding {
    /// The tax of each line; their sum is the tax.
    Line,
    /// The tax of the total; lines have none of their own.
    Total,
}

/// How a tenant is taxed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tax {
    /// As it is called on the invoice, such as `VAT`.
    pub name: String,
    /// Between 0 and 100.
    pub rate_percent: Percent,
    /// Whether prices hold it.
    pub kind: TaxKind,
    /// What is rounded.
    pub rounding: TaxRounding,
}

/// The tax of an invoice, in minor units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taxed {
    /// Of each line, where lines are rounded.
    pub lines: Option<Vec<i128>>,
    /// All of it. On top of the lines where it is exclusive, within them where it is inclusive.
    pub total: i128,
}

impl Tax {
    /// The tax of lines in minor units. `None` out of range.
    pub fn of(&self, _lines: &[i128]) -> Option<Taxed> {
        None
    }
}
