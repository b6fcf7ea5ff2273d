//! Messages and their signatures, as Standard Webhooks 1.0 has them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hourglass_units::Instant;
use ring::hmac::{HMAC_SHA256, Key, sign};
use serde_json::{Value, json};

use super::seal::Secret;

/// Names the message, and stays the same however often it is sent.
pub const ID_HEADER: &str = "webhook-id";
/// When it was sent, in seconds since 1970.
pub const TIMESTAMP_HEADER: &str = "webhook-timestamp";
/// One signature for each secret that holds, with a space between them.
pub const SIGNATURE_HEADER: &str = "webhook-signature";

/// Which message: the event that it is of, and which of that event's messages it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MessageKey {
    /// Where in the log the event stands.
    pub position: u64,
    /// Its place among the messages of the event.
    pub line: u32,
}

impl MessageKey {
    /// Reads the id that the feed gives a notice: `POSITION` or `POSITION.LINE`.
    pub(crate) fn of_notice(id: &str) -> Option<Self> {
        let (position, line) = id.split_once('.').unwrap_or((id, "0"));
        Some(Self { position: position.parse().ok()?, line: line.parse().ok()? })
    }

    /// The `webhook-id`: a function of the region, the position and the line. It has no full stop, for that
    /// would let the signed text be read in two ways.
    pub fn id(self, region: &str) -> String {
        format!("msg_{}_{}_{}", region.replace('.', "~"), self.position, self.line)
    }

    /// Reads a `webhook-id` of a region.
    pub fn parse(region: &str, id: &str) -> Option<Self> {
        let mut parts = id.rsplitn(3, '_');
        let (line, position) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let key = Self { position, line };
        (key.id(region) == id).then_some(key)
    }
}

/// The body of a message.
pub fn body(kind: &str, at: Instant, data: &Value) -> String {
    json!({"type": kind, "timestamp": at.to_string(), "data": data}).to_string()
}

/// The value of [`SIGNATURE_HEADER`]: signatures of `id.timestamp.body`.
pub fn signature<'a>(
    secrets: impl IntoIterator<Item = &'a Secret>,
    id: &str,
    timestamp: i64,
    body: &str,
) -> String {
    let text = format!("{id}.{timestamp}.{body}");
    let signatures = secrets.into_iter().map(|secret| {
        let tag = sign(&Key::new(HMAC_SHA256, secret.bytes()), text.as_bytes());
        format!("v1,{}", STANDARD.encode(tag))
    });
    signatures.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderMap;
    use standardwebhooks::Webhook;

    #[test]
    fn an_id_is_a_function_of_position_and_line() {
        let check = |region: &str, position, line, id: &str| {
            let key = MessageKey { position, line };
            assert_eq!(key.id(region), id);
            assert_eq!(MessageKey::parse(region, id), Some(key));
        };
        check("eu", 17, 0, "msg_eu_17_0");
        check("eu-north1", 1, 12, "msg_eu-north1_1_12");
        check("eu.north_1", 1, 0, "msg_eu~north_1_1_0");
        for bad in ["", "msg", "msg_eu_17", "msg_eu_17_x", "msg_us_17_0", "msg_eu_017_0", "MSG_eu_17_0"] {
            assert_eq!(MessageKey::parse("eu", bad), None, "{bad}");
        }
        assert_eq!(MessageKey::of_notice("17"), Some(MessageKey { position: 17, line: 0 }));
        assert_eq!(MessageKey::of_notice("17.3"), Some(MessageKey { position: 17, line: 3 }));
    }

    /// The library of the standard takes what is signed here, and nothing else.
    #[test]
    fn the_standards_own_library_verifies() {
        let (old, new, other) = (Secret::draw().unwrap(), Secret::draw().unwrap(), Secret::draw().unwrap());
        let sent = crate::testing::wall_clock().unix_ms().div_euclid(1_000);
        let id = "msg_eu_17_0";
        let body =
            body("hourglass.spend.alert.v1", "2026-01-01T00:00:00Z".parse().unwrap(), &json!({"a": 1}));
        let signed = signature([&new, &old], id, sent, &body);
        let verify = |secret: &Secret, id: &str, sent: i64, body: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ID_HEADER, id.parse().unwrap());
            headers.insert(TIMESTAMP_HEADER, sent.into());
            headers.insert(SIGNATURE_HEADER, signed.parse().unwrap());
            Webhook::new(&secret.reveal()).unwrap().verify(body.as_bytes(), &headers).is_ok()
        };
        assert!(verify(&old, id, sent, &body) && verify(&new, id, sent, &body));
        assert!(!verify(&other, id, sent, &body));
        assert!(!verify(&new, "msg_eu_17_1", sent, &body));
        assert!(!verify(&new, id, sent - 1, &body));
        assert!(!verify(&new, id, sent, &body.replace('1', "2")));
    }
}
