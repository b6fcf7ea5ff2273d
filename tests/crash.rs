//! `kill -9` in the middle of work: what was acknowledged is there, and nothing is there by half.

use crate::http::{open_account, recent, rfc3339, usage_batch};
use crate::support::{Server, hourglass};
use serde_json::json;

/// Batches sent before the server is killed.
const BATCHES_BEFORE_KILL: [u64; 3] = [3, 11, 40];

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let data = tempfile::tempdir().unwrap();
    let end = recent();
    let start = end - 3_600_000;
    let mut next_seq = 0;
    let mut acknowledged_ms = 0;
    for (round, batches) in BATCHES_BEFORE_KILL.into_iter().enumerate() {
        let server = Server::up(data.path(), &[]);
        if round == 0 {
            open_account(&server);
            server.post("/v1/tenants/acme/instances/i-1:start", &json!({"at": rfc3339(start)}));
        }
        // One thread keeps sending while the server is killed under it.
        let (url, from) = (server.url.clone(), next_seq);
        let sender = std::thread::spawn(move || {
            let mut acknowledged = 0;
            for number in from.. {
                let at = start + i64::try_from(number).unwrap() * 1_000;
                let bytes = usage_batch("agent-1", number, &[("i-1", at, at + 1_000, 8)]);
                let request = crate::support::agent().post(format!("{url}/v1/usage:ingest"));
                match request.header("content-type", "application/x-protobuf").send(&bytes) {
                    Ok(answer) if answer.status().is_success() => acknowledged = number + 1,
                    _ => return acknowledged.max(from),
                }
            }
            acknowledged
        });
        let enough = |server: &Server| {
            let (_, metering) = server.get("/v1/tenants/acme/metering");
            metering["billed_ms"].as_i64().unwrap_or(0) >= i64::try_from(from + batches).unwrap() * 1_000
        };
        while !enough(&server) {
            assert!(!sender.is_finished(), "the server refused a batch");
        }
        server.kill();
        next_seq = sender.join().unwrap();
        acknowledged_ms = i64::try_from(next_seq).unwrap() * 1_000;

        let report = hourglass(data.path(), &["verify", "--json"]).json();
        assert_eq!(report["finding_count"], 0, "{report}");
    }
    let server = Server::up(data.path(), &[]);
    let (_, metering) = server.get("/v1/tenants/acme/metering");
    let billed = metering["billed_ms"].as_i64().unwrap();
    // At most the one batch that was under way at each kill can be there without an answer.
    let unanswered = billed - acknowledged_ms;
    assert!((0..=1_000).contains(&unanswered), "acknowledged {acknowledged_ms} ms, billed {billed} ms");
}
