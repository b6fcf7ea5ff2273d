//! The protobuf contracts of Hourglass, as Rust types.
//!
//! The contracts that live here age in different ways:
//!
//! * [`v1`] is what others say to a cell and what it answers: GPU agents report usage, a compute
//!   service asks for quota, a customer bids. The ends are upgraded at their own pace, so a field keeps its number and
//!   its meaning for as long as anyone may still send it.
//! * [`ledger::v1`] is what the log holds. An event is written once and read for as long as the
//!   books exist, so its messages only ever gain fields.
//! * [`subjects`] says on which NATS subjects messages travel.
//! * [`nebius`] and [`google`] belong to others. Here stands the part that a cell speaks, the same on
//!   the wire as theirs; what they add later is skipped until it is written down here.
//!
//! # What the crate guarantees
//!
//! * The types are the `.proto` files and nothing else: a test generates them anew and compares, so
//!   nobody can mend one side alone. Another holds the foreign ones against bytes and names that are
//!   not of our making.
//! * Building it needs neither `protoc` nor a build script. The generated files are committed, and
//!   a change of a contract is read in review as the change of types that it causes.
//! * Without the feature `grpc` it is messages only and depends on prost and its well-known types
//!   alone. The ledger uses it that way; only what speaks with the outside world turns the feature
//!   on, and then finds a module for the client and one for the server of each service, such as
//!   `v1::quota_service_client` and `v1::quota_service_server`.
//! * Fields that carry whole documents (`batch_lz4`, `original_lz4`, `document`) are
//!   [`Bytes`](prost::bytes::Bytes): a clone shares them.
//! * Maps are ordered by key, and every message knows its [`Name`](prost::Name): as the detail of a
//!   status it is an [`Any`](prost_types::Any) of that name.
//!
//! # What it does not do
//!
//! * It checks nothing. A message that decodes is well-formed, not right: ids, intervals, limits
//!   and currencies are parsed where a message enters, into types that cannot be wrong.
//! * It promises no canonical bytes. Whoever hashes or compares must keep the bytes that arrived,
//!   since decoding drops the fields that this version does not know.
//! * It bounds no sizes. The number of records and the length of a message are limited by whoever
//!   takes them in.

/// On which NATS subjects these messages travel.
pub mod subjects;

/// Usage as agents report it, with the watermark that tells them what is committed; quota as a compute
/// service asks for it; and the spot market.
#[expect(missing_docs, reason = "a field whose name and type say all has no comment in the contract either")]
pub mod v1 {
    include!("generated/hourglass.v1.rs");

    #[cfg(feature = "grpc")]
    pub use services::{
        market_service_client, market_service_server, quota_service_client, quota_service_server,
        usage_service_client, usage_service_server,
    };

    #[cfg(feature = "grpc")]
    #[expect(
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        reason = "tonic writes its own `allow` lines, without a reason"
    )]
    mod services {
        include!("generated/hourglass.v1.grpc.rs");
    }
}

/// What belongs to the log.
pub mod ledger {
    /// The events, as the log stores them.
    #[expect(
        missing_docs,
        reason = "a field whose name and type say all has no comment in the contract either"
    )]
    pub mod v1 {
        include!("generated/hourglass.ledger.v1.rs");
    }
}

/// Interfaces of the public Nebius API, so that its clients can talk to a cell. Packages, names and
/// numbers are the public ones; fields that nothing here needs are left out.
pub mod nebius {
    /// Reservations as they are read, and how much there is to be had.
    pub mod capacity {
        /// Version 1.
        #[expect(
            missing_docs,
            reason = "a field whose name and type say all has no comment in the contract either"
        )]
        pub mod v1 {
            include!("generated/nebius.capacity.v1.rs");

            #[cfg(feature = "grpc")]
            pub use services::{
                capacity_block_group_service_client, capacity_block_group_service_server,
                capacity_interval_service_client, capacity_interval_service_server,
                resource_advice_service_client, resource_advice_service_server,
            };

            #[cfg(feature = "grpc")]
            #[expect(
                clippy::allow_attributes,
                clippy::allow_attributes_without_reason,
                reason = "tonic writes its own `allow` lines, without a reason"
            )]
            mod services {
                include!("generated/nebius.capacity.v1.grpc.rs");
            }
        }
    }

    /// Resources, operations and errors, the same in each of these interfaces.
    pub mod common {
        /// Version 1.
        #[expect(
            missing_docs,
            reason = "a field whose name and type say all has no comment in the contract either"
        )]
        pub mod v1 {
            include!("generated/nebius.common.v1.rs");

            #[cfg(feature = "grpc")]
            pub use services::{operation_service_client, operation_service_server};

            #[cfg(feature = "grpc")]
            #[expect(
                clippy::allow_attributes,
                clippy::allow_attributes_without_reason,
                reason = "tonic writes its own `allow` lines, without a reason"
            )]
            mod services {
                include!("generated/nebius.common.v1.grpc.rs");
            }
        }
    }

    /// Virtual machines with GPUs.
    pub mod compute {
        /// Version 1.
        #[expect(
            missing_docs,
            reason = "a field whose name and type say all has no comment in the contract either"
        )]
        pub mod v1 {
            include!("generated/nebius.compute.v1.rs");

            #[cfg(feature = "grpc")]
            pub use services::{instance_service_client, instance_service_server};

            #[cfg(feature = "grpc")]
            #[expect(
                clippy::allow_attributes,
                clippy::allow_attributes_without_reason,
                reason = "tonic writes its own `allow` lines, without a reason"
            )]
            mod services {
                include!("generated/nebius.compute.v1.grpc.rs");
            }
        }
    }

    /// Quotas as they are read and set.
    pub mod quotas {
        /// Version 1.
        #[expect(
            missing_docs,
            reason = "a field whose name and type say all has no comment in the contract either"
        )]
        pub mod v1 {
            include!("generated/nebius.quotas.v1.rs");

            #[cfg(feature = "grpc")]
            pub use services::{quota_allowance_service_client, quota_allowance_service_server};

            #[cfg(feature = "grpc")]
            #[expect(
                clippy::allow_attributes,
                clippy::allow_attributes_without_reason,
                reason = "tonic writes its own `allow` lines, without a reason"
            )]
            mod services {
                include!("generated/nebius.quotas.v1.grpc.rs");
            }
        }
    }
}

/// What these contracts need of gRPC's own messages.
pub mod google {
    /// The result of a call as a message.
    pub mod rpc {
        include!("generated/google.rpc.rs");
    }
}
