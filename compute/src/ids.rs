//! Names that the cloud gives, and those that calls have.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest id that is taken from the cloud, in bytes.
pub const CLOUD_ID_LENGTH_MAX: usize = 128;

/// A text that is no id of the cloud's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is no id: 1 to {CLOUD_ID_LENGTH_MAX} of a-z, A-Z, 0-9, '-', '_' and '.' are")]
pub struct NotAnId;

/// An id is repeated in requests and logs, so nothing gets in that could mean something there.
fn is_id(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=CLOUD_ID_LENGTH_MAX).contains(&text.len()) && text.bytes().all(plain)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(String);

        impl $name {
            /// Parses an id.
            pub fn new(text: &str) -> Result<Self, NotAnId> {
                if is_id(text) { Ok(Self(text.to_owned())) } else { Err(NotAnId) }
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NotAnId;
            fn try_from(text: String) -> Result<Self, NotAnId> {
                Self::new(&text)
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;
            fn from_str(text: &str) -> Result<Self, NotAnId> {
                Self::new(text)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

id!(
    /// An operation, such as `computeoperation-e00x`.
    OperationId
);
id!(
    /// A capacity block group: all that is reserved of a platform in a fabric.
    BlockGroupId
);
id!(
    /// A capacity interval: so many GPUs from one time to another.
    IntervalId
);
id!(
    /// A GPU cluster, which chooses the InfiniBand fabric.
    ClusterId
);
id!(
    /// The idempotency key of a call that changes something: the same key is the same call.
    CallKey
);
id!(
    /// What a resource lives in: a project, or a tenant.
    ParentId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_plain_and_short() {
        let long = "a".repeat(CLOUD_ID_LENGTH_MAX);
        for text in ["op-1", "computeinstance-e00abc", "A.b_c", &long] {
            assert_eq!(text.parse::<OperationId>().unwrap().as_str(), text);
        }
        for text in ["", "a b", "a/b", "ö", "a\n", &format!("{long}a")] {
            assert_eq!(OperationId::new(text), Err(NotAnId), "{text:?}");
        }
    }
}
