//! Each way in, over a real cell.

use std::sync::atomic::Ordering;

use axum::http::StatusCode;
use hourglass_ledger::core::usage::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX};
use hourglass_ledger::core::{Command, Event, Role};
use hourglass_proto::v1;
use hourglass_proto::v1::usage_service_client::UsageServiceClient;
use hourglass_units::Instant;
use prost::Message;
use prost::bytes::Bytes;
use serde_json::{Value, json};
use tonic::Code;

use super::{EPOCH_UNNUMBERED, Format};
use crate::api::ApiConfig;
use crate::testing::{Server, key_of, record, with_config, with_server};

const PATH: &str = "/v1/usage:ingest";
const EVENTS: [(&str, &str); 1] = [("content-type", "application/cloudevents-batch+json; charset=utf-8")];
const PROTOBUF: [(&str, &str); 1] = [("content-type", "application/x-protobuf")];

fn ms(time: &str) -> i64 {
    time.parse::<Instant>().unwrap().unix_ms()
}

fn batch(first_seq: u64, records: &[(&str, &str, &str)]) -> v1::UsageBatch {
    let record = |(instance, start, end): &(&str, &str, &str)| v1::UsageRecord {
        instance_id: (*instance).to_owned(),
        session: 1,
        start_unix_ms: ms(start),
        end_unix_ms: ms(end),
        gpus: 8,
        evidence: None,
    };
    v1::UsageBatch {
        agent_id: "node-1".to_owned(),
        epoch: 1,
        first_seq,
        records: records.iter().map(record).collect(),
    }
}

fn event(id: &str, source: &str, data: Value) -> Value {
    json!({"specversion": "1.0", "type": "hourglass.usage.v1", "source": source, "id": id, "data": data})
}

async fn billed_ms(server: &Server) -> Value {
    server.get("/v1/tenants/acme/metering").await.expect(StatusCode::OK).json()["billed_ms"].clone()
}

/// The event of a position, with the bytes that it holds.
async fn logged(server: &Server, position: &Value) -> Event {
    let before = hourglass_ledger::core::Position::new(position.as_u64().unwrap() - 1);
    let reader = server.cell.reader().clone();
    let events = tokio::task::spawn_blocking(move || reader.events(before, 1)).await.unwrap().unwrap();
    hourglass_ledger::core::Recorded::decode(&events[0].payload).unwrap().event
}

#[test]
fn media_types_name_formats() {
    assert_eq!(Format::of_media_type("Application/JSON ; charset=utf-8"), Some(Format::Json));
    assert_eq!(Format::of_media_type("text/plain"), None);
    for format in Format::ALL {
        assert_eq!(Format::of_media_type(format.media_type()), Some(format));
    }
}

#[test]
fn all_formats_say_the_same() {
    with_server(async |server| {
        server.with_customers().await;
        let (start, end) = ("2026-01-01T01:00:00Z", "2026-01-01T01:10:00.250Z");
        let one = event("e-1", "node-1", record(start, end));
        let json = json!({"agent_id": "node-1", "epoch": 1, "first_seq": 0, "records": [record(start, end)]});
        let unix = json!({"agent_id": "node-1", "epoch": 1, "first_seq": 0, "records": [
            {"instance_id": "i-1", "session": 1, "start_unix_ms": ms(start), "end_unix_ms": ms(end), "gpus": 8,
             "evidence": {"gpu_util_percent": 98, "xid_errors": [31]}}]});
        let bodies: [(&str, Vec<u8>); 5] = [
            ("application/x-protobuf", batch(0, &[("i-1", start, end)]).encode_to_vec()),
            ("application/json", json.to_string().into_bytes()),
            ("application/json", unix.to_string().into_bytes()),
            ("application/cloudevents+json", one.to_string().into_bytes()),
            ("application/cloudevents-batch+json", json!([one]).to_string().into_bytes()),
        ];
        for (media_type, body) in bodies {
            let report = server
                .post_as(PATH, &[("content-type", media_type)], body)
                .await
                .expect(StatusCode::OK)
                .json();
            assert_eq!(report["quarantined"], json!([]), "{media_type}");
            assert_eq!(billed_ms(&server).await, 600_250, "{media_type}");
        }
    });
}

#[test]
fn cloud_events_move_no_watermark() {
    with_server(async |server| {
        server.with_customers().await;
        let numbered = batch(0, &[("i-1", "2026-01-01T01:00:00Z", "2026-01-01T01:01:00Z")]);
        server.post_as(PATH, &PROTOBUF, numbered.encode_to_vec()).await.expect(StatusCode::OK);
        let minute = |minute: u32| {
            record(&format!("2026-01-01T01:0{minute}:00Z"), &format!("2026-01-01T01:0{}:00Z", minute + 1))
        };
        let events = json!([
            event("1", "node-2", minute(1)),
            event("2", "node-1", minute(2)),
            event("3", "node-2", minute(3))
        ]);
        let report = server.post_as(PATH, &EVENTS, events.to_string()).await.expect(StatusCode::OK).json();
        let agents: Vec<_> = report["batches"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| (it["agent_id"].clone(), it["records"].clone()))
            .collect();
        assert_eq!(agents, [(json!("node-1"), json!(1)), (json!("node-2"), json!(2))]);
        assert_eq!(report["batches"][0]["next_seq"], Value::Null);
        assert_eq!(billed_ms(&server).await, 240_000);
        let agent = "node-1".parse().unwrap();
        let seqs = server
            .cell
            .read(move |state| (state.next_seq(&agent, 1), state.next_seq(&agent, EPOCH_UNNUMBERED)));
        assert_eq!(seqs.await.unwrap(), (1, 0));

        let mut reserved = numbered;
        reserved.epoch = EPOCH_UNNUMBERED;
        server.post_as(PATH, &PROTOBUF, reserved.encode_to_vec()).await.expect_problem(422, "epoch_reserved");
        let json = json!({"agent_id": "node-1", "epoch": EPOCH_UNNUMBERED, "first_seq": 0, "records": []});
        server.post(PATH, json).await.expect_problem(422, "epoch_reserved");
    });
}

#[test]
fn a_message_that_cannot_be_read_is_kept_and_named() {
    with_server(async |server| {
        let no_agent = v1::UsageBatch::default().encode_to_vec();
        let unknown_field =
            json!({"agent_id": "a", "epoch": 1, "first_seq": 0, "records": [], "x": 1}).to_string();
        let wrong_event = event("1", "node-1", json!({})).to_string();
        let messages: [(&str, Vec<u8>, &str); 7] = [
            ("application/x-protobuf", vec![0xff; 9], "undecodable"),
            ("application/x-protobuf", no_agent, "agent_id_invalid"),
            ("application/json", b"{".to_vec(), "undecodable"),
            ("application/json", unknown_field.into_bytes(), "undecodable"),
            ("application/cloudevents-batch+json", b"{}".to_vec(), "undecodable"),
            ("application/cloudevents+json", b"{}".to_vec(), "event_unreadable"),
            ("application/cloudevents+json", wrong_event.into_bytes(), "record_unreadable"),
        ];
        for (media_type, body, code) in messages {
            let refused = server.post_as(PATH, &[("content-type", media_type)], body.clone()).await;
            let problem = refused.expect_problem(422, code);
            let Event::UsageQuarantined { reason, content_type, original } =
                logged(&server, &problem["quarantine_position"]).await
            else {
                panic!("{media_type} is not in quarantine");
            };
            assert_eq!(
                (reason.as_str(), content_type.as_str(), original),
                (code, media_type, Bytes::from(body))
            );
        }
        server
            .post_as(PATH, &[("content-type", "text/csv")], "a")
            .await
            .expect_problem(415, "media_type_unsupported");
    });
}

#[test]
fn what_of_a_message_can_be_read_is_used_and_the_rest_is_kept() {
    with_server(async |server| {
        server.with_customers().await;
        let good = record("2026-01-01T01:00:00Z", "2026-01-01T01:01:00Z");
        let reversed = record("2026-01-01T01:01:00Z", "2026-01-01T01:00:00Z");
        let fine = record("2026-01-01T01:00:00.0001Z", "2026-01-01T01:01:00Z");
        let mut float = good.clone();
        float["gpus"] = json!(8.0);
        let mut both = good.clone();
        both["end_unix_ms"] = json!(0);

        let records = json!([fine, good, reversed, float, both]);
        let message =
            json!({"agent_id": "node-1", "epoch": 1, "first_seq": 5, "records": records}).to_string();
        let report = server.post_as(PATH, &[("content-type", "application/json")], message.clone()).await;
        let report = report.expect(StatusCode::OK).json();
        let reasons = |report: &Value| -> Vec<(u64, String)> {
            let all = report["quarantined"].as_array().unwrap();
            all.iter()
                .map(|it| (it["index"].as_u64().unwrap(), it["reason"].as_str().unwrap().to_owned()))
                .collect()
        };
        let expected = [
            (0, "record_unreadable"),
            (2, "interval_reversed"),
            (3, "record_unreadable"),
            (4, "record_unreadable"),
        ];
        assert_eq!(reasons(&report), expected.map(|(index, reason)| (index, reason.to_owned())));
        // The places of the unreadable ones are counted: the sequence goes on behind all five.
        assert_eq!(report["batches"][0]["records"], 5);
        let Event::UsageQuarantined { original, .. } = logged(&server, &report["original_position"]).await
        else {
            panic!("the original is not kept");
        };
        assert_eq!(original, message);
        assert_eq!(billed_ms(&server).await, 60_000);

        let mut kind = event("6", "node-1", good.clone());
        kind["type"] = json!("com.example.other");
        let events = json!([
            1,
            event("1", "node-1", fine),
            event("2", "b:ad", good.clone()),
            event("", "node-1", good.clone()),
            event("4", "node-1", reversed),
            event("5", "node-1", good),
            kind
        ]);
        let report = server.post_as(PATH, &EVENTS, events.to_string()).await.expect(StatusCode::OK).json();
        let expected = [
            (0, "event_unreadable"),
            (1, "record_unreadable"),
            (2, "agent_id_invalid"),
            (3, "event_unreadable"),
            (4, "interval_reversed"),
            (6, "event_type_unknown"),
        ];
        assert_eq!(reasons(&report), expected.map(|(index, reason)| (index, reason.to_owned())));
        assert!(report["original_position"].is_u64());
        assert_eq!(billed_ms(&server).await, 60_000);
    });
}

#[test]
fn a_repeated_message_is_answered_as_the_first() {
    with_server(async |server| {
        server.with_customers().await;
        let good = record("2026-01-01T01:00:00Z", "2026-01-01T01:01:00Z");
        let named = |key| [EVENTS[0], ("idempotency-key", key)];
        let events =
            json!([event("1", "node-1", good.clone()), event("2", "node-2", good.clone()), 7]).to_string();
        let first = server.post_as(PATH, &named("k"), events.clone()).await.expect(StatusCode::OK);
        let again = server.post_as(PATH, &named("k"), events).await.expect(StatusCode::OK);
        assert_eq!((first.header("idempotent-replayed"), again.header("idempotent-replayed")), ("", "true"));
        assert_eq!(first.body, again.body);
        let other = json!([event("1", "node-3", good)]).to_string();
        server.post_as(PATH, &named("k"), other).await.expect_problem(409, "idempotency_key_reused");
        let first = server.post_as(PATH, &named("g"), "garbage").await.expect_problem(422, "undecodable");
        let again = server.post_as(PATH, &named("g"), "garbage").await.expect_problem(422, "undecodable");
        assert_eq!(first["quarantine_position"], again["quarantine_position"]);
    });
}

#[test]
fn what_is_too_large_is_refused_and_not_kept() {
    with_server(async |server| {
        let position = async || server.get("/v1/ledger/head").await.json()["position"].clone();
        let before = position().await;
        let many = v1::UsageBatch {
            records: vec![v1::UsageRecord::default(); BATCH_RECORDS_MAX + 1],
            ..batch(0, &[])
        };
        server.post_as(PATH, &PROTOBUF, many.encode_to_vec()).await.expect_problem(413, "too_many_records");
        server.post_as(PATH, &PROTOBUF, vec![0; BATCH_BYTES_MAX + 1]).await.expect_problem(413, "too_large");
        server
            .post_as(PATH, &PROTOBUF, vec![0; crate::api::BODY_BYTES_MAX + 1])
            .await
            .expect_problem(413, "too_large");
        assert_eq!(position().await, before);
    });
}

/// How often open streams are looked at in these tests.
const CHECK: std::time::Duration = std::time::Duration::from_millis(20);

/// Serves gRPC over loopback; the second part of the answer ends it.
async fn serve(
    server: &Server,
    token: Option<&str>,
) -> (String, tokio::sync::oneshot::Sender<()>, tokio::task::JoinHandle<std::io::Result<()>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let config = ApiConfig { operator_token: token.map(str::to_owned), ..ApiConfig::default() };
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let shutdown = async {
        let _told: Result<(), _> = stopped.await;
    };
    let served =
        tokio::spawn(crate::grpc::serve_checking(listener, server.cell.clone(), config, CHECK, shutdown));
    (address, stop, served)
}

#[test]
fn a_stream_of_batches_is_answered_in_order_after_each_commit() {
    with_server(async |server| {
        server.with_customers().await;
        let (address, stop, served) = serve(&server, None).await;
        let mut client = UsageServiceClient::connect(address).await.unwrap();
        let batches: Vec<_> = (0..40_u64)
            .map(|n| {
                batch(
                    n,
                    &[(
                        "i-1",
                        &format!("2026-01-01T01:{n:02}:00Z"),
                        &format!("2026-01-01T01:{:02}:00Z", n + 1),
                    )],
                )
            })
            .chain([batch(40, &[("i-1", "2026-01-01T01:01:00Z", "2026-01-01T01:00:00Z")])])
            .collect();
        let mut answers = client.publish(tokio_stream::iter(batches)).await.unwrap().into_inner();
        let mut position = 0;
        for n in 0..41 {
            let watermark = answers.message().await.unwrap().unwrap();
            assert_eq!(
                (watermark.agent_id.as_str(), watermark.epoch, watermark.next_seq),
                ("node-1", 1, n + 1)
            );
            assert!(watermark.position > position);
            position = watermark.position;
            let reasons: Vec<_> =
                watermark.quarantined.iter().map(|it| (it.index, it.reason.as_str())).collect();
            assert_eq!(reasons, if n == 40 { vec![(0, "interval_reversed")] } else { Vec::new() });
        }
        assert!(answers.message().await.unwrap().is_none());
        assert_eq!(billed_ms(&server).await, 40 * 60_000);

        // What is no batch ends its stream, is kept, and leaves what came before it answered.
        let nameless = v1::UsageBatch { agent_id: String::new(), ..batch(42, &[]) };
        let bytes = nameless.encode_to_vec();
        let stream = tokio_stream::iter([batch(41, &[]), nameless, batch(42, &[])]);
        let mut answers = client.publish(stream).await.unwrap().into_inner();
        assert_eq!(answers.message().await.unwrap().unwrap().next_seq, 41);
        let status = answers.message().await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        let position = status.message().rsplit(' ').next().unwrap().parse::<u64>().unwrap();
        let Event::UsageQuarantined { original, .. } = logged(&server, &json!(position)).await else {
            panic!("it is not kept");
        };
        assert_eq!(original, bytes);

        // A stream that stays open is ended by the shutdown, and so is the server.
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let open = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let mut answers = client.publish(open).await.unwrap().into_inner();
        sender.send(batch(41, &[])).await.unwrap();
        assert!(answers.message().await.unwrap().is_some());
        stop.send(()).unwrap();
        assert_eq!(answers.message().await.unwrap_err().code(), Code::Unavailable);
        drop((client, sender, answers));
        served.await.unwrap().unwrap();
    });
}

#[test]
fn a_stream_needs_the_token() {
    with_config(
        ApiConfig::default(),
        |store| store,
        async |server| {
            let (address, _stop, _served) = serve(&server, Some("a token of some length")).await;
            let mut client = UsageServiceClient::connect(address).await.unwrap();
            let publish = |token: Option<&'static str>| {
                let mut request = tonic::Request::new(tokio_stream::iter([batch(0, &[])]));
                if let Some(token) = token {
                    request.metadata_mut().insert("authorization", token.parse().unwrap());
                }
                request
            };
            for wrong in [None, Some("Bearer wrong")] {
                let status = client.publish(publish(wrong)).await.unwrap_err();
                assert_eq!(status.code(), Code::Unauthenticated);
            }
            let answers = client.publish(publish(Some("Bearer a token of some length"))).await.unwrap();
            assert!(answers.into_inner().message().await.unwrap().is_some());
        },
    );
}

#[test]
fn an_agents_key_streams_its_own_batches_until_it_is_revoked() {
    with_server(async |server| {
        server.with_customers().await;
        let (address, _stop, _served) = serve(&server, Some("a token of some length")).await;
        let mut client = UsageServiceClient::connect(address).await.unwrap();
        let key = server.key(key_of(Role::Agent, "node-1", &[])).await;
        let planner = server.key(key_of(Role::Planner, "", &[])).await;
        let with = |key: &str, receiver| {
            let mut request = tonic::Request::new(tokio_stream::wrappers::ReceiverStream::new(receiver));
            request.metadata_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
            request
        };
        let (_sender, receiver) = tokio::sync::mpsc::channel(4);
        let refused = client.publish(with(&planner, receiver)).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);

        // What comes before a batch of another agent is answered, and that one is not kept.
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        sender.send(batch(0, &[])).await.unwrap();
        sender.send(v1::UsageBatch { agent_id: "node-2".to_owned(), ..batch(1, &[]) }).await.unwrap();
        let mut answers = client.publish(with(&key, receiver)).await.unwrap().into_inner();
        let first = answers.message().await.unwrap().unwrap();
        assert_eq!(
            (first.agent_id.as_str(), first.position),
            ("node-1", server.cell.status().position.load(Ordering::Relaxed))
        );
        assert_eq!(answers.message().await.unwrap_err().code(), Code::PermissionDenied);
        assert_eq!(server.cell.status().position.load(Ordering::Relaxed), first.position);

        // An open stream ends soon after its key is revoked.
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        sender.send(batch(1, &[])).await.unwrap();
        let mut answers = client.publish(with(&key, receiver)).await.unwrap().into_inner();
        assert!(answers.message().await.unwrap().is_some());
        let id = key.split('_').nth(1).unwrap().parse().unwrap();
        let _revoked = server.cell.submit(Command::RevokeKey { id }).await.unwrap();
        let ended = tokio::time::timeout(std::time::Duration::from_secs(30), answers.message()).await;
        assert_eq!(ended.unwrap().unwrap_err().code(), Code::Unauthenticated);
    });
}
