//! The loop: what is due is done, and what came of it reported.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hourglass_capacity::lifecycle::{Action, Call, CloudState, Fact, Key, Outcome};
use hourglass_capacity::pool::PoolName;
use hourglass_compute::ComputeError;
use hourglass_compute::client::Client;
use hourglass_compute::ids::{CallKey, OperationId, ParentId};
use hourglass_compute::model::{Advice, CapacityInterval, Operation};
use hourglass_ledger::cell::{CellError, CellHandle};
use hourglass_ledger::core::market::{
    Backend, CapacitySource, Due, MarketCommand, MarketRejection, SupplyCommand,
};
use hourglass_ledger::core::{Command, Rejection, State};
use hourglass_units::{CloudId, InstanceId, Interval as Span};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{self, Interval, MissedTickBehavior, interval};

use super::supply::{advised, from_now_on, reserved};
use super::translate::{call_key, listed, new_instance, news_of, outcome_of, seen};
use super::{
    DriverOptions, DriverStatus, LOOK_EVERY, LOOK_PAUSE, POLL_EVERY, POLLS_PER_SECOND_MAX, POLLS_PER_WATCH,
    UNDER_WAY_MAX, WATCHES_MAX,
};

/// All that an action needs.
#[derive(Clone)]
struct Driver {
    cell: CellHandle,
    cloud: Arc<Client>,
    options: Arc<DriverOptions>,
    status: Arc<DriverStatus>,
    /// Who asks for an operation waits for a tick, one after the other.
    pace: Arc<Mutex<Interval>>,
}

/// What the cloud says that a pool has, from now on; nothing where it does not say.
type Said = (PoolName, Option<Vec<(Span, u64)>>);

/// A pool whose GPUs the cloud knows.
struct Asks {
    pool: PoolName,
    source: CapacitySource,
    backend: Backend,
    /// GPUs that its units take.
    taken: u64,
}

/// Drives until told to stop. Does nothing while another process writes. What is under way then is given up:
/// the log says that it may have happened.
pub async fn drive(
    cell: CellHandle,
    cloud: Arc<Client>,
    options: DriverOptions,
    status: Arc<DriverStatus>,
    stop: impl Future<Output = ()>,
) {
    let list_every = options.list_every;
    let pace = Arc::new(Mutex::new(paced(Duration::from_secs(1) / POLLS_PER_SECOND_MAX)));
    let driver = Driver { cell, cloud, options: Arc::new(options), status, pace };
    let mut lists = paced(list_every);
    let mut looked_at = time::Instant::now();
    let mut next_look = looked_at;
    let mut under_way: JoinSet<Option<InstanceId>> = JoinSet::new();
    let mut units = UnderWay::default();
    let mut is_listing = false;
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => return,
            Some(done) = under_way.join_next() => {
                match done {
                    Ok(Some(unit)) => units.remove(&unit),
                    // The listing; or a task that panicked, which none does.
                    Ok(None) | Err(_) => is_listing = false,
                }
                // What ended may be what something else waited for.
                next_look = next_look.min(looked_at + LOOK_PAUSE);
            }
            () = time::sleep_until(next_look) => {
                looked_at = time::Instant::now();
                next_look = looked_at + LOOK_EVERY;
                for due in driver.due(UNDER_WAY_MAX.saturating_add(WATCHES_MAX)).await {
                    if units.insert(&due) {
                        let driver = driver.clone();
                        under_way.spawn(async move {
                            let unit = due.instance.clone();
                            driver.act(due).await;
                            Some(unit)
                        });
                    }
                }
            }
            _ = lists.tick(), if !is_listing => {
                is_listing = true;
                let driver = driver.clone();
                under_way.spawn(async move {
                    driver.list().await;
                    driver.read_capacity().await;
                    None
                });
            }
        }
    }
}

/// Ticks that are never nearer to each other than this.
fn paced(every: Duration) -> Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// The units for which something is done. Operations are watched for long, so they are counted by themselves.
#[derive(Default)]
struct UnderWay {
    called: BTreeSet<InstanceId>,
    watched: BTreeSet<InstanceId>,
}

impl UnderWay {
    /// Whether what is due may begin: nothing else is done for the unit, and there is room.
    fn insert(&mut self, due: &Due) -> bool {
        if self.called.contains(&due.instance) || self.watched.contains(&due.instance) {
            return false;
        }
        let (units, most) = match due.action {
            Action::PollOperation { .. } => (&mut self.watched, WATCHES_MAX),
            Action::Call { .. } | Action::LookUp { .. } => (&mut self.called, UNDER_WAY_MAX),
        };
        units.len() < most && units.insert(due.instance.clone())
    }

    fn remove(&mut self, unit: &InstanceId) {
        let _was_called = self.called.remove(unit) || self.watched.remove(unit);
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Driver {
    fn writes(&self) -> bool {
        self.cell.status().writable.load(Ordering::Acquire) == 1
    }

    async fn due(&self, most: usize) -> Vec<Due> {
        if !self.writes() {
            return Vec::new();
        }
        let now = self.cell.now();
        self.cell.read(move |state| state.market().due(now, most)).await.unwrap_or_default()
    }

    /// Writes a fact down. `false` where it says nothing new, or is refused: then what was to follow must not.
    async fn report(&self, instance: &InstanceId, fact: Fact) -> bool {
        let command = MarketCommand::Report { instance: instance.clone(), fact };
        match self.cell.submit(Command::from(command)).await {
            Ok(_) => true,
            Err(CellError::Rejected(_)) => false,
            Err(error) => {
                tracing::warn!(%instance, %error, "what was learnt of a unit is not written down");
                false
            }
        }
    }

    async fn act(&self, due: Due) {
        let instance = due.instance.clone();
        match due.action.clone() {
            Action::Call { key, cloud } => self.call(&due, key, cloud).await,
            Action::PollOperation { operation } => {
                let answer = match OperationId::new(operation.as_str()) {
                    Ok(id) => self.watch(&id).await,
                    Err(_) => Err(ComputeError::NotFound { what: operation.to_string() }),
                };
                let news = news_of(&answer, self.cell.now());
                let fact = news.map(|news| Fact::Operation { operation, news });
                self.told(&instance, fact, answer.err()).await;
            }
            Action::LookUp { cloud } => {
                let began = self.cell.now();
                let answer = match &cloud {
                    Some(cloud) => match InstanceId::new(cloud.as_str()) {
                        Ok(id) => self.cloud.instance(&id).await,
                        Err(_) => Err(ComputeError::NotFound { what: cloud.to_string() }),
                    },
                    None => self.cloud.instance_by_name(&self.options.parent, instance.as_str()).await,
                };
                let fact = seen(&answer, began);
                self.told(&instance, fact, answer.err()).await;
            }
        }
    }

    /// Asks how an operation goes until it has ended, or for a while.
    async fn watch(&self, operation: &OperationId) -> Result<Operation, ComputeError> {
        let mut polls = 1;
        loop {
            self.pace.lock().await.tick().await;
            count(&self.status.polls);
            let answer = self.cloud.operation(operation).await;
            if polls >= POLLS_PER_WATCH || !matches!(&answer, Ok(Operation { outcome: None, .. })) {
                return answer;
            }
            polls = polls.saturating_add(1);
            time::sleep(POLL_EVERY).await;
        }
    }

    /// Reports what was learnt, or that nothing was.
    async fn told(&self, instance: &InstanceId, fact: Option<Fact>, error: Option<ComputeError>) {
        if fact.is_none() {
            count(&self.status.unanswered);
            if let Some(error) = error {
                tracing::warn!(%instance, %error, "the compute API does not say how a unit does");
            }
        }
        self.report(instance, fact.unwrap_or(Fact::NoAnswer)).await;
    }

    async fn call(&self, due: &Due, key: Key, cloud: Option<CloudId>) {
        // Before it is made the log says that it may have been.
        if !self.report(&due.instance, Fact::Sent { key: key.clone() }).await {
            return;
        }
        count(&self.status.calls);
        let answer = self.ask(due, &key, cloud.as_ref()).await;
        let outcome = outcome_of(&answer);
        if let Err(error) = &answer {
            match &outcome {
                Outcome::Refused { .. } => count(&self.status.refused),
                _ => count(&self.status.unanswered),
            }
            tracing::warn!(%key, %error, "the compute API did not take a call");
        }
        self.report(&due.instance, Fact::Answered { key, outcome }).await;
    }

    async fn ask(&self, due: &Due, key: &Key, cloud: Option<&CloudId>) -> Result<Operation, ComputeError> {
        let wrong =
            |field: &str, message: String| ComputeError::BadRequest { field: field.to_owned(), message };
        let name = call_key(key).ok_or_else(|| wrong("key", format!("{key} is no key of a call")))?;
        if key.call == Call::Create {
            let new = new_instance(&self.options, due);
            let new = new.ok_or_else(|| {
                wrong("preset", format!("{} GPUs have no size, or {} no cluster", due.gpus, due.pool))
            })?;
            return self.cloud.create(&name, &new).await;
        }
        let id = cloud.and_then(|cloud| InstanceId::new(cloud.as_str()).ok());
        let id = id.ok_or_else(|| wrong("id", format!("{} has no id at the cloud", due.instance)))?;
        match key.call {
            Call::Start => self.cloud.start(&name, &id).await,
            Call::Stop => self.cloud.stop(&name, &id).await,
            Call::Create | Call::Delete => self.cloud.delete(&name, &id).await,
        }
    }

    /// Compares what the cloud has with what the log says.
    async fn list(&self) {
        let has_pools =
            self.cell.read(|state| state.market().pools().any(|(_, pool)| pool.terms.driven)).await;
        if !self.writes() || !has_pools.unwrap_or(false) {
            return;
        }
        let began = self.cell.now();
        let instances = match self.cloud.instances(&self.options.parent).await {
            Ok(instances) => instances,
            Err(error) => {
                count(&self.status.unanswered);
                tracing::warn!(%error, "the compute API does not list its instances");
                return;
            }
        };
        count(&self.status.listings);
        let command = MarketCommand::List { listing: listed(&instances, began) };
        if let Err(error) = self.cell.submit(Command::from(command)).await {
            tracing::warn!(%error, "a listing of the cloud is not written down");
            return;
        }
        if self.options.stop_strays {
            self.stop_strays().await;
        }
    }

    /// Asks the cloud what pools have that leave it to the cloud. Without an answer all stays as it was known.
    async fn read_capacity(&self) {
        let sources = |state: &State| -> Vec<Asks> {
            let pools = state.market().pools().filter(|(_, pool)| pool.terms.driven);
            let asks = pools.map(|(name, pool)| Asks {
                pool: name.clone(),
                source: pool.terms.capacity,
                backend: pool.terms.backend,
                taken: pool.taken(),
            });
            asks.filter(|it| it.source != CapacitySource::Operator).collect()
        };
        let pools = self.cell.read(sources).await.unwrap_or_default();
        if !self.writes() || pools.is_empty() {
            return;
        }
        let Some(tenant) = &self.options.tenant else {
            tracing::warn!("pools leave it to the cloud what they have, and no tenant says whose it is");
            return;
        };
        let asked = |source| pools.iter().any(|it| it.source == source);
        let mut answers = Vec::new();
        let mut failed = None;
        if asked(CapacitySource::Intervals) {
            match self.intervals(tenant).await {
                Ok(intervals) => {
                    let of = pools.iter().filter(|it| it.source == CapacitySource::Intervals);
                    answers.extend(of.map(|it| (it.pool.clone(), reserved(&intervals, &it.pool))));
                }
                Err(error) => failed = Some(error),
            }
        }
        if asked(CapacitySource::Advice) {
            match self.cloud.resource_advice(tenant).await {
                Ok(advice) => answers.extend(self.advised(&pools, &advice)),
                Err(error) => failed = Some(error),
            }
        }
        let is_whole = failed.is_none() && answers.iter().all(|(_, answer)| answer.is_some());
        if let Some(error) = failed {
            count(&self.status.unanswered);
            tracing::warn!(%error, "the cloud does not say what pools have: they keep what is known");
        }
        if is_whole {
            let seconds = u64::try_from(self.cell.now().unix_ms().div_euclid(1_000)).unwrap_or(0);
            self.status.capacity_read_at.store(seconds, Ordering::Relaxed);
        }
        for (pool, answer) in answers {
            let Some(intervals) = answer else {
                tracing::warn!(%pool, "the cloud does not say what it has: it keeps what is known");
                continue;
            };
            let name = pool.clone();
            let command = MarketCommand::Supply(SupplyCommand::ReadCapacity { pool, intervals });
            match self.cell.submit(Command::from(command)).await {
                Ok(_) => tracing::info!(pool = %name, "the cloud says that a pool has other GPUs"),
                Err(CellError::Rejected(Rejection::Market(MarketRejection::NothingNew))) => {}
                Err(error) => tracing::warn!(pool = %name, %error, "what a pool has is not written down"),
            }
        }
    }

    async fn intervals(&self, tenant: &ParentId) -> Result<Vec<CapacityInterval>, ComputeError> {
        let mut all = Vec::new();
        for group in self.cloud.block_groups(tenant).await? {
            all.extend(self.cloud.capacity_intervals(&group.id).await?);
        }
        Ok(all)
    }

    /// What pools have by the provider's advice, which speaks of what is free.
    fn advised(&self, pools: &[Asks], advice: &[Advice]) -> Vec<Said> {
        let now = self.cell.now();
        let of = pools.iter().filter(|it| it.source == CapacitySource::Advice);
        let answer = of.map(|it| {
            let gpus = advised(advice, &it.pool, it.backend, it.taken);
            (it.pool.clone(), gpus.map(|gpus| from_now_on(gpus, now)))
        });
        answer.collect()
    }

    /// What bears the name of a unit and is none goes: it takes GPUs that others were promised, and nobody
    /// pays for it.
    async fn stop_strays(&self) {
        let strays = self.cell.read(|state| state.market().strays().to_vec()).await.unwrap_or_default();
        for stray in strays {
            let (call, is_up) = match stray.state {
                CloudState::Running | CloudState::Starting | CloudState::Creating | CloudState::Updating => {
                    ("stop", true)
                }
                CloudState::Stopped | CloudState::Error => ("delete", false),
                CloudState::Stopping | CloudState::Deleting => continue,
            };
            let key = CallKey::new(&format!("stray.{}.{call}", stray.cloud));
            let (Ok(key), Ok(id)) = (key, InstanceId::new(stray.cloud.as_str())) else { continue };
            count(&self.status.strays);
            let done =
                if is_up { self.cloud.stop(&key, &id).await } else { self.cloud.delete(&key, &id).await };
            match done {
                Ok(_) => tracing::warn!(cloud = %stray.cloud, call, "an instance that nobody asked for"),
                Err(error) => {
                    tracing::warn!(cloud = %stray.cloud, call, %error, "a stray could not be stopped")
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hourglass_capacity::lifecycle::Action;
    use hourglass_ledger::core::market::Due;

    use super::super::{UNDER_WAY_MAX, WATCHES_MAX};
    use super::UnderWay;

    fn due(unit: usize, action: Action) -> Due {
        let pool = "eu/gpu-h100-sxm/fabric-1".parse().unwrap();
        Due {
            instance: format!("spot-{unit}-0").parse().unwrap(),
            pool,
            gpus: 8,
            backend: hourglass_ledger::core::market::Backend::Regular,
            action,
        }
    }

    fn poll(unit: usize) -> Due {
        due(unit, Action::PollOperation { operation: "op-1".parse().unwrap() })
    }

    fn look(unit: usize) -> Due {
        due(unit, Action::LookUp { cloud: None })
    }

    #[test]
    fn one_thing_at_a_time_is_done_for_a_unit() {
        let mut units = UnderWay::default();
        assert!(units.insert(&poll(1)));
        assert!(!units.insert(&poll(1)) && !units.insert(&look(1)));
        units.remove(&poll(1).instance);
        assert!(units.insert(&look(1)));
        assert!(!units.insert(&poll(1)));
    }

    /// However many operations are watched, a call finds room, and the other way round.
    #[test]
    fn watches_and_calls_are_bounded_apart() {
        let mut units = UnderWay::default();
        let watched = (0..1_000).filter(|unit| units.insert(&poll(*unit))).count();
        assert_eq!(watched, WATCHES_MAX);
        let called = (1_000..2_000).filter(|unit| units.insert(&look(*unit))).count();
        assert_eq!(called, UNDER_WAY_MAX);
        units.remove(&poll(7).instance);
        assert!(!units.insert(&look(2_000)) && units.insert(&poll(2_000)));
    }
}
