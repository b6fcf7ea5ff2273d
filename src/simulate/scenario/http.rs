//! The same files through HTTP: a step that has a route must come to the same end as straight into the
//! cell. A file with a step that has none is left to the core alone; a new route is one more arm of
//! [`request`].

use std::path::PathBuf;
use std::sync::Arc;

use hourglass_consumers::api::{ApiConfig, serve_http};
use hourglass_ledger::cell::{Cell, CellHandle};
use hourglass_ledger::core::Command;
use hourglass_units::{InstanceId, Instant};
use serde_json::{Value, json};

use super::parse::parse;
use super::run::{Direct, Door, Played, Refusal, RunError, VirtualClock, play};
use super::{Act, Scenario};
use crate::wire;

/// Files that must go through HTTP at least: fewer mean that a route was lost.
const FILES_MIN: usize = 14;

/// A request that stands for a command.
struct Asked {
    path: String,
    content_type: &'static str,
    body: Vec<u8>,
}

/// The request of a command. `None` where there is no route, or where none is needed: the server opens
/// the cell itself, and its own clock ticks.
fn request(command: &Command, tenant_of: impl Fn(&InstanceId) -> String) -> Option<Asked> {
    let json = |path: String, body: Value| {
        Some(Asked { path, content_type: "application/json", body: body.to_string().into_bytes() })
    };
    match command {
        Command::OpenTenant { tenant, currency, display_name } => {
            let body = json!({"tenant": tenant, "currency": currency, "display_name": display_name});
            json("/v1/tenants".to_owned(), body)
        }
        Command::PublishRateCard(card) => json("/v1/rate-cards".to_owned(), json!(card)),
        Command::SignContract { tenant, contract } => {
            json(format!("/v1/tenants/{tenant}/contracts"), json!(contract))
        }
        Command::RegisterInstance(registration) => {
            let mut body = json!(registration);
            body.as_object_mut()?.remove("tenant");
            json(format!("/v1/tenants/{}/instances", registration.tenant), body)
        }
        Command::StartInstance { instance, at } => {
            let path = format!("/v1/tenants/{}/instances/{instance}:start", tenant_of(instance));
            json(path, json!({"at": at}))
        }
        Command::StopInstance { instance, at, cause } => {
            let path = format!("/v1/tenants/{}/instances/{instance}:stop", tenant_of(instance));
            json(path, json!({"at": at, "cause": cause}))
        }
        Command::AcceptUsage(batch) => Some(Asked {
            path: "/v1/usage:ingest".to_owned(),
            content_type: "application/x-protobuf",
            body: batch.raw().to_vec(),
        }),
        Command::FinaliseInvoice { tenant, period } => {
            json(format!("/v1/tenants/{tenant}/invoices"), json!({"period": period}))
        }
        _ => None,
    }
}

/// Whether all steps of a file have a route, or need none.
fn is_routed(scenario: &Scenario) -> bool {
    scenario.steps.iter().all(|step| match &step.act {
        Act::Command(command) => match command.as_ref() {
            Command::OpenCell { .. } | Command::Tick => true,
            command => request(command, |_| String::new()).is_some(),
        },
        Act::Prices(_) | Act::Use(_) | Act::Unreadable(_) | Act::Expect(_) => true,
        Act::TickEvery(_) | Act::FinaliseWhenDue(_) => true,
    })
}

/// Through a server, for what has a route.
struct Http {
    cell: CellHandle,
    direct: Direct,
    agent: ureq::Agent,
    url: String,
}

impl Door for Http {
    fn submit(&mut self, at: Instant, command: Command) -> Result<Result<(), Refusal>, RunError> {
        let tenant_of = |instance: &InstanceId| {
            let id = instance.clone();
            let tenant = self
                .cell
                .read_blocking(move |state| state.instance(id.as_str()).map(|it| it.tenant().to_string()));
            tenant.unwrap().unwrap_or_else(|| "nobody".to_owned())
        };
        let Some(Asked { path, content_type, body }) = request(&command, tenant_of) else {
            return self.direct.submit(at, command);
        };
        let wrong = |error: ureq::Error| RunError::Door(format!("{path}: {error}"));
        let url = format!("{}{path}", self.url);
        let mut answer =
            self.agent.post(url).header("content-type", content_type).send(&body).map_err(wrong)?;
        if answer.status().is_success() {
            return Ok(Ok(()));
        }
        let problem: Value = answer.body_mut().read_json().map_err(wrong)?;
        let text = |name: &str| problem[name].as_str().unwrap_or_default().to_owned();
        Ok(Err(Refusal { code: text("code"), message: text("detail") }))
    }
}

/// Plays a scenario, by HTTP or straight, and answers with the digest of the end.
fn end_of(scenario: &Scenario, by_http: bool) -> (Played, String) {
    let ledger = tempfile::tempdir().unwrap();
    let clock = Arc::new(VirtualClock::default());
    let cell: Cell = wire::start_scratch_cell(ledger.path(), clock.clone()).unwrap();
    let handle = cell.handle();
    let played = if by_http {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let served = serve_http(listener, handle.clone(), ApiConfig::default(), std::future::pending());
        runtime.spawn(served);
        let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
        let mut door = Http { cell: handle.clone(), direct: Direct(handle.clone()), agent, url };
        let played = play(scenario, &handle, &clock, &mut door);
        runtime.shutdown_timeout(std::time::Duration::from_secs(5));
        played
    } else {
        play(scenario, &handle, &clock, &mut Direct(handle.clone()))
    };
    let digest = handle.read_blocking(|state| hourglass_ledger::core::digest(state).unwrap()).unwrap();
    cell.close();
    (played.unwrap(), digest.to_hex().to_string())
}

#[test]
fn what_has_a_route_comes_to_the_same_end_through_http() {
    let folder = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("tests/scenarios");
    let mut through_http = 0;
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let scenario = parse(&std::fs::read_to_string(&file).unwrap()).unwrap();
        if !is_routed(&scenario) {
            continue;
        }
        through_http += 1;
        let (straight, expected) = end_of(&scenario, false);
        let (played, digest) = end_of(&scenario, true);
        assert!(played.failed.is_empty(), "{name}: {:#?}", played.failed);
        assert_eq!(played.met, straight.met, "{name}");
        assert_eq!(digest, expected, "{name}");
    }
    assert!(through_http >= FILES_MIN, "only {through_http} files have a route for each step");
}
