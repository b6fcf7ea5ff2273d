//! `nebius.common.v1.OperationService`: what became of a change of a quota.
//!
//! A change is committed before it is answered, so its operation has always ended, and well. It is named
//! `quotaop-POSITION` by its event, and read back from there: nothing else is kept, and it is never
//! forgotten. What the event does not say (who made the call, and as which message) stands in none.

use hourglass_ledger::core::quotas::QuotaEvent;
use hourglass_ledger::core::{Event, State};
use hourglass_proto::google::rpc;
use hourglass_proto::nebius::common::v1::operation_service_server::OperationService;
use hourglass_proto::nebius::common::v1::{
    GetOperationRequest, ListOperationsRequest, ListOperationsResponse, Operation,
};
use hourglass_quota::Key;
use hourglass_units::Instant;
use prost_types::Timestamp;
use tonic::{Request, Response, Status};

use super::allowances::id_of;
use super::service::{Caller, logged};
use crate::grpc::Gate;
use crate::refusal::{Refusal, refused};

/// How the ids of operations begin.
const ID_PREFIX: &str = "quotaop-";

/// Serves operations.
#[derive(Clone)]
pub(crate) struct Operations(Gate);

impl Operations {
    pub(crate) const fn new(gate: Gate) -> Self {
        Self(gate)
    }

    async fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let caller = Caller::new(self.0.principal(request.metadata().as_ref()).await?);
        caller.may_read()?;
        Ok(caller)
    }
}

/// The operation of an event, where it is one and the caller sees it.
pub(super) async fn operation_at(
    gate: &Gate,
    caller: &Caller,
    position: u64,
) -> Result<Option<Operation>, Refusal> {
    let Some((at, Event::Quota(QuotaEvent::LimitsSet { node, resource, class, limits }))) =
        logged(gate, position).await?
    else {
        return Ok(None);
    };
    if !caller.sees(node.tenant()) {
        return Ok(None);
    }
    let key = Key { resource, class };
    let description = match &limits {
        Some(limits) => format!("the limit of {node} on {key} is {}", limits.nominal),
        None => format!("{node} has no limit of its own on {key}"),
    };
    let read = move |state: &State| {
        let tree = state.quotas().tree();
        Some(id_of(tree.find(&node)?, tree.key(&key.resource, key.class)?))
    };
    let resource_id = match gate.cell().read(read).await {
        Ok(id) => id.unwrap_or_default(),
        Err(error) => return Err(refused(gate, error).await),
    };
    Ok(Some(Operation {
        id: format!("{ID_PREFIX}{position}"),
        description,
        created_at: Some(timestamp(at)),
        finished_at: Some(timestamp(at)),
        resource_id,
        status: Some(rpc::Status::default()),
        ..Operation::default()
    }))
}

fn timestamp(at: Instant) -> Timestamp {
    const MS: i64 = 1_000;
    let nanos = at.unix_ms().rem_euclid(MS).saturating_mul(1_000_000);
    Timestamp { seconds: at.unix_ms().div_euclid(MS), nanos: i32::try_from(nanos).unwrap_or(0) }
}

#[tonic::async_trait]
impl OperationService for Operations {
    async fn get(&self, request: Request<GetOperationRequest>) -> Result<Response<Operation>, Status> {
        let caller = self.caller(&request).await?;
        let id = request.into_inner().id;
        let position = id.strip_prefix(ID_PREFIX).and_then(|position| position.parse::<u64>().ok());
        let found = match position.filter(|position| format!("{ID_PREFIX}{position}") == id) {
            Some(position) => operation_at(&self.0, &caller, position).await?,
            None => None,
        };
        let unknown =
            || Refusal::not_found("operation_unknown", &id, format!("there is no operation {id:?}"));
        Ok(Response::new(found.ok_or_else(unknown)?))
    }

    /// The log is ordered by time alone, so a list of one quota's changes would read all of it.
    async fn list(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
        self.caller(&request).await?;
        let text =
            "operations are not listed: a change of a quota has ended when it is answered, and Get finds it";
        Err(Refusal::unimplemented(text).into())
    }
}
