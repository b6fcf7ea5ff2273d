//! What every handler works on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hourglass_ledger::cell::{CellHandle, CellStatus, Submission};
use hourglass_ledger::core::{Command, IdempotencyKey, Outcome, Position, Rejection, State};
use hourglass_ledger::store::{Reader, StoreError};
use hourglass_units::TenantId;
use tokio::sync::{OwnedRwLockReadGuard, RwLock, Semaphore};

use super::ApiConfig;
use super::guard::REQUESTS_MAX;
use super::metrics::{Exposer, Metrics};
use super::problem::Problem;
use super::rate::Rates;
use crate::auth::Authenticator;
use crate::billing::usage::DayCube;
use crate::hooks::Hooks;
use crate::planning::PLANS_MAX;
use crate::prices::PriceHub;
use crate::usage::Name;

/// Most charge rows that a request for usage folds in before it is answered.
const CATCH_UP_ROWS_MAX: usize = 20_000;
/// How often the sums of usage are brought up to the log where nobody asks.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

/// Shared by all requests.
#[derive(Clone)]
pub(super) struct App(Arc<Shared>);

struct Shared {
    cell: CellHandle,
    authenticator: Authenticator,
    rates: Rates,
    /// Of who asks without a credential, where prices are public.
    addresses: Rates,
    prices: PriceHub,
    public_prices: bool,
    metrics: Metrics,
    exposers: Vec<Arc<Exposer>>,
    permits: Semaphore,
    usage: Arc<RwLock<DayCube>>,
    plans: Arc<Semaphore>,
    requests: AtomicU64,
    webhooks: Option<Arc<Hooks>>,
}

impl App {
    pub(super) fn new(cell: CellHandle, config: ApiConfig) -> Self {
        let authenticator = Authenticator::new(&config);
        let ApiConfig { mut exposers, prices, public_prices, webhooks, .. } = config;
        exposers.push(exposer(prices.clone()));
        Self(Arc::new(Shared {
            cell,
            authenticator,
            rates: Rates::default(),
            addresses: Rates::of_addresses(),
            prices,
            public_prices,
            metrics: Metrics::new(),
            exposers,
            permits: Semaphore::new(REQUESTS_MAX),
            usage: Arc::default(),
            plans: Arc::new(Semaphore::new(PLANS_MAX)),
            requests: AtomicU64::new(0),
            webhooks,
        }))
    }

    pub(super) fn cell(&self) -> &CellHandle {
        &self.0.cell
    }

    /// What webhooks need, where this process has it.
    pub(super) fn hooks(&self) -> Option<&Arc<Hooks>> {
        self.0.webhooks.as_ref()
    }

    pub(super) fn status(&self) -> &CellStatus {
        self.0.cell.status()
    }

    pub(super) fn authenticator(&self) -> &Authenticator {
        &self.0.authenticator
    }

    pub(super) fn rates(&self) -> &Rates {
        &self.0.rates
    }

    pub(super) fn addresses(&self) -> &Rates {
        &self.0.addresses
    }

    /// What clearings changed.
    pub(super) fn prices(&self) -> &PriceHub {
        self.0.prices.start(self.cell());
        &self.0.prices
    }

    /// Whether prices may be read without a credential.
    pub(super) fn public_prices(&self) -> bool {
        self.0.public_prices
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// All that Prometheus scrapes.
    pub(super) fn exposition(&self) -> String {
        self.0.metrics.render(self.status(), &self.0.exposers)
    }

    pub(super) fn permits(&self) -> &Semaphore {
        &self.0.permits
    }

    /// Of questions that take long to compute.
    pub(super) fn plans(&self) -> &Arc<Semaphore> {
        &self.0.plans
    }

    /// Unique among all writers of the log: each has its epoch.
    pub(super) fn next_request_id(&self) -> String {
        let epoch = self.status().epoch.load(Ordering::Relaxed);
        let number = self.0.requests.fetch_add(1, Ordering::Relaxed);
        format!("req-{epoch}-{number}")
    }

    /// Submits a command under the name of its request.
    pub(super) async fn submit(&self, command: Command, name: Option<Name>) -> Result<Outcome, Problem> {
        let key = name.map(|name| IdempotencyKey::new(&name.scope, &name.key));
        match self.cell().submit(Submission { command, key, at: None }).await {
            Ok(outcome) => Ok(outcome),
            Err(error) => Err(self.with_region(error.into()).await),
        }
    }

    /// A denial of quota says of which region it is.
    async fn with_region(&self, problem: Problem) -> Problem {
        if !problem.lacks_region() {
            return problem;
        }
        let region = self.read(|state| Ok(state.cell().map(|cell| cell.region.to_string()))).await;
        match region {
            Ok(Some(region)) => problem.with("region", region),
            _ => problem,
        }
    }

    /// Reads the state exactly.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&State) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        self.cell().read(read).await?
    }

    /// The sums of whole days, with all that is committed by now; `None` while it is further behind than one
    /// request is to wait for. What is read from the state while it is held is not older.
    pub(super) async fn usage(&self) -> Result<Option<OwnedRwLockReadGuard<DayCube>>, Problem> {
        let committed = || Position::new(self.status().position.load(Ordering::Relaxed));
        let cube = Arc::clone(&self.0.usage).read_owned().await;
        if cube.position() >= committed() {
            return Ok(Some(cube));
        }
        drop(cube);
        let mut cube = Arc::clone(&self.0.usage).write_owned().await;
        let (until, reader) = (committed(), Arc::clone(self.cell().reader()));
        let caught_up = tokio::task::spawn_blocking(move || {
            let is_done = cube.catch_up(reader.as_ref(), until, CATCH_UP_ROWS_MAX)?;
            Ok::<_, StoreError>(is_done.then(|| cube.downgrade()))
        });
        Ok(caught_up.await.map_err(|_| Problem::internal())??)
    }

    /// Keeps the sums of whole days close behind the log, so that no request has to wait for them.
    pub(super) async fn follow_usage(self) {
        let mut looks = tokio::time::interval(FOLLOW_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            // Until it is there; a store that does not answer is asked again at the next look.
            while matches!(self.usage().await, Ok(None)) {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Reads the store, on a thread that may block.
    pub(super) async fn store<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Reader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Problem> {
        let reader = Arc::clone(self.cell().reader());
        let done = tokio::task::spawn_blocking(move || read(reader.as_ref())).await;
        Ok(done.map_err(|_| Problem::internal())??)
    }
}

/// Writes how the price feed does.
fn exposer(prices: PriceHub) -> Arc<Exposer> {
    Arc::new(move |text| {
        let (status, streams) = (prices.status(), AtomicU64::new(prices.streams() as u64));
        text.gauge("hourglass_price_streams", "Price streams that are open over HTTP.", &streams);
        text.counter(
            "hourglass_price_streams_slow_total",
            "Price streams that fell behind and were let go.",
            &status.slow,
        );
        text.counter(
            "hourglass_price_streams_resync_total",
            "Price streams that could not go on where they asked to.",
            &status.resyncs,
        );
        text.counter(
            "hourglass_price_replays_total",
            "Reads of the log for price streams that go on from long ago.",
            &status.replays,
        );
    })
}

/// The tenant of the path has an account.
pub(super) fn known_tenant(state: &State, tenant: &TenantId) -> Result<(), Problem> {
    let unknown = || Rejection::TenantUnknown { tenant: tenant.clone() };
    state.tenant(tenant).map(|_| ()).ok_or_else(unknown).map_err(Problem::from)
}
