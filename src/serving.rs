//! Serving a cell over HTTP and gRPC until the process is told to stop.

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use hourglass_consumers::api::{self, ApiConfig};
use hourglass_consumers::grpc;
use hourglass_ledger::cell::{Cell, CellHandle};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use crate::clockwork::{self, Clockwork};
use crate::config::production::secret;
use crate::failure::Failure;

/// The operator's token, when it is not in a file.
const TOKEN_VARIABLE: &str = "HOURGLASS_OPERATOR_TOKEN";
/// Shortest token that is taken for one.
const TOKEN_LENGTH_MIN: usize = 16;
/// How long what is under way may take to end when the process is told to stop.
const SHUTDOWN_MAX: Duration = Duration::from_secs(20);

/// What to serve, and where.
pub struct Serve {
    /// Where HTTP is served.
    pub http: SocketAddr,
    /// Where gRPC is served, if it is.
    pub grpc: Option<SocketAddr>,
    /// Who may come in, and what is told of the rest of the process.
    pub api: ApiConfig,
    /// What the clock brings about; without it the clock stands still.
    pub clockwork: Option<Clockwork>,
    /// When this is told it is over, too; without it only a person or a failure ends it.
    pub over: Option<oneshot::Receiver<()>>,
}

/// Something that runs beside the servers until it is told to stop. One that ends by itself with a
/// failure ends the process.
pub type Task = Box<dyn FnOnce(CellHandle, watch::Receiver<bool>) -> TaskFuture + Send>;
/// What a task does.
pub type TaskFuture = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;

impl Serve {
    /// Refuses to be reachable from other machines without a token.
    pub fn check_exposure(&self) -> Result<(), Failure> {
        let exposed =
            [Some(self.http), self.grpc].into_iter().flatten().find(|address| !address.ip().is_loopback());
        match exposed {
            Some(address) if self.api.operator_token.is_none() && self.api.oidc.is_none() => {
                Err(Failure::Usage(format!(
                    "{address} can be reached from other machines: set {TOKEN_VARIABLE} or operator_token_file first, \
                 or [oidc], or bind to 127.0.0.1"
                )))
            }
            _ => Ok(()),
        }
    }
}

/// Reads the operator's token from its file, else from the environment.
pub fn operator_token(file: Option<&Path>) -> Result<Option<String>, Failure> {
    let token = secret(file, TOKEN_VARIABLE)?;
    match token {
        Some(token) if token.len() < TOKEN_LENGTH_MIN => {
            Err(Failure::Usage(format!("the operator token has fewer than {TOKEN_LENGTH_MIN} characters")))
        }
        token => Ok(token),
    }
}

/// Serves until Ctrl-C or SIGTERM, or until it is [over](Serve::over), then shuts the cell down: no request is taken any more, those under
/// way are answered, tasks end what they do, and the cell gives its lease back. `ready` is told where
/// HTTP and gRPC listen.
pub fn serve(
    cell: Cell,
    serve: Serve,
    tasks: Vec<Task>,
    ready: impl FnOnce(SocketAddr, Option<SocketAddr>),
) -> Result<(), Failure> {
    serve.check_exposure()?;
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(serve_until_stopped(cell.handle(), serve, tasks, ready));
    // What was spawned and is not awaited may still hold the cell.
    runtime.shutdown_timeout(SHUTDOWN_MAX);
    cell.close();
    served
}

/// Each connection is an open file, and the limit that processes begin with is made for other programs: it is raised as
/// far as the system lets us.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files was not raised: so many connections there can be");
    }
}

async fn serve_until_stopped(
    cell: CellHandle,
    serve: Serve,
    beside: Vec<Task>,
    ready: impl FnOnce(SocketAddr, Option<SocketAddr>),
) -> Result<(), Failure> {
    let http = bind(serve.http).await?;
    let grpc_listener = match serve.grpc {
        Some(address) => Some(bind(address).await?),
        None => None,
    };
    let grpc_address = grpc_listener.as_ref().map(TcpListener::local_addr).transpose()?;
    ready(http.local_addr()?, grpc_address);

    let (stop, stopped) = watch::channel(false);
    let until = |mut stopped: watch::Receiver<bool>| async move {
        let _told = stopped.changed().await;
    };
    let mut tasks: JoinSet<Result<(), Failure>> = JoinSet::new();
    let (for_http, config, stop_http) = (cell.clone(), serve.api.clone(), until(stopped.clone()));
    tasks.spawn(async move { Ok(api::serve_http(http, for_http, config, stop_http).await?) });
    if let Some(listener) = grpc_listener {
        let (cell, config, stop_grpc) = (cell.clone(), serve.api, until(stopped.clone()));
        tasks.spawn(async move { Ok(grpc::serve_grpc(listener, cell, config, stop_grpc).await?) });
    }
    if let Some(clockwork) = serve.clockwork {
        let (cell, stopped) = (cell.clone(), stopped.clone());
        tasks.spawn(async move {
            clockwork::run(cell, clockwork, stopped).await;
            Ok(())
        });
    }
    for task in beside {
        tasks.spawn(task(cell.clone(), stopped.clone()));
    }
    drop(cell);
    let mut outcome = Ok(());
    tokio::select! {
        () = told_to_stop() => {}
        () = told(serve.over) => {}
        failed = first_failure(&mut tasks) => outcome = Err(failed),
    }
    let _told = stop.send(true);
    let ended = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(SHUTDOWN_MAX, ended).await.is_err() {
        tracing::warn!("some requests did not end in time and are dropped");
    }
    outcome
}

/// Waits until it is told. One that never will be waits for ever.
async fn told(over: Option<oneshot::Receiver<()>>) {
    if let Some(over) = over
        && over.await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// Waits for the first task that fails. Without one it waits for ever.
async fn first_failure(tasks: &mut JoinSet<Result<(), Failure>>) -> Failure {
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => return failure,
            Err(error) => return Failure::Unavailable(format!("a part of the server stopped: {error}")),
        }
    }
    std::future::pending().await
}

async fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        Failure::Unavailable(format!(
            "cannot listen on {address}: {error}; name another address with --http or --grpc"
        ))
    })
}

/// Waits for Ctrl-C or SIGTERM.
pub async fn told_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        },
        Err(_) => drop(tokio::signal::ctrl_c().await),
    }
}
