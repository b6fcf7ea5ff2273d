//! The client: what a driver asks of the cloud.
//!
//! * A change has a [`CallKey`]: the same key is the same call, however often it is sent.
//! * A call ends: each attempt has a deadline, the attempts have one together, and there is a most of them
//!   ([`Patience`]). It is sent again only where the cloud says so, or where it was lost on the way; for want
//!   of quota or capacity never. Pauses double, and are drawn between nothing and their bound.
//! * An error says what the caller does next ([`ComputeError::next_step`]). `Unavailable` means that surely
//!   nothing happened, `Unknown` that it may have.
//! * Nothing that comes in is believed: ids, sizes, times and enumerations are checked, an answer is about
//!   what was asked for, lists end. What makes no sense is `Garbage`.
//! * The token is sent and never shown. It is read again when its file changes, or when the cloud says that
//!   it does not know it.

mod attempts;
mod pages;
mod token;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hourglass_proto::nebius::capacity::v1 as capacity;
use hourglass_proto::nebius::capacity::v1::capacity_block_group_service_client::CapacityBlockGroupServiceClient;
use hourglass_proto::nebius::capacity::v1::capacity_interval_service_client::CapacityIntervalServiceClient;
use hourglass_proto::nebius::capacity::v1::resource_advice_service_client::ResourceAdviceServiceClient;
use hourglass_proto::nebius::common::v1 as common;
use hourglass_proto::nebius::common::v1::operation_service_client::OperationServiceClient;
use hourglass_proto::nebius::compute::v1 as compute;
use hourglass_proto::nebius::compute::v1::instance_service_client::InstanceServiceClient;
use hourglass_units::InstanceId;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

pub use self::attempts::Patience;
use self::pages::Pages;
pub use self::pages::{LIST_ITEMS_MAX, LIST_PAGE_SIZE, LIST_PAGES_MAX};
pub use self::token::{TOKEN_LENGTH_MAX, TokenSource};

use self::token::Tokens;
use crate::draw::Draws;
use crate::error::ComputeError;
use crate::ids::{BlockGroupId, CallKey, OperationId, ParentId};
use crate::model::{Advice, BlockGroup, CapacityInterval, Instance, Labels, NewInstance, Operation};
use crate::wire::{self, Read};

/// Longest answer, in bytes. A page of instances with the largest templates has less than a tenth of it in
/// practice.
pub const ANSWER_BYTES_MAX: usize = 16 << 20;
/// How often a silent connection is asked whether it still lives.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Where the cloud is, and who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientOptions {
    /// Such as `https://compute.example.com:443`; TLS where it begins with `https`.
    pub url: String,
    /// PEM file of the authority to trust; without one the system's are.
    pub authority: Option<PathBuf>,
    /// Where the bearer token comes from.
    pub token: TokenSource,
    /// How long to try.
    pub patience: Patience,
    /// From what the pauses between attempts are drawn.
    pub seed: u64,
}

/// Options that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL is none.
    #[error("{0:?} is no address of the compute API: write it like https://compute.example.com:443")]
    Url(String),
    /// The authority's file cannot be used.
    #[error("{path}: {message}")]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(tonic::transport::Error),
}

/// Asks the cloud. Calls may be under way at the same time; all share one connection.
pub struct Client {
    channel: Channel,
    tokens: Tokens,
    patience: Patience,
    draws: Mutex<Draws>,
    url: String,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("url", &self.url).field("tokens", &self.tokens).finish_non_exhaustive()
    }
}

impl Client {
    /// A client. It connects with the first call, and again whenever the connection is lost; so it needs a
    /// runtime around it.
    pub fn new(options: ClientOptions) -> Result<Self, ClientError> {
        let ClientOptions { url, authority, token, patience, seed } = options;
        let wrong = || ClientError::Url(url.chars().take(256).collect());
        let endpoint = Endpoint::from_shared(url.clone()).map_err(|_| wrong())?;
        let endpoint = match endpoint.uri().scheme_str() {
            Some("http") if authority.is_none() => endpoint,
            Some("https") => {
                let tls = match authority {
                    None => ClientTlsConfig::new().with_native_roots(),
                    Some(path) => ClientTlsConfig::new().ca_certificate(certificate(path)?),
                };
                endpoint.tls_config(tls).map_err(ClientError::Tls)?
            }
            _ => return Err(wrong()),
        };
        let channel = endpoint
            // Sooner than the attempt ends: then it is known that nothing was sent.
            .connect_timeout(patience.attempt / 2)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(patience.attempt)
            .connect_lazy();
        let draws = Mutex::new(Draws::new(seed));
        Ok(Self { channel, tokens: Tokens::new(token), patience, draws, url })
    }

    /// Makes an instance. That the cloud takes the call does not say that there is a machine for it.
    pub async fn create(&self, key: &CallKey, new: &NewInstance) -> Result<Operation, ComputeError> {
        let answer = self.ask(Some(key), wire::instance::write_new(new), async |request| {
            self.instances_client().create(request).await
        });
        read(wire::operation::read(&answer.await?))
    }

    /// Gives an instance other labels: all that it shall have. Refused where it is no longer of the version
    /// that was read.
    pub async fn update_labels(
        &self,
        key: &CallKey,
        known: &Instance,
        labels: Labels,
    ) -> Result<Operation, ComputeError> {
        let metadata = common::ResourceMetadata {
            id: known.id.to_string(),
            parent_id: known.parent.to_string(),
            name: known.name.clone(),
            resource_version: known.version,
            labels,
            ..common::ResourceMetadata::default()
        };
        let spec = Some(wire::instance::write_spec(&known.spec));
        let message = compute::UpdateInstanceRequest { metadata: Some(metadata), spec };
        let answer =
            self.ask(Some(key), message, async |request| self.instances_client().update(request).await);
        operation_on(&known.id, &answer.await?)
    }

    /// Starts an instance.
    pub async fn start(&self, key: &CallKey, id: &InstanceId) -> Result<Operation, ComputeError> {
        let message = compute::StartInstanceRequest { id: id.to_string() };
        let answer =
            self.ask(Some(key), message, async |request| self.instances_client().start(request).await);
        operation_on(id, &answer.await?)
    }

    /// Stops an instance.
    pub async fn stop(&self, key: &CallKey, id: &InstanceId) -> Result<Operation, ComputeError> {
        let message = compute::StopInstanceRequest { id: id.to_string() };
        let answer =
            self.ask(Some(key), message, async |request| self.instances_client().stop(request).await);
        operation_on(id, &answer.await?)
    }

    /// Takes an instance away.
    pub async fn delete(&self, key: &CallKey, id: &InstanceId) -> Result<Operation, ComputeError> {
        let message = compute::DeleteInstanceRequest { id: id.to_string() };
        let answer =
            self.ask(Some(key), message, async |request| self.instances_client().delete(request).await);
        operation_on(id, &answer.await?)
    }

    /// An operation. One that is not found may have ended in any way.
    pub async fn operation(&self, id: &OperationId) -> Result<Operation, ComputeError> {
        let message = common::GetOperationRequest { id: id.to_string() };
        let answer = self.ask(None, message, async |request| self.operations_client().get(request).await);
        let operation = read(wire::operation::read(&answer.await?))?;
        asked_for("operation", id, &operation.id)?;
        Ok(operation)
    }

    /// The operations of an instance that the cloud remembers.
    pub async fn operations(&self, id: &InstanceId) -> Result<Vec<Operation>, ComputeError> {
        let mut pages = Pages::new();
        while let Some(page_token) = pages.next() {
            let resource_id = id.to_string();
            let message =
                common::ListOperationsRequest { resource_id, page_size: LIST_PAGE_SIZE, page_token };
            let answer =
                self.ask(None, message, async |request| self.operations_client().list(request).await);
            let answer = answer.await?;
            let read = answer.operations.iter().map(|operation| operation_on(id, operation));
            pages.add(read.collect::<Result<_, _>>()?, answer.next_page_token)?;
        }
        Ok(pages.into_items())
    }

    /// An instance.
    pub async fn instance(&self, id: &InstanceId) -> Result<Instance, ComputeError> {
        let message = compute::GetInstanceRequest { id: id.to_string() };
        let answer = self.ask(None, message, async |request| self.instances_client().get(request).await);
        let instance = read(wire::instance::read(answer.await?))?;
        asked_for("instance", id, &instance.id)?;
        Ok(instance)
    }

    /// The instance that has a name in a project.
    pub async fn instance_by_name(&self, parent: &ParentId, name: &str) -> Result<Instance, ComputeError> {
        let message = common::GetByNameRequest { parent_id: parent.to_string(), name: name.to_owned() };
        let answer =
            self.ask(None, message, async |request| self.instances_client().get_by_name(request).await);
        let instance = read(wire::instance::read(answer.await?))?;
        asked_for("project", parent, &instance.parent)?;
        asked_for("name", name, instance.name.as_str())?;
        Ok(instance)
    }

    /// All instances of a project, each once, in the order of their ids. The list is no snapshot: what was
    /// made or taken away while it was read may be in it or not.
    pub async fn instances(&self, parent: &ParentId) -> Result<Vec<Instance>, ComputeError> {
        let mut pages = Pages::new();
        while let Some(page_token) = pages.next() {
            let parent_id = parent.to_string();
            let message = compute::ListInstancesRequest { parent_id, page_size: LIST_PAGE_SIZE, page_token };
            let answer = self.ask(None, message, async |request| self.instances_client().list(request).await);
            let answer = answer.await?;
            let read = answer.items.into_iter().map(|instance| read(wire::instance::read(instance)));
            pages.add(read.collect::<Result<Vec<_>, _>>()?, answer.next_page_token)?;
        }
        let mut each = BTreeMap::new();
        for instance in pages.into_items() {
            asked_for("project", parent, &instance.parent)?;
            each.insert(instance.id.clone(), instance);
        }
        Ok(each.into_values().collect())
    }

    /// The reservations of a tenant.
    pub async fn block_groups(&self, tenant: &ParentId) -> Result<Vec<BlockGroup>, ComputeError> {
        let mut pages = Pages::new();
        while let Some(page_token) = pages.next() {
            let parent_id = tenant.to_string();
            let message =
                capacity::ListCapacityBlockGroupsRequest { parent_id, page_size: LIST_PAGE_SIZE, page_token };
            let answer = self.ask(None, message, async |request| self.groups_client().list(request).await);
            let answer = answer.await?;
            let read = answer.items.into_iter().map(|group| read(wire::capacity::read_group(group)));
            pages.add(read.collect::<Result<_, _>>()?, answer.next_page_token)?;
        }
        Ok(pages.into_items())
    }

    /// The parts of a reservation: those that were, are and will be.
    pub async fn capacity_intervals(
        &self,
        group: &BlockGroupId,
    ) -> Result<Vec<CapacityInterval>, ComputeError> {
        let mut pages = Pages::new();
        while let Some(page_token) = pages.next() {
            let parent_id = group.to_string();
            let message =
                capacity::ListCapacityIntervalsRequest { parent_id, page_size: LIST_PAGE_SIZE, page_token };
            let answer = self.ask(None, message, async |request| self.intervals_client().list(request).await);
            let answer = answer.await?;
            let read = answer.items.into_iter().map(|interval| read(wire::capacity::read_interval(interval)));
            pages.add(read.collect::<Result<Vec<_>, _>>()?, answer.next_page_token)?;
        }
        let found: Vec<CapacityInterval> = pages.into_items();
        found.iter().try_for_each(|interval| asked_for("capacity block group", group, &interval.group))?;
        Ok(found)
    }

    /// What a tenant can get, by size and place.
    pub async fn resource_advice(&self, tenant: &ParentId) -> Result<Vec<Advice>, ComputeError> {
        let mut pages = Pages::new();
        while let Some(page_token) = pages.next() {
            let parent_id = tenant.to_string();
            let message =
                capacity::ListResourceAdviceRequest { parent_id, page_size: LIST_PAGE_SIZE, page_token };
            let answer = self.ask(None, message, async |request| self.advice_client().list(request).await);
            let answer = answer.await?;
            let read = answer.items.into_iter().map(|advice| read(wire::capacity::read_advice(advice)));
            pages
                .add(read.filter_map(Result::transpose).collect::<Result<_, _>>()?, answer.next_page_token)?;
        }
        Ok(pages.into_items())
    }

    fn draw(&self, below: u64) -> u64 {
        self.draws.lock().unwrap_or_else(PoisonError::into_inner).below(below)
    }

    fn instances_client(&self) -> InstanceServiceClient<Channel> {
        InstanceServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    fn operations_client(&self) -> OperationServiceClient<Channel> {
        OperationServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    fn groups_client(&self) -> CapacityBlockGroupServiceClient<Channel> {
        CapacityBlockGroupServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    fn intervals_client(&self) -> CapacityIntervalServiceClient<Channel> {
        CapacityIntervalServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    fn advice_client(&self) -> ResourceAdviceServiceClient<Channel> {
        ResourceAdviceServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }
}

/// What of an answer was read.
fn read<T>(read: Read<T>) -> Result<T, ComputeError> {
    read.map_err(wire::Wrong::garbage)
}

/// An answer is about what was asked for.
fn asked_for<T: PartialEq + fmt::Display + ?Sized>(
    what: &str,
    asked: &T,
    told: &T,
) -> Result<(), ComputeError> {
    if asked == told {
        return Ok(());
    }
    Err(ComputeError::garbage(format!("the answer is about {what} {told}, the question was about {asked}")))
}

/// An operation on an instance.
fn operation_on(id: &InstanceId, operation: &common::Operation) -> Result<Operation, ComputeError> {
    let operation = read(wire::operation::read(operation))?;
    asked_for("instance", id, &operation.instance)?;
    Ok(operation)
}

fn certificate(path: PathBuf) -> Result<Certificate, ClientError> {
    match std::fs::read_to_string(&path) {
        Ok(text) if text.contains("-----BEGIN CERTIFICATE-----") => Ok(Certificate::from_pem(text)),
        Ok(_) => Err(ClientError::Authority { path, message: "it holds no certificate in PEM".to_owned() }),
        Err(error) => Err(ClientError::Authority { path, message: error.to_string() }),
    }
}
