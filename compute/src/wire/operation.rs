//! Operations as messages and back.

use hourglass_proto::google::rpc;
use hourglass_proto::nebius::common::v1 as wire;

use super::{Read, error, instant_if_any, parsed, timestamp};
use crate::model::Operation;

/// Reads an operation.
pub(crate) fn read(operation: &wire::Operation) -> Read<Operation> {
    let outcome = operation.status.as_ref().map(|status| match error::read_outcome(status) {
        None => Ok(()),
        Some(error) => Err(error),
    });
    Ok(Operation {
        id: parsed("id", &operation.id)?,
        instance: parsed("resource_id", &operation.resource_id)?,
        created_at: instant_if_any("created_at", operation.created_at.as_ref())?,
        finished_at: instant_if_any("finished_at", operation.finished_at.as_ref())?,
        outcome,
    })
}

/// An operation as a message.
pub(crate) fn write(operation: &Operation) -> wire::Operation {
    wire::Operation {
        id: operation.id.to_string(),
        created_at: operation.created_at.map(timestamp),
        finished_at: operation.finished_at.map(timestamp),
        resource_id: operation.instance.to_string(),
        status: operation.outcome.as_ref().map(|outcome| match outcome {
            Ok(()) => rpc::Status::default(),
            Err(error) => error::write(error, operation.instance.as_str()),
        }),
        ..wire::Operation::default()
    }
}
