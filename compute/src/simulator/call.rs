//! What is asked of the cloud, and what it answers.

use std::collections::BTreeMap;

use hourglass_units::InstanceId;
use serde::{Deserialize, Serialize};

use crate::error::ComputeError;
use crate::ids::{BlockGroupId, IntervalId, OperationId, ParentId};
use crate::model::{
    Advice, BlockGroup, CapacityInterval, Instance, InstanceSpec, Labels, NewInstance, Operation, Place,
};

use super::faults::{Garble, Loss};

/// Items of a page unless the caller asks for another number.
pub const PAGE_SIZE_DEFAULT: usize = 100;
/// An id that nothing has.
pub(super) const NOBODY: &str = "computeinstance-e9999999999";
/// Most items of a page.
pub const PAGE_SIZE_MAX: usize = 1_000;

/// A call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Something is to change.
    Change {
        /// The idempotency key: the same key is the same call.
        key: Option<String>,
        /// What.
        change: Change,
    },
    /// Something is to be told.
    Query(Query),
}

/// What is to change. It is answered with an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// An instance is made.
    Create(Box<NewInstance>),
    /// Its labels become others, and what passes through to it.
    Update {
        /// Which.
        id: InstanceId,
        /// The version that the caller knows; 0 where it does not care.
        version: i64,
        /// All labels that it shall have.
        labels: Labels,
        /// What is wanted of it, where the caller says so.
        spec: Option<Box<InstanceSpec>>,
    },
    /// It is taken away.
    Delete {
        /// Which.
        id: InstanceId,
    },
    /// It is started.
    Start {
        /// Which.
        id: InstanceId,
    },
    /// It is stopped.
    Stop {
        /// Which.
        id: InstanceId,
    },
}

/// What is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    /// An instance.
    Instance(InstanceId),
    /// The instance of a name.
    InstanceByName(ParentId, String),
    /// Several instances, each or why there is none.
    InstanceBatch(Vec<InstanceId>),
    /// Instances of a project, in the order of their ids.
    Instances(ParentId, Page),
    /// An operation.
    Operation(OperationId),
    /// The operations of an instance.
    Operations(InstanceId, Page),
    /// A reservation.
    BlockGroup(BlockGroupId),
    /// The reservation of a place.
    BlockGroupOf(Place),
    /// All reservations.
    BlockGroups(Page),
    /// The instances that run in a reservation.
    BlockGroupMembers(BlockGroupId),
    /// A part of a reservation.
    Interval(IntervalId),
    /// The parts of a reservation.
    Intervals(BlockGroupId, Page),
    /// How much there is to be had.
    Advice(Page),
}

/// Which part of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// Items at most; 0 means [`PAGE_SIZE_DEFAULT`].
    pub size: usize,
    /// What the page before gave; empty for the first.
    pub token: String,
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed<T> {
    /// In the order of the list.
    pub items: Vec<T>,
    /// For the next page; empty on the last.
    pub next: String,
}

/// What a call is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To a change: what has been begun.
    Operation(Operation),
    /// An instance.
    Instance(Box<Instance>),
    /// Each of several instances, or why there is none.
    InstanceBatch(BTreeMap<InstanceId, Result<Instance, ComputeError>>),
    /// A page of instances.
    Instances(Listed<Instance>),
    /// A page of operations.
    Operations(Listed<Operation>),
    /// A reservation.
    BlockGroup(BlockGroup),
    /// A page of reservations.
    BlockGroups(Listed<BlockGroup>),
    /// The instances that run in a reservation.
    BlockGroupMembers(Vec<InstanceId>),
    /// A part of a reservation.
    Interval(CapacityInterval),
    /// A page of parts of a reservation.
    Intervals(Listed<CapacityInterval>),
    /// A page of advice.
    Advice(Listed<Advice>),
}

/// How an answer reaches the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// As it should.
    Prompt,
    /// So many milliseconds late.
    Late(i64),
    /// Not at all.
    Lost(Loss),
    /// Changed into one that makes no sense.
    Garbled(Garble),
}

/// An answer on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// What the cloud says.
    pub answer: Result<Answer, ComputeError>,
    /// What becomes of it.
    pub delivery: Delivery,
}

impl Response {
    /// What a caller in the same process makes of it: the same as [`crate::client`] would after one attempt.
    pub fn as_seen_by(self, caller: &Call) -> Result<Answer, ComputeError> {
        let kind = caller.kind();
        match (self.delivery, self.answer) {
            (Delivery::Prompt | Delivery::Late(_), answer) => answer,
            (Delivery::Lost(loss), _) if kind.is_change() => {
                Err(ComputeError::Unknown { message: loss.to_string() })
            }
            // Whoever only reads changes nothing.
            (Delivery::Lost(loss), _) => Err(ComputeError::Unavailable { message: loss.to_string() }),
            // Nobody knows beforehand which instance a creation is about.
            (Delivery::Garbled(Garble::WrongId), Ok(Answer::Operation(operation)))
                if kind == CallKind::Create =>
            {
                Ok(Answer::Operation(of_nobody(operation)))
            }
            (Delivery::Garbled(garble), _) => Err(ComputeError::garbage(garble.to_string())),
        }
    }
}

/// An operation that there is not, on an instance that there is not.
pub(super) fn of_nobody(operation: Operation) -> Operation {
    let id = OperationId::new(&format!("{}9", operation.id)).unwrap_or(operation.id);
    let instance = InstanceId::new(NOBODY).unwrap_or(operation.instance);
    Operation { id, instance, ..operation }
}

/// Which call it is, for a fault that strikes some and not others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum CallKind {
    /// `Create`.
    Create,
    /// `Update`.
    Update,
    /// `Delete`.
    Delete,
    /// `Start`.
    Start,
    /// `Stop`.
    Stop,
    /// One instance, or several by their ids.
    Get,
    /// A page of instances.
    List,
    /// Operations.
    Operation,
    /// Reservations and advice.
    Capacity,
}

impl CallKind {
    /// All, as scripts name them.
    pub(crate) const NAMED: [(&'static str, Self); 9] = [
        ("create", Self::Create),
        ("update", Self::Update),
        ("delete", Self::Delete),
        ("start", Self::Start),
        ("stop", Self::Stop),
        ("get", Self::Get),
        ("list", Self::List),
        ("operation", Self::Operation),
        ("capacity", Self::Capacity),
    ];

    /// Whether something is to change.
    pub const fn is_change(self) -> bool {
        matches!(self, Self::Create | Self::Update | Self::Delete | Self::Start | Self::Stop)
    }
}

impl Call {
    /// Which call it is.
    pub const fn kind(&self) -> CallKind {
        match self {
            Self::Change { change, .. } => change.kind(),
            Self::Query(query) => match query {
                Query::Instance(_) | Query::InstanceByName(..) | Query::InstanceBatch(_) => CallKind::Get,
                Query::Instances(..) => CallKind::List,
                Query::Operation(_) | Query::Operations(..) => CallKind::Operation,
                Query::BlockGroup(_)
                | Query::BlockGroupOf(_)
                | Query::BlockGroups(_)
                | Query::BlockGroupMembers(_)
                | Query::Interval(_)
                | Query::Intervals(..)
                | Query::Advice(_) => CallKind::Capacity,
            },
        }
    }
}

impl Change {
    /// Which call it is.
    pub const fn kind(&self) -> CallKind {
        match self {
            Self::Create(_) => CallKind::Create,
            Self::Update { .. } => CallKind::Update,
            Self::Delete { .. } => CallKind::Delete,
            Self::Start { .. } => CallKind::Start,
            Self::Stop { .. } => CallKind::Stop,
        }
    }
}
