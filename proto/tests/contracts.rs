//! Two promises about the contracts: the committed Rust is exactly what the `.proto` files say, and
//! no field, value or method that was ever published changes or goes.
//!
//! Run with `UPDATE_GENERATED=1` after a change of a `.proto` file, and commit what it wrote.

#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost_types::{DescriptorProto, EnumDescriptorProto, ServiceDescriptorProto};
use tonic_prost_build::{Config, FileDescriptorSet};

const PROTOS: [&str; 20] = [
    "hourglass/v1/usage.proto",
    "hourglass/v1/quota.proto",
    "hourglass/v1/market.proto",
    "hourglass/ledger/v1/event.proto",
    "google/rpc/status.proto",
    "nebius/capacity/v1/capacity_block_group.proto",
    "nebius/capacity/v1/capacity_block_group_service.proto",
    "nebius/capacity/v1/capacity_interval.proto",
    "nebius/capacity/v1/capacity_interval_service.proto",
    "nebius/capacity/v1/resource_advice.proto",
    "nebius/capacity/v1/resource_advice_service.proto",
    "nebius/capacity/v1/resource_affinity.proto",
    "nebius/common/v1/error.proto",
    "nebius/common/v1/metadata.proto",
    "nebius/common/v1/operation.proto",
    "nebius/common/v1/operation_service.proto",
    "nebius/compute/v1/instance.proto",
    "nebius/compute/v1/instance_service.proto",
    "nebius/quotas/v1/quota_allowance.proto",
    "nebius/quotas/v1/quota_allowance_service.proto",
];

/// Fields that carry whole documents. As `Bytes` they are handed on by reference count, where a
/// `Vec<u8>` would be copied at each step from the socket to the log.
const SHARED_BYTES: [&str; 3] = [
    ".hourglass.ledger.v1.UsageAccepted.batch_lz4",
    ".hourglass.ledger.v1.UsageQuarantined.original_lz4",
    ".hourglass.ledger.v1.InvoiceFinalised.document",
];

const ADVICE: &str = "run `UPDATE_GENERATED=1 cargo test -p hourglass-proto` and commit the result";

type Files = BTreeMap<String, String>;

#[test]
fn committed_code_is_generated_from_the_contracts() {
    let committed = root().join("src/generated");
    let expected = generate();
    if updating() {
        replace(&committed, &expected);
    }

    let found = read(&committed);
    assert_eq!(
        found.keys().collect::<Vec<_>>(),
        expected.keys().collect::<Vec<_>>(),
        "src/generated holds other files than the generator writes; {ADVICE}"
    );
    for (name, text) in &expected {
        // The texts are long, and showing their difference is what version control is for.
        assert!(found.get(name) == Some(text), "src/generated/{name} is out of date; {ADVICE}");
    }
}

/// Old agents, old clients and old logs speak the old fields. Updating adds what is new to the list
/// and still refuses what is gone, so taking a field away needs an edit by hand, which a review sees.
#[test]
fn a_published_field_stays_as_it_is() {
    let list = root().join("tests/published_fields.txt");
    let present = published_names();
    let published: BTreeSet<String> = fs::read_to_string(&list).unwrap().lines().map(str::to_owned).collect();

    let gone: Vec<_> = published.difference(&present).collect();
    assert!(gone.is_empty(), "these were published and must stay, with number and type: {gone:#?}");
    let new: Vec<_> = present.difference(&published).collect();
    if updating() {
        fs::write(&list, present.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    } else {
        assert!(new.is_empty(), "these are new: {new:#?}; {ADVICE}");
    }
}

/// Everything that belongs into `src/generated`, by file name.
///
/// Messages and services go to separate files, since a crate without the feature `grpc` must not
/// even parse the latter.
fn generate() -> Files {
    let messages = scratch("messages");
    // Maps in the order of their keys, so that the same message is written as the same bytes.
    let builder = tonic_prost_build::configure()
        .build_client(false)
        .build_server(false)
        .btree_map(".")
        .boxed(".nebius.compute.v1.BatchGetResponse.BatchGetResult.result.instance")
        .out_dir(&messages);
    let builder = SHARED_BYTES.iter().fold(builder, |builder, path| builder.bytes(path));
    // A message knows its name, so that it can be packed as the detail of a status.
    let mut named = Config::new();
    named.enable_type_names().type_name_domain(["."], "type.googleapis.com");
    builder.compile_fds_with_config(contracts(), named).unwrap();

    // Calling each message external leaves nothing but the services to write.
    let services = scratch("services");
    tonic_prost_build::configure()
        .extern_path(".google.rpc", "crate::google::rpc")
        .extern_path(".hourglass.v1", "crate::v1")
        .extern_path(".hourglass.ledger.v1", "crate::ledger::v1")
        .extern_path(".nebius.capacity.v1", "crate::nebius::capacity::v1")
        .extern_path(".nebius.common.v1", "crate::nebius::common::v1")
        .extern_path(".nebius.compute.v1", "crate::nebius::compute::v1")
        .extern_path(".nebius.quotas.v1", "crate::nebius::quotas::v1")
        .out_dir(&services)
        .compile_fds(contracts())
        .unwrap();

    let mut files = read(&messages);
    for (name, text) in read(&services) {
        // A package without a service yields a file with only the generator's mark.
        if text.contains("pub mod ") {
            files.insert(name.replace(".rs", ".grpc.rs"), text);
        }
    }
    files
}

/// What others may hold on to, a line each: the fields of messages, the values of enumerations and the
/// methods of services.
fn published_names() -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for file in contracts().file {
        let package = file.package();
        // What others publish is theirs to keep; it is here because our files import it.
        if package == "google.protobuf" {
            continue;
        }
        file.message_type.iter().for_each(|message| add_message(&mut lines, package, message));
        file.enum_type.iter().for_each(|values| add_values(&mut lines, package, values));
        file.service.iter().for_each(|service| add_methods(&mut lines, package, service));
    }
    lines
}

/// One line a field: its full name, its number, its type. The entries of a map are a message with the
/// fields `key` and `value`.
fn add_message(lines: &mut BTreeSet<String>, parent: &str, message: &DescriptorProto) {
    let name = format!("{parent}.{}", message.name());
    for field in &message.field {
        // A message by its name, a plain type as the contract spells it.
        let kind = match field.type_name() {
            "" => field.r#type().as_str_name().trim_start_matches("TYPE_").to_lowercase(),
            message => message.trim_start_matches('.').to_owned(),
        };
        let optional = if field.proto3_optional() { "optional " } else { "" };
        let repeated = if field.label().as_str_name() == "LABEL_REPEATED" { "repeated " } else { "" };
        lines.insert(format!("{name}.{} = {}: {optional}{repeated}{kind}", field.name(), field.number()));
    }
    message.nested_type.iter().for_each(|nested| add_message(lines, &name, nested));
    message.enum_type.iter().for_each(|values| add_values(lines, &name, values));
}

/// One line a value: its full name, its number.
fn add_values(lines: &mut BTreeSet<String>, parent: &str, values: &EnumDescriptorProto) {
    for value in &values.value {
        lines.insert(format!("{parent}.{}.{} = {}", values.name(), value.name(), value.number()));
    }
}

/// One line a method: its path, what goes in and what comes out.
fn add_methods(lines: &mut BTreeSet<String>, package: &str, service: &ServiceDescriptorProto) {
    for method in &service.method {
        let side = |streams: bool, kind: &str| {
            format!("{}{}", if streams { "stream " } else { "" }, kind.trim_start_matches('.'))
        };
        lines.insert(format!(
            "{package}.{}/{}: {} -> {}",
            service.name(),
            method.name(),
            side(method.client_streaming(), method.input_type()),
            side(method.server_streaming(), method.output_type())
        ));
    }
}

fn contracts() -> FileDescriptorSet {
    protox::compile(PROTOS.map(|proto| root().join(proto)), [root()]).unwrap()
}

/// Asked for at run time: checkouts that share a target folder also share this program.
fn root() -> PathBuf {
    env::var_os("CARGO_MANIFEST_DIR").unwrap().into()
}

fn updating() -> bool {
    env::var_os("UPDATE_GENERATED").is_some_and(|value| value == "1")
}

/// An empty folder below Cargo's own folder for tests.
fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hourglass-proto").join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder).unwrap();
    }
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn read(folder: &Path) -> Files {
    let mut files = Files::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        files.insert(name, fs::read_to_string(entry.path()).unwrap());
    }
    files
}

fn replace(folder: &Path, files: &Files) {
    for name in read(folder).keys() {
        fs::remove_file(folder.join(name)).unwrap();
    }
    for (name, text) in files {
        fs::write(folder.join(name), text).unwrap();
    }
}
