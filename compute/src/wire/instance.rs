//! Instances as messages and back.

use hourglass_proto::nebius::common::v1::ResourceMetadata;
use hourglass_proto::nebius::compute::v1 as wire;
use hourglass_proto::nebius::compute::v1::instance_status::InstanceState as WireState;
use hourglass_proto::nebius::compute::v1::preemptible_spec::PreemptionPolicy;
use hourglass_proto::nebius::compute::v1::reservation_policy::Policy;

use super::{Read, Wrong, bounded, instant_if_any, known, needed, parsed, parsed_unless_empty, timestamp};
use crate::model::{
    Instance, InstanceSpec, InstanceState, LABEL_LENGTH_MAX, LABELS_MAX, Labels, NAME_LENGTH_MAX,
    NewInstance, RESERVATIONS_MAX, Recovery, Supply, TEMPLATE_BYTES_MAX, Template,
};

/// Reads an instance.
pub(crate) fn read(instance: wire::Instance) -> Read<Instance> {
    let metadata = needed("metadata", instance.metadata)?;
    let status = needed("status", instance.status)?;
    Ok(Instance {
        id: parsed("metadata.id", &metadata.id)?,
        parent: parsed("metadata.parent_id", &metadata.parent_id)?,
        version: metadata.resource_version,
        created_at: instant_if_any("metadata.created_at", metadata.created_at.as_ref())?,
        name: bounded("metadata.name", metadata.name, NAME_LENGTH_MAX)?,
        labels: read_labels(metadata.labels)?,
        spec: read_spec(needed("spec", instance.spec)?)?,
        state: read_state(status.state)?,
        reconciling: status.reconciling,
        maintenance: match bounded(
            "status.maintenance_event_id",
            status.maintenance_event_id,
            NAME_LENGTH_MAX,
        )? {
            event if event.is_empty() => None,
            event => Some(event),
        },
        reservation: parsed_unless_empty("status.reservation_id", &status.reservation_id)?,
    })
}

/// Reads what is to be made.
pub(crate) fn read_new(request: wire::CreateInstanceRequest) -> Read<NewInstance> {
    let metadata = needed("metadata", request.metadata)?;
    Ok(NewInstance {
        parent: parsed("metadata.parent_id", &metadata.parent_id)?,
        name: bounded("metadata.name", metadata.name, NAME_LENGTH_MAX)?,
        labels: read_labels(metadata.labels)?,
        spec: read_spec(needed("spec", request.spec)?)?,
    })
}

/// Reads labels: bounded in number and length.
pub(crate) fn read_labels(labels: Labels) -> Read<Labels> {
    if labels.len() > LABELS_MAX {
        return Err(Wrong::new(
            "metadata.labels",
            format!("there are {}, more than {LABELS_MAX}", labels.len()),
        ));
    }
    let long = labels.iter().any(|(label, value)| label.len().max(value.len()) > LABEL_LENGTH_MAX);
    if long {
        return Err(Wrong::new("metadata.labels", format!("one has more than {LABEL_LENGTH_MAX} bytes")));
    }
    Ok(labels)
}

/// Reads what is wanted.
pub(crate) fn read_spec(spec: wire::InstanceSpec) -> Read<InstanceSpec> {
    let resources = needed("spec.resources", spec.resources)?;
    let bytes =
        spec.network_interfaces.iter().map(Vec::len).fold(spec.boot_disk.len(), usize::saturating_add);
    if bytes > TEMPLATE_BYTES_MAX {
        let what = format!("it and the boot disk have {bytes} bytes, more than {TEMPLATE_BYTES_MAX}");
        return Err(Wrong::new("spec.network_interfaces", what));
    }
    Ok(InstanceSpec {
        platform: parsed("spec.resources.platform", &resources.platform)?,
        preset: parsed("spec.resources.preset", &resources.preset)?,
        cluster: parsed_unless_empty("spec.gpu_cluster.id", &spec.gpu_cluster.unwrap_or_default().id)?,
        recovery: match known("spec.recovery_policy", spec.recovery_policy)? {
            wire::InstanceRecoveryPolicy::Recover => Recovery::Recover,
            wire::InstanceRecoveryPolicy::Fail => Recovery::Fail,
            wire::InstanceRecoveryPolicy::Always => Recovery::Always,
        },
        supply: read_supply(spec.preemptible, spec.reservation_policy)?,
        hostname: bounded("spec.hostname", spec.hostname, NAME_LENGTH_MAX)?,
        stopped: spec.stopped,
        template: Template { network_interfaces: spec.network_interfaces, boot_disk: spec.boot_disk },
    })
}

fn read_supply(
    preemptible: Option<wire::PreemptibleSpec>,
    reservation: Option<wire::ReservationPolicy>,
) -> Read<Supply> {
    let field = "spec.reservation_policy";
    let reservation = reservation.unwrap_or_default();
    let count = reservation.reservation_ids.len();
    if count > RESERVATIONS_MAX {
        return Err(Wrong::new(field, format!("it names {count}, more than {RESERVATIONS_MAX}")));
    }
    let ids = reservation.reservation_ids.iter();
    let ids =
        ids.map(|id| parsed("spec.reservation_policy.reservation_ids", id)).collect::<Read<Vec<_>>>()?;
    let policy: Policy = known("spec.reservation_policy.policy", reservation.policy)?;
    if let Some(preemptible) = preemptible {
        let _known: PreemptionPolicy = known("spec.preemptible.on_preemption", preemptible.on_preemption)?;
        if policy == Policy::Strict || !ids.is_empty() {
            return Err(Wrong::new(field, "a preemptible instance cannot use a reservation"));
        }
        return Ok(Supply::Preemptible);
    }
    match policy {
        Policy::Auto => Ok(Supply::Either(ids)),
        Policy::Forbid if ids.is_empty() => Ok(Supply::OnDemand),
        Policy::Forbid => Err(Wrong::new(field, "it forbids reservations and names some")),
        Policy::Strict => Ok(Supply::Reserved(ids)),
    }
}

fn read_state(state: i32) -> Read<InstanceState> {
    Ok(match known("status.state", state)? {
        WireState::Creating => InstanceState::Creating,
        WireState::Updating => InstanceState::Updating,
        WireState::Starting => InstanceState::Starting,
        WireState::Running => InstanceState::Running,
        WireState::Stopping => InstanceState::Stopping,
        WireState::Stopped => InstanceState::Stopped,
        WireState::Deleting => InstanceState::Deleting,
        WireState::Error => InstanceState::Error,
        WireState::Unspecified => return Err(Wrong::new("status.state", "it is missing")),
    })
}

/// An instance as a message.
pub(crate) fn write(instance: &Instance) -> wire::Instance {
    let state = match instance.state {
        InstanceState::Creating => WireState::Creating,
        InstanceState::Updating => WireState::Updating,
        InstanceState::Starting => WireState::Starting,
        InstanceState::Running => WireState::Running,
        InstanceState::Stopping => WireState::Stopping,
        InstanceState::Stopped => WireState::Stopped,
        InstanceState::Deleting => WireState::Deleting,
        InstanceState::Error => WireState::Error,
    };
    wire::Instance {
        metadata: Some(ResourceMetadata {
            id: instance.id.to_string(),
            parent_id: instance.parent.to_string(),
            name: instance.name.clone(),
            resource_version: instance.version,
            created_at: instance.created_at.map(timestamp),
            updated_at: None,
            labels: instance.labels.clone(),
        }),
        spec: Some(write_spec(&instance.spec)),
        status: Some(wire::InstanceStatus {
            state: state.into(),
            reconciling: instance.reconciling,
            maintenance_event_id: instance.maintenance.clone().unwrap_or_default(),
            reservation_id: instance.reservation.as_ref().map(ToString::to_string).unwrap_or_default(),
        }),
    }
}

/// What is to be made, as a message.
pub(crate) fn write_new(new: &NewInstance) -> wire::CreateInstanceRequest {
    wire::CreateInstanceRequest {
        metadata: Some(ResourceMetadata {
            parent_id: new.parent.to_string(),
            name: new.name.clone(),
            labels: new.labels.clone(),
            ..ResourceMetadata::default()
        }),
        spec: Some(write_spec(&new.spec)),
    }
}

/// What is wanted, as a message.
pub(crate) fn write_spec(spec: &InstanceSpec) -> wire::InstanceSpec {
    let recovery = match spec.recovery {
        Recovery::Recover => wire::InstanceRecoveryPolicy::Recover,
        Recovery::Fail => wire::InstanceRecoveryPolicy::Fail,
        Recovery::Always => wire::InstanceRecoveryPolicy::Always,
    };
    let policy = |policy: Policy, ids: &[crate::ids::BlockGroupId]| {
        let reservation_ids = ids.iter().map(ToString::to_string).collect();
        Some(wire::ReservationPolicy { policy: policy.into(), reservation_ids })
    };
    let (preemptible, reservation_policy) = match &spec.supply {
        Supply::OnDemand => (None, policy(Policy::Forbid, &[])),
        Supply::Reserved(ids) => (None, policy(Policy::Strict, ids)),
        Supply::Either(ids) if ids.is_empty() => (None, None),
        Supply::Either(ids) => (None, policy(Policy::Auto, ids)),
        Supply::Preemptible => {
            (Some(wire::PreemptibleSpec { on_preemption: PreemptionPolicy::Stop.into() }), None)
        }
    };
    wire::InstanceSpec {
        resources: Some(wire::ResourcesSpec {
            platform: spec.platform.to_string(),
            preset: spec.preset.as_str().to_owned(),
        }),
        gpu_cluster: spec.cluster.as_ref().map(|id| wire::InstanceGpuClusterSpec { id: id.to_string() }),
        network_interfaces: spec.template.network_interfaces.clone(),
        boot_disk: spec.template.boot_disk.clone(),
        stopped: spec.stopped,
        recovery_policy: recovery.into(),
        preemptible,
        hostname: spec.hostname.clone(),
        reservation_policy,
    }
}
