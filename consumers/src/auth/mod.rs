//! Who asks, and what they may do.
//!
//! A request carries one credential, as `Authorization: Bearer …`, or none:
//!
//! * **the operator's token**, which the process is given when it starts;
//! * **an API key** (`hg_…`): the log holds its hash, role, scopes and end. It is looked up in the
//!   state, exactly, for each request: a revocation holds for the next one;
//! * **a JWT** of the one issuer that the cell trusts ([`Oidc`]);
//! * **none**: where neither a token nor an issuer is configured, whoever reaches the loopback
//!   interface is the operator; else nobody.
//!
//! A credential that is given is always checked: a wrong one is refused also where none is needed.
//! What roles may do stands in `roles`; which route needs what, in `api::access`.
//!
//! What bounds guessing: a secret has 256 random bits, so no attempt has a chance. A key that is not
//! well-formed costs its sender a checksum's length of our time and never reaches the cell; a
//! well-formed one costs one look at the state, like any read. All of it happens within the limit of
//! requests at work.

mod jwks;
mod key;
mod oidc;
mod operator;
pub(crate) mod roles;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderValue};
use hourglass_ledger::cell::{CellError, CellHandle};
use hourglass_ledger::core::{KeyGrant, Role, Scope};
use hourglass_units::{AgentId, TenantId};

use crate::api::ApiConfig;
use operator::OperatorToken;
use roles::{Permission, Reach, reach, scopes_of};

pub use jwks::{JWKS_AGE_MS_MAX, JWKS_BYTES_MAX, JWKS_KEYS_MAX, JWKS_REFETCH_MS, JWKS_STALE_MS_MAX};
pub use key::{ApiKey, KEY_PREFIX, KeyDraft, KeyError, draw_key};
pub use oidc::{JWT_LEEWAY_MS, KeySource, Oidc, OidcError, OidcOptions, Signature};
pub(crate) use operator::is_loopback_host;
pub use operator::is_loopback_url;

/// Longest credential that is looked at.
pub const CREDENTIAL_BYTES_MAX: usize = 8 << 10;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Principal {
    /// Stable: idempotency keys are chosen within it.
    name: Arc<str>,
    role: Role,
    /// A customer's tenant.
    tenant: Option<TenantId>,
    /// An agent's id.
    agent: Option<AgentId>,
    scopes: BTreeSet<Scope>,
}

impl Principal {
    /// Who knows the operator's token, or is trusted on loopback.
    fn operator() -> Self {
        Self::of_role("operator".into(), Role::Operator, None, None)
    }

    /// With all that its role may.
    fn of_role(name: Arc<str>, role: Role, tenant: Option<TenantId>, agent: Option<AgentId>) -> Self {
        Self { name, role, tenant, agent, scopes: scopes_of(role) }
    }

    fn of_key(grant: KeyGrant) -> Self {
        let KeyGrant { id, role, tenant, agent, scopes, .. } = grant;
        Self { name: format!("key/{id}").into(), role, tenant, agent, scopes }
    }

    /// The stable name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What it is.
    pub(crate) const fn role(&self) -> Role {
        self.role
    }

    /// What it can pass on to others.
    pub(crate) const fn scopes(&self) -> &BTreeSet<Scope> {
        &self.scopes
    }

    /// The tenant beyond which it sees nothing.
    pub(crate) const fn tenant(&self) -> Option<&TenantId> {
        self.tenant.as_ref()
    }

    /// How far a permission reaches in its hands.
    pub(crate) fn reach(&self, permission: Permission) -> Reach {
        if self.scopes.contains(&permission.scope()) { reach(self.role, permission) } else { Reach::None }
    }

    /// Whose usage it may send: `Err` where it may not at all, `None` where anybody's.
    pub(crate) fn ingests(&self) -> Result<Option<&AgentId>, Denied> {
        match (self.reach(Permission::IngestUsage), &self.agent) {
            (Reach::All, _) => Ok(None),
            (Reach::Own, Some(agent)) => Ok(Some(agent)),
            _ => Err(Denied::lacks(self, Permission::IngestUsage)),
        }
    }
}

/// Why somebody may not.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Denied {
    /// No credential was given where one is needed.
    Missing,
    /// The one that was given proves nothing.
    Invalid(String),
    /// It is known who asks, and they may not.
    Forbidden {
        /// A stable code.
        code: &'static str,
        /// For people.
        detail: String,
    },
    /// The state cannot be asked now.
    Cell(CellError),
}

impl Denied {
    fn invalid(detail: impl Into<String>) -> Self {
        Self::Invalid(detail.into())
    }

    /// The role, or the scopes of the key, are not enough.
    pub(crate) fn lacks(principal: &Principal, permission: Permission) -> Self {
        let role = principal.role;
        let scope = permission.scope();
        let detail = match reach(role, permission) {
            Reach::None => format!("role {role} lacks the permission {permission}"),
            _ if !principal.scopes.contains(&scope) => {
                format!("this credential is narrowed to other scopes: {permission} needs the scope {scope}")
            }
            _ => format!("role {role} has the permission {permission} for what is its own, not for all"),
        };
        Self::Forbidden { code: "forbidden", detail }
    }

    /// For people. Never holds the credential.
    pub(crate) fn detail(&self) -> String {
        match self {
            Self::Missing => {
                "give the operator's token, an API key or a JWT as `Authorization: Bearer …`".to_owned()
            }
            Self::Invalid(detail) | Self::Forbidden { detail, .. } => detail.clone(),
            Self::Cell(error) => error.to_string(),
        }
    }
}

/// Tells who asks.
#[derive(Clone)]
pub(crate) struct Authenticator {
    token: OperatorToken,
    oidc: Option<Oidc>,
}

impl Authenticator {
    pub(crate) fn new(config: &ApiConfig) -> Self {
        let token = OperatorToken::new(config.operator_token.as_deref());
        Self { token, oidc: config.oidc.clone() }
    }

    /// Whether who gives no credential is the operator.
    pub(crate) const fn trusts_loopback(&self) -> bool {
        !self.token.is_set() && self.oidc.is_none()
    }

    /// Who asks, by the headers of the request.
    pub(crate) async fn authenticate(
        &self,
        cell: &CellHandle,
        headers: &HeaderMap,
    ) -> Result<Principal, Denied> {
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let Some(header) = given.next() else {
            return if self.trusts_loopback() { Ok(Principal::operator()) } else { Err(Denied::Missing) };
        };
        if given.next().is_some() {
            return Err(Denied::invalid("give one Authorization header, not several"));
        }
        let credential = bearer(header)?;
        if self.token.admits(credential) {
            return Ok(Principal::operator());
        }
        let unknown = || Denied::invalid("this credential is not known here");
        let text = str::from_utf8(credential).map_err(|_| unknown())?;
        if text.starts_with(KEY_PREFIX) {
            return by_key(cell, text).await;
        }
        match &self.oidc {
            Some(oidc) if text.contains('.') => oidc.verify(text, cell.now()).await,
            _ => Err(unknown()),
        }
    }
}

/// What stands behind `Bearer`.
fn bearer(header: &HeaderValue) -> Result<&[u8], Denied> {
    let header = header.as_bytes();
    if header.len() > CREDENTIAL_BYTES_MAX {
        let detail = format!("a credential has at most {CREDENTIAL_BYTES_MAX} bytes");
        return Err(Denied::invalid(detail));
    }
    match header.split_at_checked("Bearer ".len()) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"Bearer ") => Ok(token.trim_ascii()),
        _ => Err(Denied::invalid("give the credential as `Authorization: Bearer …`")),
    }
}

async fn by_key(cell: &CellHandle, text: &str) -> Result<Principal, Denied> {
    let key = ApiKey::parse(text).map_err(|error| Denied::invalid(error.to_string()))?;
    let (id, hash, now) = (key.id().clone(), key.hash(), cell.now());
    let proved = cell.read(move |state| {
        // A clock that was set back wakes no key that ended.
        let key = state.credentials().proved(&id, &hash, now.max(state.now()));
        key.map(|key| key.grant.clone())
    });
    let grant = proved.await.map_err(Denied::Cell)?;
    // One answer for all three: who has no key need not learn which ids there are.
    let denied = || Denied::invalid("this API key is not known, was revoked or has expired");
    grant.map(Principal::of_key).ok_or_else(denied)
}
