//! What is limited, and how far.

use std::fmt;
use std::str::FromStr;

use hourglass_units::ResourceName;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Largest amount of a resource, in its own unit. Sums over all nodes stay far inside of an integer.
pub const AMOUNT_MAX: u64 = 1 << 53;

/// How what is held is sold: each class has limits of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Runs until its owner stops it.
    OnDemand,
    /// May be taken back: spot. The only class that borrows.
    Preemptible,
    /// Inside a reservation: does not count as on demand.
    Reserved,
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 3] = [Self::OnDemand, Self::Preemptible, Self::Reserved];

    /// The name in snake case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OnDemand => "on_demand",
            Self::Preemptible => "preemptible",
            Self::Reserved => "reserved",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text that names no class.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no class: use on_demand, preemptible or reserved")]
pub struct UnknownClass(String);

impl FromStr for Class {
    type Err = UnknownClass;
    fn from_str(text: &str) -> Result<Self, UnknownClass> {
        let found = Self::ALL.into_iter().find(|class| class.as_str() == text);
        found.ok_or_else(|| UnknownClass(text.chars().take(32).collect()))
    }
}

/// What a limit is on; the region is the cell's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// Of which resource.
    pub resource: ResourceName,
    /// Sold how.
    pub class: Class,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.resource, self.class)
    }
}

/// So much at most, or any amount. No limit and a limit of zero are different things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// Any amount.
    Unlimited,
    /// At most so much.
    AtMost(u64),
}

impl Bound {
    /// What is left of it when so much is taken; `None` where it has no end.
    pub const fn less(self, taken: u64) -> Option<u64> {
        match self {
            Self::Unlimited => None,
            Self::AtMost(most) => Some(most.saturating_sub(taken)),
        }
    }

    /// Whether an amount is within it.
    pub const fn admits(self, amount: u64) -> bool {
        match self {
            Self::Unlimited => true,
            Self::AtMost(most) => amount <= most,
        }
    }

    /// The smaller of it and an amount.
    pub fn cap(self, amount: u64) -> u64 {
        match self {
            Self::Unlimited => amount,
            Self::AtMost(most) => amount.min(most),
        }
    }

    /// Whether it admits all that the other one does.
    pub const fn is_at_least(self, other: Self) -> bool {
        match (self, other) {
            (Self::Unlimited, _) => true,
            (Self::AtMost(_), Self::Unlimited) => false,
            (Self::AtMost(mine), Self::AtMost(its)) => mine >= its,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlimited => f.pad("unlimited"),
            Self::AtMost(most) => f.pad(&most.to_string()),
        }
    }
}

/// A text that is no bound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no limit: use a whole number up to {AMOUNT_MAX}, or \"unlimited\"")]
pub struct BoundError(String);

impl FromStr for Bound {
    type Err = BoundError;
    fn from_str(text: &str) -> Result<Self, BoundError> {
        if text == "unlimited" {
            return Ok(Self::Unlimited);
        }
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let most = if plain { text.parse::<u64>().ok() } else { None };
        let most = most.filter(|most| *most <= AMOUNT_MAX);
        most.map(Self::AtMost).ok_or_else(|| BoundError(text.chars().take(32).collect()))
    }
}

/// As people write it: a number, or the word.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Readable {
    Number(u64),
    Word(String),
}

impl Serialize for Bound {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (serializer.is_human_readable(), self) {
            (true, Self::Unlimited) => Readable::Word("unlimited".to_owned()).serialize(serializer),
            (true, Self::AtMost(most)) => Readable::Number(*most).serialize(serializer),
            (false, Self::Unlimited) => None::<u64>.serialize(serializer),
            (false, Self::AtMost(most)) => Some(*most).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Bound {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bound = if deserializer.is_human_readable() {
            match Readable::deserialize(deserializer)? {
                Readable::Number(most) => Self::AtMost(most),
                Readable::Word(word) => word.parse().map_err(serde::de::Error::custom)?,
            }
        } else {
            Option::<u64>::deserialize(deserializer)?.map_or(Self::Unlimited, Self::AtMost)
        };
        match bound {
            Self::AtMost(most) if most > AMOUNT_MAX => {
                Err(serde::de::Error::custom(BoundError(most.to_string())))
            }
            bound => Ok(bound),
        }
    }
}

/// The limits of a node on a key. The names are Kueue's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// What the node can always have.
    pub nominal: Bound,
    /// What it can have above that of its siblings' idle nominal quota; of class preemptible alone.
    #[serde(default = "nothing")]
    pub borrowing: Bound,
    /// What of its idle nominal quota its siblings can have.
    #[serde(default = "everything")]
    pub lending: Bound,
    /// Whether what is above the limit after it was lowered is stopped, newest first; it may run on
    /// where not.
    #[serde(default)]
    pub drain: bool,
}

fn nothing() -> Bound {
    Bound::AtMost(0)
}

fn everything() -> Bound {
    Bound::Unlimited
}

impl Limits {
    /// A nominal limit, without borrowing.
    pub const fn nominal(nominal: Bound) -> Self {
        Self { nominal, borrowing: Bound::AtMost(0), lending: Bound::Unlimited, drain: false }
    }
}
