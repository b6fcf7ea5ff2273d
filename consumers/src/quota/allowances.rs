//! `nebius.quotas.v1.QuotaAllowanceService`: quotas as clients of the public Nebius API read and set them.
//!
//! An *allowance* is a key of a tenant or project that has a limit there, or is in use there. Groups have
//! no place in that API; a limit of a group is seen in what it denies.
//!
//! | field | is |
//! |---|---|
//! | `metadata.id` | `quotaallowance-NODE-KEY`: the numbers of the node and the key, which never change |
//! | `metadata.parent_id` | the tenant or the project. Asked for, `tenants/T/projects/P` does as well |
//! | `metadata.name` | the resource; `RESOURCE.preemptible` and `RESOURCE.reserved` for these classes |
//! | `metadata.resource_version` | 0: versions are not counted, the last writer's limit holds |
//! | `metadata.labels` | `class` and `node`, as `hourglass.v1` names them |
//! | `spec.limit` | the nominal limit; absent where there is none |
//! | `status.state` | always active: a limit below the use is in force too, and denies what is new |
//! | `status.usage` | committed, leased, and what runs without a hold. What is held is no use yet |
//! | `status.usage_percentage` | cut after six digits; 1 where something is used of a limit of 0 |

use std::collections::BTreeMap;
use std::str::FromStr;

use hourglass_ledger::cell::Submission;
use hourglass_ledger::core::quotas::QuotaCommand;
use hourglass_ledger::core::{Command, IdempotencyKey, Rejection, State};
use hourglass_ledger::store::PAGE_ROWS_MAX;
use hourglass_proto::nebius::common::v1::{Operation, ResourceMetadata};
use hourglass_proto::nebius::quotas::v1::quota_allowance_service_server::QuotaAllowanceService;
use hourglass_proto::nebius::quotas::v1::quota_allowance_status::{State as Standing, UsageState};
use hourglass_proto::nebius::quotas::v1::{
    CreateQuotaAllowanceRequest, DeleteQuotaAllowanceRequest, GetByNameRequest, GetQuotaAllowanceRequest,
    ListQuotaAllowancesRequest, ListQuotaAllowancesResponse, QuotaAllowance, QuotaAllowanceSpec,
    QuotaAllowanceStatus, UpdateQuotaAllowanceRequest,
};
use hourglass_quota::tree::{KeyIx, NodeIx};
use hourglass_quota::{Bound, Class, Limits, NodeName};
use hourglass_units::{ProjectId, ResourceName, TenantId};
use tonic::{Request, Response, Status};

use super::operations::operation_at;
use super::service::Caller;
use super::wire::{Method, allowance_name, class_to_wire};
use crate::api::page::{PAGE_SIZE_DEFAULT, row_before, sealed};
use crate::billing::report::AsOf;
use crate::grpc::Gate;
use crate::refusal::{Refusal, refused};

/// How the ids of allowances begin.
const ID_PREFIX: &str = "quotaallowance-";
/// The header that names a mutation.
const IDEMPOTENCY_KEY: &str = "x-idempotency-key";
/// What is counted by these is counted in GPUs.
const GPUS: &str = "compute.instance.gpu.";
/// Millionths: so exact a share is told.
const SHARE_PARTS: u128 = 1_000_000;

type Result<T, E = Refusal> = std::result::Result<T, E>;

/// Serves quotas as resources.
#[derive(Clone)]
pub(crate) struct Allowances(Gate);

/// What a change is about.
enum Target {
    Id(String),
    Name { parent: String, name: String },
}

/// A limit of a node.
struct Place {
    node: NodeName,
    resource: ResourceName,
    class: Class,
}

impl Allowances {
    pub(crate) const fn new(gate: Gate) -> Self {
        Self(gate)
    }

    async fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let caller = Caller::new(self.0.principal(request.metadata().as_ref()).await?);
        caller.may_read()?;
        Ok(caller)
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&State) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        match self.0.cell().read(read).await {
            Ok(done) => done,
            Err(error) => Err(refused(&self.0, error).await),
        }
    }

    /// Sets a nominal limit, or takes it away; answers with the operation, which has ended.
    async fn set(
        &self,
        caller: Caller,
        key: Option<IdempotencyKey>,
        nominal: Option<Bound>,
        place: impl FnOnce(&State, &Caller) -> Result<Place> + Send + 'static,
    ) -> Result<Response<Operation>, Status> {
        let seen = caller.clone();
        let command = self.read(move |state| {
            let Place { node, resource, class } = place(state, &seen)?;
            let limits = nominal.map(|nominal| limits_with(state, (&node, &resource, class), nominal));
            Ok(Command::from(QuotaCommand::SetLimits { node, resource, class, limits }))
        });
        let submission = Submission { command: command.await?, key, at: None };
        let outcome = match self.0.cell().submit(submission).await {
            Ok(outcome) => outcome,
            Err(error) => return Err(refused(&self.0, error).await.into()),
        };
        let position = outcome.answer().position.number();
        let operation = operation_at(&self.0, &caller, position).await?.ok_or_else(Refusal::internal)?;
        Ok(Response::new(operation))
    }
}

/// The limits of a place with another nominal one: how it borrows and lends stays.
fn limits_with(
    state: &State,
    (node, resource, class): (&NodeName, &ResourceName, Class),
    nominal: Bound,
) -> Limits {
    let tree = state.quotas().tree();
    let known = tree.find(node).zip(tree.key(resource, class));
    let known = known.and_then(|(node, key)| tree.standing(node, key).limits);
    Limits { nominal, ..known.unwrap_or(Limits::nominal(nominal)) }
}

/// The name under which a mutation was sent.
fn key_of<T>(method: Method, caller: &Caller, request: &Request<T>) -> Result<Option<IdempotencyKey>> {
    let mut given = request.metadata().get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = given.next() else { return Ok(None) };
    match (key.to_str(), given.next()) {
        (Ok(key), None) if !key.is_empty() => method.key(&caller.principal, key),
        _ => Err(Refusal::invalid(IDEMPOTENCY_KEY, "give it once, in visible ASCII characters")),
    }
}

/// The region is that of the cell.
pub(crate) fn check_region(state: &State, region: &str) -> Result<()> {
    let cell = state.cell().ok_or_else(|| Refusal::of_rejection(Rejection::CellNotOpen, ""))?;
    if region.is_empty() || cell.region.as_str() == region {
        return Ok(());
    }
    let region = region.chars().take(64).collect::<String>();
    Err(Refusal::invalid("region", format!("this cell serves {}, not {region}", cell.region)))
}

/// The tenant or project with an id, where the caller sees it.
fn parent(state: &State, caller: &Caller, id: &str) -> Result<NodeName> {
    let unknown =
        || Refusal::not_found("parent_unknown", id, format!("there is no tenant or project {id:?}"));
    if id.contains('/') {
        let node =
            NodeName::from_str(id).map_err(|error| Refusal::invalid("parent_id", error.to_string()))?;
        let known = caller.sees(node.tenant()) && state.tenant(node.tenant()).is_some();
        return match node {
            NodeName::Group(..) => Err(Refusal::invalid("parent_id", "groups have no allowances here")),
            node if known => Ok(node),
            _ => Err(unknown()),
        };
    }
    if let Ok(tenant) = TenantId::new(id)
        && caller.sees(&tenant)
        && state.tenant(&tenant).is_some()
    {
        return Ok(NodeName::Tenant(tenant));
    }
    let project = ProjectId::new(id).map_err(|_| unknown())?;
    let tree = state.quotas().tree();
    let tenants = state.tenants().map(|(tenant, _)| tenant).filter(|tenant| caller.sees(tenant));
    let mut owners = tenants.filter(|tenant| tree.project(tenant, &project).is_some());
    match (owners.next(), owners.next()) {
        (Some(tenant), None) => Ok(NodeName::Project(tenant.clone(), project)),
        (Some(_), Some(_)) => {
            let what = format!("several tenants have a project {id}: ask for tenants/TENANT/projects/{id}");
            Err(Refusal::conflict("parent_ambiguous", id, what))
        }
        (None, _) => Err(unknown()),
    }
}

/// The resource and class that a name stands for. One that ends like a class is that of the class.
fn read_name(name: &str) -> Result<(ResourceName, Class)> {
    let named = [Class::Preemptible, Class::Reserved].into_iter().find_map(|class| {
        let resource = name.strip_suffix(class.as_str())?.strip_suffix('.')?;
        Some((resource, class))
    });
    let (resource, class) = named.unwrap_or((name, Class::OnDemand));
    let resource =
        ResourceName::new(resource).map_err(|error| Refusal::invalid("name", error.to_string()))?;
    Ok((resource, class))
}

/// The id of an allowance.
pub(super) fn id_of(node: NodeIx, key: KeyIx) -> String {
    format!("{ID_PREFIX}{node}-{}", key.number())
}

/// What an id names, where the caller sees it.
fn find(state: &State, caller: &Caller, id: &str) -> Result<(NodeIx, KeyIx)> {
    let numbers = id.strip_prefix(ID_PREFIX).and_then(|numbers| numbers.split_once('-'));
    let found = numbers.and_then(|(node, key)| {
        let (node, key) = (node.parse::<NodeIx>().ok()?, key.parse::<u32>().ok()?);
        let tree = state.quotas().tree();
        let (name, key) = (tree.name(node)?, tree.numbered(key)?);
        let seen =
            caller.sees(name.tenant()) && !matches!(name, NodeName::Group(..)) && id_of(node, key) == id;
        seen.then_some((node, key))
    });
    found.ok_or_else(|| unknown(id))
}

fn unknown(id: &str) -> Refusal {
    Refusal::not_found(
        "allowance_unknown",
        id,
        "there is no such allowance: nothing is limited or used there",
    )
}

/// An allowance; `None` where nothing is limited or used.
fn allowance(state: &State, node: NodeIx, key: KeyIx) -> Option<QuotaAllowance> {
    let tree = state.quotas().tree();
    let standing = tree.standing(node, key);
    if standing.limits.is_none() && standing.taken.claimed() == 0 {
        return None;
    }
    let (name, kind) = (tree.name(node)?, tree.key_of(key)?);
    let parent_id = match name {
        NodeName::Tenant(tenant) => tenant.to_string(),
        NodeName::Project(_, project) => project.to_string(),
        NodeName::Group(..) => return None,
    };
    let limit = match standing.limits.map(|limits| limits.nominal) {
        Some(Bound::AtMost(most)) => Some(most),
        Some(Bound::Unlimited) | None => None,
    };
    let usage = standing.taken.used();
    let usage_state = match (limit, usage) {
        (None, _) => UsageState::NotApplicable,
        (Some(_), 0) => UsageState::NotUsed,
        (Some(_), _) => UsageState::Used,
    };
    let labels = [("class", kind.class.to_string()), ("node", name.to_string())];
    Some(QuotaAllowance {
        metadata: Some(ResourceMetadata {
            id: id_of(node, key),
            parent_id,
            name: allowance_name(kind.resource.as_str(), class_to_wire(kind.class)),
            labels: labels
                .map(|(label, value)| (label.to_owned(), value))
                .into_iter()
                .collect::<BTreeMap<_, _>>(),
            ..ResourceMetadata::default()
        }),
        spec: Some(QuotaAllowanceSpec {
            limit,
            region: state.cell().map(|cell| cell.region.to_string()).unwrap_or_default(),
        }),
        status: Some(QuotaAllowanceStatus {
            state: Standing::Active.into(),
            usage,
            service: kind.resource.segments().next().unwrap_or_default().to_owned(),
            unit: if kind.resource.as_str().starts_with(GPUS) { "GPU".to_owned() } else { String::new() },
            usage_percentage: limit.map(|limit| share(usage, limit)).unwrap_or_default(),
            usage_state: usage_state.into(),
            ..QuotaAllowanceStatus::default()
        }),
    })
}

/// How much of a limit is used, as a decimal. It is cut, not rounded: what is not used up is not told as 1.
fn share(usage: u64, limit: u64) -> String {
    let millionths = u128::from(usage).saturating_mul(SHARE_PARTS).checked_div(u128::from(limit));
    let millionths = match (millionths, usage) {
        (Some(millionths), _) => millionths,
        (None, 0) => 0,
        (None, _) => SHARE_PARTS,
    };
    let whole = millionths.checked_div(SHARE_PARTS).unwrap_or(0);
    let rest = millionths.checked_rem(SHARE_PARTS).unwrap_or(0);
    let text = format!("{whole}.{rest:06}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A page of a parent's allowances.
fn page(
    state: &State,
    caller: &Caller,
    request: &ListQuotaAllowancesRequest,
) -> Result<ListQuotaAllowancesResponse> {
    let limit = match usize::try_from(request.page_size) {
        Ok(0) => PAGE_SIZE_DEFAULT,
        Ok(size) if size <= PAGE_ROWS_MAX => size,
        _ => return Err(Refusal::invalid("page_size", format!("it is at most {PAGE_ROWS_MAX}"))),
    };
    let node = parent(state, caller, &request.parent_id)?;
    let list = format!("quotaallowances {node}");
    let after = match request.page_token.as_str() {
        "" => None,
        token => {
            let after = row_before(&list, token).and_then(|after| after.parse::<u32>().ok());
            Some(
                after
                    .ok_or_else(|| Refusal::invalid("page_token", "it is none of this list: start again"))?,
            )
        }
    };
    let tree = state.quotas().tree();
    let Some(node) = tree.find(&node) else { return Ok(ListQuotaAllowancesResponse::default()) };
    let keys = tree.standings(node).map(|(key, _)| key);
    let mut rest = keys.filter(|key| after.is_none_or(|after| key.number() > after));
    let keys: Vec<KeyIx> = rest.by_ref().take(limit).collect();
    let last = keys.last().filter(|_| rest.next().is_some());
    Ok(ListQuotaAllowancesResponse {
        items: keys.iter().filter_map(|key| allowance(state, node, *key)).collect(),
        next_page_token: last
            .map(|key| sealed(&list, &AsOf::of(state), key.number().to_string()))
            .unwrap_or_default(),
    })
}

/// Which limit a name stands for.
fn place(state: &State, caller: &Caller, (of, name): (&str, &str)) -> Result<Place> {
    let (resource, class) = read_name(name)?;
    Ok(Place { node: parent(state, caller, of)?, resource, class })
}

/// As [`place`], of an allowance that is there.
fn known_place(state: &State, caller: &Caller, target: &Target) -> Result<Place> {
    let tree = state.quotas().tree();
    match target {
        Target::Name { parent, name } => {
            let place = place(state, caller, (parent, name))?;
            let found = tree.find(&place.node).zip(tree.key(&place.resource, place.class));
            found.and_then(|(node, key)| allowance(state, node, key)).ok_or_else(|| unknown(name))?;
            Ok(place)
        }
        Target::Id(id) => {
            let (node, key) = find(state, caller, id)?;
            let (node, key) = tree.name(node).cloned().zip(tree.key_of(key)).ok_or_else(|| unknown(id))?;
            Ok(Place { node, resource: key.resource, class: key.class })
        }
    }
}

/// What a writer says of a limit.
fn read_spec(spec: Option<QuotaAllowanceSpec>) -> Result<(Bound, String)> {
    let QuotaAllowanceSpec { limit, region } =
        spec.ok_or_else(|| Refusal::invalid("spec", "it is missing; without a limit in it there is none"))?;
    Ok((limit.map_or(Bound::Unlimited, Bound::AtMost), region))
}

fn read_metadata(metadata: Option<ResourceMetadata>) -> Result<ResourceMetadata> {
    let metadata = metadata.ok_or_else(|| Refusal::invalid("metadata", "it is missing"))?;
    match metadata.resource_version {
        0 => Ok(metadata),
        _ => {
            let what = "versions of allowances are not counted: send 0, as it was read";
            Err(Refusal::conflict("version_unknown", &metadata.id, what))
        }
    }
}

#[tonic::async_trait]
impl QuotaAllowanceService for Allowances {
    async fn list(
        &self,
        request: Request<ListQuotaAllowancesRequest>,
    ) -> Result<Response<ListQuotaAllowancesResponse>, Status> {
        let caller = self.caller(&request).await?;
        let request = request.into_inner();
        Ok(Response::new(self.read(move |state| page(state, &caller, &request)).await?))
    }

    async fn get(
        &self,
        request: Request<GetQuotaAllowanceRequest>,
    ) -> Result<Response<QuotaAllowance>, Status> {
        let caller = self.caller(&request).await?;
        let id = request.into_inner().id;
        let read = self.read(move |state| {
            let (node, key) = find(state, &caller, &id)?;
            allowance(state, node, key).ok_or_else(|| unknown(&id))
        });
        Ok(Response::new(read.await?))
    }

    async fn get_by_name(
        &self,
        request: Request<GetByNameRequest>,
    ) -> Result<Response<QuotaAllowance>, Status> {
        let caller = self.caller(&request).await?;
        let GetByNameRequest { parent_id, name, region } = request.into_inner();
        let read = self.read(move |state| {
            check_region(state, &region)?;
            let Place { node, resource, class } = place(state, &caller, (&parent_id, &name))?;
            let tree = state.quotas().tree();
            let found = tree.find(&node).zip(tree.key(&resource, class));
            found.and_then(|(node, key)| allowance(state, node, key)).ok_or_else(|| unknown(&name))
        });
        Ok(Response::new(read.await?))
    }

    async fn create(
        &self,
        request: Request<CreateQuotaAllowanceRequest>,
    ) -> Result<Response<Operation>, Status> {
        let caller = self.caller(&request).await?;
        caller.may_set()?;
        let key = key_of(Method::CreateAllowance, &caller, &request)?;
        let CreateQuotaAllowanceRequest { metadata, spec } = request.into_inner();
        let (metadata, (nominal, region)) = (read_metadata(metadata)?, read_spec(spec)?);
        let place = move |state: &State, caller: &Caller| {
            check_region(state, &region)?;
            place(state, caller, (&metadata.parent_id, &metadata.name))
        };
        self.set(caller, key, Some(nominal), place).await
    }

    async fn update(
        &self,
        request: Request<UpdateQuotaAllowanceRequest>,
    ) -> Result<Response<Operation>, Status> {
        let caller = self.caller(&request).await?;
        caller.may_set()?;
        let key = key_of(Method::UpdateAllowance, &caller, &request)?;
        let UpdateQuotaAllowanceRequest { metadata, spec } = request.into_inner();
        let (metadata, (nominal, region)) = (read_metadata(metadata)?, read_spec(spec)?);
        let target = match metadata.id.is_empty() {
            true => Target::Name { parent: metadata.parent_id, name: metadata.name },
            false => Target::Id(metadata.id),
        };
        let place = move |state: &State, caller: &Caller| {
            check_region(state, &region)?;
            known_place(state, caller, &target)
        };
        self.set(caller, key, Some(nominal), place).await
    }

    async fn delete(
        &self,
        request: Request<DeleteQuotaAllowanceRequest>,
    ) -> Result<Response<Operation>, Status> {
        let caller = self.caller(&request).await?;
        caller.may_set()?;
        let key = key_of(Method::DeleteAllowance, &caller, &request)?;
        let target = Target::Id(request.into_inner().id);
        let place = move |state: &State, caller: &Caller| known_place(state, caller, &target);
        self.set(caller, key, None, place).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_an_exact_decimal() {
        for (usage, limit, told) in [
            (24, 64, "0.375"),
            (0, 64, "0"),
            (64, 64, "1"),
            (96, 64, "1.5"),
            (1, 3, "0.333333"),
            (999_999_999, 1_000_000_000, "0.999999"),
            (0, 0, "0"),
            (1, 0, "1"),
            (10, 1, "10"),
            (u64::MAX, 1, "18446744073709551615"),
        ] {
            assert_eq!(share(usage, limit), told, "{usage} of {limit}");
        }
    }

    #[test]
    fn a_name_has_a_class() {
        let check = |name: &str, expected: Option<(&str, Class)>| {
            let read = read_name(name).ok();
            assert_eq!(
                read.as_ref().map(|(resource, class)| (resource.as_str(), *class)),
                expected,
                "{name}"
            );
            if let Some((resource, class)) = read {
                assert_eq!(allowance_name(resource.as_str(), class_to_wire(class)), name);
            }
        };
        check("compute.instance.gpu.h100", Some(("compute.instance.gpu.h100", Class::OnDemand)));
        check(
            "compute.instance.gpu.h100.preemptible",
            Some(("compute.instance.gpu.h100", Class::Preemptible)),
        );
        check("compute.instance.gpu.h100.reserved", Some(("compute.instance.gpu.h100", Class::Reserved)));
        check("preemptible", Some(("preemptible", Class::OnDemand)));
        check(".preemptible", None);
        check("", None);
    }
}
