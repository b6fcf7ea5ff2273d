//! The search for evidence, on a real store: late, repeated and split reports, and those that are none.

use axum::http::StatusCode;
use hourglass_ledger::core::explain;
use hourglass_units::{Coverage, Hour, Interval};
use serde_json::{Value, json};

use super::evidence::{Limits, search};
use super::{Evidence, charge_rows};
use crate::testing::{Server, instance, record, with_server};

/// What reports and who: the sequence numbers of an agent go up by themselves.
struct Reports<'a> {
    server: &'a Server,
    sent: u64,
}

impl Reports<'_> {
    async fn batch(&mut self, agent: &str, records: Vec<Value>) -> u64 {
        let first_seq = self.sent;
        self.sent += 10;
        let batch = json!({"agent_id": agent, "epoch": 1, "first_seq": first_seq, "records": records});
        self.server.post("/v1/usage:ingest", batch).await.expect(StatusCode::OK);
        let head = self.server.cell.reader().clone();
        tokio::task::spawn_blocking(move || head.head()).await.unwrap().unwrap().position.number()
    }

    /// `i-1` held 8 GPUs from one time of the day to another.
    async fn of(&mut self, from: &str, until: &str) -> u64 {
        self.batch("node-1", vec![span(from, until)]).await
    }

    /// Reports of others.
    async fn of_others(&mut self, count: usize) {
        for _ in 0..count {
            let mut other = span("00:40", "00:41");
            other["instance_id"] = json!("i-other");
            self.batch("node-2", vec![other]).await;
        }
    }
}

fn span(from: &str, until: &str) -> Value {
    let at = |time: &str| format!("2026-01-01T{time}:00Z");
    record(&at(from), &at(until))
}

async fn found(server: &Server, hour: &str, limits: Limits) -> (Vec<Evidence>, bool) {
    let hour = Hour::containing(format!("2026-01-01T{hour}:00:00Z").parse().unwrap());
    let read = server.cell.read(move |state| {
        let explained = explain::hour(state, "i-1", hour).unwrap();
        (explained, state.cell().unwrap().policy, state.position())
    });
    let (explained, policy, until) = read.await.unwrap();
    let reader = server.cell.reader().clone();
    let (evidence, complete) = tokio::task::spawn_blocking(move || {
        let rows = charge_rows(reader.as_ref(), &explained, until).unwrap();
        let found = search(reader.as_ref(), &explained, policy, &rows, until, limits).unwrap();
        // Together they cover what was reported if all was found, and never more.
        let reported: Coverage = explained.reported.iter().copied().collect();
        let covered: Coverage = found.0.iter().flat_map(|it| it.first.clone()).collect();
        assert_eq!(covered.difference(&reported), Coverage::default());
        assert_eq!(covered == reported, found.1);
        let once: i64 = found.0.iter().flat_map(|it| &it.first).map(|part| part.milliseconds()).sum();
        assert_eq!(once, covered.milliseconds(), "what is first is so once");
        found
    })
    .await
    .unwrap();
    (evidence, complete)
}

fn positions(evidence: &[Evidence]) -> Vec<u64> {
    evidence.iter().map(|it| it.position).collect()
}

fn minutes(parts: &[Interval]) -> Vec<i64> {
    parts.iter().map(|part| part.milliseconds() / 60_000).collect()
}

#[test]
fn repeated_and_split_reports_are_listed_for_what_they_add() {
    with_server(async |server| {
        server.with_customers().await;
        let mut reports = Reports { server: &server, sent: 0 };
        let records = vec![span("00:50", "01:10"), span("00:30", "00:35"), span("00:34", "00:40")];
        let split = reports.batch("node-1", records).await;
        reports.of("00:31", "00:39").await;
        let over = reports.of("00:35", "00:55").await;
        reports.of("00:30", "01:00").await;
        let (evidence, complete) = found(&server, "00", Limits::default()).await;
        assert_eq!((positions(&evidence), complete), (vec![split, over], true));
        assert_eq!(minutes(&evidence[0].reported), [10, 10]);
        assert_eq!((minutes(&evidence[1].reported), minutes(&evidence[1].first)), (vec![20], vec![10]));
        let (evidence, complete) = found(&server, "01", Limits::default()).await;
        assert_eq!((positions(&evidence), complete), (vec![split], true));
    });
}

#[test]
fn late_reports_are_found_from_the_rows_that_they_made() {
    with_server(async |server| {
        server.with_customers().await;
        let mut reports = Reports { server: &server, sent: 0 };
        let first = reports.of("00:30", "00:40").await;
        server.tick().await;
        reports.of_others(1_000).await;
        server.clock.set("2026-01-20T00:00:00Z");
        let late = reports.of("00:50", "01:00").await;
        reports.of_others(100).await;
        server.tick().await;
        reports.of_others(1_000).await;
        let newest = reports.of("00:40", "00:45").await;
        reports.of_others(10).await;
        // Less than half of what lies between: going forward only, none of the late ones would be found.
        let few = Limits { events: 960, ..Limits::default() };
        let (evidence, complete) = found(&server, "00", few).await;
        assert_eq!((positions(&evidence), complete), (vec![first, late, newest], true));
        // Beyond the limit it says that it did not find all.
        let none = Limits { events: 64, ..Limits::default() };
        let (evidence, complete) = found(&server, "00", none).await;
        assert_eq!((positions(&evidence), complete), (vec![first], false));
        let (evidence, complete) = found(&server, "00", Limits { bytes: 1, ..few }).await;
        assert_eq!((positions(&evidence), complete), (vec![first], false));
        let (evidence, complete) = found(&server, "00", Limits::default()).await;
        assert_eq!((positions(&evidence), complete), (vec![first, late, newest], true));
    });
}

#[test]
fn a_report_can_come_before_its_hour() {
    with_server(async |server| {
        server.with_customers().await;
        let mut reports = Reports { server: &server, sent: 0 };
        reports.of_others(200).await;
        server.clock.set("2026-01-01T02:59:00Z");
        let early = reports.of("03:00", "03:03").await;
        server.clock.set("2026-01-01T04:59:00Z");
        reports.of_others(200).await;
        let (evidence, complete) = found(&server, "03", Limits { events: 128, ..Limits::default() }).await;
        assert_eq!((positions(&evidence), complete), (vec![early], true));
    });
}

#[test]
fn evidence_can_be_older_than_the_instance() {
    with_server(async |server| {
        server.post("/v1/rate-cards", crate::testing::card()).await.expect(StatusCode::CREATED);
        let tenant = json!({"tenant": "acme", "currency": "USD"});
        server.post("/v1/tenants", tenant).await.expect(StatusCode::CREATED);
        let mut reports = Reports { server: &server, sent: 0 };
        let unknown = reports.of("00:30", "00:40").await;
        let mut wrong = span("00:40", "00:50");
        wrong["gpus"] = json!(4);
        reports.batch("node-1", vec![wrong]).await;
        reports.batch("node-9", vec![span("00:30", "01:00")]).await;
        server.clock.set("2026-02-10T00:00:00Z");
        reports.of_others(1_000).await;
        let mut bound = instance("i-1");
        bound["agent"] = json!("node-1");
        server.post("/v1/tenants/acme/instances", bound).await.expect(StatusCode::CREATED);
        let start = json!({"at": "2026-01-01T00:30:00Z"});
        server.post("/v1/tenants/acme/instances/i-1:start", start).await.expect(StatusCode::OK);
        server.tick().await;
        let (evidence, complete) = found(&server, "00", Limits { events: 256, ..Limits::default() }).await;
        assert_eq!((positions(&evidence), complete), (vec![unknown], true));
    });
}

#[test]
fn what_was_excluded_is_no_evidence() {
    with_server(async |server| {
        server.with_customers().await;
        let mut reports = Reports { server: &server, sent: 0 };
        let mut wrong = span("00:30", "01:00");
        wrong["gpus"] = json!(4);
        reports.batch("node-1", vec![wrong]).await;
        // Beyond the clock skew, and too old.
        reports.of("02:10", "02:20").await;
        let good = reports.of("00:30", "00:40").await;
        server.clock.set("2026-06-01T00:00:00Z");
        reports.of("00:30", "01:00").await;
        let (evidence, complete) = found(&server, "00", Limits::default()).await;
        assert_eq!((positions(&evidence), complete), (vec![good], true));
        let (evidence, complete) = found(&server, "02", Limits::default()).await;
        assert_eq!((positions(&evidence), complete), (vec![], true));
        let path = "/v1/tenants/acme/instances/i-1/charges/2026-01-01T00:00:00Z";
        let excluded = &server.get(path).await.expect(StatusCode::OK).json()["excluded"];
        assert_eq!(excluded["gpus_differ"][0]["end"], "2026-01-01T01:00:00Z");
        assert!(excluded["too_old"].is_array(), "{excluded}");
    });
}
