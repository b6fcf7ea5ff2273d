//! A real cell on a store of its own, under a clock that tests set, with the router before it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use hourglass_ledger::cell::{Cell, CellHandle, CellOptions, Clock};
use hourglass_ledger::core::{Command, Policy, Role, Scope};
use hourglass_ledger::store::Store;
use hourglass_ledger::store::sqlite::{SqliteOptions, SqliteStore};
use hourglass_units::Instant;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tower::ServiceExt;

use crate::api::{ApiConfig, router};
use crate::auth::{KeyDraft, draw_key};
use crate::hooks::{Guard, Hooks, WebhookKey};

/// The operator's token of a guarded server.
pub(crate) const OPERATOR_TOKEN: &str = "the operator's own token";

pub(crate) struct TestClock(AtomicI64);

impl TestClock {
    pub(crate) fn set(&self, time: &str) {
        self.0.store(time.parse::<Instant>().unwrap().unix_ms(), Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Instant {
        Instant::from_unix_ms(self.0.load(Ordering::Relaxed)).unwrap()
    }
}

pub(crate) struct Server {
    pub(crate) router: Router,
    pub(crate) cell: CellHandle,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) hooks: Arc<Hooks>,
}

/// What time it really is: for whoever checks by the clock whether a signature is of now.
#[expect(
    clippy::disallowed_methods,
    reason = "libraries that verify read the clock, so what they verify is of now"
)]
pub(crate) fn wall_clock() -> Instant {
    let since_epoch = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
    Instant::from_unix_ms(i64::try_from(since_epoch).unwrap()).unwrap()
}

/// What webhooks need: a key of its own, and nowhere to go but public addresses.
pub(crate) fn hooks() -> Arc<Hooks> {
    let key = WebhookKey::parse(&WebhookKey::draw().unwrap()).unwrap();
    Arc::new(Hooks::new(key, Guard::default()))
}

pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

/// Runs a test against a cell of region `eu` at 2026-01-01T02:01:00Z.
pub(crate) fn with_server<F: Future<Output = ()>>(test: impl FnOnce(Server) -> F) {
    with_config(ApiConfig::default(), |store| store, test);
}

pub(crate) fn with_config<F: Future<Output = ()>>(
    config: ApiConfig,
    wrap: impl FnOnce(Box<dyn Store>) -> Box<dyn Store>,
    test: impl FnOnce(Server) -> F,
) {
    with_cell("eu", config, wrap, test);
}

/// As [`with_config`], of a region.
pub(crate) fn with_cell<F: Future<Output = ()>>(
    region: &str,
    config: ApiConfig,
    wrap: impl FnOnce(Box<dyn Store>) -> Box<dyn Store>,
    test: impl FnOnce(Server) -> F,
) {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(directory.path(), SqliteOptions { durable: false }).unwrap();
    let clock = Arc::new(TestClock(AtomicI64::new(0)));
    clock.set("2026-01-01T02:01:00Z");
    let cell =
        Cell::start(wrap(Box::new(store)), clock.clone(), CellOptions::sole("test"), |_, _| {}).unwrap();
    let handle = cell.handle();
    let open = Command::OpenCell { region: region.parse().unwrap(), policy: Policy::default() };
    // A store that fails may fail this too: then the test says so.
    let _opened = handle.submit_blocking(open);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut config = config;
    let hooks = Arc::clone(config.webhooks.get_or_insert_with(hooks));
    let server = Server { router: router(handle.clone(), config), cell: handle, clock, hooks };
    runtime.block_on(test(server));
    drop(runtime);
    cell.close();
}

impl Server {
    pub(crate) async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        // A stream has no end: who tests it reads it event by event.
        let is_stream = parts.headers.get("content-type").is_some_and(|it| it == "text/event-stream");
        let body = if is_stream { Vec::new() } else { to_bytes(body, usize::MAX).await.unwrap().to_vec() };
        Reply { status: parts.status, headers: parts.headers, body }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(request("GET", path, &[], Body::empty())).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Reply {
        self.post_as(path, &[("content-type", "application/json")], body.to_string()).await
    }

    pub(crate) async fn post_as(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Reply {
        self.send(request("POST", path, headers, body.into())).await
    }

    /// As [`Self::get`], with a credential.
    pub(crate) async fn get_with(&self, path: &str, credential: &str) -> Reply {
        self.send_with("GET", path, credential, Body::empty()).await
    }

    /// A request with a credential; a body is JSON.
    pub(crate) async fn send_with(
        &self,
        method: &str,
        path: &str,
        credential: &str,
        body: impl Into<Body>,
    ) -> Reply {
        let bearer = format!("Bearer {credential}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        self.send(request(method, path, &headers, body.into())).await
    }

    /// Creates a key and answers with the whole of it.
    pub(crate) async fn key(&self, draft: KeyDraft) -> String {
        let (key, grant) = draw_key(draft).unwrap();
        let _created = self.cell.submit(Command::CreateKey(grant)).await.unwrap();
        key.reveal()
    }

    /// From now on only who has a credential is let in: the operator's token is [`OPERATOR_TOKEN`].
    pub(crate) fn guarded(self) -> Self {
        let operator_token = Some(OPERATOR_TOKEN.to_owned());
        let webhooks = Some(Arc::clone(&self.hooks));
        let config = ApiConfig { operator_token, webhooks, ..ApiConfig::default() };
        Self { router: router(self.cell.clone(), config), ..self }
    }

    pub(crate) async fn tick(&self) {
        let _ticked = self.cell.submit(Command::Tick).await.unwrap();
    }

    /// A card (H100 on demand at 2.95), tenants `acme` and `beta`, and `i-1` of acme with 8 GPUs, which
    /// runs since 00:30.
    pub(crate) async fn with_customers(&self) {
        self.post("/v1/rate-cards", card()).await.expect(StatusCode::CREATED);
        for tenant in ["acme", "beta"] {
            let draft = json!({"tenant": tenant, "currency": "USD", "display_name": tenant});
            self.post("/v1/tenants", draft).await.expect(StatusCode::CREATED);
        }
        self.post("/v1/tenants/acme/instances", instance("i-1")).await.expect(StatusCode::CREATED);
        let start = json!({"at": "2026-01-01T00:30:00Z"});
        self.post("/v1/tenants/acme/instances/i-1:start", start).await.expect(StatusCode::OK);
    }
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The status is this one; the body otherwise says what happened.
    #[track_caller]
    pub(crate) fn expect(self, status: StatusCode) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    /// The answer is a whole problem document with this status and code.
    #[track_caller]
    pub(crate) fn expect_problem(self, status: u16, code: &str) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], format!("urn:hourglass:problem:{code}"));
        assert_eq!(problem["request_id"], self.header("x-request-id"));
        assert!(problem["detail"].is_string() && problem["title"].is_string());
        assert!(problem["retryable"].is_boolean());
        problem
    }
}

/// gRPC of a cell on a port of its own; it ends when it is dropped or told.
pub(crate) struct Served {
    pub(crate) address: String,
    pub(crate) stop: oneshot::Sender<()>,
}

/// Serves gRPC, and looks at credentials often enough to watch it, without a busy loop.
pub(crate) async fn serve(server: &Server, token: Option<&str>) -> Served {
    const CHECK: Duration = Duration::from_millis(200);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let config = ApiConfig { operator_token: token.map(str::to_owned), ..ApiConfig::default() };
    let (stop, stopped) = oneshot::channel();
    let shutdown = async {
        let _told: Result<(), _> = stopped.await;
    };
    let cell = server.cell.clone();
    drop(tokio::spawn(crate::grpc::serve_checking(listener, cell, config, CHECK, shutdown)));
    Served { address, stop }
}

/// A message with a credential.
pub(crate) fn with<T>(key: &str, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    request
}

/// A key of a role that is bound to nobody, or of the tenant or agent that the role is bound to.
pub(crate) fn key_of(role: Role, bound_to: &str, scopes: &[Scope]) -> KeyDraft {
    KeyDraft {
        name: format!("{role} of {bound_to}"),
        role,
        tenant: (role == Role::Customer).then(|| bound_to.parse().unwrap()),
        agent: (role == Role::Agent).then(|| bound_to.parse().unwrap()),
        scopes: scopes.iter().copied().collect(),
        expires_at: None,
    }
}

pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: Body) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", "127.0.0.1:8080");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body).unwrap()
}

pub(crate) fn card() -> Value {
    json!({
        "name": "list", "version": 1, "currency": "USD", "effective_from": "2026-01-01T00:00:00Z",
        "prices": [
            {"platform": "h100", "region": "eu", "model": "on_demand", "price": "2.95"},
            {"platform": "h100", "region": "eu", "model": "spot", "price": "1.25"},
        ],
    })
}

pub(crate) fn instance(id: &str) -> Value {
    json!({"instance": id, "project": "ml", "platform": "h100", "model": "on_demand", "gpus": 8})
}

/// A report in JSON that `i-1` held 8 GPUs.
pub(crate) fn record(start: &str, end: &str) -> Value {
    json!({"instance_id": "i-1", "start": start, "end": end, "gpus": 8})
}
