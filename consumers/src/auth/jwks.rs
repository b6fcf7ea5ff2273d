//! The keys of an issuer: read from a URL or a file, kept, and read again when they may have changed.
//!
//! * A set is used for [`JWKS_AGE_MS_MAX`]; a token that names a key which is not in it has the set
//!   read again, but not more often than every [`JWKS_REFETCH_MS`].
//! * When the issuer is away the old set is used on, for [`JWKS_STALE_MS_MAX`] at most: a key that the
//!   issuer took back must not live on for as long as somebody can keep us from hearing of it.
//! * One reading at a time, bounded in time and size. It goes on when the request that asked for it
//!   goes away, so that nobody can keep a set from being read by asking and hanging up.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hourglass_units::Instant;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use serde::Deserialize;
use serde_json::Value;

use super::oidc::Signature;
use super::operator::is_loopback_url;

/// How long a set of keys is used without a look at the issuer.
pub const JWKS_AGE_MS_MAX: i64 = 5 * 60_000;
/// Shortest time between two readings.
pub const JWKS_REFETCH_MS: i64 = 30_000;
/// How long a set is used when the issuer cannot be reached.
pub const JWKS_STALE_MS_MAX: i64 = 24 * 3_600_000;
/// Most bytes of a document of the issuer.
pub const JWKS_BYTES_MAX: u64 = 256 << 10;
/// Most keys of a set that are looked at.
pub const JWKS_KEYS_MAX: usize = 64;
/// Longest that reading a document may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of an RSA modulus: shorter ones are weak, longer ones a way to keep us busy.
const RSA_MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=1_024;
/// Bytes of an Ed25519 key.
const ED25519_BYTES: usize = 32;

/// Where the keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// At this URL.
    Url(String),
    /// Where the issuer's `/.well-known/openid-configuration` says.
    Discovery {
        /// The issuer.
        issuer: String,
    },
    /// In this file.
    File(PathBuf),
}

/// A key that verifies signatures, and the algorithms that it is for.
pub(super) struct VerifyingKey {
    pub(super) key: DecodingKey,
    pub(super) algorithms: Vec<Signature>,
}

type Keys = BTreeMap<String, Arc<VerifyingKey>>;

/// What was read, and when.
#[derive(Clone, Default)]
struct Held {
    keys: Arc<Keys>,
    at: Option<Instant>,
}

impl Held {
    fn is_younger(&self, now: Instant, age_ms: i64) -> bool {
        self.at.is_some_and(|at| (0..age_ms).contains(&now.ms_since(at)))
    }
}

/// The keys of an issuer.
pub(super) struct Jwks {
    source: Source,
    held: RwLock<Held>,
    /// When a reading was last begun; locked while one is under way.
    tried: Arc<tokio::sync::Mutex<Option<Instant>>>,
}

impl Jwks {
    pub(super) fn new(source: Source) -> Self {
        Self { source, held: RwLock::default(), tried: Arc::default() }
    }

    /// The key of this name, read from the issuer where need be.
    pub(super) async fn find(self: &Arc<Self>, kid: &str, now: Instant) -> Option<Arc<VerifyingKey>> {
        let held = self.held();
        let known = held.keys.get(kid).filter(|_| held.is_younger(now, JWKS_STALE_MS_MAX));
        if let Some(key) = known.filter(|_| held.is_younger(now, JWKS_AGE_MS_MAX)) {
            return Some(Arc::clone(key));
        }
        self.refresh(now, known.is_some()).await;
        let held = self.held();
        held.keys.get(kid).filter(|_| held.is_younger(now, JWKS_STALE_MS_MAX)).cloned()
    }

    fn held(&self) -> Held {
        // What a reader or writer that panicked left is whole: it is replaced in one step.
        self.held.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the keys again, unless that was tried a moment ago. Who has a key that will do does not
    /// wait for a reading that another request began.
    async fn refresh(self: &Arc<Self>, now: Instant, will_do: bool) {
        let tried = Arc::clone(&self.tried);
        let mut tried = if will_do {
            let Ok(free) = tried.try_lock_owned() else { return };
            free
        } else {
            tried.lock_owned().await
        };
        if tried.is_some_and(|at| (0..JWKS_REFETCH_MS).contains(&now.ms_since(at))) {
            return;
        }
        *tried = Some(now);
        let jwks = Arc::clone(self);
        let reading = tokio::task::spawn_blocking(move || {
            match jwks.source.read().and_then(|document| keys(&document)) {
                Ok(keys) => {
                    let held = Held { keys: Arc::new(keys), at: Some(now) };
                    *jwks.held.write().unwrap_or_else(PoisonError::into_inner) = held;
                }
                Err(error) => {
                    tracing::warn!(error, "the issuer's keys could not be read; the old ones are used on");
                }
            }
            drop(tried);
        });
        // Whether it ended well or in a panic, what is held now is what there is.
        let _ended = reading.await;
    }
}

impl Source {
    fn read(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::Url(url) => fetch(url),
            Self::File(path) => {
                let file = std::fs::File::open(path);
                let file = file.map_err(|error| format!("{}: {error}", path.display()))?;
                let mut document = Vec::new();
                let read = file.take(JWKS_BYTES_MAX.saturating_add(1)).read_to_end(&mut document);
                match read.map_err(|error| format!("{}: {error}", path.display()))? {
                    length if length as u64 > JWKS_BYTES_MAX => {
                        Err(format!("{} has more than {JWKS_BYTES_MAX} bytes", path.display()))
                    }
                    _ => Ok(document),
                }
            }
            Self::Discovery { issuer } => {
                let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
                let document: Configuration = serde_json::from_slice(&fetch(&url)?)
                    .map_err(|error| format!("{url} is no OpenID configuration: {error}"))?;
                // OpenID Connect Discovery, 4.3: else one issuer could speak for another.
                if document.issuer != *issuer {
                    return Err(format!("{url} is the configuration of another issuer"));
                }
                fetch(&document.jwks_uri)
            }
        }
    }
}

#[derive(Deserialize)]
struct Configuration {
    issuer: String,
    jwks_uri: String,
}

/// Whether keys may be read from a URL: who can change them on their way can be anybody.
pub(super) fn is_trusted_url(url: &str) -> bool {
    url.starts_with("https://") || is_loopback_url(url)
}

fn fetch(url: &str) -> Result<Vec<u8>, String> {
    if !is_trusted_url(url) {
        return Err(format!("{url}: keys are read by https only, or by http from this machine itself"));
    }
    let mut config = ureq::Agent::config_builder();
    if is_loopback_url(url) {
        // What goes in the clear goes by no proxy.
        config = config.proxy(None);
    }
    let agent = config
        .timeout_global(Some(FETCH_TIMEOUT))
        // A redirection could lead to where no key may be read from.
        .max_redirects(0)
        .build()
        .new_agent();
    let failed = |error: ureq::Error| format!("{url}: {error}");
    let mut answer = agent.get(url).call().map_err(failed)?;
    if answer.status() != axum::http::StatusCode::OK {
        return Err(format!("{url}: status {}", answer.status()));
    }
    answer.body_mut().with_config().limit(JWKS_BYTES_MAX).read_to_vec().map_err(failed)
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

/// The keys of a set that can be used: public ones, with a name, for signatures that are taken.
fn keys(document: &[u8]) -> Result<Keys, String> {
    let set: KeySet =
        serde_json::from_slice(document).map_err(|error| format!("this is no set of keys: {error}"))?;
    let read = set.keys.into_iter().take(JWKS_KEYS_MAX).filter_map(|key| {
        let jwk: Jwk = serde_json::from_value(key).ok()?;
        Some((jwk.common.key_id.clone()?, Arc::new(verifying_key(&jwk)?)))
    });
    Ok(read.collect())
}

fn verifying_key(jwk: &Jwk) -> Option<VerifyingKey> {
    let common = &jwk.common;
    let for_signatures = common.public_key_use.as_ref().is_none_or(|it| *it == PublicKeyUse::Signature)
        && common.key_operations.as_ref().is_none_or(|all| all.contains(&KeyOperations::Verify));
    let length = |text: &str| URL_SAFE_NO_PAD.decode(text).map(|bytes| bytes.len()).ok();
    let mut algorithms = match &jwk.algorithm {
        AlgorithmParameters::RSA(key) if RSA_MODULUS_BYTES.contains(&length(&key.n)?) => {
            vec![Signature::Rs256, Signature::Ps256]
        }
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => vec![Signature::Es256],
        AlgorithmParameters::OctetKeyPair(key)
            if key.curve == EllipticCurve::Ed25519 && length(&key.x)? == ED25519_BYTES =>
        {
            vec![Signature::EdDsa]
        }
        // Secrets among them: who can read the set could sign with those.
        _ => return None,
    };
    if let Some(named) = &common.key_algorithm {
        algorithms.retain(|algorithm| algorithm.as_str() == named.to_string());
    }
    if !for_signatures || algorithms.is_empty() {
        return None;
    }
    Some(VerifyingKey { key: DecodingKey::from_jwk(jwk).ok()?, algorithms })
}
