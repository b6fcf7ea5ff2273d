//! Between the compute API and the life cycle: what is asked, and what an answer says.

use hourglass_capacity::lifecycle::{CloudState, Fact, Failure, Listed, Listing, News, Outcome};
use hourglass_compute::ComputeError;
use hourglass_compute::ids::CallKey;
use hourglass_compute::model::{
    Instance, InstanceSpec, InstanceState, Labels, NewInstance, Operation, Recovery, Supply,
};
use hourglass_ledger::core::market::{Backend, Due, UNIT_PREFIX};
use hourglass_units::{CloudId, Instant, OperationId};

use super::DriverOptions;

/// The label that says of which pool an instance is.
const POOL_LABEL: &str = "hourglass/pool";

/// What is to be made for a unit. `None` where its size has no name, or its fabric no cluster.
pub fn new_instance(options: &DriverOptions, due: &Due) -> Option<NewInstance> {
    let reservations = options.reservations.get(&due.pool.fabric).cloned().unwrap_or_default();
    let labels: Labels = [(POOL_LABEL.to_owned(), due.pool.to_string())].into();
    Some(NewInstance {
        parent: options.parent.clone(),
        name: due.instance.to_string(),
        labels,
        spec: InstanceSpec {
            platform: due.pool.platform.clone(),
            preset: options.preset(due.gpus)?,
            cluster: Some(options.cluster(&due.pool.fabric)?),
            // What goes off by itself must not be started again and billed.
            recovery: Recovery::Fail,
            supply: match due.backend {
                Backend::Preemptible => Supply::Preemptible,
                Backend::Regular if reservations.is_empty() => Supply::OnDemand,
                Backend::Regular => Supply::Reserved(reservations),
            },
            hostname: due.instance.to_string(),
            stopped: false,
            template: options.template.clone(),
        },
    })
}

/// The name of a call, as the cloud takes it.
pub(super) fn call_key(key: &hourglass_capacity::lifecycle::Key) -> Option<CallKey> {
    CallKey::new(&key.to_string()).ok()
}

/// Why the cloud did not do something, for certain; `None` where that is not certain, or where asking again
/// may help.
pub fn failure_of(error: &ComputeError) -> Option<Failure> {
    use ComputeError as E;
    Some(match error {
        E::NotEnoughResources { .. } => Failure::NotEnoughResources,
        E::QuotaFailure { .. } => Failure::QuotaFailure,
        E::PermissionDenied { .. } => Failure::PermissionDenied,
        E::BadRequest { .. } => Failure::InvalidArgument,
        E::NotFound { .. } => Failure::NotFound,
        E::AlreadyExists { .. } => Failure::AlreadyExists,
        E::OperationConflict { .. } | E::Aborted { .. } | E::ResourceConflict { .. } | E::BadState { .. } => {
            Failure::Conflict
        }
        E::Failed { .. } => Failure::Internal,
        // A token that is not accepted is mended by a person; no unit is to fail for it.
        E::Unauthenticated { .. }
        | E::TooManyRequests { .. }
        | E::Unavailable { .. }
        | E::Unknown { .. }
        | E::Garbage { .. } => return None,
    })
}

/// What a call came to.
pub fn outcome_of(answer: &Result<Operation, ComputeError>) -> Outcome {
    match answer {
        Ok(operation) => match OperationId::new(operation.id.as_str()) {
            Ok(id) => Outcome::Accepted { operation: id, cloud: cloud_id(&operation.instance) },
            Err(_) => Outcome::Unknown,
        },
        Err(error) => match failure_of(error) {
            Some(failure) => Outcome::Refused { failure },
            None => Outcome::Unknown,
        },
    }
}

/// How an operation goes. `None` where there was no answer.
pub fn news_of(answer: &Result<Operation, ComputeError>, now: Instant) -> Option<News> {
    Some(match answer {
        Ok(Operation { outcome: None, .. }) => News::Running,
        Ok(Operation { outcome: Some(Ok(())), finished_at, .. }) => {
            News::Succeeded { finished_at: finished_at.unwrap_or(now) }
        }
        Ok(Operation { outcome: Some(Err(error)), .. }) => {
            News::Failed { failure: failure_of(error).unwrap_or(Failure::Internal) }
        }
        Err(ComputeError::NotFound { .. }) => News::Vanished,
        Err(_) => return None,
    })
}

/// What a look saw. `None` where it saw nothing.
pub fn seen(answer: &Result<Instance, ComputeError>, began: Instant) -> Option<Fact> {
    match answer {
        Ok(instance) => {
            let cloud = cloud_id(&instance.id)?;
            Some(Fact::Seen { cloud, state: state_of(instance.state), began, last_running: None })
        }
        Err(ComputeError::NotFound { .. }) => Some(Fact::Absent { began, last_running: None }),
        Err(_) => None,
    }
}

/// All that the cloud has, as far as it may concern units.
pub fn listed(instances: &[Instance], began: Instant) -> Listing {
    let items = instances.iter().filter_map(|instance| {
        let name = instance.name.strip_prefix(UNIT_PREFIX).and(instance.name.parse().ok());
        Some(Listed { cloud: cloud_id(&instance.id)?, instance: name, state: state_of(instance.state) })
    });
    Listing { began, is_complete: true, items: items.collect() }
}

fn cloud_id(id: &hourglass_units::InstanceId) -> Option<CloudId> {
    CloudId::new(id.as_str()).ok()
}

const fn state_of(state: InstanceState) -> CloudState {
    match state {
        InstanceState::Creating => CloudState::Creating,
        InstanceState::Updating => CloudState::Updating,
        InstanceState::Starting => CloudState::Starting,
        InstanceState::Running => CloudState::Running,
        InstanceState::Stopping => CloudState::Stopping,
        InstanceState::Stopped => CloudState::Stopped,
        InstanceState::Deleting => CloudState::Deleting,
        InstanceState::Error => CloudState::Error,
    }
}
