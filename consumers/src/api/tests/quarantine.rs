//! Quarantine: the list, an entry with its bytes, and its replay.

use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hourglass_ledger::core::Command;
use prost::Message as _;
use serde_json::json;

use crate::testing::{Server, record, with_server};

/// Keeps a message in quarantine that this release reads well: as an older one would have done.
async fn keep(server: &Server, reason: &str, content_type: &str, original: Vec<u8>) -> u64 {
    let (reason, content_type) = (reason.to_owned(), content_type.to_owned());
    let command = Command::QuarantineUsage { reason, content_type, original: original.into() };
    server.cell.submit(command).await.unwrap().answer().position.number()
}

fn readable() -> Vec<u8> {
    let record = hourglass_proto::v1::UsageRecord {
        instance_id: "i-1".to_owned(),
        start_unix_ms: 1_767_229_200_000,
        end_unix_ms: 1_767_229_260_000,
        gpus: 8,
        ..Default::default()
    };
    let batch = hourglass_proto::v1::UsageBatch {
        agent_id: "node-1".to_owned(),
        epoch: 1,
        first_seq: 0,
        records: vec![record],
    };
    batch.encode_to_vec()
}

#[test]
fn an_entry_is_shown_with_its_bytes() {
    with_server(async |server| {
        let message =
            keep(&server, "undecodable", "application/x-protobuf; agent=node-9", vec![0xff, 0xfe]).await;
        let shown = server.get(&format!("/v1/quarantine/{message}")).await.expect(StatusCode::OK).json();
        assert_eq!(
            shown,
            json!({
                "position": message, "at": "2026-01-01T02:01:00Z", "reason": "undecodable",
                "content_type": "application/x-protobuf; agent=node-9", "agent": "node-9", "bytes": 2,
                "original": STANDARD.encode([0xff, 0xfe]),
            })
        );

        let batch = json!({"agent_id": "node-1", "epoch": 1, "first_seq": 0,
            "records": [record("2026-01-01T00:30:00Z", "2026-01-01T00:31:00Z"), {}]});
        let receipt = server.post("/v1/usage:ingest", batch).await.expect(StatusCode::OK).json();
        let position = receipt["batches"][0]["position"].as_u64().unwrap();
        let shown = server.get(&format!("/v1/quarantine/{position}")).await.expect(StatusCode::OK).json();
        assert_eq!(shown["records"][0]["record"], 1);
        assert_eq!((&shown["agent"], &shown["reason"]), (&json!("node-1"), &json!(null)));
    });
}

#[test]
fn a_replay_takes_in_what_can_be_used_and_only_once() {
    with_server(async |server| {
        server.with_customers().await;
        let entry = keep(&server, "of_an_older_release", "application/x-protobuf", readable()).await;
        let path = format!("/v1/quarantine/{entry}:replay");
        let first = server.post_as(&path, &[], "").await.expect(StatusCode::OK);
        assert_eq!(first.header("idempotent-replayed"), "");
        assert_eq!(first.json()["batches"][0]["records"], 1);
        let again = server.post_as(&path, &[], "").await.expect(StatusCode::OK);
        assert_eq!(again.header("idempotent-replayed"), "true");
        assert_eq!(again.json(), first.json());
        let metering = server.get("/v1/tenants/acme/metering").await.json();
        assert_eq!(metering["billed_ms"], 60_000);
        // It stays listed: rows of the log do not go away.
        assert_eq!(server.get("/v1/quarantine").await.json()["rows"].as_array().unwrap().len(), 1);
    });
}

#[test]
fn a_replay_writes_nothing_that_it_cannot_use() {
    with_server(async |server| {
        server.with_customers().await;
        let junk = keep(&server, "undecodable", "application/x-protobuf", vec![0xff]).await;
        let forged =
            keep(&server, "agent_mismatch", "application/x-protobuf; agent=node-9", readable()).await;
        let other = keep(&server, "unknown", "text/plain", b"usage".to_vec()).await;
        let batch = json!({"agent_id": "node-1", "epoch": 1, "first_seq": 0, "records": [{}]});
        let receipt = server.post("/v1/usage:ingest", batch).await.expect(StatusCode::OK).json();
        let records = receipt["batches"][0]["position"].as_u64().unwrap();

        for (position, code) in
            [(junk, "undecodable"), (forged, "agent_mismatch"), (other, "content_type_unknown")]
        {
            let path = format!("/v1/quarantine/{position}:replay");
            server.post_as(&path, &[], "").await.expect_problem(422, code);
        }
        let path = format!("/v1/quarantine/{records}:replay");
        let same = server.post_as(&path, &[], "").await.expect(StatusCode::OK).json();
        assert_eq!(same["batches"], json!([]));
        assert_eq!(same["quarantined"][0]["index"], 0);
        let head = server.get("/v1/ledger/head").await.json()["position"].as_u64().unwrap();
        assert_eq!(head, records);
    });
}

#[test]
fn what_is_not_there_is_said() {
    with_server(async |server| {
        server.with_customers().await;
        for nothing in [0, 1, 3, 999, u64::MAX] {
            server.get(&format!("/v1/quarantine/{nothing}")).await.expect_problem(404, "quarantine_unknown");
            let path = format!("/v1/quarantine/{nothing}:replay");
            server.post_as(&path, &[], "").await.expect_problem(404, "quarantine_unknown");
        }
        server.get("/v1/quarantine/x").await.expect_problem(400, "path_invalid");
        server.post_as("/v1/quarantine/x:replay", &[], "").await.expect_problem(400, "path_invalid");
        server.post_as("/v1/quarantine/1:burn", &[], "").await.expect_problem(404, "action_unknown");
        server.post_as("/v1/quarantine/1", &[], "").await.expect_problem(405, "method_not_allowed");
    });
}
