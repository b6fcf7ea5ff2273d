//! Entity tags: who asks again for what it has is told that it is still so.
//!
//! A tag is the hash of what an answer says, the log position left out: the log grows with each tick, and
//! what is said mostly stays. So tags are weak (RFC 9110, 8.8.1), except that of a finalised invoice, whose
//! bytes never change and which brings its own.

use axum::body::{Body, HttpBody, to_bytes};
use axum::extract::Request;
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Longest answer that is given a tag, in bytes.
pub const ETAG_BYTES_MAX: usize = 4 << 20;

/// How answers as of a log position begin.
const AS_OF: &[u8] = br#"{"as_of":{"#;

/// Gives answers a tag, and answers with it alone where the caller has the same.
pub(super) async fn revalidate(request: Request, next: Next) -> Response {
    // The answer to a HEAD has lost its body by now, and with it what a tag would be made of.
    let reads = *request.method() == Method::GET;
    let known = request.headers().get_all(IF_NONE_MATCH).iter().cloned().collect::<Vec<_>>();
    let response = next.run(request).await;
    if !reads || response.status() != StatusCode::OK {
        return response;
    }
    let response = if response.headers().contains_key(ETAG) { response } else { tagged(response).await };
    match response.headers().get(ETAG) {
        Some(tag) if known.iter().any(|header| names(header, tag)) => not_modified(response.headers()),
        _ => response,
    }
}

/// With a tag, where it is a document that is there as a whole.
async fn tagged(response: Response) -> Response {
    let is_json = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    let is_whole = response.body().size_hint().exact().is_some_and(|bytes| bytes <= ETAG_BYTES_MAX as u64);
    if !is_json || !is_whole {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Ok(bytes) = to_bytes(body, ETAG_BYTES_MAX).await else {
        return super::problem::Problem::internal().into_response();
    };
    let hash = blake3::hash(said(&bytes)).to_hex();
    // The first 128 bits tell apart as many as anybody will ever see.
    let tag = hash.get(..32).map(|short| format!("W/\"{short}\""));
    if let Some(tag) = tag.and_then(|tag| HeaderValue::from_str(&tag).ok()) {
        parts.headers.insert(ETAG, tag);
        parts.headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("private, no-cache"));
    }
    Response::from_parts(parts, Body::from(bytes))
}

/// What an answer says, whatever position it says it of. The time there is the position's.
fn said(document: &[u8]) -> &[u8] {
    let behind = document.strip_prefix(AS_OF).and_then(|rest| {
        let end = rest.iter().position(|byte| *byte == b'}')?;
        rest.get(end..)
    });
    behind.unwrap_or(document)
}

/// Whether `If-None-Match` names the tag, compared weakly.
fn names(header: &HeaderValue, tag: &HeaderValue) -> bool {
    let opaque = |text: &str| text.trim().trim_start_matches("W/").to_owned();
    match (header.to_str(), tag.to_str()) {
        (Ok(header), Ok(tag)) => {
            header.split(',').any(|named| named.trim() == "*" || opaque(named) == opaque(tag))
        }
        _ => false,
    }
}

fn not_modified(of: &HeaderMap) -> Response {
    let mut response = StatusCode::NOT_MODIFIED.into_response();
    for (name, value) in of {
        if *name != CONTENT_TYPE && *name != CONTENT_LENGTH {
            response.headers_mut().append(name, value.clone());
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_named_in_any_list() {
        let check = |header: &str, tag: &str, expected: bool| {
            let value = |text: &str| HeaderValue::from_str(text).unwrap();
            assert_eq!(names(&value(header), &value(tag)), expected, "{header} {tag}");
        };
        check("W/\"a\"", "W/\"a\"", true);
        check("\"a\"", "W/\"a\"", true);
        check("\"b\", W/\"a\"", "\"a\"", true);
        check("*", "\"a\"", true);
        check("\"b\"", "\"a\"", false);
        check("", "\"a\"", false);
    }

    #[test]
    fn a_position_is_no_part_of_what_is_said() {
        let at = |position: u64, rows: &str| {
            format!(r#"{{"as_of":{{"position":{position},"time":"2026-01-01T00:00:00Z"}},"rows":[{rows}]}}"#)
        };
        assert_eq!(said(at(1, "1").as_bytes()), said(at(22, "1").as_bytes()));
        assert_ne!(said(at(1, "1").as_bytes()), said(at(1, "2").as_bytes()));
        assert_eq!(said(br#"{"rows":[]}"#), br#"{"rows":[]}"#);
        assert_eq!(said(br#"{"as_of":{"#), br#"{"as_of":{"#);
    }
}
