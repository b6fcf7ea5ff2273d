//! The simulator: a cloud that is not there.
//!
//! [`Cloud`] is all of it, pure: calls and time go in, answers come out. [`serve`] puts it on the wire and
//! gives it the wall's time. A whole system can be simulated in one process and in virtual time by calling
//! [`Cloud::step`] and reading [`Response::as_seen_by`], and the same faults strike.
//!
//! | it has | as |
//! |---|---|
//! | machines | GPUs by place (platform and fabric); whoever finds none waits, and fails late |
//! | reservations | capacity block groups with intervals; what is reserved is kept from all but preemptible instances |
//! | preemptible instances | they take what is idle, and are stopped with a notice when others need it |
//! | quotas | checked when a call comes in |
//! | operations | one at a time on an instance; forgotten some time after their end |
//! | idempotency keys | answered with the first operation for a day |
//! | faults | by script ([`script`]) and by rate ([`faults`]) |
//!
//! # What is not simulated
//!
//! Disks, networks and what runs inside an instance. SIGTERM reaches nobody: an instance that is taken away
//! is STOPPING for the length of the notice.

mod admission;
mod call;
mod cloud;
mod connection;
mod duration;
pub mod faults;
mod file;
mod mishaps;
mod query;
mod room;
pub mod script;
mod server;
mod services;
mod settings;
mod state;

pub use admission::INSTANCES_MAX;
pub use call::{
    Answer, Call, CallKind, Change, Delivery, Listed, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX, Page, Query, Response,
};
pub use cloud::{Cloud, KEY_LENGTH_MAX, ResumeError, Saved};
pub use file::StateFileError;
pub use server::{SPEED_MAX, ServeError, ServeOptions, serve};
pub use services::{BATCH_MAX, REQUEST_BYTES_MAX, SERVICES};
pub use settings::{CLUSTER_PREFIX, PLACE_GPUS_MAX, Reservation, SecondCall, Settings, SettingsError};
