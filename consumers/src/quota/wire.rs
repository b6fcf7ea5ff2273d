//! Between messages and what the core understands. Whatever is wrong with a message is found here.

use hourglass_ledger::core::quotas::{Ask, QuotaCommand};
use hourglass_ledger::core::{Detail, IDEMPOTENCY_KEY_LENGTH_MAX, IdempotencyKey, Outcome};
use hourglass_proto::v1;
use hourglass_quota::hold::{HoldState, ITEMS_MAX};
use hourglass_quota::lease::{LEASE_MS, REFRESH_MS};
use hourglass_quota::{Class, HoldId, NodeName};
use hourglass_units::{IdError, Instant, ProjectId, ResourceName, TenantId};

use crate::auth::Principal;
use crate::refusal::Refusal;

type Result<T> = std::result::Result<T, Refusal>;

/// The methods that take an idempotency key. A key is its owner's own within a method, whichever way
/// the request comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Reserve,
    Commit,
    Release,
    Renew,
    Resize,
    AcquireLease,
    CreateAllowance,
    UpdateAllowance,
    DeleteAllowance,
    PlaceBid,
    UpdateBid,
    CancelBid,
}

impl Method {
    const fn path(self) -> &'static str {
        match self {
            Self::Reserve => "/hourglass.v1.QuotaService/Reserve",
            Self::Commit => "/hourglass.v1.QuotaService/Commit",
            Self::Release => "/hourglass.v1.QuotaService/Release",
            Self::Renew => "/hourglass.v1.QuotaService/Renew",
            Self::Resize => "/hourglass.v1.QuotaService/Resize",
            Self::AcquireLease => "/hourglass.v1.QuotaService/AcquireLease",
            Self::CreateAllowance => "/nebius.quotas.v1.QuotaAllowanceService/Create",
            Self::UpdateAllowance => "/nebius.quotas.v1.QuotaAllowanceService/Update",
            Self::DeleteAllowance => "/nebius.quotas.v1.QuotaAllowanceService/Delete",
            Self::PlaceBid => "/hourglass.v1.MarketService/PlaceBid",
            Self::UpdateBid => "/hourglass.v1.MarketService/UpdateBid",
            Self::CancelBid => "/hourglass.v1.MarketService/CancelBid",
        }
    }

    /// The name of a request, in the key space that HTTP uses too; `None` where none is given.
    pub(crate) fn key(self, principal: &Principal, key: &str) -> Result<Option<IdempotencyKey>> {
        if key.is_empty() {
            return match self {
                Self::Reserve | Self::AcquireLease => {
                    Err(Refusal::invalid("idempotency_key", "it is missing: choose one for each request"))
                }
                _ => Ok(None),
            };
        }
        if key.len() > IDEMPOTENCY_KEY_LENGTH_MAX || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            let what = format!("it has 1 to {IDEMPOTENCY_KEY_LENGTH_MAX} visible ASCII characters");
            return Err(Refusal::invalid("idempotency_key", what));
        }
        let scope = format!("{} POST {}", principal.name(), self.path());
        Ok(Some(IdempotencyKey::new(&scope, key)))
    }
}

/// What an answer repeats of its request.
#[derive(Debug, Default)]
pub(super) struct Echo {
    scope: Option<v1::QuotaScope>,
    items: Vec<v1::QuotaItem>,
}

/// A request about a hold, ready to be submitted.
pub(super) struct Asked {
    pub(super) command: QuotaCommand,
    pub(super) key: Option<IdempotencyKey>,
    pub(super) echo: Echo,
}

/// What can be asked about a hold.
pub(super) enum HoldRequest {
    Reserve(v1::ReserveRequest),
    Commit(v1::CommitRequest),
    Release(v1::ReleaseRequest),
    Renew(v1::RenewRequest),
    Resize(v1::ResizeRequest),
}

impl HoldRequest {
    /// Reads it.
    pub(super) fn read(self, principal: &Principal) -> Result<Asked> {
        let key = |method: Method, key: &str| method.key(principal, key);
        Ok(match self {
            Self::Reserve(request) => {
                let (tenant, project) = scope(request.scope.as_ref())?;
                Asked {
                    key: key(Method::Reserve, &request.idempotency_key)?,
                    command: QuotaCommand::Reserve {
                        tenant,
                        project,
                        items: items(&request.items)?,
                        ttl_ms: ttl_ms(request.ttl_seconds),
                    },
                    echo: Echo { scope: request.scope, items: request.items },
                }
            }
            Self::Commit(v1::CommitRequest { idempotency_key, hold }) => Asked {
                key: key(Method::Commit, &idempotency_key)?,
                command: QuotaCommand::Commit { hold: HoldId(hold) },
                echo: Echo::default(),
            },
            Self::Release(v1::ReleaseRequest { idempotency_key, hold }) => Asked {
                key: key(Method::Release, &idempotency_key)?,
                command: QuotaCommand::Release { hold: HoldId(hold) },
                echo: Echo::default(),
            },
            Self::Renew(v1::RenewRequest { idempotency_key, hold, ttl_seconds }) => Asked {
                key: key(Method::Renew, &idempotency_key)?,
                command: QuotaCommand::Renew { hold: HoldId(hold), ttl_ms: ttl_ms(ttl_seconds) },
                echo: Echo::default(),
            },
            Self::Resize(v1::ResizeRequest { idempotency_key, hold, items: asked }) => Asked {
                key: key(Method::Resize, &idempotency_key)?,
                command: QuotaCommand::Resize { hold: HoldId(hold), items: items(&asked)? },
                echo: Echo { scope: None, items: asked },
            },
        })
    }
}

/// The answer to a request about a hold.
pub(super) fn hold_response(outcome: &Outcome, echo: Echo) -> v1::HoldResponse {
    let already_applied = matches!(outcome, Outcome::AlreadyApplied(_));
    let answer = outcome.answer();
    let Detail::Hold { hold, state, expires_at } = answer.detail else {
        return v1::HoldResponse { hold: None, already_applied };
    };
    let Echo { scope, items } = echo;
    let ended = matches!(state, HoldState::Released | HoldState::Expired | HoldState::Taken);
    let hold = v1::Hold {
        id: hold.0,
        scope,
        items: if ended { Vec::new() } else { items },
        state: state_to_wire(state).into(),
        expires_unix_ms: expiry_to_wire(state, expires_at),
        position: answer.position.number(),
    };
    v1::HoldResponse { hold: Some(hold), already_applied }
}

/// When something expires, or did; 0 where it does not.
pub(super) const fn expiry_to_wire(state: HoldState, at: Instant) -> i64 {
    match state {
        HoldState::Pending | HoldState::Held | HoldState::Expired => at.unix_ms(),
        HoldState::Committed | HoldState::Released | HoldState::Taken => 0,
    }
}

pub(super) const fn state_to_wire(state: HoldState) -> v1::HoldState {
    match state {
        HoldState::Pending => v1::HoldState::Pending,
        HoldState::Held => v1::HoldState::Held,
        HoldState::Committed => v1::HoldState::Committed,
        HoldState::Released => v1::HoldState::Released,
        HoldState::Expired => v1::HoldState::Expired,
        HoldState::Taken => v1::HoldState::Taken,
    }
}

pub(crate) const fn class_to_wire(class: Class) -> v1::QuotaClass {
    match class {
        Class::OnDemand => v1::QuotaClass::OnDemand,
        Class::Preemptible => v1::QuotaClass::Preemptible,
        Class::Reserved => v1::QuotaClass::Reserved,
    }
}

/// What a quota is called where there are no classes: by its resource, and by another class than that
/// of on demand behind it.
pub(crate) fn allowance_name(resource: &str, class: v1::QuotaClass) -> String {
    match class {
        v1::QuotaClass::Unspecified | v1::QuotaClass::OnDemand => resource.to_owned(),
        v1::QuotaClass::Preemptible => format!("{resource}.{}", Class::Preemptible),
        v1::QuotaClass::Reserved => format!("{resource}.{}", Class::Reserved),
    }
}

fn ttl_ms(seconds: u32) -> i64 {
    i64::from(seconds).saturating_mul(1_000)
}

pub(super) fn class(class: i32) -> Result<Class> {
    match v1::QuotaClass::try_from(class) {
        Ok(v1::QuotaClass::OnDemand) => Ok(Class::OnDemand),
        Ok(v1::QuotaClass::Preemptible) => Ok(Class::Preemptible),
        Ok(v1::QuotaClass::Reserved) => Ok(Class::Reserved),
        Ok(v1::QuotaClass::Unspecified) | Err(_) => {
            Err(Refusal::invalid("class", "name it: on demand, preemptible or reserved"))
        }
    }
}

pub(super) fn resource(name: &str) -> Result<ResourceName> {
    ResourceName::new(name).map_err(|error| Refusal::invalid("resource", error.to_string()))
}

/// A vector: each resource once.
pub(super) fn items(items: &[v1::QuotaItem]) -> Result<Vec<Ask>> {
    if items.is_empty() || items.len() > ITEMS_MAX {
        return Err(Refusal::invalid("items", format!("give 1 to {ITEMS_MAX}")));
    }
    let mut asks: Vec<Ask> = Vec::with_capacity(items.len());
    for item in items {
        let resource = resource(&item.resource)?;
        if asks.iter().any(|ask| ask.resource == resource) {
            return Err(Refusal::invalid("items", format!("{resource} stands there twice")));
        }
        asks.push(Ask { resource, class: class(item.class)?, amount: item.amount });
    }
    Ok(asks)
}

/// A tenant's project.
pub(super) fn scope(scope: Option<&v1::QuotaScope>) -> Result<(TenantId, ProjectId)> {
    let scope = scope.ok_or_else(|| Refusal::invalid("scope", "say for whom"))?;
    Ok((tenant(&scope.tenant)?, project(&scope.project)?))
}

/// A tenant's project, or the whole tenant.
pub(super) fn node(scope: Option<&v1::QuotaScope>) -> Result<NodeName> {
    let scope = scope.ok_or_else(|| Refusal::invalid("scope", "say for whom"))?;
    let tenant = tenant(&scope.tenant)?;
    if scope.project.is_empty() {
        return Ok(NodeName::Tenant(tenant));
    }
    Ok(NodeName::Project(tenant, project(&scope.project)?))
}

fn tenant(id: &str) -> Result<TenantId> {
    TenantId::new(id).map_err(|error: IdError| Refusal::invalid("scope.tenant", error.to_string()))
}

fn project(id: &str) -> Result<ProjectId> {
    ProjectId::new(id).map_err(|error: IdError| Refusal::invalid("scope.project", error.to_string()))
}

/// The scope that a node stands for.
pub(super) fn scope_of(node: &NodeName) -> v1::QuotaScope {
    let project = match node {
        NodeName::Project(_, project) => project.to_string(),
        NodeName::Tenant(_) | NodeName::Group(..) => String::new(),
    };
    v1::QuotaScope { tenant: node.tenant().to_string(), project }
}

/// What of a lease never changes.
#[derive(Debug, Clone)]
pub(super) struct LeaseTerms {
    pub(super) node: NodeName,
    pub(super) resource: ResourceName,
    pub(super) class: Class,
    pub(super) holder: String,
    pub(super) safe_capacity: u64,
}

impl LeaseTerms {
    fn to_wire(&self) -> v1::Lease {
        v1::Lease {
            holder: self.holder.clone(),
            scope: Some(scope_of(&self.node)),
            resource: self.resource.to_string(),
            class: class_to_wire(self.class).into(),
            safe_capacity: self.safe_capacity,
            ..v1::Lease::default()
        }
    }

    /// A lease that was granted or refreshed.
    pub(super) fn active(&self, outcome: &Outcome) -> v1::LeaseResponse {
        let already_applied = matches!(outcome, Outcome::AlreadyApplied(_));
        let Detail::Lease { lease, version, capacity, expires_at } = outcome.answer().detail else {
            return v1::LeaseResponse { lease: None, already_applied };
        };
        let refresh = u32::try_from(REFRESH_MS.saturating_div(1_000)).unwrap_or(1);
        let lease = v1::Lease {
            id: lease.0,
            version,
            capacity,
            granted_unix_ms: expires_at.saturating_add_ms(LEASE_MS.saturating_neg()).unix_ms(),
            expires_unix_ms: expires_at.unix_ms(),
            refresh_interval_seconds: refresh,
            state: v1::LeaseState::Active.into(),
            ..self.to_wire()
        };
        v1::LeaseResponse { lease: Some(lease), already_applied }
    }

    /// A lease that was given back.
    pub(super) fn returned(&self, id: u64, already_applied: bool) -> v1::LeaseResponse {
        let lease = v1::Lease { id, state: v1::LeaseState::Returned.into(), ..self.to_wire() };
        v1::LeaseResponse { lease: Some(lease), already_applied }
    }
}
