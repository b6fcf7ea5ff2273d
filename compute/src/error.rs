//! What can be the matter with a call or an operation, sorted by what the caller does next.

use hourglass_units::InstanceId;
use serde::{Deserialize, Serialize};

use crate::ids::OperationId;

/// Longest text that is kept of what the cloud says, in characters.
pub const MESSAGE_LENGTH_MAX: usize = 512;

/// Why a call did not do, or an operation did not end, as it should.
///
/// The cloud says nearly all of them itself. [`Unavailable`](Self::Unavailable),
/// [`Unknown`](Self::Unknown) and [`Garbage`](Self::Garbage) are also how a call looks that got no answer,
/// or none that makes sense.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ComputeError {
    /// The machines are not there. Nothing was made, or what was made is stopped.
    #[error("there are not enough resources ({message}): try elsewhere, or when there are more")]
    NotEnoughResources {
        /// What the cloud says.
        message: String,
    },
    /// A quota is in the way. Nothing was made, or what was made is stopped.
    #[error(
        "quota {quota:?} allows {limit}, and this would take {requested}: give something back, or ask for more"
    )]
    QuotaFailure {
        /// The quota's name.
        quota: String,
        /// As the cloud writes it.
        limit: String,
        /// As the cloud writes it.
        requested: String,
    },
    /// Another operation is under way on the instance. Nothing happened.
    #[error("another operation is under way on it ({operation:?}): wait until that has ended")]
    OperationConflict {
        /// That one, where the cloud names it.
        operation: Option<OperationId>,
    },
    /// A later call put an end to the operation.
    #[error("it was ended by another operation ({by:?}): read the instance before doing anything more")]
    Aborted {
        /// That one, where the cloud names it.
        by: Option<OperationId>,
    },
    /// There is no such thing, or no longer. An operation that is gone may have ended in any way.
    #[error("there is no {what}: if it is an operation, read its instance; else it is gone")]
    NotFound {
        /// Its id.
        what: String,
    },
    /// The name is taken. Nothing happened.
    #[error(
        "there is one of that name already ({instance:?}): read it, it may be the one that was asked for"
    )]
    AlreadyExists {
        /// The one that has it, where the cloud names it.
        instance: Option<InstanceId>,
    },
    /// The instance is of another version than the caller thinks. Nothing happened.
    #[error("it has changed meanwhile ({message}): read it again")]
    ResourceConflict {
        /// What the cloud says.
        message: String,
    },
    /// The instance is in a state in which this cannot be done. Nothing happened.
    #[error("its state does not allow that ({message}): read it again")]
    BadState {
        /// What the cloud says.
        message: String,
    },
    /// The caller may not do that. Nothing happened.
    #[error("it is not permitted ({message}): have the service account's roles changed")]
    PermissionDenied {
        /// What the cloud says.
        message: String,
    },
    /// The cloud does not know the caller. Nothing happened.
    #[error("the token is not accepted ({message}): renew it")]
    Unauthenticated {
        /// What the cloud says.
        message: String,
    },
    /// The request breaks the cloud's contract. Nothing happened.
    #[error("the request is wrong at {field:?} ({message}): it will be wrong again")]
    BadRequest {
        /// Path of the field; empty where the cloud names none.
        field: String,
        /// What the cloud says.
        message: String,
    },
    /// Too many calls at once. Nothing happened.
    #[error("there were too many requests ({message}): ask less often")]
    TooManyRequests {
        /// What the cloud says.
        message: String,
    },
    /// The cloud could not be asked. *Surely nothing happened.*
    #[error("the compute API is not available ({message}): try again later")]
    Unavailable {
        /// What is known of why.
        message: String,
    },
    /// The operation failed for a reason of the cloud's own. It has ended.
    #[error("the cloud failed ({message}): read the instance before doing anything more")]
    Failed {
        /// What the cloud says.
        message: String,
    },
    /// There was no answer, or none that tells. *It may have happened, and may still happen.*
    #[error(
        "it is not known whether it happened ({message}): ask again with the same key, or find out by listing"
    )]
    Unknown {
        /// What is known of why.
        message: String,
    },
    /// The answer makes no sense. *It may have happened.*
    #[error("the answer makes no sense ({message}): find out by listing what there is")]
    Garbage {
        /// What is wrong with it.
        message: String,
    },
}

/// What the caller does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextStep {
    /// The same call, later. Nothing happened.
    Later,
    /// Nothing like it until capacity or quota has changed.
    NotUntilThereIsMore,
    /// Wait for the operation that is under way.
    Wait,
    /// Read the instance and decide anew.
    ReadAgain,
    /// Reckon with its being gone.
    Gone,
    /// Find out what happened: the same call with the same key, or a listing.
    Reconcile,
    /// A person has to change something first.
    Operator,
}

impl ComputeError {
    /// What the caller does next.
    pub const fn next_step(&self) -> NextStep {
        match self {
            Self::Unavailable { .. } | Self::TooManyRequests { .. } => NextStep::Later,
            Self::NotEnoughResources { .. } | Self::QuotaFailure { .. } => NextStep::NotUntilThereIsMore,
            Self::OperationConflict { .. } => NextStep::Wait,
            Self::Aborted { .. }
            | Self::AlreadyExists { .. }
            | Self::ResourceConflict { .. }
            | Self::BadState { .. }
            | Self::Failed { .. } => NextStep::ReadAgain,
            Self::NotFound { .. } => NextStep::Gone,
            Self::Unknown { .. } | Self::Garbage { .. } => NextStep::Reconcile,
            Self::PermissionDenied { .. } | Self::Unauthenticated { .. } | Self::BadRequest { .. } => {
                NextStep::Operator
            }
        }
    }

    pub(crate) fn garbage(message: impl Into<String>) -> Self {
        Self::Garbage { message: message.into() }
    }

    pub(crate) fn bad_request(field: &str, message: impl Into<String>) -> Self {
        Self::BadRequest { field: field.to_owned(), message: message.into() }
    }
}
