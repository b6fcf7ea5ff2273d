//! Delivery to receivers that listen: from the log of a real cell to sockets of this machine.

mod receiver;

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use hourglass_ledger::core::Role;
use serde_json::{Value, json};
use standardwebhooks::Webhook as Verifier;
use tokio::task::JoinHandle;

use super::{Guard, Hooks, TEST_TYPE, WebhookKey, deliver};
use crate::api::ApiConfig;
use crate::testing::{Server, instance, key_of, request, with_config};
use receiver::{Answer, Receiver, Taken};

/// A cell that may send to some receivers of this machine.
fn with_receivers<F: Future<Output = ()>>(receivers: &[&Receiver], test: impl FnOnce(Server) -> F) {
    let key = WebhookKey::parse(&WebhookKey::draw().unwrap()).unwrap();
    let guard = Guard::new(receivers.iter().map(|it| it.address().parse().unwrap()));
    let mut hooks = Hooks::new(key, guard);
    if let Some(pem) = receivers.iter().find_map(|it| it.authority()) {
        hooks = hooks.trusting(pem.as_bytes()).unwrap();
    }
    let config = ApiConfig { webhooks: Some(Arc::new(hooks)), ..ApiConfig::default() };
    with_config(config, |store| store, test);
}

fn delivering(server: &Server) -> JoinHandle<()> {
    tokio::spawn(deliver(server.cell.clone(), Arc::clone(&server.hooks), std::future::pending()))
}

/// Makes an endpoint and answers with its secret.
async fn made(server: &Server, base: &str, id: &str, url: &str, events: &[&str]) -> String {
    let draft = json!({"webhook": id, "url": url, "events": events});
    let made = server.post(base, draft).await.expect(StatusCode::CREATED).json();
    made["secret"].as_str().unwrap().to_owned()
}

async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    for _ in 0..400 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{what}: it never came");
}

async fn taken(receiver: &Receiver, count: usize) -> Vec<Taken> {
    eventually("messages", async || receiver.taken().len() >= count).await;
    receiver.taken()
}

fn ids(taken: &[Taken]) -> Vec<&str> {
    taken.iter().map(|it| it.header("webhook-id")).collect()
}

fn verifies(secret: &str, taken: &Taken) -> bool {
    Verifier::new(secret).unwrap().verify(taken.body.as_bytes(), &taken.headers).is_ok()
}

const ACME: &str = "/v1/tenants/acme/webhooks";
const REGISTERED: &str = "hourglass.instance.registered.v1";

/// The test's own clock stands in 2026-01; signatures are of now for whoever verifies them.
fn today(server: &Server) {
    server.clock.set(&crate::testing::wall_clock().to_string());
}

async fn register(server: &Server, tenant: &str, ids: impl IntoIterator<Item = String>) {
    for id in ids {
        let path = format!("/v1/tenants/{tenant}/instances");
        server.post(&path, instance(&id)).await.expect(StatusCode::CREATED);
    }
}

#[test]
fn messages_are_signed_by_every_secret_that_holds_and_go_by_tls() {
    let receiver = Receiver::start_tls(|_| Answer::status(204));
    with_receivers(&[&receiver], async |server| {
        server.with_customers().await;
        today(&server);
        let first = made(&server, ACME, "billing", &receiver.url("/hooks?a=b"), &[REGISTERED]).await;
        let _running = delivering(&server);
        register(&server, "acme", ["i-2".to_owned()]).await;
        let one = &taken(&receiver, 1).await[0];
        assert!(verifies(&first, one));
        assert_eq!((one.path.as_str(), one.header("content-type")), ("/hooks?a=b", "application/json"));
        let message: Value = serde_json::from_str(&one.body).unwrap();
        assert_eq!((&message["type"], &message["data"]["instance"]), (&json!(REGISTERED), &json!("i-2")));
        assert!(message["timestamp"].is_string());
        assert_eq!(one.header("webhook-id"), format!("msg_eu_{}_0", message["data"]["position"]));

        let path = format!("{ACME}/billing:rotate-secret");
        let rotated = server.post(&path, json!({"overlap_seconds": 600})).await.expect(StatusCode::OK).json();
        let second = rotated["secret"].as_str().unwrap();
        server.post(&format!("{ACME}/billing:test"), json!({})).await.expect(StatusCode::OK);
        let two = &taken(&receiver, 2).await[1];
        assert!(verifies(&first, two) && verifies(second, two));
        assert_eq!(two.header("webhook-signature").split(' ').count(), 2);
        server.post(&path, json!({"overlap_seconds": 0})).await.expect(StatusCode::OK);
        let sent =
            server.post(&format!("{ACME}/billing:test"), json!({})).await.expect(StatusCode::OK).json();
        let three = &taken(&receiver, 3).await[2];
        assert!(!verifies(&first, three) && !verifies(second, three));
        assert_eq!(
            (three.header("webhook-id"), three.kind()),
            (sent["id"].as_str().unwrap(), TEST_TYPE.to_owned())
        );
    });
}

#[test]
fn what_is_not_taken_is_tried_again_under_its_id_while_others_go_on() {
    let mut refused = 0;
    // The first message is refused twice, whatever comes between.
    let receiver = Receiver::start(move |taken| {
        let first = taken.body.contains("i-10\"");
        refused += usize::from(first);
        if first && refused <= 2 { Answer::status(503) } else { Answer::status(200) }
    });
    with_receivers(&[&receiver], async |server| {
        server.with_customers().await;
        made(&server, ACME, "billing", &receiver.url("/"), &[REGISTERED]).await;
        let _running = delivering(&server);
        register(&server, "acme", (10..13).map(|n| format!("i-{n}"))).await;
        let begun = taken(&receiver, 3).await;
        let in_order = |it: &Taken| it.body.split("\"instance\":\"").nth(1).unwrap()[..4].to_owned();
        assert_eq!(begun.iter().map(in_order).collect::<Vec<_>>(), ["i-10", "i-11", "i-12"]);
        let path = format!("{ACME}/billing/deliveries");
        // The pause begins when the answer is known: only then the clock may go on.
        let noted = async |attempts: u64| {
            eventually("an attempt", async || {
                let shown = server.get(&path).await.expect(StatusCode::OK).json();
                shown["rows"][2]["attempts_made"].as_u64() == Some(attempts)
            })
            .await;
        };
        noted(1).await;
        // Nothing more happens before its time.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(receiver.taken().len(), 3);
        server.clock.set("2026-01-01T02:01:07Z");
        let again = taken(&receiver, 4).await;
        noted(2).await;
        server.clock.set("2026-01-01T02:01:30Z");
        let last = taken(&receiver, 5).await;
        assert_eq!(ids(&last[3..]), [ids(&begun)[0], ids(&again)[0]]);
        eventually("the outcome", async || {
            let shown = server.get(&path).await.expect(StatusCode::OK).json();
            let first = &shown["rows"][2];
            first["outcome"] == "delivered" && first["attempts_made"] == 3
        })
        .await;
        let shown = server.get(&path).await.json();
        let attempts = shown["rows"][2]["attempts"].as_array().unwrap();
        assert_eq!(
            attempts.iter().map(|it| it["status"].as_u64().unwrap()).collect::<Vec<_>>(),
            [503, 503, 200]
        );
    });
}

#[test]
fn an_endpoint_that_is_gone_is_disabled_and_others_are_told() {
    let gone = Receiver::start(|_| Answer::status(410));
    let other = Receiver::start(|_| Answer::status(200));
    with_receivers(&[&gone, &other], async |server| {
        server.with_customers().await;
        made(&server, ACME, "gone", &gone.url("/"), &["*"]).await;
        made(&server, ACME, "other", &other.url("/"), &["hourglass.webhook.disabled.v1"]).await;
        let _running = delivering(&server);
        register(&server, "acme", ["i-2".to_owned()]).await;
        let told = &taken(&other, 1).await[0];
        let message: Value = serde_json::from_str(&told.body).unwrap();
        assert_eq!(message["data"]["webhook"], "gone");
        assert_eq!(message["data"]["cause"], "gone");
        let shown = server.get(&format!("{ACME}/gone")).await.expect(StatusCode::OK).json();
        assert_eq!((&shown["status"], &shown["reason"]), (&json!("disabled"), &json!("gone")));
        register(&server, "acme", ["i-3".to_owned()]).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(gone.taken().len(), 1, "it is left alone");
        server.post(&format!("{ACME}/gone:test"), json!({})).await.expect_problem(409, "webhook_disabled");
    });
}

#[test]
fn nothing_goes_where_it_may_not() {
    let hidden = Receiver::start(|_| Answer::status(200));
    let to = hidden.url("/secret");
    let redirecting =
        Receiver::start(move |_| Answer { head: format!("location: {to}\r\n"), ..Answer::status(307) });
    // The operator names the one that redirects, and not the other.
    with_receivers(&[&redirecting], async |server| {
        server.with_customers().await;
        let refused = |url: String| json!({"webhook": "x", "url": url, "events": ["*"]});
        for url in [hidden.url("/"), "https://127.0.0.1/".to_owned(), "https://169.254.169.254/".to_owned()] {
            server.post(ACME, refused(url)).await.expect_problem(422, "webhook_url_refused");
        }
        made(&server, ACME, "redirects", &redirecting.url("/"), &["*"]).await;
        // A name is only known when it is resolved: this one is this machine's own.
        made(&server, ACME, "named", "https://localhost/", &["*"]).await;
        let _running = delivering(&server);
        register(&server, "acme", ["i-2".to_owned()]).await;
        let errors = async |id: &str| {
            let shown = server.get(&format!("{ACME}/{id}/deliveries")).await.expect(StatusCode::OK).json();
            shown["rows"][0]["attempts"][0]["error"].as_str().map(str::to_owned)
        };
        eventually("attempts", async || errors("redirects").await.and(errors("named").await).is_some()).await;
        assert_eq!(errors("redirects").await.unwrap(), "it answered 307: redirects are not followed");
        let said = errors("named").await.unwrap();
        assert!(said.contains("an address that is not public"), "{said}");
        assert!(hidden.taken().is_empty());
    });
}

/// Each tenant's endpoints are told of that tenant alone, the operator's of all; and nobody can have a message
/// of another sent again.
#[test]
fn no_tenant_is_told_of_another() {
    let [acme, beta, operator] = [(); 3].map(|()| Receiver::start(|_| Answer::status(200)));
    with_receivers(&[&acme, &beta, &operator], async |server| {
        server.with_customers().await;
        made(&server, ACME, "all", &acme.url("/"), &["*"]).await;
        made(&server, "/v1/tenants/beta/webhooks", "all", &beta.url("/"), &["*"]).await;
        made(&server, "/v1/webhooks", "all", &operator.url("/"), &["*"]).await;
        let _running = delivering(&server);
        register(&server, "acme", ["a-2".to_owned()]).await;
        register(&server, "beta", ["b-2".to_owned()]).await;
        let all = taken(&operator, 2).await;
        let (of_acme, of_beta) = (taken(&acme, 1).await, taken(&beta, 1).await);
        assert!(of_acme[0].body.contains("a-2") && of_beta[0].body.contains("b-2"));
        assert_eq!(ids(&all), [ids(&of_acme)[0], ids(&of_beta)[0]]);

        let key = server.key(key_of(Role::Customer, "acme", &[])).await;
        let server = server.guarded();
        let send = async |path: String| server.send_with("POST", &path, &key, "").await;
        let again =
            |tenant: &str, id: &str| format!("/v1/tenants/{tenant}/webhooks/all/deliveries/{id}:redeliver");
        send(again("acme", ids(&of_beta)[0])).await.expect_problem(404, "message_unknown");
        send(again("acme", "msg_eu_999999_0")).await.expect_problem(404, "message_unknown");
        send(again("beta", ids(&of_beta)[0])).await.expect_problem(404, "tenant_unknown");
        send(format!("/v1/webhooks/all/deliveries/{}:redeliver", ids(&of_acme)[0]))
            .await
            .expect_problem(403, "forbidden");
        send(again("acme", ids(&of_acme)[0])).await.expect(StatusCode::OK);
        let twice = taken(&acme, 2).await;
        assert_eq!(ids(&twice)[1], ids(&of_acme)[0]);
        assert_eq!(twice[1].body, of_acme[0].body);
        for path in ["", "/all", "/all/deliveries"] {
            let path = format!("/v1/tenants/beta/webhooks{path}");
            server.get_with(&path, &key).await.expect_problem(404, "tenant_unknown");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!((acme.taken().len(), beta.taken().len(), operator.taken().len()), (2, 1, 2));
    });
}

/// What a tick and its review found goes out: once for each threshold.
#[test]
fn a_budget_that_is_reached_is_told() {
    let receiver = Receiver::start(|_| Answer::status(200));
    with_receivers(&[&receiver], async |server| {
        server.with_customers().await;
        made(&server, ACME, "money", &receiver.url("/"), &["hourglass.budget.alert.v1"]).await;
        let budget = json!({"amount": "23.6", "currency": "USD", "thresholds": ["50", "100"],
            "forecast_thresholds": ["100"]});
        let headers = [("content-type", "application/json")];
        let path = "/v1/tenants/acme/budgets/all";
        let put = request("PUT", path, &headers, budget.to_string().into());
        server.send(put).await.expect(StatusCode::OK);
        let _running = delivering(&server);
        // 8 GPUs for half an hour at 2.95, and then for the other half.
        for (seq, start, end) in [(0, "00:30:00", "01:00:00"), (1, "01:00:00", "01:30:00")] {
            let record =
                crate::testing::record(&format!("2026-01-01T{start}Z"), &format!("2026-01-01T{end}Z"));
            let batch = json!({"agent_id": "node-1", "epoch": 1, "first_seq": seq, "records": [record]});
            server.post("/v1/usage:ingest", batch).await.expect(StatusCode::OK);
            for _ in 0..2 {
                server.tick().await;
                let review = hourglass_ledger::core::quotas::QuotaCommand::Review;
                let _nothing_due = server.cell.submit(hourglass_ledger::core::Command::from(review)).await;
            }
        }
        let told = taken(&receiver, 2).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let said: Vec<Value> =
            receiver.taken().iter().map(|it| serde_json::from_str(&it.body).unwrap()).collect();
        let said: Vec<String> = said
            .iter()
            .map(|it| {
                format!("{} {} {}", it["data"]["basis"], it["data"]["threshold_percent"], it["data"]["spent"])
            })
            .collect();
        assert_eq!(
            (told.len(), said),
            (2, vec![r#""actual" "50" "11.8""#.to_owned(), r#""actual" "100" "23.6""#.to_owned()])
        );
        let shown = server.get(path).await.expect(StatusCode::OK).json();
        assert_eq!((&shown["spent"], shown["crossed"].as_array().unwrap().len()), (&json!("23.6"), 2));
        assert!(shown["projected"].is_null(), "the first day says nothing of a month");
    });
}

#[test]
fn a_slow_endpoint_holds_up_nobody() {
    let slow = Receiver::start(|_| Answer { is_silent: true, ..Answer::status(200) });
    let quick = Receiver::start(|_| Answer::status(200));
    with_receivers(&[&slow, &quick], async |server| {
        server.with_customers().await;
        // As many as one owner may have under way, all of which wait.
        for n in 0..4 {
            made(&server, ACME, &format!("slow-{n}"), &slow.url("/"), &[REGISTERED]).await;
        }
        made(&server, "/v1/tenants/beta/webhooks", "quick", &quick.url("/"), &[REGISTERED]).await;
        let _running = delivering(&server);
        register(&server, "acme", (10..20).map(|n| format!("i-{n}"))).await;
        let begun = tokio::time::Instant::now();
        register(&server, "beta", (30..50).map(|n| format!("i-{n}"))).await;
        let told = taken(&quick, 20).await;
        assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
        assert_eq!(told.len(), 20);
    });
}

/// Whoever delivers is cut off at any time: what the cursor does not cover comes again, under the same id.
#[test]
fn who_is_cut_off_repeats_and_loses_nothing() {
    let receiver = Receiver::start(|_| Answer::status(200));
    with_receivers(&[&receiver], async |server| {
        server.with_customers().await;
        made(&server, ACME, "all", &receiver.url("/"), &[REGISTERED]).await;
        let mut expected = Vec::new();
        for turn in 0..6 {
            let running = delivering(&server);
            let names: Vec<String> = (0..8).map(|n| format!("i-{turn}-{n}")).collect();
            expected.extend(names.clone());
            register(&server, "acme", names).await;
            taken(&receiver, 8 * turn + 1).await;
            running.abort();
        }
        let _running = delivering(&server);
        let instance = |it: &Taken| {
            let message: Value = serde_json::from_str(&it.body).unwrap();
            message["data"]["instance"].as_str().unwrap().to_owned()
        };
        let firsts = || {
            let mut firsts: Vec<(String, String)> = Vec::new();
            for it in receiver.taken() {
                let one = (instance(&it), it.header("webhook-id").to_owned());
                match firsts.iter().find(|seen| seen.0 == one.0 || seen.1 == one.1) {
                    Some(seen) => assert_eq!(*seen, one, "a repeat has its first id"),
                    None => firsts.push(one),
                }
            }
            firsts.into_iter().map(|it| it.0).collect::<Vec<_>>()
        };
        eventually("all of them", async || firsts().len() >= expected.len()).await;
        assert_eq!(firsts(), expected, "in the order of the log");
    });
}

#[test]
fn what_is_disabled_is_told_of_what_comes_after_and_a_full_queue_catches_up() {
    let mut open = false;
    let receiver = Receiver::start(move |taken| {
        open |= taken.body.contains("i-open");
        Answer::status(if open { 200 } else { 500 })
    });
    with_receivers(&[&receiver], async |server| {
        server.with_customers().await;
        made(&server, ACME, "all", &receiver.url("/"), &[REGISTERED]).await;
        let running = delivering(&server);
        let form =
            |enabled: bool| json!({"url": receiver.url("/"), "events": [REGISTERED], "enabled": enabled});
        let put = async |enabled| {
            let body = form(enabled).to_string();
            let headers = [("content-type", "application/json")];
            let put = request("PUT", &format!("{ACME}/all"), &headers, body.into());
            server.send(put).await.expect(StatusCode::OK)
        };
        put(false).await;
        register(&server, "acme", ["i-missed".to_owned()]).await;
        put(true).await;
        // More than may wait, and all of them are refused.
        register(&server, "acme", (10..50).map(|n| format!("i-{n}"))).await;
        taken(&receiver, super::PENDING_MAX).await;
        register(&server, "acme", ["i-open".to_owned()]).await;
        for minute in 2..30 {
            server.clock.set(&format!("2026-01-01T02:{minute:02}:00Z"));
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        let all: std::collections::BTreeSet<String> =
            receiver.taken().iter().map(|it| it.header("webhook-id").to_owned()).collect();
        // The one that opens the receiver stands behind 40 others of which 32 may wait: it needs the first of
        // them to be given up, a day later.
        assert!(!all.is_empty() && !receiver.taken().iter().any(|it| it.body.contains("i-missed")));
        assert!(all.len() <= super::PENDING_MAX, "{}", all.len());
        server.clock.set("2026-01-02T03:00:00Z");
        for hour in 4..20 {
            server.clock.set(&format!("2026-01-02T{hour:02}:00:00Z"));
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        eventually("the rest", async || receiver.taken().iter().any(|it| it.body.contains("i-open"))).await;
        running.abort();
    });
}
