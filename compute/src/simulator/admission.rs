//! Whether a change may begin. All that can be wrong with one is found here, before anything happens.
//!
//! In this order: what is asked for makes sense; the instance is there; nothing else is under way on it; its
//! version and its state allow it; the quota does.

use hourglass_units::InstanceId;

use crate::error::ComputeError;
use crate::ids::OperationId;
use crate::model::{InstanceSpec, InstanceState, NewInstance, Supply};

use super::call::{CallKind, Change};
use super::cloud::{Cloud, not_found};
use super::room;
use super::settings::SecondCall;
use super::state::{Machine, quota_of};

/// Most instances of a cloud.
pub const INSTANCES_MAX: usize = 20_000;

/// A change that may begin.
pub(super) struct Admission {
    pub(super) instance: InstanceId,
    pub(super) operation: OperationId,
    /// The operation that it puts an end to.
    pub(super) aborts: Option<OperationId>,
}

impl Cloud {
    pub(super) fn admit(&mut self, change: &Change) -> Result<Admission, ComputeError> {
        let (instance, aborts) = match change {
            Change::Create(new) => {
                self.admit_new(new)?;
                let id = format!("computeinstance-e{:010}", self.state.turn());
                (InstanceId::new(&id).map_err(|error| ComputeError::garbage(error.to_string()))?, None)
            }
            Change::Update { id, .. }
            | Change::Delete { id }
            | Change::Start { id }
            | Change::Stop { id } => (id.clone(), self.admit_known(id, change)?),
        };
        let operation = format!("computeoperation-e{:010}", self.state.turn());
        let operation =
            OperationId::new(&operation).map_err(|error| ComputeError::garbage(error.to_string()))?;
        Ok(Admission { instance, operation, aborts })
    }

    fn admit_new(&self, new: &NewInstance) -> Result<(), ComputeError> {
        self.admit_spec(&new.spec)?;
        let known = self.state.machines.values().map(|machine| &machine.instance);
        let mut same = known.filter(|known| known.parent == new.parent && known.name == new.name);
        if let Some(same) = same.next().filter(|_| !new.name.is_empty()) {
            return Err(ComputeError::AlreadyExists { instance: Some(same.id.clone()) });
        }
        if self.state.machines.len() >= INSTANCES_MAX {
            let message = format!("this cloud has at most {INSTANCES_MAX} instances");
            return Err(ComputeError::NotEnoughResources { message });
        }
        if new.spec.stopped { Ok(()) } else { self.admit_by_quota(&new.spec) }
    }

    fn admit_spec(&self, spec: &InstanceSpec) -> Result<(), ComputeError> {
        if spec.preset.gpus() == 0 {
            let what = "there are machines with GPUs only: write it like 8gpu-128vcpu-1600gb";
            return Err(ComputeError::bad_request("spec.resources.preset", what));
        }
        if !self.state.capacity.keys().any(|place| place.platform == spec.platform) {
            let what = format!("there is no platform {}", spec.platform);
            return Err(ComputeError::bad_request("spec.resources.platform", what));
        }
        if let Supply::Reserved(ids) | Supply::Either(ids) = &spec.supply {
            let unknown = ids.iter().find(|id| !self.settings.reservations.contains_key(*id));
            if let Some(unknown) = unknown {
                return Err(not_found(unknown.as_str()));
            }
        }
        if room::rooms(&self.state, &self.settings, spec).is_empty() {
            let what = "no reservation and no fabric goes with all that is asked for";
            return Err(ComputeError::bad_request("spec", what));
        }
        Ok(())
    }

    fn admit_by_quota(&self, spec: &InstanceSpec) -> Result<(), ComputeError> {
        let limit =
            quota_of(spec).and_then(|quota| Some((self.settings.quotas.get(&quota).copied()?, quota)));
        let Some((limit, quota)) = limit else { return Ok(()) };
        let requested = self.state.counted(&quota).saturating_add(u64::from(spec.preset.gpus()));
        if requested <= limit {
            return Ok(());
        }
        let (limit, requested) = (limit.to_string(), requested.to_string());
        Err(ComputeError::QuotaFailure { quota: quota.to_string(), limit, requested })
    }

    /// Whether it may begin, and what it puts an end to.
    fn admit_known(&self, id: &InstanceId, change: &Change) -> Result<Option<OperationId>, ComputeError> {
        let machine = self.state.machines.get(id).ok_or_else(|| not_found(id.as_str()))?;
        let first = self.state.work_on(machine);
        if let Some(first) = first {
            let may = self.settings.second_call == SecondCall::Aborts
                // What is being taken away cannot be started.
                && !(machine.taken && change.kind() == CallKind::Start)
                && matches!(
                    (change.kind(), first.change.kind()),
                    (CallKind::Stop, CallKind::Create | CallKind::Start)
                        | (CallKind::Start, CallKind::Stop)
                        | (
                            CallKind::Delete,
                            CallKind::Create | CallKind::Start | CallKind::Stop | CallKind::Update
                        )
                );
            if !may {
                return Err(ComputeError::OperationConflict { operation: Some(first.operation.id.clone()) });
            }
        }
        if let Change::Update { version, spec, .. } = change {
            check_update(machine, *version, spec.as_deref())?;
        }
        if first.is_none() {
            check_state(machine, change.kind())?;
        }
        if change.kind() == CallKind::Start && !machine.is_counted() {
            self.admit_by_quota(&machine.instance.spec)?;
        }
        Ok(first.map(|first| first.operation.id.clone()))
    }
}

fn check_state(machine: &Machine, change: CallKind) -> Result<(), ComputeError> {
    use InstanceState::{Error, Running, Starting, Stopped, Stopping};
    let state = machine.instance.state;
    let may = match change {
        CallKind::Start => matches!(state, Stopped | Error),
        // Without an operation it starts again by itself, or is taken away.
        CallKind::Stop => matches!(state, Running | Starting | Stopping),
        CallKind::Update => matches!(state, Running | Stopped | Error),
        _ => true,
    };
    if may {
        return Ok(());
    }
    Err(ComputeError::BadState { message: format!("the instance is {state:?}") })
}

fn check_update(machine: &Machine, version: i64, spec: Option<&InstanceSpec>) -> Result<(), ComputeError> {
    let known = &machine.instance;
    if version != 0 && version != known.version {
        let message = format!("the instance has version {}, not {version}", known.version);
        return Err(ComputeError::ResourceConflict { message });
    }
    let Some(spec) = spec else { return Ok(()) };
    // Whether it runs is for Start and Stop to say, whatever the caller saw.
    let same = InstanceSpec { template: spec.template.clone(), stopped: spec.stopped, ..known.spec.clone() };
    if *spec == same {
        return Ok(());
    }
    Err(ComputeError::bad_request("spec", "only labels, network interfaces and the boot disk can change"))
}
