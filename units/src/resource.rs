//! Names of what a quota counts, such as `compute.instance.gpu.h100`.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ids::Platform;

/// Longest resource name, in characters (all of them ASCII).
pub const RESOURCE_NAME_LENGTH_MAX: usize = 128;

/// How the names of GPU resources begin.
const GPU: &str = "compute.instance.gpu";

/// A text that names no resource.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResourceNameError {
    /// Nothing was given.
    #[error("the resource name is empty: write it like compute.instance.gpu.h100")]
    Empty,
    /// Longer than [`RESOURCE_NAME_LENGTH_MAX`].
    #[error("the resource name has {length} bytes: at most {RESOURCE_NAME_LENGTH_MAX} are allowed")]
    TooLong {
        /// Bytes given.
        length: usize,
    },
    /// Nothing before, between or after dots.
    #[error("the resource name has an empty segment at byte {at}: write it like compute.instance.gpu.h100")]
    EmptySegment {
        /// The byte offset at which a segment should begin.
        at: usize,
    },
    /// A character outside the alphabet.
    #[error("the resource name has {character:?} at byte {at}: use a-z, 0-9, '-', '_', and '.' in between")]
    Character {
        /// The offending character.
        character: char,
        /// Its byte offset.
        at: usize,
    },
}

/// What a quota counts: segments of `a-z 0-9 - _`, with dots in between.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceName(Box<str>);

impl ResourceName {
    /// Parses a name of 1 to [`RESOURCE_NAME_LENGTH_MAX`] characters.
    pub fn new(text: &str) -> Result<Self, ResourceNameError> {
        check(text)?;
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What lies between the dots.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }
}

/// Which resource the GPUs of a platform are: the model alone counts, so that `gpu-h100-sxm` and
/// `gpu-h100-pcie` are both `compute.instance.gpu.h100`. The model is the second part of a name that
/// begins with `gpu-`; of any other it is the whole name.
/// Letters that a resource name has not are written as ones that it has.
pub fn gpu_resource(platform: &Platform) -> ResourceName {
    let name = platform.as_str();
    let model = name.strip_prefix("gpu-").and_then(|rest| rest.split('-').next());
    let model = model.filter(|model| !model.is_empty()).unwrap_or(name);
    // A platform's name has no other letters than a resource's, but for capitals and dots.
    ResourceName(format!("{GPU}.{}", model.to_ascii_lowercase().replace('.', "-")).into())
}

fn check(text: &str) -> Result<(), ResourceNameError> {
    if text.is_empty() {
        return Err(ResourceNameError::Empty);
    }
    if text.len() > RESOURCE_NAME_LENGTH_MAX {
        return Err(ResourceNameError::TooLong { length: text.len() });
    }
    let allowed = |character: char| matches!(character, 'a'..='z' | '0'..='9' | '-' | '_' | '.');
    if let Some((at, character)) = text.char_indices().find(|(_, character)| !allowed(*character)) {
        return Err(ResourceNameError::Character { character, at });
    }
    let mut begins = 0_usize;
    for segment in text.split('.') {
        if segment.is_empty() {
            return Err(ResourceNameError::EmptySegment { at: begins });
        }
        begins = begins.saturating_add(segment.len()).saturating_add(1);
    }
    Ok(())
}

impl FromStr for ResourceName {
    type Err = ResourceNameError;

    fn from_str(text: &str) -> Result<Self, ResourceNameError> {
        Self::new(text)
    }
}

impl Borrow<str> for ResourceName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for ResourceName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ResourceName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn names_are_checked_once() {
        let check = |text: &str, expected: Result<(), ResourceNameError>| {
            assert_eq!(ResourceName::new(text).map(|_| ()), expected, "{text}");
        };
        check("compute.instance.gpu.h100", Ok(()));
        check("x", Ok(()));
        check("spend-cap.a_b.-", Ok(()));
        check(&"x".repeat(128), Ok(()));
        check(&"x".repeat(129), Err(ResourceNameError::TooLong { length: 129 }));
        check("", Err(ResourceNameError::Empty));
        check(".", Err(ResourceNameError::EmptySegment { at: 0 }));
        check(".x", Err(ResourceNameError::EmptySegment { at: 0 }));
        check("x.", Err(ResourceNameError::EmptySegment { at: 2 }));
        check("ab..c", Err(ResourceNameError::EmptySegment { at: 3 }));
        check("gpu.H100", Err(ResourceNameError::Character { character: 'H', at: 4 }));
        check("gpu h100", Err(ResourceNameError::Character { character: ' ', at: 3 }));
        check("gpu.é", Err(ResourceNameError::Character { character: 'é', at: 4 }));
        check("a/b", Err(ResourceNameError::Character { character: '/', at: 1 }));
    }

    #[test]
    fn a_name_has_segments() {
        let name: ResourceName = "compute.instance.gpu.h100".parse().unwrap();
        assert_eq!(name.segments().collect::<Vec<_>>(), ["compute", "instance", "gpu", "h100"]);
    }

    #[test]
    fn a_platform_counts_by_its_model() {
        for (platform, resource) in [
            ("gpu-h100-sxm", "compute.instance.gpu.h100"),
            ("gpu-h100-pcie-2", "compute.instance.gpu.h100"),
            ("gpu-h200", "compute.instance.gpu.h200"),
            ("h100", "compute.instance.gpu.h100"),
            ("b200-nvl72", "compute.instance.gpu.b200-nvl72"),
            ("gpu", "compute.instance.gpu.gpu"),
            ("gpu-", "compute.instance.gpu.gpu-"),
            ("gpu--x", "compute.instance.gpu.gpu--x"),
            ("GPU-A.1", "compute.instance.gpu.gpu-a-1"),
        ] {
            assert_eq!(gpu_resource(&platform.parse().unwrap()).as_str(), resource, "{platform}");
        }
    }

    proptest! {
        /// The resource of any platform has a name that reads back.
        #[test]
        fn every_platform_counts_as_something(platform in "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}") {
            let resource = gpu_resource(&platform.parse().unwrap());
            prop_assert_eq!(resource.as_str().parse::<ResourceName>().unwrap(), resource);
        }
    }

    proptest! {
        /// Whatever is accepted reads back, in both kinds of format; and nothing panics.
        #[test]
        fn names_read_back(text in "[a-z0-9_.-]{0,12}|.{0,12}") {
            let Ok(name) = text.parse::<ResourceName>() else { return Ok(()) };
            prop_assert_eq!(name.to_string(), text.as_str());
            prop_assert_eq!(&text.split('.').map(str::to_owned).collect::<Vec<_>>().join("."), &text);
            let bytes = postcard::to_stdvec(&name).unwrap();
            prop_assert_eq!(postcard::from_bytes::<ResourceName>(&bytes).unwrap(), name);
        }
    }
}
