//! The running server over HTTP, from an account to an invoice.

use prost_free::batch;
use serde_json::{Value, json};

use crate::support::{Server, agent, hourglass};

/// Batches for the wire, made without the code under test.
mod prost_free {
    /// A protobuf `UsageBatch` of records `(instance, start, end, gpus)`, encoded by hand.
    pub(crate) fn batch(agent: &str, first_seq: u64, records: &[(&str, i64, i64, u64)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        text(&mut bytes, 1, agent.as_bytes());
        number(&mut bytes, 2, 1);
        number(&mut bytes, 3, first_seq);
        for (instance, start, end, gpus) in records {
            let mut record = Vec::new();
            text(&mut record, 1, instance.as_bytes());
            number(&mut record, 3, start.cast_unsigned());
            number(&mut record, 4, end.cast_unsigned());
            number(&mut record, 5, *gpus);
            text(&mut bytes, 4, &record);
        }
        bytes
    }

    fn number(bytes: &mut Vec<u8>, field: u64, value: u64) {
        varint(bytes, field << 3);
        varint(bytes, value);
    }

    fn text(bytes: &mut Vec<u8>, field: u64, value: &[u8]) {
        varint(bytes, field << 3 | 2);
        varint(bytes, value.len() as u64);
        bytes.extend_from_slice(value);
    }

    fn varint(bytes: &mut Vec<u8>, mut value: u64) {
        while value >= 0x80 {
            bytes.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
    }
}

pub(crate) fn usage_batch(agent: &str, first_seq: u64, records: &[(&str, i64, i64, u64)]) -> Vec<u8> {
    batch(agent, first_seq, records)
}

/// Now, as the server sees it, in milliseconds.
pub(crate) fn now_ms() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "the server under test reads the same clock")]
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap()
}

/// The last whole minute of the past.
pub(crate) fn recent() -> i64 {
    now_ms() / 60_000 * 60_000
}

pub(crate) fn rfc3339(ms: i64) -> String {
    hourglass_units::Instant::from_unix_ms(ms).unwrap().to_string()
}

pub(crate) fn open_account(server: &Server) {
    let created = |answer: (u16, Value)| assert_eq!(answer.0, 201, "{}", answer.1);
    created(
        server.post("/v1/tenants", &json!({"tenant": "acme", "currency": "USD", "display_name": "Acme"})),
    );
    created(server.post(
        "/v1/rate-cards",
        &json!({
            "name": "list", "version": 1, "currency": "USD", "effective_from": "2026-01-01T00:00:00Z",
            "prices": [{"platform": "gpu-h100-sxm", "region": "test", "model": "on_demand", "price": "2.95"}],
        }),
    ));
    created(server.post(
        "/v1/tenants/acme/instances",
        &json!({"instance": "i-1", "project": "ml", "platform": "gpu-h100-sxm", "model": "on_demand", "gpus": 8}),
    ));
}

#[test]
fn usage_over_http_becomes_a_balance() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::up(data.path(), &[]);
    open_account(&server);
    let end = recent();
    let start = end - 3_600_000;
    let (status, answer) =
        server.post("/v1/tenants/acme/instances/i-1:start", &json!({"at": rfc3339(start)}));
    assert!(status == 200 || status == 201, "{status} {answer}");

    let bytes = batch("agent-1", 0, &[("i-1", start, end, 8), ("i-1", end, start, 8)]);
    let (status, answer) = server.try_post("/v1/usage:ingest", "application/x-protobuf", &bytes).unwrap();
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["quarantined"][0]["reason"], "interval_reversed", "{answer}");

    let (status, problem) =
        server.try_post("/v1/usage:ingest", "application/x-protobuf", b"\xff\xff garbage").unwrap();
    assert_eq!((status, &problem["retryable"]), (422, &json!(false)), "{problem}");

    let (_, usage) = server.get("/v1/tenants/acme/usage?group_by=model");
    assert_eq!(
        (&usage["rows"][0]["gpu_hours"], &usage["rows"][0]["amount"]),
        (&json!("8"), &json!("23.6")),
        "{usage}"
    );

    // The next tick accrues it.
    let balance = (0..200).find_map(|_| {
        let (_, balance) = server.get("/v1/tenants/acme/balance");
        let rows = balance["rows"].as_array().unwrap();
        let booked = |row: &&Value| row["account"] == "assets:unbilled:acme" && row["balance"] == "23.6";
        rows.iter().find(booked).cloned().or_else(wait)
    });
    assert!(balance.is_some(), "no balance within ten seconds");
    assert!(server.stop());
    let report = hourglass(data.path(), &["verify", "--json"]).json();
    assert_eq!((&report["finding_count"], &report["rows"]["quarantine"]), (&json!(0), &json!(2)));
}

/// Lets the server's clock move on.
fn wait<T>() -> Option<T> {
    #[expect(clippy::disallowed_methods, reason = "between two looks at another process")]
    std::thread::sleep(std::time::Duration::from_millis(50));
    None
}

#[test]
fn a_token_guards_everything_but_health() {
    let data = tempfile::tempdir().unwrap();
    let token = "a-token-of-some-length";
    let server = Server::up(data.path(), &[("HOURGLASS_OPERATOR_TOKEN", token)]);
    assert_eq!(server.get("/healthz").0, 200);
    assert_eq!(server.get("/readyz").0, 200);
    let (status, problem) = server.get("/v1/tenants");
    assert_eq!((status, &problem["status"]), (401, &json!(401)));
    let with = |token: &str| {
        let request = agent().get(format!("{}/v1/tenants", server.url));
        request.header("authorization", format!("Bearer {token}")).call().unwrap().status().as_u16()
    };
    assert_eq!((with(token), with("another-token-of-that-length")), (200, 401));
}
