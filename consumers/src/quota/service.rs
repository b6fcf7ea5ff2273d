//! `hourglass.v1.QuotaService`: single calls. A session is in `session`.

use std::sync::Arc;

use hourglass_ledger::cell::{CellError, Pending, Submission};
use hourglass_ledger::core::quotas::{QuotaCommand, QuotaEvent, QuotaRejection};
use hourglass_ledger::core::{
    Command, Decision, Event, Outcome, Position, Recorded, Rejection, Request as Question, State, decide,
};
use hourglass_proto::v1;
use hourglass_proto::v1::quota_service_server;
use hourglass_quota::hold::{HoldState, TTL_MS_MIN};
use hourglass_quota::{HoldId, LeaseId, NodeName};
use hourglass_units::{Instant, TenantId};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::session;
use super::wire::{
    Asked, HoldRequest, LeaseTerms, Method, class, class_to_wire, expiry_to_wire, hold_response, items, node,
    resource, scope, scope_of, state_to_wire,
};
use crate::auth::Principal;
use crate::auth::roles::{Permission, Reach};
use crate::grpc::{Gate, credentials};
use crate::refusal::{Refusal, refused};

/// Says what may run, and keeps it for who asks.
#[derive(Clone)]
pub(crate) struct QuotaService(Gate);

/// Who asks, and how far it may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) principal: Principal,
    holds: bool,
    reads: Reach,
}

/// What a check has seen.
pub(super) struct Checked {
    /// Whether it waits for lent quota, or why it does not fit.
    fit: Result<bool, Rejection>,
    as_of: v1::AsOf,
}

impl Caller {
    pub(super) fn new(principal: Principal) -> Self {
        let holds = principal.reach(Permission::WriteHolds) == Reach::All;
        let reads = principal.reach(Permission::ReadQuotas);
        Self { principal, holds, reads }
    }

    /// Refuses who may neither hold nor look.
    pub(super) fn may_anything(&self) -> Result<(), Refusal> {
        if self.holds || self.reads != Reach::None { Ok(()) } else { self.lacks(Permission::ReadQuotas) }
    }

    /// Refuses who may not hold.
    pub(super) fn may_hold(&self) -> Result<(), Refusal> {
        if self.holds { Ok(()) } else { self.lacks(Permission::WriteHolds) }
    }

    /// Refuses who may not look at all.
    pub(super) fn may_read(&self) -> Result<(), Refusal> {
        if self.reads == Reach::None { self.lacks(Permission::ReadQuotas) } else { Ok(()) }
    }

    /// Refuses who may not set limits.
    pub(super) fn may_set(&self) -> Result<(), Refusal> {
        match self.principal.reach(Permission::WriteQuotas) {
            Reach::All => Ok(()),
            Reach::Own | Reach::None => self.lacks(Permission::WriteQuotas),
        }
    }

    /// Whether what a tenant has may be seen.
    pub(super) fn sees(&self, tenant: &TenantId) -> bool {
        match self.reads {
            Reach::All => true,
            Reach::Own => self.principal.tenant() == Some(tenant),
            Reach::None => false,
        }
    }

    fn lacks(&self, permission: Permission) -> Result<(), Refusal> {
        Err(Refusal::lacks(&self.principal, permission))
    }
}

impl QuotaService {
    pub(crate) const fn new(gate: Gate) -> Self {
        Self(gate)
    }

    pub(super) const fn gate(&self) -> &Gate {
        &self.0
    }

    pub(super) async fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        Ok(Caller::new(self.0.principal(request.metadata().as_ref()).await?))
    }

    /// Why the cell does not do it.
    pub(super) async fn refused(&self, error: CellError) -> Refusal {
        refused(&self.0, error).await
    }

    /// Gives a request about a hold its place in the cell's queue.
    pub(super) async fn ask(&self, asked: Asked) -> Result<(Pending, super::wire::Echo), CellError> {
        let Asked { command, key, echo } = asked;
        let submission = Submission { command: command.into(), key, at: None };
        Ok((self.0.cell().enqueue(submission).await?, echo))
    }

    async fn hold<T>(
        &self,
        request: Request<T>,
        of: impl FnOnce(T) -> HoldRequest,
    ) -> Result<Response<v1::HoldResponse>, Status> {
        let caller = self.caller(&request).await?;
        caller.may_hold()?;
        let asked = of(request.into_inner()).read(&caller.principal)?;
        let done = async {
            let (outcome, echo) = self.ask(asked).await?;
            Ok(hold_response(&outcome.await?, echo))
        };
        match done.await {
            Ok(response) => Ok(Response::new(response)),
            Err(error) => Err(self.refused(error).await.into()),
        }
    }

    /// Gives a check its place in the cell's queue. What is asked is the reservation itself, decided and
    /// not carried out: so both always say the same.
    pub(super) async fn look(
        &self,
        caller: &Caller,
        request: &v1::CheckRequest,
    ) -> Result<Result<Pending<Checked>, CellError>, Refusal> {
        caller.may_read()?;
        let (tenant, project) = scope(request.scope.as_ref())?;
        if !caller.sees(&tenant) {
            return Err(Refusal::of_rejection(Rejection::TenantUnknown { tenant }, ""));
        }
        let items = items(&request.items)?;
        let command: Command = QuotaCommand::Reserve { tenant, project, items, ttl_ms: TTL_MS_MIN }.into();
        let now = self.0.cell().now();
        Ok(self.0.cell().enqueue_read(move |state| checked(state, &command, now)).await)
    }

    /// The answer to a check.
    pub(super) async fn told(&self, checked: Checked) -> Result<v1::CheckResponse, Refusal> {
        let as_of = Some(checked.as_of);
        let rejection = match checked.fit {
            Ok(after_reclaim) => {
                return Ok(v1::CheckResponse { fits: true, denial: None, as_of, after_reclaim });
            }
            Err(rejection) => rejection,
        };
        let denial = self.refused(CellError::Rejected(rejection)).await.into_denial()?;
        Ok(v1::CheckResponse { fits: false, denial: Some(denial), as_of, after_reclaim: false })
    }

    /// The event of a position, read from the log; `None` where there is none.
    async fn event(&self, position: u64) -> Result<Option<Event>, Refusal> {
        Ok(logged(&self.0, position).await?.map(|(_, event)| event))
    }

    /// A hold, where the caller sees its tenant.
    async fn find(&self, caller: &Caller, id: HoldId) -> Result<v1::Hold, Refusal> {
        let now = self.0.cell().now();
        let read = self.0.cell().read(move |state| hold_of(state, id, now)).await;
        let found = match read {
            Ok(found) => found,
            Err(error) => return Err(self.refused(error).await),
        };
        let unknown = || {
            let unknown = QuotaRejection::Hold(hourglass_quota::hold::HoldError::Unknown { hold: id });
            Refusal::of_rejection(unknown.into(), "")
        };
        let (node, hold) = found.ok_or_else(unknown)?;
        // Of one that has ended the state knows no more than that; its event tells whose it was.
        let node = match node {
            Some(node) => node,
            None => match self.event(id.0).await? {
                Some(Event::Quota(QuotaEvent::HoldTaken { tenant, project, .. })) => {
                    NodeName::Project(tenant, project)
                }
                _ => return Err(Refusal::internal()),
            },
        };
        if !caller.sees(node.tenant()) {
            return Err(unknown());
        }
        Ok(v1::Hold { scope: Some(scope_of(&node)), ..hold })
    }

    /// What of a lease never changes: the state knows it as long as the lease is there, the log for ever.
    async fn terms(&self, id: LeaseId) -> Result<Option<LeaseTerms>, Refusal> {
        let read = self.0.cell().read(move |state| terms_of(state, id)).await;
        match read {
            Ok(Some(terms)) => Ok(Some(terms)),
            Ok(None) => Ok(match self.event(id.0).await? {
                Some(Event::Quota(QuotaEvent::LeaseGranted {
                    node,
                    resource,
                    class,
                    holder,
                    safe_capacity,
                    ..
                })) => Some(LeaseTerms { node, resource, class, holder, safe_capacity }),
                _ => None,
            }),
            Err(error) => Err(self.refused(error).await),
        }
    }

    async fn submit(&self, submission: Submission) -> Result<Outcome, Refusal> {
        match self.0.cell().submit(submission).await {
            Ok(outcome) => Ok(outcome),
            Err(error) => Err(self.refused(error).await),
        }
    }
}

/// When an event happened, and what it is, read from the log; `None` where there is none.
pub(super) async fn logged(gate: &Gate, position: u64) -> Result<Option<(Instant, Event)>, Refusal> {
    let Some(before) = position.checked_sub(1) else { return Ok(None) };
    let reader = Arc::clone(gate.cell().reader());
    let read = tokio::task::spawn_blocking(move || reader.events(Position::new(before), 1)).await;
    let events = read.map_err(|_| Refusal::internal())??;
    let Some(stored) = events.into_iter().find(|event| event.position.number() == position) else {
        return Ok(None);
    };
    match Recorded::decode(&stored.payload) {
        Ok(recorded) => Ok(Some((stored.at, recorded.event))),
        Err(error) => {
            tracing::error!(%error, position, "an event cannot be read");
            Err(Refusal::internal())
        }
    }
}

fn checked(state: &State, command: &Command, now: Instant) -> Checked {
    // The chain goes into invoices alone.
    let chain_hash = blake3::Hash::from_bytes([0; blake3::OUT_LEN]);
    let question = Question { command, key: None, now: now.max(state.now()), chain_hash };
    let fit = decide(state, &question).map(|decision| {
        let Decision::Happens(recorded) = decision else { return false };
        matches!(recorded.event, Event::Quota(QuotaEvent::HoldTaken { pending: true, .. }))
    });
    let as_of = v1::AsOf { position: state.position().number(), unix_ms: state.now().unix_ms() };
    Checked { fit, as_of }
}

/// A hold as it is told, and its node, where that is known still.
fn hold_of(state: &State, id: HoldId, now: Instant) -> Option<(Option<NodeName>, v1::Hold)> {
    let quotas = state.quotas();
    let Some(hold) = quotas.holds().get(id) else {
        let ended = quotas.holds().ended(id)?;
        let hold = v1::Hold {
            id: id.0,
            state: state_to_wire(ended.state).into(),
            expires_unix_ms: expiry_to_wire(ended.state, ended.at),
            position: ended.position,
            ..v1::Hold::default()
        };
        return Some((None, hold));
    };
    // What is past its time has expired, also before the event that says so.
    let over = hold.state != HoldState::Committed && hold.expires_at <= now;
    let is = if over { HoldState::Expired } else { hold.state };
    let item = |(key, amount): &(_, u64)| {
        let key = quotas.tree().key_of(*key)?;
        let (resource, class) = (key.resource.to_string(), class_to_wire(key.class).into());
        Some(v1::QuotaItem { resource, class, amount: *amount })
    };
    let told = v1::Hold {
        id: id.0,
        scope: None,
        items: if over { Vec::new() } else { hold.items.iter().filter_map(item).collect() },
        state: state_to_wire(is).into(),
        expires_unix_ms: expiry_to_wire(is, hold.expires_at),
        position: hold.changed,
    };
    Some((quotas.tree().name(hold.node).cloned(), told))
}

fn terms_of(state: &State, id: LeaseId) -> Option<LeaseTerms> {
    let (tree, leases) = (state.quotas().tree(), state.quotas().leases());
    let lease = leases.get(id)?;
    let key = tree.key_of(lease.key)?;
    Some(LeaseTerms {
        node: tree.name(lease.node)?.clone(),
        resource: key.resource,
        class: key.class,
        holder: lease.holder.clone(),
        safe_capacity: lease.safe_capacity,
    })
}

#[tonic::async_trait]
impl quota_service_server::QuotaService for QuotaService {
    async fn check(&self, request: Request<v1::CheckRequest>) -> Result<Response<v1::CheckResponse>, Status> {
        let caller = self.caller(&request).await?;
        let looked =
            async { self.look(&caller, request.get_ref()).await.map(|pending| async { pending?.await }) };
        match looked.await?.await {
            Ok(checked) => Ok(Response::new(self.told(checked).await?)),
            Err(error) => Err(self.refused(error).await.into()),
        }
    }

    async fn reserve(
        &self,
        request: Request<v1::ReserveRequest>,
    ) -> Result<Response<v1::HoldResponse>, Status> {
        self.hold(request, HoldRequest::Reserve).await
    }

    async fn commit(
        &self,
        request: Request<v1::CommitRequest>,
    ) -> Result<Response<v1::HoldResponse>, Status> {
        self.hold(request, HoldRequest::Commit).await
    }

    async fn release(
        &self,
        request: Request<v1::ReleaseRequest>,
    ) -> Result<Response<v1::HoldResponse>, Status> {
        self.hold(request, HoldRequest::Release).await
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::HoldResponse>, Status> {
        self.hold(request, HoldRequest::Renew).await
    }

    async fn resize(
        &self,
        request: Request<v1::ResizeRequest>,
    ) -> Result<Response<v1::HoldResponse>, Status> {
        self.hold(request, HoldRequest::Resize).await
    }

    async fn get_hold(&self, request: Request<v1::GetHoldRequest>) -> Result<Response<v1::Hold>, Status> {
        let caller = self.caller(&request).await?;
        caller.may_read()?;
        Ok(Response::new(self.find(&caller, HoldId(request.get_ref().hold)).await?))
    }

    type SessionStream = ReceiverStream<Result<v1::SessionResponse, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let caller = self.caller(&request).await?;
        caller.may_anything()?;
        let headers = credentials(request.metadata().as_ref());
        Ok(Response::new(session::open(self.clone(), caller, headers, request.into_inner())))
    }

    async fn acquire_lease(
        &self,
        request: Request<v1::AcquireLeaseRequest>,
    ) -> Result<Response<v1::LeaseResponse>, Status> {
        let caller = self.caller(&request).await?;
        caller.may_hold()?;
        let request = request.into_inner();
        let key = Method::AcquireLease.key(&caller.principal, &request.idempotency_key)?;
        let terms = LeaseTerms {
            node: node(request.scope.as_ref())?,
            resource: resource(&request.resource)?,
            class: class(request.class)?,
            holder: request.holder,
            safe_capacity: request.safe_capacity,
        };
        let LeaseTerms { node, resource, class, holder, safe_capacity } = terms.clone();
        let wants = request.wants;
        let command = QuotaCommand::AcquireLease { node, resource, class, holder, wants, safe_capacity };
        let outcome = self.submit(Submission { command: command.into(), key, at: None }).await?;
        Ok(Response::new(terms.active(&outcome)))
    }

    async fn refresh_lease(
        &self,
        request: Request<v1::RefreshLeaseRequest>,
    ) -> Result<Response<v1::LeaseResponse>, Status> {
        self.caller(&request).await?.may_hold()?;
        let v1::RefreshLeaseRequest { lease, wants, known_version, in_use } = request.into_inner();
        let lease = LeaseId(lease);
        let command: Command = QuotaCommand::RefreshLease { lease, wants, known_version, in_use }.into();
        let outcome = self.submit(command.into()).await?;
        let terms = self.terms(lease).await?.ok_or_else(Refusal::internal)?;
        Ok(Response::new(terms.active(&outcome)))
    }

    async fn return_lease(
        &self,
        request: Request<v1::ReturnLeaseRequest>,
    ) -> Result<Response<v1::LeaseResponse>, Status> {
        self.caller(&request).await?.may_hold()?;
        let id = request.get_ref().lease;
        let lease = LeaseId(id);
        let command: Command = QuotaCommand::ReturnLease { lease }.into();
        let already = match self.0.cell().submit(command).await {
            Ok(_) => false,
            Err(CellError::Rejected(Rejection::Quota(QuotaRejection::LeaseUnknown { .. }))) => true,
            Err(error) => return Err(self.refused(error).await.into()),
        };
        match self.terms(lease).await? {
            Some(terms) => Ok(Response::new(terms.returned(id, already))),
            // It never was.
            None => Err(Refusal::of_rejection(QuotaRejection::LeaseUnknown { lease }.into(), "").into()),
        }
    }
}
