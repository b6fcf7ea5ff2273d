//! The services of the cloud: each method reads its request, asks, and writes the answer.

use std::convert::Infallible;
use std::task::{Context, Poll};

use hourglass_proto::nebius::capacity::v1 as capacity;
use hourglass_proto::nebius::capacity::v1::capacity_block_group_service_server::{
    CapacityBlockGroupService, CapacityBlockGroupServiceServer,
};
use hourglass_proto::nebius::capacity::v1::capacity_interval_service_server::{
    CapacityIntervalService, CapacityIntervalServiceServer,
};
use hourglass_proto::nebius::capacity::v1::resource_advice_service_server::{
    ResourceAdviceService, ResourceAdviceServiceServer,
};
use hourglass_proto::nebius::common::v1 as common;
use hourglass_proto::nebius::common::v1::operation_service_server::{
    OperationService, OperationServiceServer,
};
use hourglass_proto::nebius::compute::v1 as compute;
use hourglass_proto::nebius::compute::v1::batch_get_response::{BatchGetResult, batch_get_result};
use hourglass_proto::nebius::compute::v1::instance_service_server::{InstanceService, InstanceServiceServer};
use hourglass_units::InstanceId;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::codegen::{BoxFuture, Service};
use tonic::server::NamedService;
use tonic::{Request, Response, Status, async_trait};

use crate::ids::{BlockGroupId, ParentId};
use crate::wire::{self, PAGE_TOKEN_LENGTH_MAX, Read, Wrong, bounded, needed, parsed};

use super::call::{Answer, Call, Change, NOBODY, Page, Query, of_nobody};
use super::faults::Garble;
use super::server::{Desk, Told, status};

/// The services, by name.
pub const SERVICES: [&str; 5] = [
    "nebius.compute.v1.InstanceService",
    "nebius.common.v1.OperationService",
    "nebius.capacity.v1.CapacityBlockGroupService",
    "nebius.capacity.v1.CapacityIntervalService",
    "nebius.capacity.v1.ResourceAdviceService",
];
/// Longest request, in bytes.
pub const REQUEST_BYTES_MAX: usize = 1 << 20;
/// Most instances that are asked for by their ids at once.
pub const BATCH_MAX: usize = 1_000;
/// The header that names a change.
const IDEMPOTENCY_KEY: &str = "x-idempotency-key";
/// A value that no enumeration has.
const NO_STATE: i32 = 99;

type Result<T> = std::result::Result<Response<T>, Status>;

/// All services, told apart by the first segment of the path.
#[derive(Clone)]
pub(super) struct Services {
    instances: InstanceServiceServer<Desk>,
    operations: OperationServiceServer<Desk>,
    groups: CapacityBlockGroupServiceServer<Desk>,
    intervals: CapacityIntervalServiceServer<Desk>,
    advice: ResourceAdviceServiceServer<Desk>,
}

impl Services {
    pub(super) fn new(desk: &Desk) -> Self {
        let most = REQUEST_BYTES_MAX;
        let instances = InstanceServiceServer::new(desk.clone());
        let operations = OperationServiceServer::new(desk.clone());
        let groups = CapacityBlockGroupServiceServer::new(desk.clone());
        let intervals = CapacityIntervalServiceServer::new(desk.clone());
        let advice = ResourceAdviceServiceServer::new(desk.clone());
        Self {
            instances: instances.max_decoding_message_size(most),
            operations: operations.max_decoding_message_size(most),
            groups: groups.max_decoding_message_size(most),
            intervals: intervals.max_decoding_message_size(most),
            advice: advice.max_decoding_message_size(most),
        }
    }
}

impl Service<http::Request<Body>> for Services {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match request.uri().path().split('/').nth(1) {
            Some(InstanceServiceServer::<Desk>::NAME) => self.instances.call(request),
            Some(OperationServiceServer::<Desk>::NAME) => self.operations.call(request),
            Some(CapacityBlockGroupServiceServer::<Desk>::NAME) => self.groups.call(request),
            Some(CapacityIntervalServiceServer::<Desk>::NAME) => self.intervals.call(request),
            Some(ResourceAdviceServiceServer::<Desk>::NAME) => self.advice.call(request),
            _ => {
                let none = Status::unimplemented(format!("this server has {}", SERVICES.join(", ")));
                Box::pin(async move { Ok(none.into_http()) })
            }
        }
    }
}

/// What of a request was read.
fn read<T>(read: Read<T>) -> std::result::Result<T, Status> {
    read.map_err(|wrong| status(&wrong.bad_request()))
}

fn page(size: i64, token: &str) -> Read<Page> {
    let size = usize::try_from(size).map_err(|_| Wrong::new("page_size", "it is negative"))?;
    Ok(Page { size, token: bounded("page_token", token.to_owned(), PAGE_TOKEN_LENGTH_MAX)? })
}

/// An answer of another kind than the question: there is none, since both follow from one match.
fn unexpected<T>() -> Result<T> {
    Err(Status::internal("the simulator answered another question"))
}

impl Desk {
    async fn change<T>(&self, request: &Request<T>, change: Change) -> Result<common::Operation> {
        let key = request.metadata().get(IDEMPOTENCY_KEY);
        let key = key.map(|key| key.to_str().map(str::to_owned)).transpose();
        let key =
            key.map_err(|_| Status::invalid_argument("x-idempotency-key has other than visible ASCII"))?;
        self.operation(self.take(request, Call::Change { key, change }).await?)
    }

    fn operation(&self, told: Told) -> Result<common::Operation> {
        let Answer::Operation(operation) = told.answer else { return unexpected() };
        Ok(Response::new(match told.garble {
            Some(Garble::WrongId) => wire::operation::write(&of_nobody(operation)),
            Some(Garble::NoMetadata) => {
                common::Operation { id: String::new(), ..wire::operation::write(&operation) }
            }
            Some(Garble::UnknownState | Garble::SamePage) | None => wire::operation::write(&operation),
        }))
    }

    async fn instance<T>(&self, request: &Request<T>, query: Query) -> Result<compute::Instance> {
        let told = self.take(request, Call::Query(query)).await?;
        let Answer::Instance(instance) = told.answer else { return unexpected() };
        let mut message = wire::instance::write(&instance);
        garble_instance(&mut message, told.garble);
        Ok(Response::new(message))
    }

    fn tenant(&self) -> ParentId {
        self.with_cloud(|cloud| cloud.settings().tenant.clone())
    }

    /// Reservations and advice are the tenant's.
    fn check_tenant(&self, parent: &str) -> std::result::Result<(), Status> {
        let tenant = self.tenant();
        if parent == tenant.as_str() {
            return Ok(());
        }
        read(Err(Wrong::new("parent_id", format!("the tenant of this cloud is {tenant}"))))
    }
}

fn garble_instance(message: &mut compute::Instance, garble: Option<Garble>) {
    match garble {
        Some(Garble::WrongId) => {
            if let Some(metadata) = &mut message.metadata {
                NOBODY.clone_into(&mut metadata.id);
                "project-nobody".clone_into(&mut metadata.parent_id);
            }
        }
        Some(Garble::NoMetadata) => message.metadata = None,
        Some(Garble::UnknownState) => {
            if let Some(status) = &mut message.status {
                status.state = NO_STATE;
            }
        }
        Some(Garble::SamePage) | None => {}
    }
}

#[async_trait]
impl InstanceService for Desk {
    async fn get(&self, request: Request<compute::GetInstanceRequest>) -> Result<compute::Instance> {
        let id = read(parsed("id", &request.get_ref().id))?;
        self.instance(&request, Query::Instance(id)).await
    }

    async fn get_by_name(&self, request: Request<common::GetByNameRequest>) -> Result<compute::Instance> {
        let asked = request.get_ref();
        let query = Query::InstanceByName(read(parsed("parent_id", &asked.parent_id))?, asked.name.clone());
        self.instance(&request, query).await
    }

    async fn batch_get(
        &self,
        request: Request<compute::BatchGetRequest>,
    ) -> Result<compute::BatchGetResponse> {
        let ids = &request.get_ref().instance_ids;
        if ids.len() > BATCH_MAX {
            return read(Err(Wrong::new("instance_ids", format!("there are more than {BATCH_MAX}"))));
        }
        let ids = read(ids.iter().map(|id| parsed::<InstanceId>("instance_ids", id)).collect())?;
        let told = self.take(&request, Call::Query(Query::InstanceBatch(ids))).await?;
        let Answer::InstanceBatch(found) = told.answer else { return unexpected() };
        let items = found.into_iter().map(|(id, found)| {
            let result = match found {
                Ok(instance) => {
                    let mut message = wire::instance::write(&instance);
                    garble_instance(&mut message, told.garble);
                    batch_get_result::Result::Instance(Box::new(message))
                }
                Err(error) => batch_get_result::Result::Error(wire::error::write(&error, id.as_str())),
            };
            (id.to_string(), BatchGetResult { result: Some(result) })
        });
        Ok(Response::new(compute::BatchGetResponse { items: items.collect() }))
    }

    async fn list(
        &self,
        request: Request<compute::ListInstancesRequest>,
    ) -> Result<compute::ListInstancesResponse> {
        let asked = request.get_ref();
        let parent = read(parsed("parent_id", &asked.parent_id))?;
        let page = read(page(asked.page_size, &asked.page_token))?;
        let told = self.take(&request, Call::Query(Query::Instances(parent, page))).await?;
        let Answer::Instances(listed) = told.answer else { return unexpected() };
        let items = listed.items.iter().map(|instance| {
            let mut message = wire::instance::write(instance);
            garble_instance(&mut message, told.garble);
            message
        });
        let next_page_token = match (told.garble, asked.page_token.as_str()) {
            (Some(Garble::SamePage), "") => "-".to_owned(),
            (Some(Garble::SamePage), token) => token.to_owned(),
            _ => listed.next,
        };
        Ok(Response::new(compute::ListInstancesResponse { items: items.collect(), next_page_token }))
    }

    async fn create(&self, request: Request<compute::CreateInstanceRequest>) -> Result<common::Operation> {
        let new = read(wire::instance::read_new(request.get_ref().clone()))?;
        self.change(&request, Change::Create(Box::new(new))).await
    }

    async fn update(&self, request: Request<compute::UpdateInstanceRequest>) -> Result<common::Operation> {
        let asked = request.get_ref().clone();
        let metadata = read(needed("metadata", asked.metadata))?;
        let change = Change::Update {
            id: read(parsed("metadata.id", &metadata.id))?,
            version: metadata.resource_version,
            labels: read(wire::instance::read_labels(metadata.labels))?,
            spec: read(asked.spec.map(wire::instance::read_spec).transpose())?.map(Box::new),
        };
        self.change(&request, change).await
    }

    async fn delete(&self, request: Request<compute::DeleteInstanceRequest>) -> Result<common::Operation> {
        let id = read(parsed("id", &request.get_ref().id))?;
        self.change(&request, Change::Delete { id }).await
    }

    async fn start(&self, request: Request<compute::StartInstanceRequest>) -> Result<common::Operation> {
        let id = read(parsed("id", &request.get_ref().id))?;
        self.change(&request, Change::Start { id }).await
    }

    async fn stop(&self, request: Request<compute::StopInstanceRequest>) -> Result<common::Operation> {
        let id = read(parsed("id", &request.get_ref().id))?;
        self.change(&request, Change::Stop { id }).await
    }
}

#[async_trait]
impl OperationService for Desk {
    async fn get(&self, request: Request<common::GetOperationRequest>) -> Result<common::Operation> {
        let id = read(parsed("id", &request.get_ref().id))?;
        self.operation(self.take(&request, Call::Query(Query::Operation(id))).await?)
    }

    async fn list(
        &self,
        request: Request<common::ListOperationsRequest>,
    ) -> Result<common::ListOperationsResponse> {
        let asked = request.get_ref();
        let instance = read(parsed("resource_id", &asked.resource_id))?;
        let page = read(page(asked.page_size, &asked.page_token))?;
        let told = self.take(&request, Call::Query(Query::Operations(instance, page))).await?;
        let Answer::Operations(listed) = told.answer else { return unexpected() };
        let operations = listed.items.iter().map(wire::operation::write).collect();
        Ok(Response::new(common::ListOperationsResponse { operations, next_page_token: listed.next }))
    }
}

#[async_trait]
impl CapacityBlockGroupService for Desk {
    async fn get(
        &self,
        request: Request<capacity::GetCapacityBlockGroupRequest>,
    ) -> Result<capacity::CapacityBlockGroup> {
        let id = read(parsed("id", &request.get_ref().id))?;
        let told = self.take(&request, Call::Query(Query::BlockGroup(id))).await?;
        let Answer::BlockGroup(group) = told.answer else { return unexpected() };
        Ok(Response::new(wire::capacity::write_group(&group, &self.tenant())))
    }

    async fn get_by_resource_affinity(
        &self,
        request: Request<capacity::GetCapacityBlockGroupByResourceAffinityRequest>,
    ) -> Result<capacity::CapacityBlockGroup> {
        let asked = request.get_ref();
        self.check_tenant(&asked.parent_id)?;
        let place = read(wire::capacity::read_place(asked.resource_affinity.clone()))?;
        let told = self.take(&request, Call::Query(Query::BlockGroupOf(place))).await?;
        let Answer::BlockGroup(group) = told.answer else { return unexpected() };
        Ok(Response::new(wire::capacity::write_group(&group, &self.tenant())))
    }

    async fn list(
        &self,
        request: Request<capacity::ListCapacityBlockGroupsRequest>,
    ) -> Result<capacity::ListCapacityBlockGroupsResponse> {
        let asked = request.get_ref();
        self.check_tenant(&asked.parent_id)?;
        let page = read(page(asked.page_size, &asked.page_token))?;
        let told = self.take(&request, Call::Query(Query::BlockGroups(page))).await?;
        let Answer::BlockGroups(listed) = told.answer else { return unexpected() };
        let tenant = self.tenant();
        let items = listed.items.iter().map(|group| wire::capacity::write_group(group, &tenant)).collect();
        Ok(Response::new(capacity::ListCapacityBlockGroupsResponse { items, next_page_token: listed.next }))
    }

    async fn list_resources(
        &self,
        request: Request<capacity::ListCapacityBlockGroupResourcesRequest>,
    ) -> Result<capacity::ListCapacityBlockGroupResourcesResponse> {
        let id = read(parsed("id", &request.get_ref().id))?;
        let told = self.take(&request, Call::Query(Query::BlockGroupMembers(id))).await?;
        let Answer::BlockGroupMembers(ids) = told.answer else { return unexpected() };
        let resource_ids = ids.iter().map(ToString::to_string).collect();
        Ok(Response::new(capacity::ListCapacityBlockGroupResourcesResponse { resource_ids }))
    }
}

#[async_trait]
impl CapacityIntervalService for Desk {
    async fn get(
        &self,
        request: Request<capacity::GetCapacityIntervalRequest>,
    ) -> Result<capacity::CapacityInterval> {
        let id = read(parsed("id", &request.get_ref().id))?;
        let told = self.take(&request, Call::Query(Query::Interval(id))).await?;
        let Answer::Interval(interval) = told.answer else { return unexpected() };
        Ok(Response::new(wire::capacity::write_interval(&interval, &self.tenant())))
    }

    async fn list(
        &self,
        request: Request<capacity::ListCapacityIntervalsRequest>,
    ) -> Result<capacity::ListCapacityIntervalsResponse> {
        let asked = request.get_ref();
        let group: BlockGroupId = read(parsed("parent_id", &asked.parent_id))?;
        let page = read(page(asked.page_size, &asked.page_token))?;
        let told = self.take(&request, Call::Query(Query::Intervals(group, page))).await?;
        let Answer::Intervals(listed) = told.answer else { return unexpected() };
        let tenant = self.tenant();
        let items =
            listed.items.iter().map(|interval| wire::capacity::write_interval(interval, &tenant)).collect();
        Ok(Response::new(capacity::ListCapacityIntervalsResponse { items, next_page_token: listed.next }))
    }
}

#[async_trait]
impl ResourceAdviceService for Desk {
    async fn list(
        &self,
        request: Request<capacity::ListResourceAdviceRequest>,
    ) -> Result<capacity::ListResourceAdviceResponse> {
        let asked = request.get_ref();
        self.check_tenant(&asked.parent_id)?;
        let page = read(page(asked.page_size, &asked.page_token))?;
        let told = self.take(&request, Call::Query(Query::Advice(page))).await?;
        let Answer::Advice(listed) = told.answer else { return unexpected() };
        let tenant = self.tenant();
        let items = listed.items.iter().map(|advice| wire::capacity::write_advice(advice, &tenant)).collect();
        Ok(Response::new(capacity::ListResourceAdviceResponse { items, next_page_token: listed.next }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_services_are_those_that_are_told() {
        let served = [
            InstanceServiceServer::<Desk>::NAME,
            OperationServiceServer::<Desk>::NAME,
            CapacityBlockGroupServiceServer::<Desk>::NAME,
            CapacityIntervalServiceServer::<Desk>::NAME,
            ResourceAdviceServiceServer::<Desk>::NAME,
        ];
        assert_eq!(served, SERVICES);
    }
}
