//! API keys as their bearers have them: `hg_ID_SECRET`.
//!
//! The id is public and finds the key. The secret is 32 random bytes with a checksum behind them, in
//! URL-safe base64; the checksum tells a key that was not copied whole from one that is not known.
//!
//! What is kept is one BLAKE3 of id and secret. A slow hash (argon2 and its like) is for secrets that
//! people choose, of which a list can be tried: nobody tries 2^256 of them, and the check stands
//! before each request.

use std::collections::BTreeSet;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hourglass_ledger::core::{KEY_ID_LENGTH, KeyGrant, KeyHash, KeyId, Role, Scope};
use hourglass_units::{AgentId, Instant, TenantId};

use super::roles::scopes_of;

/// How every API key begins.
pub const KEY_PREFIX: &str = "hg_";
const SECRET_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 3;

/// An API key with its secret. Shown once, never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    id: KeyId,
    secret: [u8; SECRET_BYTES],
}

impl fmt::Debug for ApiKey {
    /// The secret is not for logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({KEY_PREFIX}{}_…)", self.id)
    }
}

/// Why there is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text is none.
    #[error("this is no API key: it begins with hg_ and has an id, a secret and a checksum")]
    Malformed,
    /// The text was one.
    #[error("this API key was not copied whole: its checksum is wrong")]
    Checksum,
    /// The scope is of no use to the role.
    #[error("role {role} has nothing in scope {scope}; it has {}", among(*role))]
    Scope {
        /// Which role.
        role: Role,
        /// What was asked for.
        scope: Scope,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes: {0}")]
    Random(String),
}

fn among(role: Role) -> String {
    scopes_of(role).iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl ApiKey {
    #[cfg(test)]
    pub(super) const fn new(id: KeyId, secret: [u8; SECRET_BYTES]) -> Self {
        Self { id, secret }
    }

    /// The public part.
    pub const fn id(&self) -> &KeyId {
        &self.id
    }

    /// What is kept of it.
    pub fn hash(&self) -> KeyHash {
        let mut hasher = blake3::Hasher::new_derive_key("hourglass 2026 api key");
        hasher.update(self.id.as_str().as_bytes());
        hasher.update(&self.secret);
        hasher.finalize().into()
    }

    /// The whole key, for the one to whom it is shown.
    pub fn reveal(&self) -> String {
        let mut bytes = self.secret.to_vec();
        bytes.extend(self.checksum());
        format!("{KEY_PREFIX}{}_{}", self.id, URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Reads a key. Nothing of the text is in the error.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let rest = text.strip_prefix(KEY_PREFIX).ok_or(KeyError::Malformed)?;
        let (id, secret) = rest.split_once('_').ok_or(KeyError::Malformed)?;
        let id = id.parse().map_err(|_| KeyError::Malformed)?;
        let bytes = URL_SAFE_NO_PAD.decode(secret).map_err(|_| KeyError::Checksum)?;
        let (secret, checksum) = bytes.split_at_checked(SECRET_BYTES).ok_or(KeyError::Checksum)?;
        let key = Self { id, secret: secret.try_into().map_err(|_| KeyError::Checksum)? };
        if key.checksum() == checksum { Ok(key) } else { Err(KeyError::Checksum) }
    }

    fn checksum(&self) -> [u8; CHECKSUM_BYTES] {
        let mut hasher = blake3::Hasher::new_derive_key("hourglass 2026 api key checksum");
        hasher.update(self.id.as_str().as_bytes());
        hasher.update(&self.secret);
        let mut checksum = [0; CHECKSUM_BYTES];
        checksum.iter_mut().zip(hasher.finalize().as_bytes()).for_each(|(to, from)| *to = *from);
        checksum
    }

    /// Draws a new one from the system's randomness.
    fn draw() -> Result<Self, KeyError> {
        const ALPHABET: [char; 32] = [
            'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l', 'm', 'n', 'o', 'p', 'q', 'r', 's',
            't', 'u', 'v', 'w', 'x', 'y', 'z', '2', '3', '4', '5', '6', '7',
        ];
        let mut id = [0_u8; KEY_ID_LENGTH];
        let mut secret = [0_u8; SECRET_BYTES];
        for part in [id.as_mut_slice(), secret.as_mut_slice()] {
            getrandom::fill(part).map_err(|error| KeyError::Random(error.to_string()))?;
        }
        // 32 divides 256, so every letter is as likely as any other.
        let letter = |byte: &u8| ALPHABET.get(usize::from(byte % 32)).copied();
        let id: String = id.iter().filter_map(letter).collect();
        Ok(Self { id: id.parse().map_err(|_| KeyError::Malformed)?, secret })
    }
}

/// A key to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyDraft {
    /// For people.
    pub name: String,
    /// What its bearer will be.
    pub role: Role,
    /// Of which tenant: for a customer.
    pub tenant: Option<TenantId>,
    /// Which agent: for an agent.
    pub agent: Option<AgentId>,
    /// To what it is narrowed; to all that the role has where empty, but for a customer's keys: one that can
    /// make others says so.
    pub scopes: BTreeSet<Scope>,
    /// Until when it holds.
    pub expires_at: Option<Instant>,
}

/// Draws a key, and says what the ledger is to keep of it.
pub fn draw_key(draft: KeyDraft) -> Result<(ApiKey, KeyGrant), KeyError> {
    let KeyDraft { name, role, tenant, agent, mut scopes, expires_at } = draft;
    let useful = scopes_of(role);
    if let Some(scope) = scopes.difference(&useful).next().copied() {
        return Err(KeyError::Scope { role, scope });
    }
    if scopes.is_empty() {
        scopes = useful;
        if role == Role::Customer {
            scopes.remove(&Scope::Keys);
        }
    }
    let key = ApiKey::draw()?;
    let grant =
        KeyGrant { id: key.id.clone(), hash: key.hash(), name, role, tenant, agent, scopes, expires_at };
    Ok((key, grant))
}
