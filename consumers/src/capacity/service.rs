//! The three services: each method reads its request, asks the state, and writes the answer.

use std::fmt::Display;
use std::str::FromStr;

use hourglass_capacity::pool::PoolName;
use hourglass_compute::ComputeError;
use hourglass_compute::ids::{BlockGroupId, IntervalId, ParentId};
use hourglass_compute::messages;
use hourglass_ledger::core::{Rejection, State};
use hourglass_proto::nebius::capacity::v1 as wire;
use hourglass_proto::nebius::capacity::v1::capacity_block_group_service_server::CapacityBlockGroupService;
use hourglass_proto::nebius::capacity::v1::capacity_interval_service_server::CapacityIntervalService;
use hourglass_proto::nebius::capacity::v1::resource_advice_service_server::ResourceAdviceService;
use hourglass_units::{Instant, TenantId};
use tonic::{Request, Response, Status};

use super::advice::{Asker, Offer, offers};
use super::groups::{Group, group_in, groups_of, interval};
use super::page::Page;
use crate::auth::Principal;
use crate::auth::roles::{Permission, Reach};
use crate::grpc::Gate;
use crate::quota::check_region;
use crate::refusal::{Refusal, refused};

type Result<T, E = Refusal> = std::result::Result<T, E>;

/// Serves what is reserved, and what can be had.
#[derive(Clone)]
pub(crate) struct Capacity(Gate);

/// Who asks, and how far it may.
struct Caller {
    principal: Principal,
    reach: Reach,
}

impl Capacity {
    pub(crate) const fn new(gate: Gate) -> Self {
        Self(gate)
    }

    /// Answers from the state, at the cell's time.
    async fn answer<Q: Send + 'static, A: Send + 'static>(
        &self,
        request: Request<Q>,
        permission: Permission,
        read: impl FnOnce(&State, &Caller, Q, Instant) -> Result<A> + Send + 'static,
    ) -> Result<Response<A>, Status> {
        let principal = self.0.principal(request.metadata().as_ref()).await?;
        let reach = principal.reach(permission);
        if reach == Reach::None {
            return Err(Refusal::lacks(&principal, permission).of_capacity().into());
        }
        let (caller, asked) = (Caller { principal, reach }, request.into_inner());
        let clock = self.0.cell().now();
        let read = move |state: &State| read(state, &caller, asked, clock.max(state.now()));
        let answer = match self.0.cell().read(read).await {
            Ok(answer) => answer,
            Err(error) => Err(refused(&self.0, error).await),
        };
        answer.map(Response::new).map_err(|refusal| refusal.of_capacity().into())
    }
}

impl Caller {
    fn sees(&self, tenant: &TenantId) -> bool {
        match self.principal.tenant() {
            Some(own) => own == tenant,
            None => self.reach == Reach::All,
        }
    }

    /// The tenant of an id, where the caller sees it.
    fn parent(&self, state: &State, id: &str) -> Result<TenantId> {
        let tenant: TenantId = read("parent_id", id)?;
        if self.sees(&tenant) && state.tenant(&tenant).is_some() {
            return Ok(tenant);
        }
        Err(Refusal::of_rejection(Rejection::TenantUnknown { tenant }, ""))
    }

    /// The group of an id, where the caller sees it.
    fn group<'a>(&self, state: &'a State, field: &str, id: &str) -> Result<Group<'a>> {
        let id: BlockGroupId = read(field, id)?;
        let tenants = state.tenants().map(|(tenant, _)| tenant).filter(|tenant| self.sees(tenant));
        let mut found = tenants.filter_map(|tenant| groups_of(state, tenant).remove(id.as_str()));
        found.next().ok_or_else(|| no_group(id.as_str()))
    }
}

/// A text that has to be an id.
fn read<T: FromStr<Err: Display>>(field: &str, text: &str) -> Result<T> {
    text.parse().map_err(|error: T::Err| Refusal::invalid(field, error.to_string()))
}

fn no_group(id: &str) -> Refusal {
    let what = "there is no such capacity block group: nothing is reserved there";
    Refusal::not_found("block_group_unknown", id, what)
}

/// A tenant as messages name it. Its name has no letter that an id has not.
fn parent_id(tenant: &TenantId) -> Result<ParentId> {
    ParentId::new(tenant.as_str()).map_err(|_| Refusal::internal())
}

fn group_message(state: &State, group: &Group<'_>, now: Instant) -> Result<wire::CapacityBlockGroup> {
    Ok(messages::write_group(&group.row(state, now), &parent_id(group.tenant)?))
}

#[tonic::async_trait]
impl CapacityBlockGroupService for Capacity {
    async fn get(
        &self,
        request: Request<wire::GetCapacityBlockGroupRequest>,
    ) -> Result<Response<wire::CapacityBlockGroup>, Status> {
        let get = |state: &State, caller: &Caller, asked: wire::GetCapacityBlockGroupRequest, now| {
            group_message(state, &caller.group(state, "id", &asked.id)?, now)
        };
        self.answer(request, Permission::ReadReservations, get).await
    }

    async fn get_by_resource_affinity(
        &self,
        request: Request<wire::GetCapacityBlockGroupByResourceAffinityRequest>,
    ) -> Result<Response<wire::CapacityBlockGroup>, Status> {
        let get = |state: &State,
                   caller: &Caller,
                   asked: wire::GetCapacityBlockGroupByResourceAffinityRequest,
                   now| {
            let tenant = caller.parent(state, &asked.parent_id)?;
            check_region(state, &asked.region)?;
            let place = messages::place(asked.resource_affinity).map_err(|error| match error {
                ComputeError::BadRequest { field, message } => Refusal::invalid(&field, message),
                _ => Refusal::internal(),
            })?;
            let unknown = || no_group(&place.to_string());
            let fabric = place.fabric.clone().ok_or_else(unknown)?;
            let region = state.cell().map(|cell| cell.region.clone()).ok_or_else(unknown)?;
            let pool = PoolName { region, platform: place.platform.clone(), fabric };
            group_message(state, &group_in(state, &tenant, &pool).ok_or_else(unknown)?, now)
        };
        self.answer(request, Permission::ReadReservations, get).await
    }

    async fn list(
        &self,
        request: Request<wire::ListCapacityBlockGroupsRequest>,
    ) -> Result<Response<wire::ListCapacityBlockGroupsResponse>, Status> {
        let list = |state: &State, caller: &Caller, asked: wire::ListCapacityBlockGroupsRequest, now| {
            let tenant = caller.parent(state, &asked.parent_id)?;
            let page =
                Page::new(format!("capacityblockgroups {tenant}"), asked.page_size, &asked.page_token)?;
            let (groups, next_page_token) = page.of(state, groups_of(state, &tenant));
            let items = groups.iter().map(|group| group_message(state, group, now)).collect::<Result<_>>()?;
            Ok(wire::ListCapacityBlockGroupsResponse { items, next_page_token })
        };
        self.answer(request, Permission::ReadReservations, list).await
    }

    async fn list_resources(
        &self,
        request: Request<wire::ListCapacityBlockGroupResourcesRequest>,
    ) -> Result<Response<wire::ListCapacityBlockGroupResourcesResponse>, Status> {
        let list =
            |state: &State, caller: &Caller, asked: wire::ListCapacityBlockGroupResourcesRequest, _| {
                let group = caller.group(state, "id", &asked.id)?;
                let resource_ids = group.instances(state).iter().map(ToString::to_string).collect();
                Ok(wire::ListCapacityBlockGroupResourcesResponse { resource_ids })
            };
        self.answer(request, Permission::ReadReservations, list).await
    }
}

#[tonic::async_trait]
impl CapacityIntervalService for Capacity {
    async fn get(
        &self,
        request: Request<wire::GetCapacityIntervalRequest>,
    ) -> Result<Response<wire::CapacityInterval>, Status> {
        let get = |state: &State, caller: &Caller, asked: wire::GetCapacityIntervalRequest, now| {
            let id: IntervalId = read("id", &asked.id)?;
            let found = interval(state, &id, now).filter(|(tenant, _)| caller.sees(tenant));
            let (tenant, interval) = found.ok_or_else(|| {
                Refusal::not_found("interval_unknown", id.as_str(), "there is no such capacity interval")
            })?;
            Ok(messages::write_interval(&interval, &parent_id(tenant)?))
        };
        self.answer(request, Permission::ReadReservations, get).await
    }

    async fn list(
        &self,
        request: Request<wire::ListCapacityIntervalsRequest>,
    ) -> Result<Response<wire::ListCapacityIntervalsResponse>, Status> {
        let list = |state: &State, caller: &Caller, asked: wire::ListCapacityIntervalsRequest, now| {
            let group = caller.group(state, "parent_id", &asked.parent_id)?;
            let name = format!("capacityintervals {}", group.id);
            let page = Page::new(name, asked.page_size, &asked.page_token)?;
            let (intervals, next_page_token) = page.of(state, group.intervals(now));
            let tenant = parent_id(group.tenant)?;
            let items = intervals.iter().map(|it| messages::write_interval(it, &tenant)).collect();
            Ok(wire::ListCapacityIntervalsResponse { items, next_page_token })
        };
        self.answer(request, Permission::ReadReservations, list).await
    }
}

#[tonic::async_trait]
impl ResourceAdviceService for Capacity {
    async fn list(
        &self,
        request: Request<wire::ListResourceAdviceRequest>,
    ) -> Result<Response<wire::ListResourceAdviceResponse>, Status> {
        let list = |state: &State, caller: &Caller, asked: wire::ListResourceAdviceRequest, now| {
            let tenant = caller.parent(state, &asked.parent_id)?;
            let page = Page::new(format!("resourceadvice {tenant}"), asked.page_size, &asked.page_token)?;
            let (offers, next_page_token) = page.of(state, offers(state));
            let reservations = caller.principal.reach(Permission::ReadReservations) != Reach::None;
            let asker = Asker { tenant: &tenant, reservations, now };
            let items = offers.iter().filter_map(|offer: &Offer<'_>| offer.advice(state, &asker)).collect();
            Ok(wire::ListResourceAdviceResponse { items, next_page_token })
        };
        self.answer(request, Permission::ReadMarket, list).await
    }
}
