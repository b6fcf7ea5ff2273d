//! What a simulated cloud remembers: all of it is in the state file.

use std::collections::{BTreeMap, BTreeSet};

use hourglass_units::{InstanceId, Instant, ResourceName, gpu_resource};
use serde::{Deserialize, Serialize};

use crate::draw::Draws;
use crate::ids::{BlockGroupId, OperationId};
use crate::model::{Instance, InstanceSpec, InstanceState, Operation, Place, Supply};

use super::call::{CallKind, Change};
use super::faults::Fault;
use super::script::Script;
use super::settings::Reservation;

/// What a cloud remembers. Together with its settings it is the cloud.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) begun: Instant,
    pub(super) now: Instant,
    pub(super) draws: Draws,
    /// How many ids and turns were given.
    pub(super) minted: u64,
    pub(super) machines: BTreeMap<InstanceId, Machine>,
    pub(super) works: BTreeMap<OperationId, Work>,
    /// By idempotency key.
    pub(super) keys: BTreeMap<String, Remembered>,
    /// Operations that want room, first come, first served.
    pub(super) waiting: Vec<OperationId>,
    pub(super) agenda: BTreeSet<Due>,
    /// Calls that come in once more.
    pub(super) repeats: BTreeMap<u64, (Option<String>, Change)>,
    pub(super) capacity: BTreeMap<Place, u64>,
    /// The script and the reservations that the rest belongs to.
    pub(super) script: Script,
    pub(super) reservations: BTreeMap<BlockGroupId, Reservation>,
    /// How many calls each rule of the script still strikes.
    pub(super) left: Vec<u32>,
}

/// An instance, and what nobody is told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Machine {
    pub(super) instance: Instance,
    /// The operation under way.
    pub(super) operation: Option<OperationId>,
    pub(super) room: Option<Room>,
    /// How many times it began to run.
    pub(super) run: u64,
    /// The provider takes it away.
    pub(super) taken: bool,
}

/// GPUs that an instance holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Room {
    pub(super) place: Place,
    pub(super) pool: Pool,
}

/// Out of what it holds them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Pool {
    OnDemand,
    Group(BlockGroupId),
    /// Out of what nobody else uses.
    Preemptible,
}

/// An operation, and what it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Work {
    pub(super) operation: Operation,
    pub(super) change: Change,
    pub(super) key: Option<String>,
    pub(super) fault: Option<Fault>,
    /// Nobody is told of it any more.
    pub(super) forgotten: bool,
}

/// What a key was first used for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Remembered {
    pub(super) change: Change,
    pub(super) operation: OperationId,
}

/// Something that will happen. What is due at the same time happens in the order in which it was planned.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Due {
    pub(super) at: Instant,
    pub(super) turn: u64,
    pub(super) event: Event,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Event {
    /// An operation has done its work.
    Ends(OperationId),
    /// The fault of an operation comes out.
    Breaks(OperationId),
    /// An operation has waited for room long enough.
    GivesUp(OperationId),
    /// The notice of an instance that is taken away is over. Of this run.
    Off(InstanceId, u64),
    /// An instance that went off by itself is up again. After this run.
    Back(InstanceId, u64),
    /// An instance goes off by itself. In this run.
    PowersOff(InstanceId, u64),
    /// An operation is forgotten.
    Forgets(OperationId),
    /// An idempotency key is forgotten.
    ForgetsKey(String),
    /// A call comes in once more.
    Repeats(u64),
    /// A line of the script says so.
    Script(usize),
    /// A reservation has become larger or smaller.
    Reservations,
}

impl State {
    pub(super) const fn turn(&mut self) -> u64 {
        self.minted = self.minted.saturating_add(1);
        self.minted
    }

    /// Plans something, so many milliseconds from now.
    pub(super) fn plan(&mut self, after_ms: i64, event: Event) {
        let turn = self.turn();
        self.agenda.insert(Due { at: self.now.saturating_add_ms(after_ms), turn, event });
    }

    /// Milliseconds since the cloud began.
    pub(super) const fn age_ms(&self) -> i64 {
        self.now.ms_since(self.begun)
    }

    /// The operation under way on an instance.
    pub(super) fn work_on(&self, machine: &Machine) -> Option<&Work> {
        self.works.get(machine.operation.as_ref()?)
    }

    /// Whether its room comes free by itself.
    pub(super) fn is_going(&self, machine: &Machine) -> bool {
        let leaves = |work: &Work| matches!(work.change.kind(), CallKind::Stop | CallKind::Delete);
        machine.taken || self.work_on(machine).is_some_and(leaves)
    }

    /// What a quota counts.
    pub(super) fn counted(&self, quota: &ResourceName) -> u64 {
        let mine = |machine: &&Machine| quota_of(&machine.instance.spec).as_ref() == Some(quota);
        let counted = self.machines.values().filter(|machine| machine.is_counted()).filter(mine);
        counted.map(Machine::gpus).fold(0, u64::saturating_add)
    }
}

impl Machine {
    pub(super) fn gpus(&self) -> u64 {
        u64::from(self.instance.spec.preset.gpus())
    }

    /// Whether quota counts it: while it wants to run, and for as long as it holds room.
    pub(super) const fn is_counted(&self) -> bool {
        match self.instance.state {
            InstanceState::Creating => !self.instance.spec.stopped,
            InstanceState::Updating
            | InstanceState::Starting
            | InstanceState::Running
            | InstanceState::Stopping => true,
            InstanceState::Stopped | InstanceState::Deleting | InstanceState::Error => self.room.is_some(),
        }
    }

    /// Gives its room back.
    pub(super) fn release(&mut self) {
        self.room = None;
        self.instance.reservation = None;
    }

    /// Another state. What is told beside it follows.
    pub(super) fn enter(&mut self, state: InstanceState) {
        self.instance.state = state;
        let recovers = state == InstanceState::Starting && self.operation.is_none();
        self.instance.reconciling = self.operation.is_some() || self.taken || recovers;
        if matches!(state, InstanceState::Stopped | InstanceState::Error) {
            self.instance.maintenance = None;
        }
    }
}

/// The quota that counts instances of this kind.
pub(super) fn quota_of(spec: &InstanceSpec) -> Option<ResourceName> {
    let resource = gpu_resource(&spec.platform);
    match spec.supply {
        Supply::Preemptible => format!("{resource}.preemptible").parse().ok(),
        Supply::OnDemand | Supply::Reserved(_) | Supply::Either(_) => Some(resource),
    }
}
