//! Labels: what a customer calls its things, for its own reports.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Most labels of one thing.
pub const LABELS_MAX: usize = 16;
/// Longest key and longest value of a label, in bytes.
pub const LABEL_LENGTH_MAX: usize = 63;

/// A label that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// More than [`LABELS_MAX`].
    #[error("{count} labels are too many: at most {LABELS_MAX}")]
    TooMany {
        /// How many were given.
        count: usize,
    },
    /// The key has no form of a key.
    #[error(
        "{key:?} is no key of a label: 1 to {LABEL_LENGTH_MAX} of a-z, 0-9, '-', '_', '.' and '/', the first a letter"
    )]
    Key {
        /// Its first characters.
        key: String,
    },
    /// The value is too long, or has characters that a report cannot show.
    #[error("the value of label {key}: at most {LABEL_LENGTH_MAX} bytes, and no control characters")]
    Value {
        /// Of which label.
        key: String,
    },
}

/// Keys and values, checked once: at most [`LABELS_MAX`] of them, keys in lower case.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Labels(BTreeMap<Box<str>, Box<str>>);

impl Labels {
    /// Checks keys and values.
    pub fn new<K: AsRef<str>, V: AsRef<str>>(
        labels: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, LabelError> {
        let mut checked = BTreeMap::new();
        for (key, value) in labels {
            let (key, value) = (key.as_ref(), value.as_ref());
            if !is_label_key(key) {
                return Err(LabelError::Key { key: key.chars().take(LABEL_LENGTH_MAX).collect() });
            }
            if value.len() > LABEL_LENGTH_MAX || value.chars().any(char::is_control) {
                return Err(LabelError::Value { key: key.to_owned() });
            }
            checked.insert(key.into(), value.into());
        }
        match checked.len() {
            count if count > LABELS_MAX => Err(LabelError::TooMany { count }),
            _ => Ok(Self(checked)),
        }
    }

    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(|value| &**value)
    }

    /// All of them, by key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Whether a text can be the key of a label.
pub fn is_label_key(key: &str) -> bool {
    let plain = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.' | b'/')
    };
    key.bytes().next().is_some_and(|first| first.is_ascii_lowercase())
        && key.len() <= LABEL_LENGTH_MAX
        && key.bytes().all(plain)
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let labels = BTreeMap::<String, String>::deserialize(deserializer)?;
        Self::new(labels).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_checked_once() {
        let check = |labels: &[(&str, &str)], fits: bool| {
            assert_eq!(Labels::new(labels.iter().copied()).is_ok(), fits, "{labels:?}");
        };
        let long = "a".repeat(LABEL_LENGTH_MAX);
        let too_long = "a".repeat(LABEL_LENGTH_MAX + 1);
        check(&[], true);
        check(&[("team", "research"), ("cost-center", "4711"), ("acme.com/owner", "")], true);
        check(&[(&long, &long)], true);
        check(&[("team", "Forschung & Entwicklung")], true);
        check(&[(&too_long, "")], false);
        check(&[("team", &too_long)], false);
        check(&[("", "x")], false);
        check(&[("Team", "x")], false);
        check(&[("9lives", "x")], false);
        check(&[("a b", "x")], false);
        check(&[("team", "two\nlines")], false);
        let many: Vec<String> = (0..=LABELS_MAX).map(|n| format!("k{n}")).collect();
        let too_many = Labels::new(many.iter().map(|key| (key, "")));
        assert_eq!(too_many, Err(LabelError::TooMany { count: LABELS_MAX + 1 }));
        assert!(Labels::new(many.iter().skip(1).map(|key| (key, ""))).is_ok());
    }
}
