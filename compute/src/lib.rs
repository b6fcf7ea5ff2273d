//! The compute API of a GPU cloud: a client, and a simulator that fails in every way the real one does.
//!
//! The API is `nebius.compute.v1`, with its operations and its reading services for capacity: instances are
//! created, started, stopped and deleted by calls that answer with an operation; there is no watch, and no
//! reason is ever told for a stop.
//!
//! * [`client`] asks. It ends, happens once, and says what is known when something fails.
//! * [`simulator`] answers: a pure state machine over virtual time ([`simulator::Cloud`]), and a thin gRPC
//!   server around it ([`simulator::serve`]), which is `hourglass compute-sim`.
//! * [`messages`] is for whoever serves the reading services of capacity from other facts.
//! * [`model`] and [`ids`] are what both speak of, as plain types that were checked once; [`ComputeError`]
//!   is what can be the matter, sorted by what the caller does next.
//!
//! # What the crate guarantees
//!
//! * A change is sent under a key, and a key is one change: sending again makes nothing twice.
//! * `Unavailable` is told only where surely nothing happened, and a refusal only where no attempt before it
//!   may have gone through. All else is `Unknown` or `Garbage`: find out by listing.
//! * Want of quota or capacity is never retried. Everything that waits has a bound.
//! * What comes in is checked on both sides, by the same readers. Nothing panics on it.
//! * The simulated cloud gives no machine twice, keeps quotas, has one operation at a time on an instance, and
//!   ends each operation, whatever faults strike. One seed is one history, whether or not its state was saved
//!   and loaded in between.
//!
//! # What it does not do
//!
//! It decides nothing: what should run, and what a failure means for a bid or a bill, is for the driver above
//! it. It reads no clock but the runtime's, and draws from the seeds that it is given.

pub mod client;
mod draw;
pub mod error;
pub mod ids;
pub mod messages;
pub mod model;
pub mod simulator;
mod wire;

pub use error::{ComputeError, NextStep};
