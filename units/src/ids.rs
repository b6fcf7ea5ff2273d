//! Names of things, checked once.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest id, in characters (all of them ASCII).
pub const ID_LENGTH_MAX: usize = 64;

/// A text that is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing was given.
    #[error("{what} is empty: give 1 to {ID_LENGTH_MAX} characters")]
    Empty {
        /// The kind of id.
        what: &'static str,
    },
    /// Longer than [`ID_LENGTH_MAX`].
    #[error("{what} has {length} bytes: at most {ID_LENGTH_MAX} are allowed")]
    TooLong {
        /// The kind of id.
        what: &'static str,
        /// Bytes given.
        length: usize,
    },
    /// A character outside the alphabet, or a first one that is no letter or digit.
    #[error(
        "{what} has {character:?} at byte {at}: use a-z, A-Z, 0-9, and after the first also '-', '_' and '.'"
    )]
    Character {
        /// The kind of id.
        what: &'static str,
        /// The offending character.
        character: char,
        /// Its byte offset.
        at: usize,
    },
}

/// The bytes that ids have. A table, because usage reports bring millions of ids a second.
const ALLOWED: [bool; 256] = allowed();

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, within the bounds of the loop")]
const fn allowed() -> [bool; 256] {
    let mut allowed = [false; 256];
    let mut byte = 0;
    while byte < allowed.len() {
        let ascii = byte as u8;
        allowed[byte] = ascii.is_ascii_alphanumeric() || matches!(ascii, b'-' | b'_' | b'.');
        byte += 1;
    }
    allowed
}

fn is_allowed(byte: u8) -> bool {
    ALLOWED.get(usize::from(byte)).copied().unwrap_or(false)
}

/// Whether the bytes are the text of an id. Looks at each byte without a branch: nearly all are.
fn is_id(bytes: &[u8]) -> bool {
    let first_is_plain = bytes.first().is_some_and(u8::is_ascii_alphanumeric);
    first_is_plain
        && bytes.len() <= ID_LENGTH_MAX
        && bytes.iter().fold(true, |all, byte| all & is_allowed(*byte))
}

fn check(what: &'static str, text: &str) -> Result<(), IdError> {
    let bytes = text.as_bytes();
    if is_id(bytes) {
        return Ok(());
    }
    let Some(first) = bytes.first() else { return Err(IdError::Empty { what }) };
    if bytes.len() > ID_LENGTH_MAX {
        return Err(IdError::TooLong { what, length: bytes.len() });
    }
    let wrong = bytes.iter().position(|byte| !is_allowed(*byte)).filter(|_| first.is_ascii_alphanumeric());
    // Without one further on it is the first; all bytes before it are ASCII, so a character starts here.
    let at = wrong.unwrap_or(0);
    let character = text.get(at..).and_then(|rest| rest.chars().next()).unwrap_or('?');
    Err(IdError::Character { what, character, at })
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// Parses an id: 1 to [`ID_LENGTH_MAX`] of `a-z A-Z 0-9 - _ .`, the first a letter or digit.
            pub fn new(text: &str) -> Result<Self, IdError> {
                Self::check(text)?;
                Ok(Self(text.into()))
            }

            /// Whether the text would be accepted, without taking a copy of it.
            pub fn check(text: &str) -> Result<(), IdError> {
                check($what, text)
            }

            /// Whether the bytes are the text of such an id.
            pub fn is_id(bytes: &[u8]) -> bool {
                is_id(bytes)
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
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
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::new(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

id! {
    /// A GPU instance (a virtual machine with GPUs), unique in its cell.
    InstanceId, "instance id"
}
id! {
    /// A customer: who is billed.
    TenantId, "tenant id"
}
id! {
    /// A project of a tenant.
    ProjectId, "project id"
}
id! {
    /// A group of projects of a tenant, for quotas.
    GroupId, "group id"
}
id! {
    /// A metering agent, one a GPU node.
    AgentId, "agent id"
}
id! {
    /// A GPU platform, such as `gpu-h100-sxm`.
    Platform, "platform"
}
id! {
    /// A region of the cloud; one cell serves one.
    Region, "region"
}
id! {
    /// An InfiniBand fabric: instances of one gang share it.
    Fabric, "fabric"
}
id! {
    /// The name that all versions of a rate card, or of a contract, share.
    RateCardName, "rate card name"
}

id! {
    /// GPUs that a tenant has reserved for a time.
    ReservationId, "reservation id"
}
id! {
    /// A tenant's bid for spot GPUs.
    BidId, "bid id"
}
id! {
    /// A grant of credit, unique in its tenant.
    CreditId, "credit id"
}
id! {
    /// A budget, unique in its tenant.
    BudgetId, "budget id"
}
id! {
    /// An endpoint that is told by webhook, unique in its tenant.
    WebhookId, "webhook id"
}
id! {
    /// A machine with GPUs, as its operator names it.
    NodeId, "node id"
}
id! {
    /// What the cloud calls one of its things: an instance, a capacity interval.
    CloudId, "id of the cloud"
}
id! {
    /// What the cloud calls one of its operations.
    OperationId, "operation id"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_in_the_alphabet_or_refused() {
        let alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
        for byte in 0..=u8::MAX {
            let letter = char::from(byte);
            let text = format!("x{letter}");
            assert_eq!(InstanceId::new(&text).is_ok(), alphabet.contains(letter), "{letter:?} inside");
            let first = InstanceId::new(&letter.to_string()).is_ok();
            assert_eq!(first, alphabet.contains(letter) && !"-_.".contains(letter), "{letter:?} first");
        }
    }

    #[test]
    fn ids_are_checked_once() {
        let check = |text: &str, expected: Result<(), IdError>| {
            assert_eq!(InstanceId::new(text).map(|_| ()), expected)
        };
        let what = "instance id";
        check("computeinstance-e00x.1_B", Ok(()));
        check("", Err(IdError::Empty { what }));
        check(&"x".repeat(65), Err(IdError::TooLong { what, length: 65 }));
        check("-x", Err(IdError::Character { what, character: '-', at: 0 }));
        check("a:b", Err(IdError::Character { what, character: ':', at: 1 }));
        check("a/é", Err(IdError::Character { what, character: '/', at: 1 }));
        check("aé", Err(IdError::Character { what, character: 'é', at: 1 }));
        check("a\u{0}", Err(IdError::Character { what, character: '\0', at: 1 }));
    }
}
