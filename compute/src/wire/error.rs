//! Errors as a status with a `ServiceError` in its details, and back.

use hourglass_proto::google::rpc;
use hourglass_proto::nebius::common::v1::service_error::{Details, RetryType};
use hourglass_proto::nebius::common::v1::{
    BadRequest, BadResourceState, InternalError, NotEnoughResources, OperationAborted, OperationConflict,
    PermissionDenied, QuotaFailure, ResourceAlreadyExists, ResourceConflict, ResourceNotFound, ServiceError,
    TooManyRequests, bad_request, not_enough_resources, quota_failure,
};
use prost::{Message, Name};
use prost_types::Any;
use tonic::Code;

use crate::error::{ComputeError, MESSAGE_LENGTH_MAX};

/// How the details name the service.
const SERVICE: &str = "compute";
/// Most details of a status that are looked at.
const DETAILS_MAX: usize = 16;

/// What a status says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    /// The cloud says what is the matter, and whether the same call may be sent again.
    Error(ComputeError, Again),
    /// The call, or its answer, was lost on the way, or the cloud itself does not know what became of it.
    Lost(String, Again),
}

/// Whether the same call may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    Yes,
    No,
}

/// Reads the status of a call.
pub(crate) fn read_call(code: Code, message: &str, details: &[u8]) -> Said {
    // Details that are none say nothing; the code still does.
    let details = rpc::Status::decode(details).map(|status| status.details).unwrap_or_default();
    let said = service_error(&details);
    let message = short(message);
    let retry = said.as_ref().map_or(RetryType::Unspecified, ServiceError::retry_type);
    let by_service = said.is_some();
    let again = |by_itself: bool| {
        let yes = match retry {
            RetryType::Call => true,
            RetryType::Unspecified => by_itself,
            RetryType::UnitOfWork | RetryType::Nothing => false,
        };
        if yes { Again::Yes } else { Again::No }
    };
    if let Some(error) = said.and_then(|said| said.details).and_then(|details| of_details(details, &message))
    {
        // To send it again makes no machines and no quota.
        let scarce =
            matches!(error, ComputeError::NotEnoughResources { .. } | ComputeError::QuotaFailure { .. });
        return Said::Error(error, if scarce { Again::No } else { again(false) });
    }
    match code {
        Code::Unavailable if by_service => Said::Error(ComputeError::Unavailable { message }, again(true)),
        // A gateway that lost the connection to the service behind it says the same.
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Said::Lost(message, again(true)),
        _ => match of_code(code, message) {
            Ok(error) => Said::Error(error, again(false)),
            Err(message) => Said::Lost(message, again(false)),
        },
    }
}

/// Reads the status with which an operation ended; `None` where it ended well.
pub(crate) fn read_outcome(status: &rpc::Status) -> Option<ComputeError> {
    let code = Code::from_i32(status.code);
    if code == Code::Ok {
        return None;
    }
    let message = short(&status.message);
    let details = service_error(&status.details).and_then(|said| said.details);
    let error = details.and_then(|details| of_details(details, &message));
    Some(
        error.unwrap_or_else(|| {
            of_code(code, message).unwrap_or_else(|message| ComputeError::Failed { message })
        }),
    )
}

fn service_error(details: &[Any]) -> Option<ServiceError> {
    let mut found = details.iter().take(DETAILS_MAX).filter(|detail| is_service_error(&detail.type_url));
    found.find_map(|detail| ServiceError::decode(detail.value.as_slice()).ok())
}

fn is_service_error(type_url: &str) -> bool {
    type_url.rsplit('/').next() == Some(&ServiceError::full_name())
}

/// What the details say; `None` where they only say that the service failed.
fn of_details(details: Details, message: &str) -> Option<ComputeError> {
    let text = |own: String| if own.is_empty() { message.to_owned() } else { short(&own) };
    let said = || message.to_owned();
    Some(match details {
        Details::NotEnoughResources(NotEnoughResources { violations }) => {
            let violation = violations.into_iter().next().unwrap_or_default();
            ComputeError::NotEnoughResources { message: text(violation.message) }
        }
        Details::QuotaFailure(QuotaFailure { violations }) => {
            let violation = violations.into_iter().next().unwrap_or_default();
            ComputeError::QuotaFailure {
                quota: short(&violation.quota),
                limit: short(&violation.limit),
                requested: short(&violation.requested),
            }
        }
        Details::OperationConflict(conflict) => {
            ComputeError::OperationConflict { operation: conflict.conflicting_operation_id.parse().ok() }
        }
        Details::OperationAborted(aborted) => {
            ComputeError::Aborted { by: aborted.aborted_by_operation_id.parse().ok() }
        }
        Details::ResourceNotFound(missing) => ComputeError::NotFound { what: short(&missing.resource_id) },
        Details::ResourceAlreadyExists(known) => {
            ComputeError::AlreadyExists { instance: known.resource_id.parse().ok() }
        }
        Details::ResourceConflict(conflict) => {
            ComputeError::ResourceConflict { message: text(conflict.message) }
        }
        Details::BadResourceState(state) => ComputeError::BadState { message: text(state.message) },
        Details::PermissionDenied(_) => ComputeError::PermissionDenied { message: said() },
        Details::BadRequest(BadRequest { violations }) => {
            let violation = violations.into_iter().next().unwrap_or_default();
            ComputeError::BadRequest { field: short(&violation.field), message: text(violation.message) }
        }
        Details::OutOfRange(range) => ComputeError::BadRequest {
            field: String::new(),
            message: short(&format!("{} is beyond {}", range.requested, range.limit)),
        },
        Details::TooManyRequests(many) => ComputeError::TooManyRequests { message: text(many.violation) },
        Details::InternalError(_) => return None,
    })
}

/// What the code alone says; the message back where that is nothing sure.
fn of_code(code: Code, message: String) -> Result<ComputeError, String> {
    Ok(match code {
        // It may be either, and neither is cured by asking again.
        Code::ResourceExhausted => ComputeError::NotEnoughResources { message },
        Code::NotFound => ComputeError::NotFound { what: message },
        Code::AlreadyExists => ComputeError::AlreadyExists { instance: None },
        Code::Aborted => ComputeError::Aborted { by: None },
        Code::FailedPrecondition => ComputeError::BadState { message },
        Code::PermissionDenied => ComputeError::PermissionDenied { message },
        Code::Unauthenticated => ComputeError::Unauthenticated { message },
        Code::InvalidArgument | Code::Unimplemented => {
            ComputeError::BadRequest { field: String::new(), message }
        }
        // Here the client itself says so: the answer is longer than it takes.
        Code::OutOfRange | Code::Ok => ComputeError::Garbage { message },
        Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => return Err(message),
    })
}

fn short(text: &str) -> String {
    text.chars().take(MESSAGE_LENGTH_MAX).collect()
}

/// The status of an error.
pub(crate) fn write(error: &ComputeError, resource: &str) -> rpc::Status {
    let message = error.to_string();
    let (code, retry_type, details) = parts(error, resource);
    let name = details.as_ref().map_or("Unavailable", name_of).to_owned();
    let said =
        ServiceError { service: SERVICE.to_owned(), code: name, retry_type: retry_type.into(), details };
    rpc::Status { code: code as i32, message, details: Any::from_msg(&said).into_iter().collect() }
}

const fn name_of(details: &Details) -> &'static str {
    match details {
        Details::BadRequest(_) => "BadRequest",
        Details::BadResourceState(_) => "BadResourceState",
        Details::ResourceNotFound(_) => "ResourceNotFound",
        Details::ResourceAlreadyExists(_) => "ResourceAlreadyExists",
        Details::OutOfRange(_) => "OutOfRange",
        Details::PermissionDenied(_) => "PermissionDenied",
        Details::ResourceConflict(_) => "ResourceConflict",
        Details::OperationAborted(_) => "OperationAborted",
        Details::OperationConflict(_) => "OperationConflict",
        Details::TooManyRequests(_) => "TooManyRequests",
        Details::QuotaFailure(_) => "QuotaFailure",
        Details::NotEnoughResources(_) => "NotEnoughResources",
        Details::InternalError(_) => "InternalError",
    }
}

fn parts(error: &ComputeError, resource: &str) -> (Code, RetryType, Option<Details>) {
    use RetryType::{Call, Nothing, UnitOfWork};
    let resource_id = resource.to_owned();
    let text = |id: Option<String>| id.unwrap_or_default();
    let (code, retry, details) = match error.clone() {
        ComputeError::NotEnoughResources { message } => {
            let violation = not_enough_resources::Violation { message, ..Default::default() };
            let details = NotEnoughResources { violations: vec![violation] };
            (Code::ResourceExhausted, Nothing, Details::NotEnoughResources(details))
        }
        ComputeError::QuotaFailure { quota, limit, requested } => {
            let message = "the limit is reached".to_owned();
            let violation = quota_failure::Violation { quota, message, limit, requested };
            let details = QuotaFailure { violations: vec![violation] };
            (Code::ResourceExhausted, UnitOfWork, Details::QuotaFailure(details))
        }
        ComputeError::OperationConflict { operation } => {
            let conflicting_operation_id = text(operation.map(|id| id.to_string()));
            let details = OperationConflict { conflicting_operation_id, resource_id };
            (Code::Aborted, UnitOfWork, Details::OperationConflict(details))
        }
        ComputeError::Aborted { by } => {
            let aborted_by_operation_id = text(by.map(|id| id.to_string()));
            let details =
                OperationAborted { operation_id: String::new(), aborted_by_operation_id, resource_id };
            (Code::Aborted, UnitOfWork, Details::OperationAborted(details))
        }
        ComputeError::NotFound { what } => {
            let details = Details::ResourceNotFound(ResourceNotFound { resource_id: what });
            (Code::NotFound, Nothing, details)
        }
        ComputeError::AlreadyExists { instance } => {
            let details = ResourceAlreadyExists { resource_id: text(instance.map(|id| id.to_string())) };
            (Code::AlreadyExists, Nothing, Details::ResourceAlreadyExists(details))
        }
        ComputeError::ResourceConflict { message } => {
            let details = Details::ResourceConflict(ResourceConflict { resource_id, message });
            (Code::FailedPrecondition, UnitOfWork, details)
        }
        ComputeError::BadState { message } => {
            let details = Details::BadResourceState(BadResourceState { resource_id, message });
            (Code::FailedPrecondition, UnitOfWork, details)
        }
        ComputeError::PermissionDenied { .. } => {
            let details = Details::PermissionDenied(PermissionDenied { resource_id });
            (Code::PermissionDenied, Nothing, details)
        }
        ComputeError::BadRequest { field, message } => {
            let violation = bad_request::Violation { field, message, related_fields: Vec::new() };
            let details = BadRequest { violations: vec![violation] };
            (Code::InvalidArgument, Nothing, Details::BadRequest(details))
        }
        ComputeError::TooManyRequests { message } => {
            let details = Details::TooManyRequests(TooManyRequests { violation: message });
            (Code::ResourceExhausted, Call, details)
        }
        // A service that is there and will not: surely nothing happened.
        ComputeError::Unavailable { .. } => return (Code::Unavailable, Call, None),
        ComputeError::Unauthenticated { .. } => return (Code::Unauthenticated, Nothing, None),
        ComputeError::Failed { .. } | ComputeError::Unknown { .. } | ComputeError::Garbage { .. } => {
            let details = InternalError { request_id: String::new(), trace_id: String::new() };
            (Code::Internal, Nothing, Details::InternalError(details))
        }
    };
    (code, retry, Some(details))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(status: &rpc::Status) -> Said {
        read_call(Code::from_i32(status.code), &status.message, &status.encode_to_vec())
    }

    #[test]
    fn what_is_written_is_read() {
        let message = || "why".to_owned();
        let check = |error: ComputeError, again| {
            let status = write(&error, "computeinstance-1");
            assert_eq!(read(&status), Said::Error(error.clone(), again), "{status:?}");
            assert_eq!(read_outcome(&status), Some(error));
        };
        check(ComputeError::NotEnoughResources { message: message() }, Again::No);
        check(
            ComputeError::QuotaFailure { quota: "q".into(), limit: "8".into(), requested: "16".into() },
            Again::No,
        );
        check(ComputeError::OperationConflict { operation: "op-1".parse().ok() }, Again::No);
        check(ComputeError::OperationConflict { operation: None }, Again::No);
        check(ComputeError::Aborted { by: "op-2".parse().ok() }, Again::No);
        check(ComputeError::NotFound { what: "computeinstance-1".into() }, Again::No);
        check(ComputeError::AlreadyExists { instance: "computeinstance-1".parse().ok() }, Again::No);
        check(ComputeError::ResourceConflict { message: message() }, Again::No);
        check(ComputeError::BadState { message: message() }, Again::No);
        check(ComputeError::BadRequest { field: "spec.x".into(), message: message() }, Again::No);
        check(ComputeError::TooManyRequests { message: message() }, Again::Yes);
    }

    #[test]
    fn the_retry_type_rules_except_over_scarcity() {
        let with = |details, retry_type: RetryType| {
            let said = ServiceError {
                details: Some(details),
                retry_type: retry_type.into(),
                ..ServiceError::default()
            };
            let details = vec![Any::from_msg(&said).unwrap()];
            read(&rpc::Status { code: Code::ResourceExhausted as i32, message: "m".into(), details })
        };
        let scarce = with(Details::NotEnoughResources(NotEnoughResources::default()), RetryType::Call);
        assert_eq!(scarce, Said::Error(ComputeError::NotEnoughResources { message: "m".into() }, Again::No));
        let scarce = with(Details::QuotaFailure(QuotaFailure::default()), RetryType::Call);
        assert!(matches!(scarce, Said::Error(ComputeError::QuotaFailure { .. }, Again::No)), "{scarce:?}");
        let state = BadResourceState::default();
        for (retry, again) in [
            (RetryType::Unspecified, Again::No),
            (RetryType::Call, Again::Yes),
            (RetryType::UnitOfWork, Again::No),
            (RetryType::Nothing, Again::No),
        ] {
            let said = with(Details::BadResourceState(state.clone()), retry);
            assert_eq!(said, Said::Error(ComputeError::BadState { message: "m".into() }, again), "{retry:?}");
        }
    }

    #[test]
    fn a_status_without_details_is_read_by_its_code() {
        let check = |code, expected| assert_eq!(read_call(code, "m", b""), expected, "{code:?}");
        let message = || "m".to_owned();
        check(Code::Unavailable, Said::Lost(message(), Again::Yes));
        check(Code::DeadlineExceeded, Said::Lost(message(), Again::Yes));
        check(Code::Internal, Said::Lost(message(), Again::No));
        check(Code::Unknown, Said::Lost(message(), Again::No));
        check(
            Code::ResourceExhausted,
            Said::Error(ComputeError::NotEnoughResources { message: message() }, Again::No),
        );
        check(Code::OutOfRange, Said::Error(ComputeError::Garbage { message: message() }, Again::No));
        // Details that are none do not count.
        assert_eq!(read_call(Code::Unavailable, "m", b"\xff\xff"), Said::Lost(message(), Again::Yes));
    }

    #[test]
    fn an_internal_error_is_a_failure_of_an_operation_and_a_doubt_about_a_call() {
        let status = write(&ComputeError::Failed { message: "m".into() }, "");
        assert!(matches!(read(&status), Said::Lost(_, Again::No)));
        assert!(matches!(read_outcome(&status), Some(ComputeError::Failed { .. })));
        assert_eq!(read_outcome(&rpc::Status::default()), None);
    }

    #[test]
    fn long_texts_are_cut() {
        let Said::Lost(message, _) = read_call(Code::Internal, &"ä".repeat(9_999), b"") else { panic!() };
        assert_eq!(message.chars().count(), MESSAGE_LENGTH_MAX);
    }
}
