//! Errors: every one that HTTP answers with, in one form (RFC 9457, problem details).
//!
//! A handler answers with a [`Problem`]; the outermost layer writes it down, because only there the
//! request's id is known. What other layers answer without a body becomes a problem there too.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use hourglass_ledger::cell::CellError;
use hourglass_ledger::core::Rejection;
use hourglass_ledger::store::StoreError;
use serde::Serialize;
use serde_json::{Map, Value};
use tonic::Code;
use utoipa::ToSchema;

use crate::auth::Denied;
use crate::billing::quotas::denial_members;
use crate::refusal::{market_code, quota_code};
use crate::usage::IngestError;

/// The media type of every error.
pub const PROBLEM_MEDIA_TYPE: &str = "application/problem+json";
/// When to try again what can work soon.
const RETRY_AFTER_SECONDS: u32 = 1;

/// Why a request was not done.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    retryable: bool,
    retry_after: bool,
    /// Why the credential is not enough, as RFC 6750 names it.
    challenge: Option<&'static str>,
    members: Map<String, Value>,
}

/// An error, as RFC 9457 has it. Beside these fields an error can have more, named at its code.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ProblemDocument {
    /// Names the kind of the error: `urn:hourglass:problem:` and the code.
    #[serde(rename = "type")]
    kind: String,
    /// The kind, for people.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What happened and what to do about it, for people.
    detail: String,
    /// The kind, for programs. Stable.
    code: String,
    /// Whether the same request, under the same idempotency key, can succeed later.
    retryable: bool,
    /// Names the request in the server's log.
    request_id: String,
    /// What else the error has.
    #[serde(flatten)]
    #[schema(ignore)]
    members: Map<String, Value>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self {
            status,
            code,
            detail,
            retryable: false,
            retry_after: false,
            challenge: None,
            members: Map::new(),
        }
    }

    /// The request is not as it should be.
    pub(crate) fn bad_request(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// There is no such thing here.
    pub(crate) fn not_found(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, detail)
    }

    /// The same request can work in a moment.
    pub(crate) fn unavailable(code: &'static str, detail: impl Into<String>) -> Self {
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail);
        Self { retryable: true, retry_after: true, ..problem }
    }

    /// The caller asks too often.
    pub(crate) fn too_many_requests() -> Self {
        let detail = "too many requests: wait as long as Retry-After says, and ask for more at once";
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail);
        Self { retryable: true, retry_after: true, ..problem }
    }

    /// Something is wrong with the server; the caller need not know what.
    pub(crate) fn internal() -> Self {
        let detail = "the server failed; its log says more under the request id";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }

    /// With one more field.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// Whether it says what of a region does not fit, without the region: only the cell knows that.
    pub(crate) fn lacks_region(&self) -> bool {
        self.members.contains_key("fits") && !self.members.contains_key("region")
    }

    /// The problem that a bare answer of another layer stands for.
    fn of_status(status: StatusCode) -> Self {
        let (code, detail) = match status {
            StatusCode::NOT_FOUND => ("route_unknown", "there is nothing at this path: see /openapi.json"),
            StatusCode::METHOD_NOT_ALLOWED => {
                ("method_not_allowed", "the header Allow says what this path takes")
            }
            StatusCode::PAYLOAD_TOO_LARGE => ("too_large", "the body is too large: send less at once"),
            status if status.is_server_error() => return Self { status, ..Self::internal() },
            _ => ("bad_request", "the request cannot be understood"),
        };
        Self::new(status, code, detail)
    }

    /// Writes the answer. `headers` are those that the answer has already.
    fn write(self, request_id: &str, mut headers: HeaderMap) -> Response {
        let document = ProblemDocument {
            kind: format!("urn:hourglass:problem:{}", self.code),
            title: self.code.replace('_', " "),
            status: self.status.as_u16(),
            detail: self.detail,
            code: self.code.to_owned(),
            retryable: self.retryable,
            request_id: request_id.to_owned(),
            members: self.members,
        };
        headers.remove(axum::http::header::CONTENT_LENGTH);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_MEDIA_TYPE));
        if self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
        }
        let challenge = match self.challenge {
            Some(challenge) => Some(challenge),
            None => (self.status == StatusCode::UNAUTHORIZED).then_some("Bearer realm=\"hourglass\""),
        };
        if let Some(challenge) = challenge {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        // A struct of strings and numbers has no value that JSON lacks.
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        *response.headers_mut() = headers;
        response
    }
}

impl IntoResponse for Problem {
    /// Only carries the problem to the layer that writes it.
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Writes the problem that an answer carries or stands for; leaves any other answer as it is.
pub(crate) fn written(mut response: Response, request_id: &str) -> Response {
    let status = response.status();
    let problem = match response.extensions_mut().remove::<Problem>() {
        Some(problem) => problem,
        None if status.is_client_error() || status.is_server_error() => Problem::of_status(status),
        None => return response,
    };
    let (parts, _) = response.into_parts();
    problem.write(request_id, parts.headers)
}

impl From<Rejection> for Problem {
    /// No variant is left to a default: a new one has to be given its status.
    fn from(rejection: Rejection) -> Self {
        use Rejection as R;
        let status = match &rejection {
            R::TenantUnknown { .. }
            | R::InstanceUnknown { .. }
            | R::ReservationUnknown { .. }
            | R::InvoiceUnknown { .. }
            | R::KeyUnknown { .. }
            | R::WebhookUnknown { .. }
            | R::MessageUnknown { .. } => StatusCode::NOT_FOUND,
            R::CellAlreadyOpen { .. }
            | R::IdempotencyKeyReused { .. }
            | R::TenantExists { .. }
            | R::PriceBook(_)
            | R::InstanceExists { .. }
            | R::AlreadyRunning { .. }
            | R::StartsBeforeLastStop { .. }
            | R::NotRunning { .. }
            | R::StopsBeforeStart { .. }
            | R::Unpriced { .. }
            | R::PeriodOpen { .. }
            | R::PeriodFinalised { .. }
            | R::EarlierPeriodOpen { .. }
            | R::LaterPeriodFinalised { .. }
            | R::ReservationExists { .. }
            | R::ReservationElsewhere { .. }
            | R::ReservationInThePast { .. }
            | R::CreditExists { .. }
            | R::CreditsOverlap { .. }
            | R::CreditInClosedPeriod { .. }
            | R::CreditsFull { .. }
            | R::CalendarFixed { .. }
            | R::InvoiceVoid { .. }
            | R::InvoicePaid { .. }
            | R::PaymentDoesNotFit { .. }
            | R::NothingToCredit { .. }
            | R::NothingToVoid { .. }
            | R::ModeChangeOutOfOrder { .. }
            | R::ModeChangesFull { .. }
            | R::RerateIntoClosed { .. }
            | R::KeyExists { .. }
            | R::KeysFull
            | R::WebhookExists { .. }
            | R::WebhooksFull
            | R::WebhookDisabled { .. }
            | R::WebhookChanged { .. }
            | R::MonthClosed { .. }
            | R::MonthOutOfOrder { .. }
            | R::MonthNotOver { .. }
            | R::MonthUnsettled { .. }
            | R::InvoicesMissing { .. }
            | R::KeyRevoked { .. } => StatusCode::CONFLICT,
            R::PolicyInvalid(_)
            | R::TextInvalid { .. }
            | R::Card(_)
            | R::GpusOutOfRange { .. }
            | R::InTheFuture { .. }
            | R::TooOld { .. }
            | R::KeyGrantInvalid(_)
            | R::WebhookInvalid(_)
            | R::Calendar(_)
            | R::Reservation(_)
            | R::CreditInvalid { .. }
            | R::Tax(_)
            | R::IntervalReversed { .. }
            | R::PlanInvalid(_)
            | R::PlanTooLong { .. }
            | R::AmountOverflow => StatusCode::UNPROCESSABLE_ENTITY,
            R::Quota(rejection) => status_of(quota_code(rejection)),
            R::Market(rejection) => status_of(market_code(rejection)),
            R::MessageTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            R::CellNotOpen | R::SuspenseFull => StatusCode::SERVICE_UNAVAILABLE,
        };
        let problem = Self::new(status, rejection.code(), rejection.to_string());
        let members = denial_members(&rejection, None).unwrap_or_default();
        Self {
            members,
            retryable: rejection.is_retryable(),
            retry_after: status == StatusCode::SERVICE_UNAVAILABLE,
            ..problem
        }
    }
}

/// As over gRPC: what is not there, what can never be, and what cannot be as things stand. What is not free is a
/// conflict with what others hold: a 429 would be retried in a loop.
const fn status_of(code: Code) -> StatusCode {
    match code {
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::InvalidArgument => StatusCode::UNPROCESSABLE_ENTITY,
        _ => StatusCode::CONFLICT,
    }
}

impl From<Denied> for Problem {
    /// 401 where it is not known who asks, 403 where it is and they may not (RFC 9110, 15.5).
    fn from(denied: Denied) -> Self {
        let detail = denied.detail();
        match denied {
            Denied::Missing => Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", detail),
            Denied::Invalid(_) => Self {
                challenge: Some("Bearer realm=\"hourglass\", error=\"invalid_token\""),
                ..Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", detail)
            },
            Denied::Forbidden { code, .. } => Self {
                challenge: Some("Bearer realm=\"hourglass\", error=\"insufficient_scope\""),
                ..Self::new(StatusCode::FORBIDDEN, code, detail)
            },
            Denied::Cell(error) => error.into(),
        }
    }
}

impl From<CellError> for Problem {
    fn from(error: CellError) -> Self {
        let detail = error.to_string();
        match error {
            CellError::Rejected(rejection) => rejection.into(),
            CellError::Unavailable(_) => Self::unavailable("unavailable", detail),
            CellError::Deposed | CellError::StandingBy { .. } => Self::unavailable("not_the_writer", detail),
            CellError::Closed => Self::unavailable("shut_down", detail),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the store failed");
        Self::unavailable(
            "store_failed",
            "the store does not answer as it should; its operator's log says more",
        )
    }
}

impl From<IngestError> for Problem {
    fn from(error: IngestError) -> Self {
        let detail = error.to_string();
        match error {
            IngestError::Quarantined { reason, position, .. } => {
                let status = StatusCode::UNPROCESSABLE_ENTITY;
                Self::new(status, reason, detail).with("quarantine_position", position)
            }
            IngestError::TooLarge { reason, .. } => Self::new(StatusCode::PAYLOAD_TOO_LARGE, reason, detail),
            IngestError::ForeignAgent { .. } => Self::new(StatusCode::FORBIDDEN, "agent_foreign", detail),
            IngestError::Cell(error) => error.into(),
        }
    }
}
