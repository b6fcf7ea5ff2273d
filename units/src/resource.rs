//! Names of resources that have quotas, such as `compute.instance.gpu.h100`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest resource name, in characters (all of them ASCII).
pub const RESOURCE_NAME_LENGTH_MAX: usize = 128;

/// A text that is no resource name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no resource name: use segments of a-z, 0-9, '-' and '_', parted by dots, as in compute.instance.gpu.h100")]
pub struct ResourceNameError(String);

/// The name of a resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceName(Box<str>);

impl ResourceName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ResourceName {
    type Err = ResourceNameError;
    fn from_str(text: &str) -> Result<Self, ResourceNameError> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
        let segment = |segment: &str| !segment.is_empty() && segment.bytes().all(plain);
        if text.len() <= RESOURCE_NAME_LENGTH_MAX && text.split('.').all(segment) {
            Ok(Self(text.into()))
        } else {
            Err(ResourceNameError(text.chars().take(RESOURCE_NAME_LENGTH_MAX).collect()))
        }
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Serialize for ResourceName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ResourceName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
