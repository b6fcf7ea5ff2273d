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
use hourglass_proto::nebius::common::v1::service_error::{Details, RetryType};
use hourglass_proto::nebius::common::v1::{
    GetOperationRequest, NotEnoughResources, Operation, QuotaFailure, ResourceMetadata, ServiceError,
    not_enough_resources, quota_failure,
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

#[test]
fn our_types_write_and_read_the_same_bytes() {
    let mut vectors = Vectors::read();

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

    vectors.assert_all_checked();
}

#[test]
fn the_contracts_use_the_same_names() {
    let names = [
        "nebius/common/v1/error.proto",
        "nebius/common/v1/operation_service.proto",
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
