//! Serving a cell over HTTP and gRPC until the process is told to stop.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use hourglass_consumers::api::{self, ApiConfig};
use hourglass_consumers::usage::grpc;
use hourglass_ledger::cell::Cell;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::clockwork;
use crate::failure::Failure;

/// The operator's token, when it is not in a file.
const TOKEN_VARIABLE: &str = "HOURGLASS_OPERATOR_TOKEN";
/// Shortest token that is taken for one.
const TOKEN_LENGTH_MIN: usize = 16;

/// What to serve, and where.
pub struct Serve {
    /// Where HTTP is served.
    pub http: SocketAddr,
    /// Where gRPC is served, if it is.
    pub grpc: Option<SocketAddr>,
    /// The operator's token, where there is one.
    pub token: Option<String>,
    /// Time between ticks; without one the clock stands still.
    pub tick: Option<Duration>,
}

impl Serve {
    /// Refuses to be reachable from other machines without a token.
    pub fn check_exposure(&self) -> Result<(), Failure> {
        let exposed =
            [Some(self.http), self.grpc].into_iter().flatten().find(|address| !address.ip().is_loopback());
        match exposed {
            Some(address) if self.token.is_none() => Err(Failure::Usage(format!(
                "{address} can be reached from other machines: set {TOKEN_VARIABLE} or --operator-token-file first, \
                 or bind to 127.0.0.1"
            ))),
            _ => Ok(()),
        }
    }
}

/// Reads the operator's token from its file, else from the environment.
pub fn operator_token(file: Option<&Path>) -> Result<Option<String>, Failure> {
    let token = match file {
        Some(path) => Some(super::read_file(path)?),
        None => std::env::var(TOKEN_VARIABLE).ok(),
    };
    let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
    match token {
        Some(token) if token.len() < TOKEN_LENGTH_MIN => {
            Err(Failure::Usage(format!("the operator token has fewer than {TOKEN_LENGTH_MIN} characters")))
        }
        token => Ok(token),
    }
}

/// Serves until Ctrl-C or SIGTERM, then shuts the cell down. `ready` is told where HTTP listens.
pub fn serve(
    cell: Cell,
    serve: &Serve,
    ready: impl FnOnce(SocketAddr, Option<SocketAddr>),
) -> Result<(), Failure> {
    serve.check_exposure()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let handle = cell.handle();
    let served = runtime.block_on(async {
        let http = bind(serve.http).await?;
        let grpc_listener = match serve.grpc {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        let grpc_address = grpc_listener.as_ref().map(TcpListener::local_addr).transpose()?;
        ready(http.local_addr()?, grpc_address);

        let config = ApiConfig { operator_token: serve.token.clone(), ..ApiConfig::default() };
        let (stop, stopped) = watch::channel(false);
        let until = |mut stopped: watch::Receiver<bool>| async move {
            let _told = stopped.changed().await;
        };
        let mut tasks = tokio::task::JoinSet::new();
        let (cell, of_http) = (handle.clone(), config.clone());
        let stop_http = until(stopped.clone());
        tasks.spawn(async move { api::serve_http(http, cell, of_http, stop_http).await });
        if let Some(listener) = grpc_listener {
            let (cell, stop_grpc) = (handle.clone(), until(stopped.clone()));
            tasks.spawn(async move { grpc::serve_grpc(listener, cell, config, stop_grpc).await });
        }
        if let Some(tick) = serve.tick {
            let (cell, stopped) = (handle.clone(), stopped.clone());
            tasks.spawn(async move {
                clockwork::run(cell, tick, stopped).await;
                Ok(())
            });
        }
        tokio::select! {
            () = told_to_stop() => {}
            // A server that ends by itself has failed.
            ended = tasks.join_next() => {
                if let Some(Ok(Err(error))) = ended {
                    return Err(Failure::Unavailable(format!("a server stopped: {error}")));
                }
            }
        }
        let _told = stop.send(true);
        while tasks.join_next().await.is_some() {}
        Ok(())
    });
    drop(handle);
    cell.close();
    served
}

async fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        Failure::Unavailable(format!(
            "cannot listen on {address}: {error}; name another address with --http or --grpc"
        ))
    })
}

/// Waits for Ctrl-C or SIGTERM.
async fn told_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        },
        Err(_) => drop(tokio::signal::ctrl_c().await),
    }
}
