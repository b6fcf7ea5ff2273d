//! API keys: who may come in beside the operator, until when, and for what.
//!
//! They stand in the log like all else, so a revocation holds wherever the log is folded. Only the
//! hash of a key is here, never the key: it is drawn, shown once and forgotten by whoever asks.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use hourglass_units::{AgentId, Instant, TenantId};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::rejection::Rejection;

/// Most keys that a cell remembers. When so many are there, a new one takes the place of the one that
/// ended first; where none has ended there is no room.
pub const KEYS_MAX: usize = 10_000;
/// The latest end of a key, from its creation on: ten years. Who wants it longer names no end.
pub const KEY_LIFETIME_MS_MAX: i64 = 3_653 * 86_400_000;
/// Characters of a key's id.
pub const KEY_ID_LENGTH: usize = 12;

/// The public part of an API key, by which it is found, listed and revoked.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(Box<str>);

/// A text that is no key's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key's id has {KEY_ID_LENGTH} characters of a-z and 0-9")]
pub struct KeyIdError;

impl KeyId {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyId {
    type Err = KeyIdError;
    fn from_str(text: &str) -> Result<Self, KeyIdError> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let is_id = text.len() == KEY_ID_LENGTH && text.bytes().all(plain);
        if is_id { Ok(Self(text.into())) } else { Err(KeyIdError) }
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The hash of a key's secret.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// As read from the log.
    pub(crate) const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<blake3::Hash> for KeyHash {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl PartialEq for KeyHash {
    /// Takes the same time wherever two hashes differ.
    fn eq(&self, other: &Self) -> bool {
        blake3::Hash::from_bytes(self.0) == blake3::Hash::from_bytes(other.0)
    }
}

impl Eq for KeyHash {}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(…)")
    }
}

macro_rules! named {
    ($(#[$doc:meta])* $name:ident, $what:literal { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// Every one.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name in documents and in the log.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownName;
            fn from_str(text: &str) -> Result<Self, UnknownName> {
                let found = Self::ALL.iter().find(|it| it.as_str() == text).copied();
                let among = || Self::ALL.iter().map(|it| it.as_str()).collect::<Vec<_>>().join(", ");
                found.ok_or_else(|| UnknownName { what: $what, among: among() })
            }
        }
    };
}

/// A name that is none of a closed set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no such {what}: use one of {among}")]
pub struct UnknownName {
    what: &'static str,
    among: String,
}

named! {
    /// What somebody is to the cell. What a role may do stands in one table beside the API.
    Role, "role" {
        /// A tenant's own people and programs: they see their tenant and nothing else.
        Customer = "customer",
        /// Who keeps the books: money of all tenants, invoices.
        Finance = "finance",
        /// Who trades on the market: prices.
        Trader = "trader",
        /// Who plans capacity: usage of all tenants.
        Planner = "planner",
        /// The compute service: it asks for quota, and says what runs.
        Compute = "compute",
        /// Who runs the cell: everything.
        Operator = "operator",
        /// A metering agent: it reports usage under its own id.
        Agent = "agent",
    }
}

named! {
    /// A part of what a role may do, to which a key can be narrowed.
    Scope, "scope" {
        /// Reading of all that the role may read.
        Read = "read",
        /// Changing of all that the role may change.
        Write = "write",
        /// Sending of usage.
        Ingest = "ingest",
        /// Scraping of metrics.
        Metrics = "metrics",
        /// Creating and revoking of keys.
        Keys = "keys",
    }
}

/// A key to create: whose it is and what it is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyGrant {
    /// By which it is found.
    pub id: KeyId,
    /// By which it is proved.
    pub hash: KeyHash,
    /// For people.
    pub name: String,
    /// What its bearer is.
    pub role: Role,
    /// Whose data: always for a customer, never for another role.
    pub tenant: Option<TenantId>,
    /// Which agent: always for an agent, never for another role.
    pub agent: Option<AgentId>,
    /// What of the role it may be used for. Never empty.
    pub scopes: BTreeSet<Scope>,
    /// The first millisecond in which it does not hold any more.
    pub expires_at: Option<Instant>,
}

impl KeyGrant {
    /// Whether the parts fit each other, and the time.
    pub(crate) fn check(&self, now: Instant) -> Result<(), Rejection> {
        let invalid = |what| Err(Rejection::KeyGrantInvalid(what));
        if self.tenant.is_some() != (self.role == Role::Customer) {
            return invalid("a key of a customer names its tenant, and no other key names one");
        }
        if self.agent.is_some() != (self.role == Role::Agent) {
            return invalid("a key of an agent names the agent's id, and no other key names one");
        }
        if self.scopes.is_empty() {
            return invalid("a key has at least one scope");
        }
        match self.expires_at.map(|at| at.ms_since(now)) {
            Some(..=0) => invalid("a key must expire in the future"),
            Some(left) if left > KEY_LIFETIME_MS_MAX => {
                invalid("a key expires within ten years; leave the expiry out for one that does not")
            }
            _ => Ok(()),
        }
    }
}

/// A key as the cell knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// Whose, for what, until when.
    pub grant: KeyGrant,
    /// Since when.
    pub created_at: Instant,
    /// When it was taken back.
    pub revoked_at: Option<Instant>,
}

impl Credential {
    /// Whether it holds at a time.
    pub fn holds_at(&self, now: Instant) -> bool {
        self.ended_at().is_none_or(|end| now < end)
    }

    /// When it ended or will end.
    fn ended_at(&self) -> Option<Instant> {
        match (self.revoked_at, self.grant.expires_at) {
            (Some(revoked), Some(expires)) => Some(revoked.min(expires)),
            (revoked, expires) => revoked.or(expires),
        }
    }
}

/// Every key that the cell remembers, by id.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Credentials(BTreeMap<KeyId, Credential>);

impl Credentials {
    /// All, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Credential> {
        self.0.values()
    }

    /// All whose id comes after this one, by id.
    pub fn after(&self, id: &KeyId) -> impl Iterator<Item = &Credential> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.0.range((Excluded(id), Unbounded)).map(|(_, key)| key)
    }

    /// The key with this id, whether it holds or not.
    pub fn get(&self, id: &KeyId) -> Option<&Credential> {
        self.0.get(id)
    }

    /// The key with this id and secret, where it holds now.
    ///
    /// An unknown id and a wrong secret look alike: both compare one hash.
    pub fn proved(&self, id: &KeyId, hash: &KeyHash, now: Instant) -> Option<&Credential> {
        let known = self.0.get(id);
        let none = KeyHash([0; 32]);
        let same = known.map_or(&none, |key| &key.grant.hash) == hash;
        known.filter(|key| same && key.holds_at(now))
    }

    /// Whether one more can be kept at this time.
    pub(crate) fn has_room(&self, now: Instant) -> bool {
        self.0.len() < KEYS_MAX || self.0.values().any(|key| !key.holds_at(now))
    }

    pub(crate) fn insert(&mut self, grant: KeyGrant, now: Instant) {
        if self.0.len() >= KEYS_MAX {
            let ended = self.0.iter().filter(|(_, key)| !key.holds_at(now));
            let first = ended.min_by_key(|(_, key)| key.ended_at()).map(|(id, _)| id.clone());
            first.map(|id| self.0.remove(&id));
        }
        let key = Credential { created_at: now, revoked_at: None, grant };
        self.0.insert(key.grant.id.clone(), key);
    }

    pub(crate) fn revoke(&mut self, id: &KeyId, now: Instant) -> bool {
        let key = self.0.get_mut(id).filter(|key| key.revoked_at.is_none());
        key.map(|key| key.revoked_at = Some(now)).is_some()
    }
}
