//! The client against a server that is up to no good.

use std::net::SocketAddr;

use crate::support::{client_options, new};
use hourglass_compute::ComputeError;
use hourglass_compute::client::{ANSWER_BYTES_MAX, Client};
use hourglass_proto::nebius::common::v1::{GetByNameRequest, Operation, ResourceMetadata};
use hourglass_proto::nebius::compute::v1::instance_service_server::{InstanceService, InstanceServiceServer};
use hourglass_proto::nebius::compute::v1::{
    BatchGetRequest, BatchGetResponse, CreateInstanceRequest, DeleteInstanceRequest, GetInstanceRequest,
    Instance, InstanceSpec, InstanceStatus, ListInstancesRequest, ListInstancesResponse, ResourcesSpec,
    StartInstanceRequest, StopInstanceRequest, UpdateInstanceRequest,
};
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status, async_trait};

type Answer<T> = Result<Response<T>, Status>;

/// Answers each kind of call with what it was given.
#[derive(Default, Clone)]
struct Rogue {
    instance: Instance,
    operation: Operation,
    list: ListInstancesResponse,
    status: Option<Status>,
}

impl Rogue {
    fn answer<T>(&self, answer: &T) -> Answer<T>
    where
        T: Clone,
    {
        self.status.clone().map_or_else(|| Ok(Response::new(answer.clone())), Err)
    }
}

#[async_trait]
impl InstanceService for Rogue {
    async fn get(&self, _: Request<GetInstanceRequest>) -> Answer<Instance> {
        self.answer(&self.instance)
    }

    async fn get_by_name(&self, _: Request<GetByNameRequest>) -> Answer<Instance> {
        self.answer(&self.instance)
    }

    async fn batch_get(&self, _: Request<BatchGetRequest>) -> Answer<BatchGetResponse> {
        Err(Status::unimplemented(""))
    }

    async fn list(&self, _: Request<ListInstancesRequest>) -> Answer<ListInstancesResponse> {
        self.answer(&self.list)
    }

    async fn create(&self, _: Request<CreateInstanceRequest>) -> Answer<Operation> {
        self.answer(&self.operation)
    }

    async fn update(&self, _: Request<UpdateInstanceRequest>) -> Answer<Operation> {
        self.answer(&self.operation)
    }

    async fn delete(&self, _: Request<DeleteInstanceRequest>) -> Answer<Operation> {
        self.answer(&self.operation)
    }

    async fn start(&self, _: Request<StartInstanceRequest>) -> Answer<Operation> {
        self.answer(&self.operation)
    }

    async fn stop(&self, _: Request<StopInstanceRequest>) -> Answer<Operation> {
        self.answer(&self.operation)
    }
}

async fn client_of(rogue: Rogue) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let service = InstanceServiceServer::new(rogue).max_encoding_message_size(usize::MAX);
    let server = tonic::transport::Server::builder();
    tokio::spawn(server.serve_with_incoming(service, TcpIncoming::from(listener)));
    Client::new(client_options(address)).unwrap()
}

/// An instance that makes sense.
fn sound() -> Instance {
    Instance {
        metadata: Some(ResourceMetadata {
            id: "computeinstance-1".into(),
            parent_id: "project-1".into(),
            ..ResourceMetadata::default()
        }),
        spec: Some(InstanceSpec {
            resources: Some(ResourcesSpec {
                platform: "gpu-h100-sxm".into(),
                preset: "8gpu-1vcpu-1gb".into(),
            }),
            ..InstanceSpec::default()
        }),
        status: Some(InstanceStatus { state: 4, ..InstanceStatus::default() }),
    }
}

#[tokio::test]
async fn an_instance_that_makes_no_sense_is_garbage() {
    let id = "computeinstance-1".parse().unwrap();
    let sane = client_of(Rogue { instance: sound(), ..Rogue::default() }).await;
    assert_eq!(sane.instance(&id).await.unwrap().id, id);
    let check = async |says: &str, spoil: fn(&mut Instance)| {
        let mut instance = sound();
        spoil(&mut instance);
        let told = client_of(Rogue { instance, ..Rogue::default() }).await.instance(&id).await;
        let Err(ComputeError::Garbage { message }) = told else { panic!("{says}: {told:?}") };
        assert!(message.contains(says), "{says}: {message}");
    };
    check("metadata: it is missing", |instance| instance.metadata = None).await;
    check("spec: it is missing", |instance| instance.spec = None).await;
    check("status: it is missing", |instance| instance.status = None).await;
    check("metadata.id", |instance| instance.metadata.as_mut().unwrap().id = "a b".into()).await;
    check("metadata.id", |instance| instance.metadata.as_mut().unwrap().id = "x".repeat(9_999)).await;
    check("metadata.name", |instance| instance.metadata.as_mut().unwrap().name = "x".repeat(9_999)).await;
    check("metadata.labels", |instance| {
        let labels = (0..99).map(|number| (number.to_string(), String::new()));
        instance.metadata.as_mut().unwrap().labels = labels.collect();
    })
    .await;
    check("metadata.created_at", |instance| {
        let time = prost_types::Timestamp { seconds: i64::MAX, nanos: i32::MIN };
        instance.metadata.as_mut().unwrap().created_at = Some(time);
    })
    .await;
    check("status.state: it is missing", |instance| instance.status.as_mut().unwrap().state = 0).await;
    check("status.state: -7", |instance| instance.status.as_mut().unwrap().state = -7).await;
    check("spec.recovery_policy: 77", |instance| instance.spec.as_mut().unwrap().recovery_policy = 77).await;
    check("spec.resources.preset", |instance| {
        instance.spec.as_mut().unwrap().resources.as_mut().unwrap().preset = "8gpu;rm".into();
    })
    .await;
    check("spec.network_interfaces", |instance| {
        instance.spec.as_mut().unwrap().boot_disk = vec![0; 300 << 10];
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_garbage() {
    let mut large = sound();
    large.spec.as_mut().unwrap().boot_disk = vec![0; 200 << 10];
    let items = vec![large; ANSWER_BYTES_MAX / (200 << 10) + 1];
    let list = ListInstancesResponse { items, next_page_token: String::new() };
    let client = client_of(Rogue { list, ..Rogue::default() }).await;
    let told = client.instances(&"project-1".parse().unwrap()).await;
    assert!(matches!(told, Err(ComputeError::Garbage { .. })), "{told:?}");
}

#[tokio::test]
async fn an_operation_without_an_id_or_an_instance_is_garbage() {
    for operation in [
        Operation::default(),
        Operation { id: "op-1".into(), ..Operation::default() },
        Operation { resource_id: "computeinstance-1".into(), ..Operation::default() },
    ] {
        let client = client_of(Rogue { operation, ..Rogue::default() }).await;
        let told = client.create(&"key".parse().unwrap(), &new("a")).await;
        assert!(matches!(told, Err(ComputeError::Garbage { .. })), "{told:?}");
    }
}

/// A gateway between says such things, and nobody knows what came of the call.
#[tokio::test]
async fn a_bare_status_is_a_doubt_about_a_change_and_none_about_a_question() {
    for code in [Code::Unavailable, Code::Internal, Code::Unknown, Code::DeadlineExceeded, Code::Cancelled] {
        let client =
            client_of(Rogue { status: Some(Status::new(code, "bad gateway")), ..Rogue::default() }).await;
        let change = client.create(&"key".parse().unwrap(), &new("a")).await;
        assert!(matches!(change, Err(ComputeError::Unknown { .. })), "{code:?}: {change:?}");
        let question = client.instance(&"computeinstance-1".parse().unwrap()).await;
        assert!(matches!(question, Err(ComputeError::Unavailable { .. })), "{code:?}: {question:?}");
    }
    // Without details nobody knows what there is not enough of: it is not asked for again.
    let status = Some(Status::resource_exhausted("no"));
    let told = client_of(Rogue { status, ..Rogue::default() })
        .await
        .create(&"key".parse().unwrap(), &new("a"))
        .await;
    assert!(matches!(told, Err(ComputeError::NotEnoughResources { .. })), "{told:?}");
}
