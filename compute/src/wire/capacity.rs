//! Reservations and advice as messages and back.

use hourglass_proto::nebius::capacity::v1 as wire;
use hourglass_proto::nebius::capacity::v1::capacity_block_group_status::{State as GroupState, UsageState};
use hourglass_proto::nebius::capacity::v1::capacity_interval_status::State as IntervalState;
use hourglass_proto::nebius::capacity::v1::compute_instance_details::{Preset as WirePreset, preset};
use hourglass_proto::nebius::capacity::v1::current_continuous_interval::State as ContinuousState;
use hourglass_proto::nebius::capacity::v1::resource_advice_spec::ResourceDetails;
use hourglass_proto::nebius::capacity::v1::resource_advice_status::Availability as WireAvailability;
use hourglass_proto::nebius::capacity::v1::resource_advice_status::availability::{
    AvailabilityLevel, DataState,
};
use hourglass_proto::nebius::capacity::v1::resource_affinity::Versions;
use hourglass_proto::nebius::common::v1::ResourceMetadata;
use hourglass_units::{Interval, Region};

use super::{Read, Wrong, instant, instant_if_any, known, needed, parsed, parsed_unless_empty, timestamp};
use crate::ids::ParentId;
use crate::model::{
    Advice, Availability, BlockGroup, CapacityInterval, Continuous, Freshness, Level, Phase, Place, Preset,
};

/// How reservations name the service that they are for.
const SERVICE: &str = "compute";
/// Millionths: so exact a share is told.
const SHARE_PARTS: u128 = 1_000_000;

/// Reads where machines stand.
pub(crate) fn read_place(affinity: Option<wire::ResourceAffinity>) -> Read<Place> {
    let field = "resource_affinity";
    let Versions::ComputeV1(affinity) = needed(field, needed(field, affinity)?.versions)?;
    Ok(Place {
        platform: parsed("resource_affinity.compute_v1.platform", &affinity.platform)?,
        fabric: parsed_unless_empty("resource_affinity.compute_v1.fabric", &affinity.fabric)?,
    })
}

fn write_place(place: &Place) -> wire::ResourceAffinity {
    let fabric = place.fabric.as_ref().map(ToString::to_string).unwrap_or_default();
    let affinity = wire::ResourceAffinityComputeV1 { fabric, platform: place.platform.to_string() };
    wire::ResourceAffinity { versions: Some(Versions::ComputeV1(affinity)) }
}

/// Reads an interval.
pub(crate) fn read_interval(interval: wire::CapacityInterval) -> Read<CapacityInterval> {
    let metadata = needed("metadata", interval.metadata)?;
    let status = needed("status", interval.status)?;
    let start = instant("status.start_time", &needed("status.start_time", status.start_time)?)?;
    let end = instant("status.end_time", &needed("status.end_time", status.end_time)?)?;
    Ok(CapacityInterval {
        id: parsed("metadata.id", &metadata.id)?,
        group: parsed("metadata.parent_id", &metadata.parent_id)?,
        region: parsed("status.region", &status.region)?,
        place: read_place(status.resource_affinity)?,
        gpus: status.quantity,
        during: Interval::new(start, end).map_err(|error| Wrong::new("status.end_time", error))?,
        phase: match known("status.state", status.state)? {
            IntervalState::Scheduled => Phase::Scheduled,
            IntervalState::Active => Phase::Active,
            IntervalState::Expired => Phase::Expired,
            IntervalState::Unspecified => return Err(Wrong::new("status.state", "it is missing")),
        },
    })
}

/// An interval as a message.
pub fn write_interval(interval: &CapacityInterval, tenant: &ParentId) -> wire::CapacityInterval {
    let state = match interval.phase {
        Phase::Scheduled => IntervalState::Scheduled,
        Phase::Active => IntervalState::Active,
        Phase::Expired => IntervalState::Expired,
    };
    wire::CapacityInterval {
        metadata: Some(ResourceMetadata {
            id: interval.id.to_string(),
            parent_id: interval.group.to_string(),
            ..ResourceMetadata::default()
        }),
        spec: Some(wire::CapacityIntervalSpec {}),
        status: Some(wire::CapacityIntervalStatus {
            container_id: tenant.to_string(),
            region: interval.region.to_string(),
            resource_affinity: Some(write_place(&interval.place)),
            service: SERVICE.to_owned(),
            quantity: interval.gpus,
            start_time: Some(timestamp(interval.during.start())),
            end_time: Some(timestamp(interval.during.end())),
            state: state.into(),
            reconciling: false,
        }),
    }
}

/// Reads a group.
pub(crate) fn read_group(group: wire::CapacityBlockGroup) -> Read<BlockGroup> {
    let metadata = needed("metadata", group.metadata)?;
    let status = needed("status", group.status)?;
    let _known: GroupState = known("status.state", status.state)?;
    let next = instant_if_any("status.next_change_at", status.next_change_at.as_ref())?;
    let continuous =
        status.current_continuous_interval.map(|interval| read_continuous(&interval)).transpose()?;
    Ok(BlockGroup {
        id: parsed("metadata.id", &metadata.id)?,
        region: parsed("status.region", &status.region)?,
        place: read_place(status.resource_affinity)?,
        limit: status.current_limit,
        used: status.usage,
        next_change: next.zip(status.next_change_to),
        continuous,
    })
}

fn read_continuous(interval: &wire::CurrentContinuousInterval) -> Read<Continuous> {
    let field = "status.current_continuous_interval";
    let start = instant(field, &needed(field, interval.start_time)?)?;
    let end = instant(field, &needed(field, interval.end_time)?)?;
    Ok(Continuous {
        during: Interval::new(start, end).map_err(|error| Wrong::new(field, error))?,
        phase: match known(field, interval.state)? {
            ContinuousState::Scheduled => Phase::Scheduled,
            ContinuousState::Active => Phase::Active,
            ContinuousState::Expired => Phase::Expired,
            ContinuousState::Unspecified => return Err(Wrong::new(field, "its state is missing")),
        },
        gpus: interval.quantity,
    })
}

fn write_continuous(continuous: &Continuous) -> wire::CurrentContinuousInterval {
    let state = match continuous.phase {
        Phase::Scheduled => ContinuousState::Scheduled,
        Phase::Active => ContinuousState::Active,
        Phase::Expired => ContinuousState::Expired,
    };
    wire::CurrentContinuousInterval {
        start_time: Some(timestamp(continuous.during.start())),
        end_time: Some(timestamp(continuous.during.end())),
        quantity: continuous.gpus,
        state: state.into(),
    }
}

/// A group as a message.
pub fn write_group(group: &BlockGroup, tenant: &ParentId) -> wire::CapacityBlockGroup {
    let usage = if group.used == 0 { UsageState::NotUsed } else { UsageState::Used };
    let state = if group.limit == 0 { GroupState::Inactive } else { GroupState::Active };
    wire::CapacityBlockGroup {
        metadata: Some(ResourceMetadata {
            id: group.id.to_string(),
            parent_id: tenant.to_string(),
            ..ResourceMetadata::default()
        }),
        spec: Some(wire::CapacityBlockGroupSpec {}),
        status: Some(wire::CapacityBlockGroupStatus {
            region: group.region.to_string(),
            resource_affinity: Some(write_place(&group.place)),
            service: SERVICE.to_owned(),
            state: state.into(),
            current_limit: group.limit,
            usage: group.used,
            usage_percentage: share(group.used, group.limit),
            next_change_at: group.next_change.map(|(at, _)| timestamp(at)),
            next_change_to: group.next_change.map(|(_, to)| to),
            current_continuous_interval: group.continuous.as_ref().map(write_continuous),
            usage_state: usage.into(),
            reconciling: false,
        }),
    }
}

/// How much of a limit is used, as a decimal that is cut after six digits.
fn share(used: u64, limit: u64) -> String {
    let millionths = u128::from(used).saturating_mul(SHARE_PARTS).checked_div(u128::from(limit)).unwrap_or(0);
    let (whole, rest) = (millionths / SHARE_PARTS, millionths % SHARE_PARTS);
    format!("{whole}.{rest:06}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Reads a piece of advice; `None` where it is about something other than instances.
pub(crate) fn read_advice(advice: wire::ResourceAdvice) -> Read<Option<Advice>> {
    let spec = needed("spec", advice.spec)?;
    let status = needed("status", advice.status)?;
    let Some(ResourceDetails::ComputeInstance(details)) = spec.resource_details else { return Ok(None) };
    let availability = |field, class: Option<WireAvailability>| {
        class.map(|class| read_availability(field, &class)).transpose()
    };
    Ok(Some(Advice {
        region: parsed::<Region>("spec.region", &spec.region)?,
        place: Place {
            platform: parsed("spec.compute_instance.platform", &details.platform)?,
            fabric: parsed_unless_empty("spec.fabric", &spec.fabric)?,
        },
        preset: parsed("spec.compute_instance.preset.name", &details.preset.unwrap_or_default().name)?,
        reserved: availability("status.reserved", status.reserved)?,
        on_demand: availability("status.on_demand", status.on_demand)?,
        preemptible: availability("status.preemptible", status.preemptible)?,
    }))
}

fn read_availability(field: &str, availability: &WireAvailability) -> Read<Availability> {
    Ok(Availability {
        freshness: match known(field, availability.data_state)? {
            DataState::Fresh => Freshness::Fresh,
            DataState::Stale => Freshness::Stale,
            DataState::Unknown | DataState::Unspecified => Freshness::Unknown,
        },
        available: availability.available,
        limit: availability.limit,
        level: match known(field, availability.availability_level)? {
            AvailabilityLevel::High => Level::High,
            AvailabilityLevel::Medium => Level::Medium,
            AvailabilityLevel::Low => Level::Low,
            AvailabilityLevel::LimitReached => Level::LimitReached,
            AvailabilityLevel::Unknown | AvailabilityLevel::Unspecified => Level::Unknown,
        },
        measured_at: instant_if_any(field, availability.effective_at.as_ref())?,
    })
}

/// A piece of advice as a message.
pub fn write_advice(advice: &Advice, tenant: &ParentId) -> wire::ResourceAdvice {
    wire::ResourceAdvice {
        metadata: Some(ResourceMetadata { parent_id: tenant.to_string(), ..ResourceMetadata::default() }),
        spec: Some(wire::ResourceAdviceSpec {
            region: advice.region.to_string(),
            fabric: advice.place.fabric.as_ref().map(ToString::to_string).unwrap_or_default(),
            resource_details: Some(ResourceDetails::ComputeInstance(wire::ComputeInstanceDetails {
                platform: advice.place.platform.to_string(),
                preset: Some(write_preset(&advice.preset)),
                gpu_memory_gigabytes: 0,
            })),
        }),
        status: Some(wire::ResourceAdviceStatus {
            reserved: advice.reserved.as_ref().map(write_availability),
            on_demand: advice.on_demand.as_ref().map(write_availability),
            preemptible: advice.preemptible.as_ref().map(write_availability),
        }),
    }
}

fn write_preset(preset: &Preset) -> WirePreset {
    let part = |unit| i32::try_from(preset.part(unit)).unwrap_or(i32::MAX);
    WirePreset {
        name: preset.as_str().to_owned(),
        resources: Some(preset::Resources {
            vcpu_count: part("vcpu"),
            memory_gibibytes: part("gb"),
            gpu_count: part("gpu"),
        }),
    }
}

fn write_availability(availability: &Availability) -> WireAvailability {
    let data_state = match availability.freshness {
        Freshness::Fresh => DataState::Fresh,
        Freshness::Stale => DataState::Stale,
        Freshness::Unknown => DataState::Unknown,
    };
    let level = match availability.level {
        Level::High => AvailabilityLevel::High,
        Level::Medium => AvailabilityLevel::Medium,
        Level::Low => AvailabilityLevel::Low,
        Level::LimitReached => AvailabilityLevel::LimitReached,
        Level::Unknown => AvailabilityLevel::Unknown,
    };
    WireAvailability {
        data_state: data_state.into(),
        available: availability.available,
        limit: availability.limit,
        availability_level: level.into(),
        effective_at: availability.measured_at.map(timestamp),
    }
}
