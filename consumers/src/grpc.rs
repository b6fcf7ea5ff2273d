//! gRPC: every service of a cell on one port, and what they share.
//!
//! * `hourglass.v1.UsageService` ([`crate::usage::grpc`]) takes usage in.
//! * `hourglass.v1.MarketService` ([`crate::market`]) takes bids, and tells prices as they change.
//! * `hourglass.v1.QuotaService` and, for clients of the public Nebius API,
//!   `nebius.quotas.v1.QuotaAllowanceService` and `nebius.common.v1.OperationService`
//!   ([`crate::quota`]) say and decide what may run.
//! * For the same clients `nebius.capacity.v1`: `CapacityBlockGroupService`, `CapacityIntervalService` and
//!   `ResourceAdviceService` (`crate::capacity`) tell what is reserved, and how much there is to be had.
//!
//! A call carries its credential as over HTTP. The credential of a stream is looked at again every
//! [`CREDENTIAL_CHECK`] while it is open. On shutdown no stream is read on; what was read is answered,
//! and the stream ends with `UNAVAILABLE`.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use hourglass_ledger::cell::{CellError, CellHandle};
use hourglass_ledger::core::{Rejection, State};
use hourglass_proto::nebius::capacity::v1::capacity_block_group_service_server::CapacityBlockGroupServiceServer;
use hourglass_proto::nebius::capacity::v1::capacity_interval_service_server::CapacityIntervalServiceServer;
use hourglass_proto::nebius::capacity::v1::resource_advice_service_server::ResourceAdviceServiceServer;
use hourglass_proto::nebius::common::v1::operation_service_server::OperationServiceServer;
use hourglass_proto::nebius::quotas::v1::quota_allowance_service_server::QuotaAllowanceServiceServer;
use hourglass_proto::v1::market_service_server::MarketServiceServer;
use hourglass_proto::v1::quota_service_server::QuotaServiceServer;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::header::AUTHORIZATION;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::codegen::{BoxFuture, Service};
use tonic::server::NamedService;
use tonic::transport::server::TcpIncoming;

use crate::api::ApiConfig;
use crate::auth::{Authenticator, Denied, Principal};
use crate::capacity::Capacity;
use crate::market::MarketService;
use crate::prices::PriceHub;
use crate::quota::{Allowances, Operations, QuotaService};
use crate::usage::grpc::UsageService;

/// Most streams of one connection.
pub const STREAMS_MAX: u32 = 64;
/// How often a silent connection is asked whether it still lives.
pub const KEEPALIVE: Duration = Duration::from_secs(30);
/// How often an open stream's credential is looked at again: so long a revocation takes on it.
pub const CREDENTIAL_CHECK: Duration = Duration::from_secs(5);
/// Longest message of a service other than that of usage, which has a limit of its own. The largest
/// that makes sense, 16 items with the longest names, has less than a tenth of it.
pub const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// The services, by name.
pub const SERVICES: [&str; 8] = [
    "hourglass.v1.UsageService",
    "hourglass.v1.QuotaService",
    "hourglass.v1.MarketService",
    "nebius.quotas.v1.QuotaAllowanceService",
    "nebius.common.v1.OperationService",
    "nebius.capacity.v1.CapacityBlockGroupService",
    "nebius.capacity.v1.CapacityIntervalService",
    "nebius.capacity.v1.ResourceAdviceService",
];

/// Serves until `shutdown`, then answers what is under way.
pub async fn serve_grpc(
    listener: TcpListener,
    cell: CellHandle,
    config: ApiConfig,
    shutdown: impl Future<Output = ()>,
) -> std::io::Result<()> {
    serve_checking(listener, cell, config, CREDENTIAL_CHECK, shutdown).await
}

/// Looks at the credentials of open streams again every so often.
pub(crate) async fn serve_checking(
    listener: TcpListener,
    cell: CellHandle,
    config: ApiConfig,
    check_every: Duration,
    shutdown: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let (stop, stopped) = watch::channel(false);
    let authenticator = Authenticator::new(&config);
    config.prices.start(&cell);
    let prices = config.prices.clone();
    let gate = Gate { cell, authenticator, prices, check_every, stopped, region: Arc::default() };
    let shutdown = async move {
        shutdown.await;
        let _streams = stop.send(true);
    };
    // Answers are small and waited for: none may lie in the kernel until there are more.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    tonic::transport::Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .serve_with_incoming_shutdown(Services::new(&gate), incoming, shutdown)
        .await
        .map_err(std::io::Error::other)
}

/// All services, told apart by the first segment of the path.
#[derive(Clone)]
struct Services {
    usage: UsageService,
    quota: QuotaServiceServer<QuotaService>,
    market: MarketServiceServer<MarketService>,
    allowances: QuotaAllowanceServiceServer<Allowances>,
    operations: OperationServiceServer<Operations>,
    groups: CapacityBlockGroupServiceServer<Capacity>,
    intervals: CapacityIntervalServiceServer<Capacity>,
    advice: ResourceAdviceServiceServer<Capacity>,
}

impl Services {
    fn new(gate: &Gate) -> Self {
        let quota = QuotaServiceServer::new(QuotaService::new(gate.clone()));
        let market = MarketServiceServer::new(MarketService::new(gate.clone()));
        let allowances = QuotaAllowanceServiceServer::new(Allowances::new(gate.clone()));
        let operations = OperationServiceServer::new(Operations::new(gate.clone()));
        let capacity = Capacity::new(gate.clone());
        let groups = CapacityBlockGroupServiceServer::new(capacity.clone());
        let intervals = CapacityIntervalServiceServer::new(capacity.clone());
        let advice = ResourceAdviceServiceServer::new(capacity);
        Self {
            usage: UsageService::new(gate.clone()),
            quota: quota.max_decoding_message_size(MESSAGE_BYTES_MAX),
            market: market.max_decoding_message_size(MESSAGE_BYTES_MAX),
            allowances: allowances.max_decoding_message_size(MESSAGE_BYTES_MAX),
            operations: operations.max_decoding_message_size(MESSAGE_BYTES_MAX),
            groups: groups.max_decoding_message_size(MESSAGE_BYTES_MAX),
            intervals: intervals.max_decoding_message_size(MESSAGE_BYTES_MAX),
            advice: advice.max_decoding_message_size(MESSAGE_BYTES_MAX),
        }
    }
}

impl Service<Request<Body>> for Services {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match request.uri().path().split('/').nth(1) {
            Some(UsageService::NAME) => self.usage.call(request),
            Some(QuotaServiceServer::<QuotaService>::NAME) => self.quota.call(request),
            Some(MarketServiceServer::<MarketService>::NAME) => self.market.call(request),
            Some(QuotaAllowanceServiceServer::<Allowances>::NAME) => self.allowances.call(request),
            Some(OperationServiceServer::<Operations>::NAME) => self.operations.call(request),
            Some(CapacityBlockGroupServiceServer::<Capacity>::NAME) => self.groups.call(request),
            Some(CapacityIntervalServiceServer::<Capacity>::NAME) => self.intervals.call(request),
            Some(ResourceAdviceServiceServer::<Capacity>::NAME) => self.advice.call(request),
            _ => {
                let none = Status::unimplemented(format!("this server has {}", SERVICES.join(", ")));
                Box::pin(async move { Ok(none.into_http()) })
            }
        }
    }
}

/// What every service works on: the cell, and who may reach it.
#[derive(Clone)]
pub(crate) struct Gate {
    cell: CellHandle,
    authenticator: Authenticator,
    prices: PriceHub,
    check_every: Duration,
    stopped: watch::Receiver<bool>,
    /// Never changes once the cell is open.
    region: Arc<OnceLock<Arc<str>>>,
}

impl Gate {
    pub(crate) const fn cell(&self) -> &CellHandle {
        &self.cell
    }

    /// What clearings changed.
    pub(crate) const fn prices(&self) -> &PriceHub {
        &self.prices
    }

    /// Who asks.
    pub(crate) async fn principal(&self, headers: &HeaderMap) -> Result<Principal, Status> {
        self.authenticator.authenticate(&self.cell, headers).await.map_err(denied)
    }

    /// The region that the cell serves; empty as long as it is not open.
    pub(crate) async fn region(&self) -> Result<Arc<str>, CellError> {
        if let Some(region) = self.region.get() {
            return Ok(Arc::clone(region));
        }
        let read = |state: &State| state.cell().map(|cell| Arc::from(cell.region.as_str()));
        Ok(match self.cell.read(read).await? {
            Some(region) => Arc::clone(self.region.get_or_init(|| region)),
            None => Arc::from(""),
        })
    }

    /// When to look again at the credential of a stream that opens now.
    pub(crate) fn checks(&self) -> tokio::time::Interval {
        let first = tokio::time::Instant::now() + self.check_every;
        let mut checks = tokio::time::interval_at(first, self.check_every);
        checks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        checks
    }

    /// Tells when the server shuts down.
    pub(crate) fn stopped(&self) -> Stopped {
        Stopped(self.stopped.clone())
    }
}

/// Tells when the server shuts down.
pub(crate) struct Stopped(watch::Receiver<bool>);

impl Stopped {
    /// Waits until the server shuts down, or is gone.
    pub(crate) async fn wait(&mut self) {
        let _either = self.0.wait_for(|stopped| *stopped).await;
    }
}

/// What proves who asks: of a stream no more is kept for as long as it lives.
pub(crate) fn credentials(headers: &HeaderMap) -> HeaderMap {
    headers.get_all(AUTHORIZATION).iter().map(|value| (AUTHORIZATION, value.clone())).collect()
}

/// The status of who may not.
pub(crate) fn denied(denied: Denied) -> Status {
    match denied {
        Denied::Missing | Denied::Invalid(_) => Status::unauthenticated(denied.detail()),
        Denied::Forbidden { .. } => Status::permission_denied(denied.detail()),
        Denied::Cell(error) => status(error),
    }
}

/// The status by which an agent knows whether to send again.
pub(crate) fn status(error: CellError) -> Status {
    let text = error.to_string();
    match error {
        CellError::Unavailable(_) | CellError::Deposed | CellError::StandingBy { .. } | CellError::Closed => {
            Status::unavailable(text)
        }
        CellError::Rejected(Rejection::SuspenseFull) => Status::resource_exhausted(text),
        CellError::Rejected(rejection) if rejection.is_retryable() => Status::unavailable(text),
        CellError::Rejected(_) => Status::failed_precondition(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_services_are_those_that_are_told() {
        let served = [
            UsageService::NAME,
            QuotaServiceServer::<QuotaService>::NAME,
            MarketServiceServer::<MarketService>::NAME,
            QuotaAllowanceServiceServer::<Allowances>::NAME,
            OperationServiceServer::<Operations>::NAME,
            CapacityBlockGroupServiceServer::<Capacity>::NAME,
            CapacityIntervalServiceServer::<Capacity>::NAME,
            ResourceAdviceServiceServer::<Capacity>::NAME,
        ];
        assert_eq!(served, SERVICES);
    }
}
