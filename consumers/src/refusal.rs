//! Why something is not done: one form, told as a status, or within a session.

use hourglass_ledger::cell::CellError;
use hourglass_ledger::core::Rejection;
use hourglass_ledger::core::market::MarketRejection;
use hourglass_ledger::core::quotas::{QuotaRejection, SpendDenied};
use hourglass_ledger::store::StoreError;
use hourglass_proto::google::rpc;
use hourglass_proto::nebius::common::v1::service_error::{Details, RetryType};
use hourglass_proto::nebius::common::v1::{
    BadRequest, PermissionDenied, QuotaFailure, ResourceConflict, ResourceNotFound, ServiceError,
    bad_request, quota_failure,
};
use hourglass_proto::v1;
use hourglass_quota::Bound;
use hourglass_quota::denial::Denial;
use hourglass_quota::hold::HoldError;
use prost::Message;
use prost_types::Any;
use tonic::{Code, Status};

use crate::auth::roles::Permission;
use crate::auth::{Denied, Principal};
use crate::grpc::Gate;
use crate::quota::wire::{allowance_name, class_to_wire};

/// How errors name the service.
const QUOTAS: &str = "quotas";
const MARKET: &str = "market";
const CAPACITY: &str = "capacity";

/// Why the cell does not do it.
pub(crate) async fn refused(gate: &Gate, error: CellError) -> Refusal {
    let region = gate.region().await.unwrap_or_default();
    Refusal::of_cell(error, &region)
}

/// Why not.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    service: &'static str,
    code: Code,
    /// For programs. Stable.
    reason: &'static str,
    /// For people.
    message: String,
    retry: RetryType,
    /// The limit that is in the way.
    denial: Option<Box<v1::QuotaDenial>>,
    details: Option<Box<Details>>,
}

impl Refusal {
    fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            service: QUOTAS,
            code,
            reason,
            message,
            retry: RetryType::Nothing,
            denial: None,
            details: None,
        }
    }

    fn with(self, details: Details) -> Self {
        Self { details: Some(Box::new(details)), ..self }
    }

    /// A field of the request breaks the contract.
    pub(crate) fn invalid(field: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        let violation = bad_request::Violation {
            field: field.to_owned(),
            message: message.clone(),
            related_fields: Vec::new(),
        };
        Self::new(Code::InvalidArgument, "request_invalid", format!("{field}: {message}"))
            .with(Details::BadRequest(BadRequest { violations: vec![violation] }))
    }

    /// What is asked for is beyond what can be told.
    pub(crate) fn out_of_range(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(Code::OutOfRange, reason, message)
    }

    /// The same, of the market.
    pub(crate) fn of_market(self) -> Self {
        Self { service: MARKET, ..self }
    }

    /// The same, of what is reserved and to be had.
    pub(crate) fn of_capacity(self) -> Self {
        Self { service: CAPACITY, ..self }
    }

    /// There is no such thing, for this caller.
    pub(crate) fn not_found(reason: &'static str, resource: &str, message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, reason, message)
            .with(Details::ResourceNotFound(ResourceNotFound { resource_id: resource.to_owned() }))
    }

    /// The resource is not as the caller thinks.
    pub(super) fn conflict(reason: &'static str, resource: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        let conflict = ResourceConflict { resource_id: resource.to_owned(), message: message.clone() };
        Self::new(Code::FailedPrecondition, reason, message).with(Details::ResourceConflict(conflict))
    }

    /// The method is not served.
    pub(super) fn unimplemented(message: &str) -> Self {
        Self::new(Code::Unimplemented, "unimplemented", message)
    }

    /// The log is not as it must be.
    pub(crate) fn internal() -> Self {
        Self::new(Code::Internal, "internal", "the server failed; its log says more")
    }

    /// The caller lacks a permission.
    pub(crate) fn lacks(principal: &Principal, permission: Permission) -> Self {
        let detail = Denied::lacks(principal, permission).detail();
        let denied = PermissionDenied { resource_id: String::new() };
        Self::new(Code::PermissionDenied, "forbidden", detail).with(Details::PermissionDenied(denied))
    }

    /// What the cell says. `region` is the one that it serves.
    pub(super) fn of_cell(error: CellError, region: &str) -> Self {
        let text = error.to_string();
        let again = |reason| Self { retry: RetryType::Call, ..Self::new(Code::Unavailable, reason, text) };
        match error {
            CellError::Unavailable(_) => again("unavailable"),
            CellError::Deposed | CellError::StandingBy { .. } => again("not_the_writer"),
            CellError::Closed => again("shut_down"),
            CellError::Rejected(rejection) => Self::of_rejection(rejection, region),
        }
    }

    /// What the core says.
    pub(crate) fn of_rejection(rejection: Rejection, region: &str) -> Self {
        let (reason, text) = (rejection.code(), rejection.to_string());
        match rejection {
            Rejection::Quota(rejection) => Self::of_quota(&rejection, text, region),
            Rejection::Market(rejection) => Self::new(market_code(&rejection), reason, text),
            Rejection::TenantUnknown { tenant } => Self::not_found(reason, tenant.as_str(), text),
            rejection if rejection.is_retryable() => {
                Self { retry: RetryType::Call, ..Self::new(Code::Unavailable, reason, text) }
            }
            _ => Self::new(Code::FailedPrecondition, reason, text),
        }
    }

    fn of_quota(rejection: &QuotaRejection, text: String, region: &str) -> Self {
        let retry = if rejection.is_retryable() { RetryType::Call } else { RetryType::Nothing };
        let refusal = Self { retry, ..Self::new(quota_code(rejection), rejection.code(), text) };
        match rejection {
            // To repeat the call alone is of no use: something has to be given back first.
            QuotaRejection::Denied(denial) => {
                refusal.denied(denial_to_wire(denial, region), RetryType::UnitOfWork)
            }
            QuotaRejection::NeedsReclaim { denial } => {
                refusal.denied(denial_to_wire(denial, region), RetryType::Call)
            }
            QuotaRejection::SpendDenied(denial) => {
                refusal.denied(spend_to_wire(denial, region), RetryType::UnitOfWork)
            }
            _ => refusal,
        }
    }

    fn denied(self, denial: v1::QuotaDenial, retry: RetryType) -> Self {
        let (quota, limit, requested) = match &denial.spend {
            Some(spend) => (format!("spend.{}", spend.cap), spend.limit.clone(), spend.asked.clone()),
            None => {
                let asked = denial.used.saturating_add(denial.held).saturating_add(denial.asked);
                (
                    allowance_name(&denial.resource, denial.class()),
                    denial.limit.to_string(),
                    asked.to_string(),
                )
            }
        };
        let violation = quota_failure::Violation { quota, message: self.message.clone(), limit, requested };
        let failure = Details::QuotaFailure(QuotaFailure { violations: vec![violation] });
        Self { denial: Some(Box::new(denial)), retry, ..self.with(failure) }
    }

    /// The limit that is in the way, where it is one.
    pub(super) fn into_denial(self) -> Result<v1::QuotaDenial, Self> {
        match self.denial {
            Some(denial) => Ok(*denial),
            None => Err(self),
        }
    }

    /// As the answer to a request of a session.
    pub(super) fn into_response(self) -> v1::session_response::Response {
        use v1::session_response::Response;
        match self.into_denial() {
            Ok(denial) => Response::Denial(denial),
            Err(refusal) => Response::Error(v1::SessionError {
                grpc_code: refusal.code as i32,
                code: refusal.reason.to_owned(),
                retryable: refusal.retry == RetryType::Call,
                message: refusal.message,
            }),
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the store failed");
        let text = "the store does not answer as it should; its operator's log says more";
        Self { retry: RetryType::Call, ..Self::new(Code::Unavailable, "store_failed", text) }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let Refusal { service, code, reason, message, retry, denial, details } = refusal;
        let mut packed: Vec<Any> =
            denial.into_iter().filter_map(|denial| Any::from_msg(denial.as_ref()).ok()).collect();
        let error = ServiceError {
            service: service.to_owned(),
            code: reason.to_owned(),
            retry_type: retry.into(),
            details: details.map(|details| *details),
        };
        packed.extend(Any::from_msg(&error));
        let status = rpc::Status { code: code as i32, message: message.clone(), details: packed };
        Self::with_details(code, message, status.encode_to_vec().into())
    }
}

/// Which status a rejection has. No variant is left to a default: a new one has to be given its own.
pub(crate) const fn quota_code(rejection: &QuotaRejection) -> Code {
    use QuotaRejection as Q;
    match rejection {
        Q::NodeUnknown { .. }
        | Q::CapUnknown { .. }
        | Q::BudgetUnknown { .. }
        | Q::LeaseUnknown { .. }
        | Q::RequestUnknown { .. }
        | Q::Hold(HoldError::Unknown { .. }) => Code::NotFound,
        Q::Denied(_)
        | Q::NeedsReclaim { .. }
        | Q::SpendDenied(_)
        | Q::HoldsFull
        | Q::LeasesFull
        | Q::NodesFull
        | Q::BudgetsFull
        | Q::ResourcesFull
        | Q::RequestsFull => Code::ResourceExhausted,
        Q::GroupExists { .. } => Code::AlreadyExists,
        Q::TooDeep { .. }
        | Q::Hold(_)
        | Q::HoldMismatch { .. }
        | Q::CostUnbounded { .. }
        | Q::LeaseInconsistent { .. }
        | Q::RequestDecided { .. }
        | Q::BelowUse { .. }
        | Q::NothingDue => Code::FailedPrecondition,
        Q::ItemsInvalid(_)
        | Q::LimitsInvalid(_)
        | Q::TtlOutOfRange
        | Q::Cap(_)
        | Q::BudgetInvalid(_)
        | Q::RequestInvalid(_)
        | Q::TextInvalid
        | Q::RulesInvalid
        | Q::ListingInvalid(_) => Code::InvalidArgument,
    }
}

/// The same of the market.
pub(crate) const fn market_code(rejection: &MarketRejection) -> Code {
    use MarketRejection as M;
    match rejection {
        M::PoolUnknown { .. } | M::BidUnknown { .. } | M::NoLife { .. } => Code::NotFound,
        M::BidExists { .. } => Code::AlreadyExists,
        M::PoolsFull | M::BidsFull | M::PoolFull { .. } | M::AllowanceUsed { .. } | M::ClaimsFull { .. } => {
            Code::ResourceExhausted
        }
        M::PoolCurrencyFixed { .. }
        | M::CurrencyDiffers { .. }
        | M::BidCancelled { .. }
        | M::AboveSupply { .. }
        | M::GangRuns { .. }
        | M::IsAUnit { .. }
        | M::Life(_)
        | M::BackendFixed { .. }
        | M::CapacityOfOperator { .. }
        | M::Suspended { .. }
        | M::NotSuspended { .. }
        | M::NodesExceedPool { .. }
        | M::MaintenanceOver { .. }
        | M::FabricDiffers { .. }
        | M::WithoutFabric { .. }
        | M::ReservationOver { .. }
        | M::NotLent { .. }
        | M::Calendar(_)
        | M::NothingNew
        | M::NothingToClear => Code::FailedPrecondition,
        M::PoolElsewhere { .. }
        | M::ListingTooLong
        | M::NoticeOutOfRange
        | M::DrainOutOfRange
        | M::OwnerShareAboveWhole
        | M::Node(_)
        | M::CapacityInvalid { .. }
        | M::FabricOfSpot
        | M::ClaimOfNothing
        | M::Allowances(_)
        | M::PoolTwice { .. }
        | M::Bid(_)
        | M::LimitZero
        | M::ExpiresInThePast => Code::InvalidArgument,
    }
}

fn denial_to_wire(denial: &Denial, region: &str) -> v1::QuotaDenial {
    let Denial { node, key, limit, borrowed, used, held, asked, fits } = denial;
    v1::QuotaDenial {
        node: node.as_ref().map(ToString::to_string).unwrap_or_default(),
        resource: key.as_ref().map(|key| key.resource.to_string()).unwrap_or_default(),
        class: key.as_ref().map_or(v1::QuotaClass::Unspecified, |key| class_to_wire(key.class)).into(),
        region: region.to_owned(),
        limit: match limit {
            Bound::Unlimited => u64::MAX,
            Bound::AtMost(most) => *most,
        },
        used: *used,
        held: *held,
        asked: *asked,
        fits: *fits,
        spend: None,
        borrowed: *borrowed,
    }
}

fn spend_to_wire(denied: &SpendDenied, region: &str) -> v1::QuotaDenial {
    let SpendDenied { node, currency, denial } = denied;
    v1::QuotaDenial {
        node: node.to_string(),
        region: region.to_owned(),
        spend: Some(v1::SpendDenial {
            cap: denial.period.as_str().to_owned(),
            currency: currency.to_string(),
            limit: denial.limit.to_string(),
            spent: denial.spent.to_string(),
            held: denial.held.to_string(),
            asked: denial.asked.to_string(),
        }),
        ..v1::QuotaDenial::default()
    }
}

#[cfg(test)]
mod tests {
    use hourglass_quota::NodeName;
    use hourglass_quota::cap::{CapPeriod, SpendDenial};
    use hourglass_units::Amount;

    use super::*;

    fn denied(rejection: QuotaRejection) -> (Code, RetryType, v1::QuotaDenial, String) {
        let refusal = Refusal::of_rejection(rejection.into(), "eu");
        let (code, retry, details) = (refusal.code, refusal.retry, refusal.details.clone());
        let Some(Details::QuotaFailure(failure)) = details.map(|details| *details) else {
            panic!("no failure")
        };
        let quota = failure.violations[0].quota.clone();
        (code, retry, refusal.into_denial().unwrap(), quota)
    }

    #[test]
    fn money_that_is_wanting_is_told_as_money() {
        let amount = |text: &str| Amount::parse(text).unwrap();
        let (code, retry, denial, quota) = denied(QuotaRejection::SpendDenied(Box::new(SpendDenied {
            node: "tenants/acme/projects/ml".parse().unwrap(),
            currency: "USD".parse().unwrap(),
            denial: SpendDenial {
                period: CapPeriod::Monthly,
                limit: amount("100"),
                spent: amount("90.5"),
                held: amount("8"),
                asked: amount("2.75"),
            },
        })));
        assert_eq!(
            (code, retry, quota.as_str()),
            (Code::ResourceExhausted, RetryType::UnitOfWork, "spend.monthly")
        );
        let text = str::to_owned;
        let spend = v1::SpendDenial {
            cap: text("monthly"),
            currency: text("USD"),
            limit: text("100"),
            spent: text("90.5"),
            held: text("8"),
            asked: text("2.75"),
        };
        let expected = v1::QuotaDenial {
            node: text("tenants/acme/projects/ml"),
            region: text("eu"),
            spend: Some(spend),
            ..v1::QuotaDenial::default()
        };
        assert_eq!(denial, expected);
    }

    #[test]
    fn what_is_lent_out_may_be_asked_for_again() {
        let denial = Denial {
            node: Some(NodeName::Tenant("acme".parse().unwrap())),
            key: None,
            limit: Bound::Unlimited,
            borrowed: 0,
            used: 0,
            held: 0,
            asked: 1,
            fits: 0,
        };
        let (code, retry, denial, _) = denied(QuotaRejection::NeedsReclaim { denial: Box::new(denial) });
        assert_eq!((code, retry, denial.limit), (Code::ResourceExhausted, RetryType::Call, u64::MAX));
    }
}
