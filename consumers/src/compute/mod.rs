//! Drives the units of spot bids through the compute API.
//!
//! The core says what is due ([`hourglass_ledger::core::market::Due`]); the driver makes the call and reports
//! what came of it. It decides nothing and remembers nothing: before each call the log says that it may have
//! been made, so a driver that is killed at any instant goes on where it was. What the cloud lists is
//! compared with what the log says, every so often.
//!
//! * One thing at a time is done for a unit, and no more than [`UNDER_WAY_MAX`] for all, beside the operations
//!   that are watched.
//! * An operation that the cloud works on is asked for every [`POLL_EVERY`], for all together no more often than
//!   [`POLLS_PER_SECOND_MAX`]. The log hears of it when it has ended, or after [`POLLS_PER_WATCH`] polls.
//! * A compute API that answers nonsense, or never, stops nothing else: what is not known is asked again.
//! * Instances that bear the name of a unit and are none are told in the log, and stopped where the
//!   [options](DriverOptions::stop_strays) say so. All others in the same project are left alone.

mod driver;
mod supply;
#[cfg(test)]
mod tests;
mod translate;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use hourglass_capacity::lifecycle::POLL_MS;
use hourglass_compute::ids::{BlockGroupId, ClusterId, ParentId};
use hourglass_compute::model::{Preset, Template};
use hourglass_compute::simulator::CLUSTER_PREFIX;
use hourglass_units::Fabric;

pub use driver::drive;
pub use supply::{advised, reserved};
pub use translate::{failure_of, listed, new_instance, news_of, outcome_of, seen};

/// Most calls and looks under way at once.
pub const UNDER_WAY_MAX: usize = 64;
/// Most operations that are watched at once. Of more than that, each is watched in its turn.
pub const WATCHES_MAX: usize = 256;
/// How often it is looked what is due, where nothing happens.
pub const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Least time between two looks: what ends is followed by a look, since something else may be due by that.
pub const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// How often an operation is asked for that the cloud works on.
pub const POLL_EVERY: Duration = Duration::from_millis(POLL_MS.unsigned_abs());
/// Most polls a second, of all operations: where more of them are under way, each is asked for more rarely.
pub const POLLS_PER_SECOND_MAX: u32 = 100;
/// After so many polls the log is told that an operation still goes on.
pub const POLLS_PER_WATCH: u32 = 30;
/// How often the cloud is listed, unless told otherwise.
pub const LIST_EVERY: Duration = Duration::from_secs(30);
/// vCPUs and gibibytes of memory for each GPU in the sizes of the public cloud.
const VCPUS_A_GPU: u32 = 16;
const GIBIBYTES_A_GPU: u32 = 200;

/// Where and how units are made.
#[derive(Debug, Clone)]
pub struct DriverOptions {
    /// The project that they are made in.
    pub parent: ParentId,
    /// The size of a unit of so many GPUs; `8gpu-128vcpu-1600gb` and its like where none is given.
    pub presets: BTreeMap<u32, Preset>,
    /// The GPU cluster of a fabric; `computegpucluster-` and the fabric where none is given.
    pub clusters: BTreeMap<Fabric, ClusterId>,
    /// The reservations of a fabric that units run in; on demand where there are none.
    pub reservations: BTreeMap<Fabric, Vec<BlockGroupId>>,
    /// Whose reservations and advice say what pools have, where their terms leave it to the cloud; nobody's where
    /// absent.
    pub tenant: Option<ParentId>,
    /// What the cloud wants to know beside that.
    pub template: Template,
    /// How often the cloud is listed.
    pub list_every: Duration,
    /// Whether instances that bear the name of a unit and are none are stopped and deleted.
    pub stop_strays: bool,
}

impl DriverOptions {
    /// In this project, with the sizes and names of the public cloud.
    pub fn new(parent: ParentId) -> Self {
        Self {
            parent,
            presets: BTreeMap::new(),
            clusters: BTreeMap::new(),
            reservations: BTreeMap::new(),
            tenant: None,
            template: Template::default(),
            list_every: LIST_EVERY,
            stop_strays: true,
        }
    }

    fn preset(&self, gpus: u32) -> Option<Preset> {
        let usual = || {
            let (vcpus, memory) = (gpus.checked_mul(VCPUS_A_GPU)?, gpus.checked_mul(GIBIBYTES_A_GPU)?);
            Preset::new(&format!("{gpus}gpu-{vcpus}vcpu-{memory}gb")).ok()
        };
        self.presets.get(&gpus).cloned().or_else(usual)
    }

    fn cluster(&self, fabric: &Fabric) -> Option<ClusterId> {
        let usual = || ClusterId::new(&format!("{CLUSTER_PREFIX}{fabric}")).ok();
        self.clusters.get(fabric).cloned().or_else(usual)
    }
}

/// What the driver has done.
#[derive(Debug, Default)]
pub struct DriverStatus {
    /// Calls that were to change something.
    pub calls: AtomicU64,
    /// Questions how an operation goes.
    pub polls: AtomicU64,
    /// Of the calls, those that the cloud refused.
    pub refused: AtomicU64,
    /// Calls, polls and looks without an answer that makes sense.
    pub unanswered: AtomicU64,
    /// Complete listings.
    pub listings: AtomicU64,
    /// When the cloud last said of all pools that ask it what they have, in Unix seconds; 0 for never.
    pub capacity_read_at: AtomicU64,
    /// Strays that were told to stop or to go.
    pub strays: AtomicU64,
}
