//! Names of pools.

use std::fmt;
use std::str::FromStr;

use hourglass_units::{Fabric, IdError, Platform, Region};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A pool of GPUs of one kind that a gang can be placed in: `eu-north1/gpu-h100-sxm/fabric-2`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolName {
    /// Where.
    pub region: Region,
    /// Of what.
    pub platform: Platform,
    /// On which fabric.
    pub fabric: Fabric,
}

/// A text that names no pool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolNameError {
    /// It has another form.
    #[error("a pool is REGION/PLATFORM/FABRIC, such as eu-north1/gpu-h100-sxm/fabric-2")]
    Form,
    /// One of its ids is none.
    #[error(transparent)]
    Id(#[from] IdError),
}

impl fmt::Display for PoolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.region, self.platform, self.fabric)
    }
}

impl fmt::Debug for PoolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PoolName {
    type Err = PoolNameError;

    fn from_str(text: &str) -> Result<Self, PoolNameError> {
        let mut parts = text.split('/');
        let (Some(region), Some(platform), Some(fabric), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(PoolNameError::Form);
        };
        Ok(Self { region: region.parse()?, platform: platform.parse()?, fabric: fabric.parse()? })
    }
}

impl Serialize for PoolName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PoolName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
