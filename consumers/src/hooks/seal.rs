//! Secrets of endpoints: drawn, shown once, and sealed for the log.
//!
//! A secret has to sign, so a hash of it does not do. It is encrypted under a key that stands outside the
//! log (ChaCha20-Poly1305, with whose endpoint it is as associated data, so that no sealed secret can be
//! moved to another). Who reads the log or a backup of it learns no secret.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hourglass_ledger::core::webhooks::{Owner, SealedSecret};
use hourglass_units::WebhookId;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

/// Bytes of a secret: within the 24 to 64 that Standard Webhooks asks for.
pub const SECRET_BYTES: usize = 32;
/// Bytes of the key that seals secrets.
pub const KEY_BYTES: usize = 32;
/// How every secret begins that is shown.
pub const SECRET_PREFIX: &str = "whsec_";
/// Bytes by which it is told with which key a secret was sealed.
const KEY_NAME_BYTES: usize = 6;

/// What messages to an endpoint are signed with. Shown once, never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; SECRET_BYTES]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Why a secret cannot be made or used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The key is none.
    #[error("a key of webhooks is {KEY_BYTES} bytes in base64, such as `openssl rand -base64 32` writes")]
    KeyMalformed,
    /// The system gives no random bytes.
    #[error("the system gives no random bytes: {0}")]
    Random(String),
    /// It was sealed with another key.
    #[error("the secret was sealed with another key of webhooks: give that key back, or rotate the secret")]
    OtherKey,
    /// It was changed, or is another endpoint's.
    #[error("the secret cannot be unsealed: rotate it")]
    Broken,
}

impl Secret {
    /// Draws one from the system's randomness.
    pub fn draw() -> Result<Self, SealError> {
        let mut bytes = [0; SECRET_BYTES];
        getrandom::fill(&mut bytes).map_err(|error| SealError::Random(error.to_string()))?;
        Ok(Self(bytes))
    }

    /// The form in which a receiver is given it.
    pub fn reveal(&self) -> String {
        format!("{SECRET_PREFIX}{}", STANDARD.encode(self.0))
    }

    pub(super) const fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The key that seals secrets. It stands in a file or the environment, never in the log.
pub struct WebhookKey {
    name: [u8; KEY_NAME_BYTES],
    key: LessSafeKey,
}

impl fmt::Debug for WebhookKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebhookKey({})", URL_SAFE_NO_PAD.encode(self.name))
    }
}

impl WebhookKey {
    /// Draws one, as the text that is to be kept.
    pub fn draw() -> Result<String, SealError> {
        let mut bytes = [0; KEY_BYTES];
        getrandom::fill(&mut bytes).map_err(|error| SealError::Random(error.to_string()))?;
        Ok(STANDARD.encode(bytes))
    }

    /// Reads one from the text that was kept.
    pub fn parse(text: &str) -> Result<Self, SealError> {
        let bytes = STANDARD.decode(text.trim()).map_err(|_| SealError::KeyMalformed)?;
        let bytes: [u8; KEY_BYTES] = bytes.try_into().map_err(|_| SealError::KeyMalformed)?;
        let derived = blake3::derive_key("hourglass 2026 webhook secrets", &bytes);
        let named = blake3::derive_key("hourglass 2026 name of the key of webhook secrets", &bytes);
        let mut name = [0; KEY_NAME_BYTES];
        name.iter_mut().zip(named).for_each(|(to, from)| *to = from);
        let key = UnboundKey::new(&CHACHA20_POLY1305, &derived).map_err(|_| SealError::KeyMalformed)?;
        Ok(Self { name, key: LessSafeKey::new(key) })
    }

    /// Seals the secret of an endpoint.
    pub fn seal(
        &self,
        owner: &Owner,
        webhook: &WebhookId,
        secret: &Secret,
    ) -> Result<SealedSecret, SealError> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(|error| SealError::Random(error.to_string()))?;
        let mut text = secret.0.to_vec();
        let (unique, whose) = (Nonce::assume_unique_for_key(nonce), Aad::from(whose(owner, webhook)));
        self.key.seal_in_place_append_tag(unique, whose, &mut text).map_err(|_| SealError::Broken)?;
        let parts = [self.name.as_slice(), &nonce, &text].map(|part| URL_SAFE_NO_PAD.encode(part));
        SealedSecret::new(parts.join(".")).ok_or(SealError::Broken)
    }

    /// Opens what was sealed for an endpoint.
    pub fn open(
        &self,
        owner: &Owner,
        webhook: &WebhookId,
        sealed: &SealedSecret,
    ) -> Result<Secret, SealError> {
        let mut parts = sealed.as_str().split('.').map(|part| URL_SAFE_NO_PAD.decode(part));
        let (Some(Ok(name)), Some(Ok(nonce)), Some(Ok(mut text)), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(SealError::Broken);
        };
        if name != self.name {
            return Err(SealError::OtherKey);
        }
        let nonce = Nonce::try_assume_unique_for_key(&nonce).map_err(|_| SealError::Broken)?;
        let opened = self.key.open_in_place(nonce, Aad::from(whose(owner, webhook)), &mut text);
        let opened: &[u8] = opened.map_err(|_| SealError::Broken)?;
        opened.try_into().map(Secret).map_err(|_| SealError::Broken)
    }
}

/// Whose a secret is: no two endpoints have the same.
fn whose(owner: &Owner, webhook: &WebhookId) -> Vec<u8> {
    match owner {
        // An id has no slash.
        Some(tenant) => format!("tenant/{tenant}/{webhook}"),
        None => format!("cell/{webhook}"),
    }
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_secret_opens_for_its_endpoint_under_its_key_alone() {
        let key = WebhookKey::parse(&WebhookKey::draw().unwrap()).unwrap();
        let (acme, beta): (Owner, Owner) = (Some("acme".parse().unwrap()), Some("beta".parse().unwrap()));
        let (billing, other): (WebhookId, WebhookId) = ("billing".parse().unwrap(), "other".parse().unwrap());
        let secret = Secret::draw().unwrap();
        let sealed = key.seal(&acme, &billing, &secret).unwrap();
        assert_eq!(key.open(&acme, &billing, &sealed).unwrap(), secret);
        for (owner, webhook) in [(&beta, &billing), (&acme, &other), (&None, &billing)] {
            assert_eq!(key.open(owner, webhook, &sealed), Err(SealError::Broken));
        }
        let another = WebhookKey::parse(&WebhookKey::draw().unwrap()).unwrap();
        assert_eq!(another.open(&acme, &billing, &sealed), Err(SealError::OtherKey));
        // No two seals of one secret are alike, and no byte of one can be changed.
        assert_ne!(key.seal(&acme, &billing, &secret).unwrap(), sealed);
        for (at, letter) in sealed.as_str().char_indices().filter(|(_, letter)| *letter != '.') {
            let mut changed = sealed.as_str().to_owned();
            changed.replace_range(at..=at, if letter == 'A' { "B" } else { "A" });
            assert!(key.open(&acme, &billing, &SealedSecret::new(changed).unwrap()).is_err(), "{at}");
        }
    }

    #[test]
    fn neither_is_written_to_a_log() {
        let secret = Secret::draw().unwrap();
        assert!(!format!("{secret:?}").contains(&secret.reveal()[SECRET_PREFIX.len()..]));
        let text = WebhookKey::draw().unwrap();
        assert!(!format!("{:?}", WebhookKey::parse(&text).unwrap()).contains(&text));
        for bad in ["", "x", "AAAA", &"A".repeat(100)] {
            assert!(WebhookKey::parse(bad).is_err(), "{bad}");
        }
    }
}
