//! Our part of the Nebius API is the same on the wire as theirs: `nebius_vectors.json` holds messages
//! as JSON and as the bytes that another implementation wrote for them.
//!
//! The bytes prove numbers and types. The JSON proves names, which the bytes do not know.

#![cfg(test)]

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::PathBuf;
use std::{env, fs};

use hourglass_proto::google::rpc::Status;
use hourglass_proto::nebius::capacity::v1::compute_instance_details::{Preset, preset};
use hourglass_proto::nebius::capacity::v1::resource_advice_spec::ResourceDetails;
use hourglass_proto::nebius::capacity::v1::resource_advice_status::Availability;
use hourglass_proto::nebius::capacity::v1::resource_advice_status::availability::{
    AvailabilityLevel, DataState,
};
use hourglass_proto::nebius::capacity::v1::resource_affinity::Versions;
use hourglass_proto::nebius::capacity::v1::{
    CapacityBlockGroup, CapacityBlockGroupStatus, CapacityInterval, CapacityIntervalStatus,
    ComputeInstanceDetails, CurrentContinuousInterval, ResourceAdvice, ResourceAdviceSpec,
    ResourceAdviceStatus, ResourceAffinity, ResourceAffinityComputeV1, capacity_block_group_status,
    capacity_interval_status, current_continuous_interval,
};
use hourglass_proto::nebius::common::v1::service_error::{Details, RetryType};
use hourglass_proto::nebius::common::v1::{
    GetOperationRequest, NotEnoughResources, Operation, QuotaFailure, ResourceMetadata, ServiceError,
    not_enough_resources, quota_failure,
};
use hourglass_proto::nebius::compute::v1::instance_status::InstanceState;
use hourglass_proto::nebius::compute::v1::preemptible_spec::PreemptionPolicy;
use hourglass_proto::nebius::compute::v1::reservation_policy::Policy;
use hourglass_proto::nebius::compute::v1::{
    CreateInstanceRequest, DeleteInstanceRequest, GetInstanceRequest, Instance, InstanceGpuClusterSpec,
    InstanceRecoveryPolicy, InstanceSpec, InstanceStatus, ListInstancesRequest, ListInstancesResponse,
    PreemptibleSpec, ReservationPolicy, ResourcesSpec, StartInstanceRequest, StopInstanceRequest,
};
use hourglass_proto::nebius::quotas::v1::quota_allowance_status::{State, UsageState};
use hourglass_proto::nebius::quotas::v1::{
    GetByNameRequest, ListQuotaAllowancesRequest, QuotaAllowance, QuotaAllowanceSpec, QuotaAllowanceStatus,
};
use prost::{Message, Name};
use prost_types::Timestamp;
use protox::prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::Value;

/// 2026-11-22T10:00:00Z.
const TEN_O_CLOCK: i64 = 1_795_341_600;
/// 2026-11-01, 2026-12-01 and 2026-12-31, at midnight.
const NOVEMBER: i64 = 1_793_491_200;
const DECEMBER: i64 = NOVEMBER + 30 * 86_400;
const NEW_YEARS_EVE: i64 = DECEMBER + 30 * 86_400;

#[test]
fn our_types_write_and_read_the_same_bytes() {
    let mut vectors = Vectors::read();
    check_common(&mut vectors);
    check_quotas(&mut vectors);
    check_compute(&mut vectors);
    check_capacity(&mut vectors);
    vectors.assert_all_checked();
}

fn check_common(vectors: &mut Vectors) {
    vectors.check(
        "running operation: no status",
        Operation {
            id: "op-1".into(),
            description: "Create instance".into(),
            created_at: Some(Timestamp { seconds: TEN_O_CLOCK, nanos: 0 }),
            created_by: "sa-1".into(),
            resource_id: "computeinstance-e00abc".into(),
            ..Operation::default()
        },
    );
    vectors.check(
        "failed operation",
        Operation {
            id: "op-1".into(),
            created_at: Some(Timestamp { seconds: TEN_O_CLOCK, nanos: 0 }),
            finished_at: Some(Timestamp { seconds: TEN_O_CLOCK + 60, nanos: 0 }),
            resource_id: "computeinstance-e00abc".into(),
            status: Some(Status { code: 8, message: "not enough resources".into(), details: Vec::new() }),
            ..Operation::default()
        },
    );
    vectors.check("poll", GetOperationRequest { id: "op-1".into() });
    vectors.check(
        "capacity",
        ServiceError {
            service: "compute".into(),
            code: "NotEnoughResources".into(),
            retry_type: RetryType::Nothing.into(),
            details: Some(Details::NotEnoughResources(NotEnoughResources {
                violations: vec![not_enough_resources::Violation {
                    resource_type: "gpu-h100-sxm".into(),
                    message: "no capacity".into(),
                    requested: "8".into(),
                }],
            })),
        },
    );
    vectors.check(
        "quota",
        ServiceError {
            service: "compute".into(),
            code: "QuotaFailure".into(),
            retry_type: RetryType::UnitOfWork.into(),
            details: Some(Details::QuotaFailure(QuotaFailure {
                violations: vec![quota_failure::Violation {
                    quota: "compute.instance.gpu.h100".into(),
                    message: "limit".into(),
                    limit: "16".into(),
                    requested: "24".into(),
                }],
            })),
        },
    );
}

fn check_quotas(vectors: &mut Vectors) {
    vectors.check(
        "quota",
        QuotaAllowance {
            metadata: Some(ResourceMetadata {
                id: "quotaallowance-1".into(),
                parent_id: "tenant-e00a".into(),
                name: "compute.instance.gpu.h100".into(),
                ..ResourceMetadata::default()
            }),
            spec: Some(QuotaAllowanceSpec { limit: Some(64), region: "eu-north1".into() }),
            status: Some(QuotaAllowanceStatus {
                state: State::Active.into(),
                usage: 24,
                service: "compute".into(),
                unit: "GPU".into(),
                usage_percentage: "0.375".into(),
                usage_state: UsageState::Used.into(),
                ..QuotaAllowanceStatus::default()
            }),
        },
    );
    vectors.check(
        "list quotas",
        ListQuotaAllowancesRequest {
            parent_id: "tenant-e00a".into(),
            page_size: 100,
            page_token: String::new(),
        },
    );
    vectors.check(
        "quota by name",
        GetByNameRequest {
            parent_id: "tenant-e00a".into(),
            name: "compute.instance.gpu.h100".into(),
            region: "eu-north1".into(),
        },
    );
}

fn check_compute(vectors: &mut Vectors) {
    let project = || "project-e00xyz".to_owned();
    let labels = || [("hourglass/bid".to_owned(), "bid-7".to_owned())].into();
    let resources = |platform: &str, preset: &str| {
        Some(ResourcesSpec { platform: platform.into(), preset: preset.into() })
    };
    vectors.check(
        "regular instance inside a capacity block, killed by us",
        CreateInstanceRequest {
            metadata: Some(ResourceMetadata {
                parent_id: project(),
                name: "spot-7".into(),
                labels: labels(),
                ..ResourceMetadata::default()
            }),
            spec: Some(InstanceSpec {
                resources: resources("gpu-h100-sxm", "8gpu-128vcpu-1600gb"),
                gpu_cluster: Some(InstanceGpuClusterSpec { id: "computegpucluster-e00f3".into() }),
                recovery_policy: InstanceRecoveryPolicy::Fail.into(),
                hostname: "spot-7".into(),
                reservation_policy: Some(ReservationPolicy {
                    policy: Policy::Strict.into(),
                    reservation_ids: vec!["capacityblockgroup-e00b1".into()],
                }),
                ..InstanceSpec::default()
            }),
        },
    );
    vectors.check(
        "preemptible instance",
        CreateInstanceRequest {
            metadata: Some(ResourceMetadata {
                parent_id: project(),
                name: "pre-1".into(),
                ..ResourceMetadata::default()
            }),
            spec: Some(InstanceSpec {
                resources: resources("gpu-h200-sxm", "1gpu-16vcpu-200gb"),
                recovery_policy: InstanceRecoveryPolicy::Fail.into(),
                preemptible: Some(PreemptibleSpec { on_preemption: PreemptionPolicy::Stop.into() }),
                ..InstanceSpec::default()
            }),
        },
    );

    let id = || "computeinstance-e00abc".to_owned();
    let metadata = || {
        Some(ResourceMetadata {
            id: id(),
            parent_id: project(),
            name: "spot-7".into(),
            resource_version: 3,
            labels: labels(),
            ..ResourceMetadata::default()
        })
    };
    let in_state =
        |state: InstanceState| Some(InstanceStatus { state: state.into(), ..InstanceStatus::default() });
    vectors.check(
        "running",
        Instance {
            metadata: metadata(),
            spec: Some(InstanceSpec {
                resources: resources("gpu-h100-sxm", "8gpu-128vcpu-1600gb"),
                ..InstanceSpec::default()
            }),
            status: Some(InstanceStatus {
                state: InstanceState::Running.into(),
                reservation_id: "capacityblockgroup-e00b1".into(),
                ..InstanceStatus::default()
            }),
        },
    );
    vectors.check(
        "stopped",
        Instance {
            metadata: metadata(),
            spec: None,
            status: Some(InstanceStatus {
                state: InstanceState::Stopped.into(),
                reconciling: true,
                maintenance_event_id: "me-1".into(),
                ..InstanceStatus::default()
            }),
        },
    );
    vectors.check(
        "list",
        ListInstancesRequest { parent_id: project(), page_size: 100, page_token: "t1".into() },
    );
    vectors.check(
        "list answer",
        ListInstancesResponse {
            items: vec![Instance {
                metadata: metadata(),
                spec: None,
                status: in_state(InstanceState::Creating),
            }],
            next_page_token: "t2".into(),
        },
    );
    vectors.check("get", GetInstanceRequest { id: id() });
    vectors.check("delete", DeleteInstanceRequest { id: id() });
    vectors.check("start", StartInstanceRequest { id: id() });
    vectors.check("stop", StopInstanceRequest { id: id() });
}

fn check_capacity(vectors: &mut Vectors) {
    let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
    let metadata = |id: &str, parent: &str| {
        Some(ResourceMetadata { id: id.into(), parent_id: parent.into(), ..ResourceMetadata::default() })
    };
    let affinity = || {
        Some(ResourceAffinity {
            versions: Some(Versions::ComputeV1(ResourceAffinityComputeV1 {
                fabric: "fabric-3".into(),
                platform: "gpu-h100-sxm".into(),
            })),
        })
    };
    vectors.check(
        "reservation as read",
        CapacityBlockGroup {
            metadata: metadata("capacityblockgroup-e00b1", "tenant-e00a"),
            spec: None,
            status: Some(CapacityBlockGroupStatus {
                region: "eu-north1".into(),
                resource_affinity: affinity(),
                service: "compute".into(),
                state: capacity_block_group_status::State::Active.into(),
                current_limit: 128,
                usage: 96,
                usage_percentage: "0.75".into(),
                next_change_at: at(DECEMBER),
                next_change_to: Some(64),
                current_continuous_interval: Some(CurrentContinuousInterval {
                    start_time: at(NOVEMBER),
                    end_time: at(NEW_YEARS_EVE),
                    quantity: 128,
                    state: current_continuous_interval::State::Active.into(),
                }),
                usage_state: capacity_block_group_status::UsageState::Used.into(),
                reconciling: false,
            }),
        },
    );
    vectors.check(
        "interval",
        CapacityInterval {
            metadata: metadata("capacityinterval-1", "capacityblockgroup-e00b1"),
            spec: None,
            status: Some(CapacityIntervalStatus {
                container_id: "tenant-e00a".into(),
                region: "eu-north1".into(),
                resource_affinity: affinity(),
                service: "compute".into(),
                quantity: 128,
                start_time: at(NOVEMBER),
                end_time: at(DECEMBER),
                state: capacity_interval_status::State::Active.into(),
                reconciling: false,
            }),
        },
    );
    vectors.check(
        "supply feed",
        ResourceAdvice {
            metadata: metadata("", "tenant-e00a"),
            spec: Some(ResourceAdviceSpec {
                region: "eu-north1".into(),
                fabric: "fabric-3".into(),
                resource_details: Some(ResourceDetails::ComputeInstance(ComputeInstanceDetails {
                    platform: "gpu-h100-sxm".into(),
                    preset: Some(Preset {
                        name: "8gpu-128vcpu-1600gb".into(),
                        resources: Some(preset::Resources {
                            vcpu_count: 128,
                            memory_gibibytes: 1600,
                            gpu_count: 8,
                        }),
                    }),
                    gpu_memory_gigabytes: 80,
                })),
            }),
            status: Some(ResourceAdviceStatus {
                reserved: None,
                on_demand: None,
                preemptible: Some(Availability {
                    data_state: DataState::Fresh.into(),
                    available: 40,
                    limit: 128,
                    availability_level: AvailabilityLevel::Medium.into(),
                    effective_at: at(TEN_O_CLOCK),
                }),
            }),
        },
    );
}

#[test]
fn the_contracts_use_the_same_names() {
    let names = [
        "nebius/capacity/v1/capacity_block_group.proto",
        "nebius/capacity/v1/capacity_interval.proto",
        "nebius/capacity/v1/resource_advice.proto",
        "nebius/common/v1/error.proto",
        "nebius/common/v1/operation_service.proto",
        "nebius/compute/v1/instance_service.proto",
        "nebius/quotas/v1/quota_allowance_service.proto",
    ];
    let files = protox::compile(names.map(|name| root().join(name)), [root()]).unwrap();
    let contracts = DescriptorPool::from_file_descriptor_set(files).unwrap();
    for vector in Vectors::read().vectors {
        let message = contracts.get_message_by_name(&vector.message);
        assert_fields(&message.unwrap_or_else(|| panic!("no message {}", vector.message)), &vector.json);
    }
}

/// One entry of the file.
struct Vector {
    message: String,
    /// What the message is about. Together with the message's name it is unique.
    why: String,
    json: Value,
    bytes: Vec<u8>,
}

/// The file, and what of it was checked.
struct Vectors {
    vectors: Vec<Vector>,
    checked: BTreeSet<usize>,
}

impl Vectors {
    fn read() -> Self {
        let text = fs::read_to_string(root().join("tests/nebius_vectors.json")).unwrap();
        let entries: Vec<Value> = serde_json::from_str(&text).unwrap();
        let vectors = entries.iter().map(|entry| {
            let text = |key: &str| entry[key].as_str().unwrap().to_owned();
            Vector {
                message: text("message"),
                why: text("why"),
                json: entry["json"].clone(),
                bytes: bytes(&text("hex")),
            }
        });
        Self { vectors: vectors.collect(), checked: BTreeSet::new() }
    }

    fn check<M: Message + Name + Default + PartialEq + Debug>(&mut self, why: &str, value: M) {
        let name = M::full_name();
        let place = self.vectors.iter().position(|vector| vector.message == name && vector.why == why);
        let place = place.unwrap_or_else(|| panic!("no vector of {name} about {why}"));
        let bytes = &self.vectors[place].bytes;
        assert_eq!(&value.encode_to_vec(), bytes, "{name} about {why}, written");
        assert_eq!(M::decode(bytes.as_slice()).unwrap(), value, "{name} about {why}, read");
        self.checked.insert(place);
    }

    fn assert_all_checked(&self) {
        assert_eq!(self.checked.len(), self.vectors.len(), "a vector of the file has no value here");
    }
}

/// Each key of the JSON is a field of the message, each value of an enumeration one of its names.
fn assert_fields(message: &MessageDescriptor, json: &Value) {
    for (key, value) in json.as_object().unwrap() {
        let field = message.get_field_by_json_name(key);
        let field = field.unwrap_or_else(|| panic!("{} has no field {key}", message.full_name()));
        match value.as_array() {
            Some(values) => values.iter().for_each(|value| assert_value(&field, value)),
            None => assert_value(&field, value),
        }
    }
}

fn assert_value(field: &FieldDescriptor, value: &Value) {
    match field.kind() {
        // A timestamp is a text in JSON, and a map has keys that are no fields.
        Kind::Message(message) if value.is_object() && !field.is_map() => assert_fields(&message, value),
        Kind::Enum(values) => {
            let name = value.as_str().unwrap();
            assert!(values.get_value_by_name(name).is_some(), "{} has no {name}", values.full_name());
        }
        _ => {}
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<char> = hex.chars().collect();
    let byte = |pair: &[char]| u8::from_str_radix(&String::from_iter(pair), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// Asked for at run time: checkouts that share a target folder also share this program.
fn root() -> PathBuf {
    env::var_os("CARGO_MANIFEST_DIR").unwrap().into()
}
