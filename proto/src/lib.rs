//! The protobuf contracts of Hourglass, as Rust types.
//!
//! Two contracts live here, and they age in different ways:
//!
//! * [`v1`] is what GPU agents send and what a cell answers. Both ends are upgraded at their own
//!   pace, so a field keeps its number and its meaning for as long as any agent may still send it.
//! * [`ledger::v1`] is what the log holds. An event is written once and read for as long as the
//!   books exist, so its messages only ever gain fields.
//!
//! # What the crate guarantees
//!
//! * The types are the `.proto` files and nothing else: a test generates them anew and compares, so
//!   nobody can mend one side alone.
//! * Building it needs neither `protoc` nor a build script. The generated files are committed, and
//!   a change of a contract is read in review as the change of types that it causes.
//! * Without the feature `grpc` it is messages only and depends on prost alone. The ledger uses it
//!   that way; only what speaks with the outside world turns the feature on, and then finds
//!   `v1::usage_service_client` and `v1::usage_service_server`.
//! * Fields that carry whole documents (`batch_lz4`, `original_lz4`, `document`) are
//!   [`Bytes`](prost::bytes::Bytes): a clone shares them.
//!
//! # What it does not do
//!
//! * It checks nothing. A message that decodes is well-formed, not right: ids, intervals, limits
//!   and currencies are parsed where a message enters, into types that cannot be wrong.
//! * It promises no canonical bytes. Whoever hashes or compares must keep the bytes that arrived,
//!   since decoding drops the fields that this version does not know.
//! * It bounds no sizes. The number of records and the length of a message are limited by whoever
//!   takes them in.

/// The third contract: on which NATS subjects these messages travel.
pub mod subjects;

/// Usage as agents report it, with the watermark that tells them what is committed; and quota as a
/// compute service asks for it.
#[expect(missing_docs, reason = "a field whose name and type say all has no comment in the contract either")]
pub mod v1 {
    include!("generated/hourglass.v1.rs");

    #[cfg(feature = "grpc")]
    pub use services::{
        quota_service_client, quota_service_server, usage_service_client, usage_service_server,
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
