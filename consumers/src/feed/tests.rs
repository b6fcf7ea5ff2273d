//! What others are told, on a real nats-server.

use hourglass_ledger::core::Command;
use hourglass_proto::v1;
use prost::Message as _;
use prost::bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::*;
use crate::nats::{NatsOptions, connect};
use crate::testing::{Server, with_server};
use hourglass_test_servers as servers;

/// A message as the stream keeps it.
#[derive(Debug, PartialEq)]
struct Kept {
    subject: String,
    id: String,
    kind: String,
    about: String,
    time: String,
    data: Value,
}

async fn client() -> Nats {
    let url = servers::Nats::shared().url();
    let nats = connect(&NatsOptions { servers: vec![url], ..NatsOptions::default() }).await.unwrap();
    nats.connections().wait_for(|count| *count > 0).await.unwrap();
    nats
}

fn options(region: &str) -> FeedOptions {
    let stream = StreamLimits { bytes_max: 64 << 20, ..StreamLimits::FEED };
    FeedOptions { stream, ..FeedOptions::new(Subjects::of_region(region)) }
}

struct Running {
    status: Arc<FeedStatus>,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    fn start(nats: &Nats, server: &Server, options: &FeedOptions) -> Self {
        let status = Arc::new(FeedStatus::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async { drop(stopped.await) };
        let task = publish(nats.clone(), server.cell.clone(), options.clone(), Arc::clone(&status), stopped);
        Self { status, stop, task: tokio::spawn(task) }
    }

    /// Waits until all of the log is published.
    async fn caught_up(&self, server: &Server) {
        self.until(|status| {
            let head = server.cell.status().position.load(Ordering::Relaxed);
            status.cursor.load(Ordering::Relaxed) == head
        })
        .await;
    }

    async fn until(&self, done: impl Fn(&FeedStatus) -> bool) {
        for _ in 0..1_500 {
            if done(&self.status) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("not so after half a minute: {:?}", self.status);
    }

    async fn stop(self) {
        drop(self.stop);
        tokio::time::timeout(Duration::from_secs(30), self.task).await.unwrap().unwrap();
    }
}

async fn kept(nats: &Nats, options: &FeedOptions) -> Vec<Kept> {
    let stream = nats.jetstream().get_stream(options.subjects.feed_stream()).await.unwrap();
    let mut kept = Vec::new();
    for sequence in 1..=stream.cached_info().state.last_sequence {
        let message = stream.get_raw_message(sequence).await.unwrap();
        let header = |name: &str| message.headers.get(name).unwrap().to_string();
        assert_eq!(header("ce-specversion"), "1.0");
        assert_eq!(header("ce-datacontenttype"), "application/json");
        assert_eq!(header("ce-source"), options.subjects.source());
        assert_eq!(header("Nats-Msg-Id"), header("ce-id"));
        kept.push(Kept {
            subject: message.subject.to_string(),
            id: header("ce-id"),
            kind: header("ce-type"),
            about: header("ce-subject"),
            time: header("ce-time"),
            data: serde_json::from_slice(&message.payload).unwrap(),
        });
    }
    kept
}

fn usage(records: &[(&str, &str, &str)]) -> Bytes {
    let ms = |time: &str| time.parse::<hourglass_units::Instant>().unwrap().unix_ms();
    let record = |(instance, start, end): &(&str, &str, &str)| v1::UsageRecord {
        instance_id: (*instance).to_owned(),
        session: 1,
        start_unix_ms: ms(start),
        end_unix_ms: ms(end),
        gpus: 8,
        evidence: None,
    };
    let records = records.iter().map(record).collect();
    v1::UsageBatch { agent_id: "node-1".to_owned(), epoch: 1, first_seq: 0, records }.encode_to_vec().into()
}

async fn accept(server: &Server, message: Bytes) -> u64 {
    let batch = hourglass_ledger::core::usage::UsageBatch::parse(message).unwrap();
    server.cell.submit(Command::AcceptUsage(batch)).await.unwrap().answer().position.number()
}

async fn position(server: &Server, command: Command) -> u64 {
    server.cell.submit(command).await.unwrap().answer().position.number()
}

#[test]
fn others_are_told_what_concerns_them() {
    with_server(async |server| {
        let nats = client().await;
        let options = options("feed-told");
        server.with_customers().await;
        let lifecycle = server.cell.status().position.load(Ordering::Relaxed);
        let running = Running::start(&nats, &server, &options);

        let original = Bytes::from_static(b"\xff\xff");
        let poison = Command::QuarantineUsage {
            reason: "undecodable".to_owned(),
            content_type: "application/x-protobuf; agent=node-9".to_owned(),
            original,
        };
        let poison = position(&server, poison).await;
        // In good time: nobody is told.
        accept(&server, usage(&[("i-1", "2026-01-01T01:00:00Z", "2026-01-01T02:00:00Z")])).await;
        server.clock.set("2026-03-10T00:00:00Z");
        server.tick().await;
        let invoice =
            Command::FinaliseInvoice { tenant: "acme".parse().unwrap(), period: "2026-01".parse().unwrap() };
        let invoice = position(&server, invoice).await;
        let late = usage(&[
            ("i-1", "2026-01-20T00:00:00Z", "2026-01-20T01:00:00Z"),
            ("i-1", "2026-01-20T02:00:00Z", "2026-01-20T03:00:00Z"),
            ("i-1", "2026-01-02T00:00:00Z", "2026-01-02T01:00:00Z"),
            // Of a month that is still open, of nobody yet, and of this month.
            ("i-1", "2026-02-20T00:00:00Z", "2026-02-20T01:00:00Z"),
            ("i-9", "2026-01-20T00:00:00Z", "2026-01-20T01:00:00Z"),
            ("i-1", "2026-03-09T00:00:00Z", "2026-03-09T01:00:00Z"),
            ("bad id", "2026-03-09T00:00:00Z", "2026-03-09T01:00:00Z"),
        ]);
        let late_at = accept(&server, late.clone()).await;
        let stop = Command::StopInstance {
            instance: "i-1".parse().unwrap(),
            at: "2026-03-10T00:00:00Z".parse().unwrap(),
            cause: "asked for".to_owned(),
        };
        let stopped = position(&server, stop).await;
        running.caught_up(&server).await;
        running.stop().await;

        let kept = kept(&nats, &options).await;
        let told: Vec<_> = kept
            .iter()
            .map(|it| (it.subject.as_str(), it.id.clone(), it.kind.as_str(), it.about.as_str()))
            .collect();
        let subject = |rest: &str| format!("hg.feed-told.{rest}");
        let (life, alerts, quarantine) =
            (subject("lifecycle.acme"), subject("alerts.acme"), subject("quarantine.usage"));
        let (poison, late_text) = (poison.to_string(), late_at.to_string());
        let expected = [
            (life.as_str(), (lifecycle - 1).to_string(), "hourglass.instance.registered.v1", "i-1"),
            (&life, lifecycle.to_string(), "hourglass.instance.started.v1", "i-1"),
            (&quarantine, poison.clone(), "hourglass.usage.quarantined.v1", &poison),
            (&life, invoice.to_string(), "hourglass.invoice.finalised.v1", "acme/1"),
            (&quarantine, format!("{late_at}.0"), "hourglass.usage.quarantined.v1", &late_text),
            (&alerts, format!("{late_at}.1"), "hourglass.usage.late.v1", "acme"),
            (&alerts, format!("{late_at}.2"), "hourglass.usage.late.v1", "acme"),
            (&life, stopped.to_string(), "hourglass.instance.stopped.v1", "i-1"),
        ];
        assert_eq!(told, expected);
        assert_eq!(kept[1].data["at"], "2026-01-01T00:30:00Z");
        assert_eq!(kept[2].data["original"], "//8=");
        assert_eq!(kept[2].data["agent"], "node-9");
        assert_eq!(kept[3].data["currency"], "USD");
        assert_eq!((&kept[3].data["kind"], &kept[3].data["due"]), (&json!("invoice"), &json!("23.6")));
        assert_eq!(kept[4].data["records"], json!([{"record": 6, "reason": "instance_id_invalid"}]));
        let (billed, too_old) = (&kept[5].data, &kept[6].data);
        assert_eq!((&billed["reason"], &billed["records"]), (&json!("period_finalised"), &json!(2)));
        assert_eq!((&billed["billed"], &billed["period"]), (&json!(true), &json!("2026-01")));
        assert_eq!(billed["gpu_milliseconds"], 2 * 8 * 3_600_000);
        assert_eq!((&too_old["reason"], &too_old["billed"]), (&json!("too_old"), &json!(false)));
        assert_eq!(kept[7].time, "2026-03-10T00:00:00Z");
    });
}

/// One message for each unit that starts or has to stop, and one for each pool that changed; published again
/// it is the same.
#[test]
fn a_clearing_is_told_to_whom_it_concerns() {
    with_server(async |server| {
        let nats = client().await;
        let options = options("feed-market");
        server.with_customers().await;
        let running = Running::start(&nats, &server, &options);
        let reserve = json!({"shape": "steps", "points": [{"utilisation": "0", "price": "0.5"}]});
        let headers = [("content-type", "application/json")];
        for fabric in ["f.1", "f-2"] {
            let terms = json!({"currency": "USD", "gpus": 2, "reserve": reserve}).to_string();
            let path = format!("/v1/pools/h100/{fabric}");
            let put = crate::testing::request("PUT", &path, &headers, terms.into());
            assert_eq!(server.send(put).await.status, 200);
        }
        let place = async |tenant: &str, bid: &str, units: u32, limit: &str| {
            let bid = json!({"bid": bid, "project": "ml", "pools": ["eu/h100/f.1"], "gpus_per_unit": 1,
                "max_units": units, "limit": limit});
            let answer = server.post(&format!("/v1/tenants/{tenant}/bids"), bid).await;
            answer.json()["number"].as_u64().unwrap()
        };
        let clear = async || {
            let answer = server.post("/v1/market:clear", json!({})).await;
            answer.json()["position"].as_u64().unwrap()
        };
        let low = place("acme", "low", 2, "1").await;
        let first = clear().await;
        let high = place("beta", "high", 1, "2").await;
        let second = clear().await;
        let cancel = server.post("/v1/tenants/acme/bids/low:cancel", json!({})).await;
        let third = cancel.json()["position"].as_u64().unwrap();
        running.caught_up(&server).await;

        let all = kept(&nats, &options).await;
        let told: Vec<_> = all
            .iter()
            .skip(2)
            .map(|it| (it.subject.clone(), it.id.clone(), it.kind.clone(), it.about.clone()))
            .collect();
        let message = |subject: &str, id: String, kind: &str, about: &str| {
            (format!("hg.feed-market.{subject}"), id, format!("hourglass.{kind}.v1"), about.to_owned())
        };
        let unit = |number: u64, unit: u32| format!("spot-{number}-{unit}");
        let (registered, preempted, price) = ("instance.registered", "preemption.ordered", "spot.price");
        let expected = [
            message("lifecycle.acme", format!("{first}.0"), registered, &unit(low, 0)),
            message("lifecycle.acme", format!("{first}.1"), registered, &unit(low, 1)),
            message("spot.h100.f-2", format!("{first}.2"), price, "eu/h100/f-2"),
            message("spot.h100.f%2E1", format!("{first}.3"), price, "eu/h100/f.1"),
            message("lifecycle.acme", format!("{second}.0"), preempted, &unit(low, 1)),
            message("lifecycle.beta", format!("{second}.1"), registered, &unit(high, 0)),
            // The other pool is as it was.
            message("spot.h100.f%2E1", format!("{second}.2"), price, "eu/h100/f.1"),
            message("lifecycle.acme", format!("{third}.0"), preempted, &unit(low, 0)),
        ];
        assert_eq!(told, expected);
        let start = &all[2].data;
        assert_eq!((&start["model"], &start["gpus"]), (&json!("spot"), &json!(1)));
        assert_eq!((&start["pool"], &start["bid_number"]), (&json!("eu/h100/f.1"), &json!(low)));
        let stop = &all[6].data;
        assert_eq!((&stop["cause"], &stop["by"]), (&json!("outbid"), &json!(high)));
        assert_eq!(stop["deadline"], "2026-01-01T02:02:00Z");
        assert_eq!(all[9].data["cause"], "owner");
        let tick = &all[8].data;
        assert_eq!((&tick["price"], &tick["sold"], &tick["free"]), (&json!("1"), &json!(2), &json!(0)));
        assert_eq!(
            (&tick["bids"], &tick["gpus_wanted"], &tick["currency"]),
            (&json!(2), &json!(3), &json!("USD"))
        );
        assert_eq!(tick["resource"], format!("/v1/clears/{second}"));

        // Read again from the middle, it says the same: prices are compared with the clearing before.
        running.stop().await;
        server.cell.advance_cursor(CURSOR, Position::new(first)).await.unwrap();
        let running = Running::start(&nats, &server, &options);
        running.caught_up(&server).await;
        assert_eq!(running.status.duplicates.load(Ordering::Relaxed), 4);
        assert_eq!(kept(&nats, &options).await, all);
        running.stop().await;
    });
}

/// A period that begins on the 15th in Berlin is closed by that calendar, not by the months of UTC.
#[test]
fn late_usage_is_of_the_tenants_own_period() {
    with_server(async |server| {
        let nats = client().await;
        let options = options("feed-calendar");
        let post = async |path: &str, body: Value| {
            let answer = server.post(path, body).await;
            assert!(answer.status.is_success(), "{path}: {}", answer.text());
        };
        post("/v1/rate-cards", crate::testing::card()).await;
        post("/v1/tenants", json!({"tenant": "acme", "currency": "USD"})).await;
        let billing = json!({"time_zone": "Europe/Berlin", "anchor_day": 15});
        let contract = json!({"name": "deal", "version": 1, "effective_from": "2026-01-01T00:00:00Z",
            "terms": {"billing": billing}});
        post("/v1/tenants/acme/contracts", contract).await;
        post("/v1/tenants/acme/instances", crate::testing::instance("i-1")).await;
        let start = json!({"at": "2026-01-01T00:30:00Z"});
        post("/v1/tenants/acme/instances/i-1:start", start).await;
        let running = Running::start(&nats, &server, &options);
        accept(&server, usage(&[("i-1", "2026-01-01T01:00:00Z", "2026-01-01T02:00:00Z")])).await;
        server.clock.set("2026-01-19T00:00:00Z");
        server.tick().await;
        let period = server.cell.read(|state| {
            let at = "2026-01-14T22:00:00Z".parse().unwrap();
            state.period_at(&"acme".parse().unwrap(), at)
        });
        let period = period.await.unwrap();
        let close = Command::FinaliseInvoice { tenant: "acme".parse().unwrap(), period };
        position(&server, close).await;
        // All within January of UTC: midnight of the 15th in Berlin is where the open period begins.
        let late = usage(&[
            ("i-1", "2026-01-14T22:59:59.999Z", "2026-01-14T23:10:00Z"),
            ("i-1", "2026-01-14T23:00:00Z", "2026-01-14T23:20:00Z"),
            ("i-1", "2026-01-15T01:00:00Z", "2026-01-15T02:00:00Z"),
        ]);
        accept(&server, late).await;
        running.caught_up(&server).await;
        running.stop().await;
        let kept = kept(&nats, &options).await;
        let late: Vec<_> = kept.iter().filter(|it| it.kind == "hourglass.usage.late.v1").collect();
        assert_eq!(late.len(), 1);
        let data = &late[0].data;
        assert_eq!((&data["records"], &data["reason"]), (&json!(1), &json!("period_finalised")), "{data}");
        assert_eq!((&data["period"], &data["start"]), (&json!(period), &json!("2026-01-14T22:59:59.999Z")));
    });
}

#[test]
fn killed_before_its_cursor_moved_it_says_the_same_again() {
    with_server(async |server| {
        let nats = client().await;
        let options = options("feed-again");
        server.with_customers().await;
        let running = Running::start(&nats, &server, &options);
        running.caught_up(&server).await;
        running.stop().await;
        let before = kept(&nats, &options).await;
        assert_eq!(before.len(), 2);

        // As if the process had died before its cursor moved.
        server.cell.advance_cursor(CURSOR, Position::ZERO).await.unwrap();
        let running = Running::start(&nats, &server, &options);
        running.caught_up(&server).await;
        assert_eq!(running.status.duplicates.load(Ordering::Relaxed), 2);
        assert_eq!(kept(&nats, &options).await, before);
        running.stop().await;

        // And started again in good order it says nothing twice.
        let running = Running::start(&nats, &server, &options);
        running.caught_up(&server).await;
        assert_eq!(running.status.published.load(Ordering::Relaxed), 0);
        running.stop().await;
    });
}

#[test]
fn the_cursor_waits_for_what_the_server_did_not_store() {
    with_server(async |server| {
        let nats = client().await;
        let usual = options("feed-full");
        let tight =
            FeedOptions { stream: StreamLimits { bytes_max: 2_000, ..usual.stream }, ..usual.clone() };
        server.with_customers().await;
        let running = Running::start(&nats, &server, &tight);
        for number in 0..20 {
            let poison = Command::QuarantineUsage {
                reason: "undecodable".to_owned(),
                content_type: "application/x-protobuf".to_owned(),
                original: vec![0xff; 100 + number].into(),
            };
            let _kept = server.cell.submit(poison).await.unwrap();
        }
        running.until(|status| status.failures.load(Ordering::Relaxed) > 0).await;
        running.stop().await;
        let cursor = {
            let reader = Arc::clone(server.cell.reader());
            tokio::task::block_in_place(|| reader.cursor(CURSOR).unwrap()).unwrap_or(Position::ZERO)
        };
        assert!(cursor.number() < server.cell.status().position.load(Ordering::Relaxed));

        let running = Running::start(&nats, &server, &usual);
        running.caught_up(&server).await;
        running.stop().await;
        let ids: std::collections::BTreeSet<String> =
            kept(&nats, &usual).await.into_iter().map(|kept| kept.id).collect();
        assert_eq!(ids.len(), 22);
    });
}

#[test]
fn who_stands_by_says_nothing() {
    with_server(async |server| {
        let nats = client().await;
        let options = options("feed-standby");
        server.cell.status().writable.store(0, Ordering::Release);
        let running = Running::start(&nats, &server, &options);
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(running.status.publishing.load(Ordering::Relaxed), 0);
        server.cell.status().writable.store(1, Ordering::Release);
        running.until(|status| status.publishing.load(Ordering::Relaxed) == 1).await;
        running.stop().await;
    });
}
