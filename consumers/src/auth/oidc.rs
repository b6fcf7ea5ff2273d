//! JWTs of the one issuer that the cell trusts (OpenID Connect, RFC 7519).
//!
//! A token is taken where its signature is one of the issuer's keys, made by an algorithm that is
//! allowed (asymmetric ones only: with a shared secret whoever can check could also sign), `iss` is
//! the issuer, `aud` holds our audience, `exp` has not passed and `nbf` has. Times are compared with
//! the cell's clock.
//!
//! Who the token is for is then read from its claims: `sub`, the role, and for a customer the tenant,
//! for an agent its id.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hourglass_ledger::core::Role;
use hourglass_units::Instant;
use jsonwebtoken::{Algorithm, Validation};
use serde_json::{Map, Value};

use super::jwks::{Jwks, Source, is_trusted_url};
use super::{Denied, Principal};

/// How far the issuer's clock and ours may be apart.
pub const JWT_LEEWAY_MS: i64 = 30_000;
/// Longest `sub`, as OpenID Connect has it.
const SUBJECT_LENGTH_MAX: usize = 255;
/// Longest `kid` that is looked for.
const KID_LENGTH_MAX: usize = 255;

/// An algorithm by which a token can be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signature {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl Signature {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Rs256, Self::Ps256, Self::Es256, Self::EdDsa];

    /// The name in a token's header.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    const fn algorithm(self) -> Algorithm {
        match self {
            Self::Rs256 => Algorithm::RS256,
            Self::Ps256 => Algorithm::PS256,
            Self::Es256 => Algorithm::ES256,
            Self::EdDsa => Algorithm::EdDSA,
        }
    }
}

impl FromStr for Signature {
    type Err = OidcError;
    fn from_str(text: &str) -> Result<Self, OidcError> {
        let found = Self::ALL.into_iter().find(|it| it.as_str() == text);
        found.ok_or_else(|| OidcError("algorithms are RS256, PS256, ES256 and EdDSA".to_owned()))
    }
}

/// Where the issuer's keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// Where its `/.well-known/openid-configuration` says.
    Discovery,
    /// At this URL: `https`, or `http` on this machine.
    Url(String),
    /// In this file, a JSON Web Key Set.
    File(PathBuf),
}

/// Which issuer to trust, and how to read its tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OidcOptions {
    /// `iss` of every token, to the letter.
    pub issuer: String,
    /// What `aud` of every token must hold.
    pub audience: String,
    /// Where the keys are.
    pub keys: KeySource,
    /// The claim that holds the role: a string, or a list with exactly one role in it.
    pub role_claim: String,
    /// The claim that holds a customer's tenant.
    pub tenant_claim: String,
    /// The claim that holds an agent's id.
    pub agent_claim: String,
    /// Which signatures are taken.
    pub algorithms: Vec<Signature>,
}

impl OidcOptions {
    /// With keys by discovery, claims `hourglass_role`, `hourglass_tenant` and `hourglass_agent`, and
    /// every algorithm.
    pub fn new(issuer: impl Into<String>, audience: impl Into<String>) -> Self {
        Self {
            issuer: issuer.into(),
            audience: audience.into(),
            keys: KeySource::Discovery,
            role_claim: "hourglass_role".to_owned(),
            tenant_claim: "hourglass_tenant".to_owned(),
            agent_claim: "hourglass_agent".to_owned(),
            algorithms: Signature::ALL.to_vec(),
        }
    }
}

/// Options that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("oidc: {0}")]
pub struct OidcError(String);

/// The issuer that the cell trusts. Clones share its keys.
#[derive(Clone)]
pub struct Oidc(Arc<Inner>);

struct Inner {
    options: OidcOptions,
    jwks: Arc<Jwks>,
}

impl fmt::Debug for Oidc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Oidc").field(&self.0.options).finish()
    }
}

impl Oidc {
    /// Checks the options. The keys are read when the first token comes, so a cell starts while its
    /// issuer is away.
    pub fn new(options: OidcOptions) -> Result<Self, OidcError> {
        let wrong = |what: &str| Err(OidcError(what.to_owned()));
        let claims = [&options.role_claim, &options.tenant_claim, &options.agent_claim];
        if options.issuer.is_empty() || options.audience.is_empty() || claims.iter().any(|it| it.is_empty()) {
            return wrong("the issuer, the audience and the names of claims must not be empty");
        }
        if options.algorithms.is_empty() {
            return wrong("at least one algorithm must be allowed");
        }
        let source = match &options.keys {
            KeySource::Discovery => Source::Discovery { issuer: options.issuer.clone() },
            KeySource::Url(url) => Source::Url(url.clone()),
            KeySource::File(path) => Source::File(path.clone()),
        };
        let trusted = match &source {
            Source::Url(url) | Source::Discovery { issuer: url } => is_trusted_url(url),
            Source::File(_) => true,
        };
        if !trusted {
            return wrong("keys are read by https only, or by http from this machine itself");
        }
        Ok(Self(Arc::new(Inner { options, jwks: Arc::new(Jwks::new(source)) })))
    }

    /// Who a token is for.
    pub(super) async fn verify(&self, token: &str, now: Instant) -> Result<Principal, Denied> {
        let options = &self.0.options;
        let (signature, kid) = header(token)?;
        if !options.algorithms.contains(&signature) {
            return Err(Denied::invalid("tokens with this algorithm are not taken"));
        }
        let key = self.0.jwks.find(&kid, now).await;
        let key = key.filter(|key| key.algorithms.contains(&signature));
        let unknown = || Denied::invalid("the token names no key of the issuer that fits its algorithm");
        let key = key.ok_or_else(unknown)?;
        let mut validation = Validation::new(signature.algorithm());
        // What the claims say is checked below, by the cell's clock; this checks the signature.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let decoded = jsonwebtoken::decode::<Map<String, Value>>(token, &key.key, &validation);
        let claims = decoded.map_err(|_| Denied::invalid("the token's signature is wrong"))?.claims;
        self.check(&claims, now)?;
        self.principal(&claims)
    }

    /// Whether the token is for us, and for now.
    fn check(&self, claims: &Map<String, Value>, now: Instant) -> Result<(), Denied> {
        let options = &self.0.options;
        if claims.get("iss").and_then(Value::as_str) != Some(&options.issuer) {
            return Err(Denied::invalid("the token is of another issuer"));
        }
        let for_us = match claims.get("aud") {
            Some(Value::String(audience)) => *audience == options.audience,
            Some(Value::Array(all)) => all.iter().any(|it| it.as_str() == Some(&options.audience)),
            _ => false,
        };
        if !for_us {
            return Err(Denied::invalid("the token is for another audience"));
        }
        let now = now.unix_ms();
        let Some(exp) = milliseconds(claims, "exp")? else {
            return Err(Denied::invalid("the token has no exp: one that never ends is not taken"));
        };
        if now >= exp.saturating_add(JWT_LEEWAY_MS) {
            return Err(Denied::invalid("the token has expired"));
        }
        if milliseconds(claims, "nbf")?.is_some_and(|nbf| now < nbf.saturating_sub(JWT_LEEWAY_MS)) {
            return Err(Denied::invalid("the token is not valid yet"));
        }
        Ok(())
    }

    /// Who the claims speak of. The token is good: what is missing now is not a matter of proof.
    fn principal(&self, claims: &Map<String, Value>) -> Result<Principal, Denied> {
        let options = &self.0.options;
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
        let plain = subject.bytes().all(|byte| byte.is_ascii_graphic());
        if !plain || !(1..=SUBJECT_LENGTH_MAX).contains(&subject.len()) {
            let what = "the token has no sub of 1 to 255 visible ASCII characters";
            return Err(Denied::invalid(what));
        }
        let name: Arc<str> = format!("jwt/{} {subject}", options.issuer).into();
        let role = self.role(claims)?;
        let text = |claim: &str| claims.get(claim).and_then(Value::as_str);
        let lacks = |code, claim: &str| Denied::Forbidden {
            code,
            detail: format!("the token's role is {role}, and its claim {claim:?} holds no id"),
        };
        Ok(match role {
            Role::Customer => {
                let tenant = text(&options.tenant_claim).and_then(|tenant| tenant.parse().ok());
                let tenant = tenant.ok_or_else(|| lacks("tenant_missing", &options.tenant_claim))?;
                Principal::of_role(name, role, Some(tenant), None)
            }
            Role::Agent => {
                let agent = text(&options.agent_claim).and_then(|agent| agent.parse().ok());
                let agent = agent.ok_or_else(|| lacks("agent_missing", &options.agent_claim))?;
                Principal::of_role(name, role, None, Some(agent))
            }
            Role::Finance | Role::Trader | Role::Planner | Role::Compute | Role::Operator => {
                Principal::of_role(name, role, None, None)
            }
        })
    }

    fn role(&self, claims: &Map<String, Value>) -> Result<Role, Denied> {
        let claim = &self.0.options.role_claim;
        let read = |value: &Value| value.as_str().and_then(|text| text.parse::<Role>().ok());
        let denied = |code, what| Denied::Forbidden { code, detail: format!("the claim {claim:?} {what}") };
        match claims.get(claim) {
            None => Err(denied("role_missing", "is missing: it says what the bearer is")),
            Some(Value::Array(all)) => match all.iter().filter_map(read).collect::<Vec<_>>().as_slice() {
                [role] => Ok(*role),
                [] => Err(denied("role_unknown", "names no role")),
                // To choose would be to guess.
                _ => Err(denied("role_ambiguous", "names several roles: give one")),
            },
            Some(one) => read(one).ok_or_else(|| denied("role_unknown", "names no role")),
        }
    }
}

/// The algorithm and the key that a token's header names. Nothing in it is proved yet.
fn header(token: &str) -> Result<(Signature, String), Denied> {
    let malformed = || Denied::invalid("this is no JWT that is taken here");
    let (first, _) = token.split_once('.').ok_or_else(malformed)?;
    let bytes = URL_SAFE_NO_PAD.decode(first).map_err(|_| malformed())?;
    let header: Map<String, Value> = serde_json::from_slice(&bytes).map_err(|_| malformed())?;
    // RFC 7515, 4.1.11: who does not understand an extension that is critical must refuse.
    if header.contains_key("crit") {
        return Err(malformed());
    }
    let alg = header.get("alg").and_then(Value::as_str).and_then(|alg| alg.parse().ok());
    let alg = alg.ok_or_else(|| Denied::invalid("tokens with this algorithm are not taken"))?;
    let kid = header.get("kid").and_then(Value::as_str).filter(|kid| kid.len() <= KID_LENGTH_MAX);
    let kid = kid.ok_or_else(|| Denied::invalid("the token names no key (kid)"))?;
    Ok((alg, kid.to_owned()))
}

/// A time of the claims; `None` where it is absent.
fn milliseconds(claims: &Map<String, Value>, name: &str) -> Result<Option<i64>, Denied> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_i64().and_then(|seconds| seconds.checked_mul(1_000));
    let odd = || Denied::invalid(format!("the token's {name} is no whole number of seconds"));
    seconds.map(Some).ok_or_else(odd)
}
