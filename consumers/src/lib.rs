//! What reads the log and speaks with the outside world.
//!
//! * [`api`] serves HTTP: resources, reports, ingestion, health, and the OpenAPI document.
//! * [`usage`] takes usage in, as protobuf, CloudEvents or JSON over HTTP and as a gRPC stream.
//! * [`grpc`] serves gRPC, all services on one port.
//! * [`market`] serves the spot market, and its prices as they change.
//! * [`prices`] tells what clearings changed, to all streams of the process.
//! * [`quota`] answers who asks what may run, and clients of the public Nebius API about quotas.
//! * `capacity` lets clients of the public Nebius API read reservations, and how much there is to be had.
//! * [`auth`] says who asks, and what each role may do.
//! * [`billing`] holds the reports that HTTP and the command line share.
//! * [`compute`] brings units of spot bids up and down through the compute API.
//! * [`planning`] says what pools had, what was wanted of them, and what comes next.
//! * [`finance`] writes the book in the formats of accountants' tools.
//!
//! # What it guarantees
//!
//! * Nothing here decides. A request becomes one command of the ledger's core (or one for each agent
//!   that a message speaks for), and it is answered after the commit.
//! * Every answer about money says as of which log position it holds.
//! * Usage that was received is in the log, in quarantine, or answered with an error that says that
//!   nothing was kept. Nothing is dropped in silence.
//! * Every error has a stable code, says whether to try again, and is the same document (RFC 9457)
//!   whatever layer it comes from.
//!
//! # What it does not do
//!
//! It keeps no state of its own but the keys of an issuer, and reads no clock but the cell's. TLS is
//! for whatever stands before it.

pub mod api;
pub mod auth;
pub mod billing;
mod capacity;
pub mod compute;
pub mod feed;
pub mod finance;
pub mod grpc;
pub mod hooks;
pub mod market;
pub mod nats;
pub mod planning;
pub mod prices;
pub mod quota;
mod refusal;
#[cfg(test)]
mod testing;
pub mod usage;
