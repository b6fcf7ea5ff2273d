//! Instances, operations and capacity, as both sides of the API speak of them.
//!
//! What is here is plain data that was checked once: ids are ids, texts and lists have bounds. How it
//! looks on the wire is nobody else's business.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use hourglass_units::{Fabric, InstanceId, Instant, Interval, Platform, Region};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::ComputeError;
use crate::ids::{BlockGroupId, ClusterId, IntervalId, OperationId, ParentId};

/// Longest name or host name, in bytes.
pub const NAME_LENGTH_MAX: usize = 253;
/// Most labels of an instance.
pub const LABELS_MAX: usize = 64;
/// Longest key or value of a label, in bytes.
pub const LABEL_LENGTH_MAX: usize = 256;
/// Longest preset, in bytes.
pub const PRESET_LENGTH_MAX: usize = 64;
/// Most GPUs that a preset may name: a rack has fewer.
pub const PRESET_GPUS_MAX: u32 = 1_024;
/// Most capacity block groups that an instance may name.
pub const RESERVATIONS_MAX: usize = 16;
/// Most bytes that pass through a template.
pub const TEMPLATE_BYTES_MAX: usize = 256 << 10;

/// Labels of an instance.
pub type Labels = BTreeMap<String, String>;

/// A size of a platform, such as `8gpu-128vcpu-1600gb`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Preset(String);

/// A text that is no preset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is no preset: write it like 8gpu-128vcpu-1600gb")]
pub struct NotAPreset;

impl Preset {
    /// Parses a preset: at most [`PRESET_LENGTH_MAX`] letters, digits and hyphens.
    pub fn new(text: &str) -> Result<Self, NotAPreset> {
        let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let fits = (1..=PRESET_LENGTH_MAX).contains(&text.len());
        let preset = Self(text.to_owned());
        if plain && fits && preset.gpus() <= PRESET_GPUS_MAX { Ok(preset) } else { Err(NotAPreset) }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// GPUs of an instance of this size; 0 where it has none.
    pub fn gpus(&self) -> u32 {
        self.part("gpu")
    }

    /// The number that stands before a unit; 0 where none does.
    pub(crate) fn part(&self, unit: &str) -> u32 {
        let mut numbers = self.0.split('-').filter_map(|part| part.strip_suffix(unit)?.parse().ok());
        numbers.next().unwrap_or(0)
    }
}

impl TryFrom<String> for Preset {
    type Error = NotAPreset;
    fn try_from(text: String) -> Result<Self, NotAPreset> {
        Self::new(&text)
    }
}

impl FromStr for Preset {
    type Err = NotAPreset;
    fn from_str(text: &str) -> Result<Self, NotAPreset> {
        Self::new(text)
    }
}

impl From<Preset> for String {
    fn from(preset: Preset) -> Self {
        preset.0
    }
}

/// Where machines stand: `gpu-h100-sxm/fabric-1`, or the platform alone where it has no fabric.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The kind of machine.
    pub platform: Platform,
    /// The InfiniBand fabric that joins them.
    pub fabric: Option<Fabric>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.fabric {
            Some(fabric) => write!(f, "{}/{fabric}", self.platform),
            None => write!(f, "{}", self.platform),
        }
    }
}

impl FromStr for Place {
    type Err = hourglass_units::IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.split_once('/') {
            Some((platform, fabric)) => Self { platform: platform.parse()?, fabric: Some(fabric.parse()?) },
            None => Self { platform: text.parse()?, fabric: None },
        })
    }
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What happens when an instance goes off by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Recovery {
    /// It is started again, and paid for.
    Recover,
    /// It stays off. For what is to be taken away.
    Fail,
    /// It is started again whatever happened.
    Always,
}

/// From which capacity an instance is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Supply {
    /// From what is on demand.
    OnDemand,
    /// From a reservation, and not at all without one. Of those named, or of any where none is.
    Reserved(Vec<BlockGroupId>),
    /// From a reservation that has room, else on demand.
    Either(Vec<BlockGroupId>),
    /// From what nobody else uses. The provider takes it back with a notice of a minute.
    Preemptible,
}

/// What the cloud wants to know of an instance and nothing here reads: encoded messages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    /// Its network interfaces.
    pub network_interfaces: Vec<Vec<u8>>,
    /// Its boot disk; empty for none.
    pub boot_disk: Vec<u8>,
}

/// What the owner wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceSpec {
    /// The kind of machine.
    pub platform: Platform,
    /// Its size.
    pub preset: Preset,
    /// Chooses the fabric; fixed once the instance exists.
    pub cluster: Option<ClusterId>,
    /// What happens when it goes off by itself.
    pub recovery: Recovery,
    /// From which capacity it is served.
    pub supply: Supply,
    /// Its host name, at most [`NAME_LENGTH_MAX`] bytes; empty leaves it to the cloud.
    pub hostname: String,
    /// It is not to run.
    pub stopped: bool,
    /// What passes through.
    pub template: Template,
}

/// An instance to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewInstance {
    /// The project.
    pub parent: ParentId,
    /// Unique within the project where it is not empty.
    pub name: String,
    /// For whoever made it.
    pub labels: Labels,
    /// What is wanted.
    pub spec: InstanceSpec,
}

/// What an instance does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum InstanceState {
    /// It is being made, and started for the first time.
    Creating,
    /// It is being changed. It may run meanwhile.
    Updating,
    /// It is being started.
    Starting,
    /// It runs.
    Running,
    /// It was told to stop: by a call, or by the provider that takes it back.
    Stopping,
    /// It is off. The cloud does not say why.
    Stopped,
    /// It is being taken away.
    Deleting,
    /// It is broken.
    Error,
}

/// An instance, as the cloud tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Given by the cloud.
    pub id: InstanceId,
    /// The project.
    pub parent: ParentId,
    /// As its maker named it.
    pub name: String,
    /// Grows whenever what is wanted of it changes.
    pub version: i64,
    /// When it was made.
    pub created_at: Option<Instant>,
    /// As its maker labelled it.
    pub labels: Labels,
    /// What is wanted.
    pub spec: InstanceSpec,
    /// What it does.
    pub state: InstanceState,
    /// Something is under way.
    pub reconciling: bool,
    /// Its machine waits for maintenance.
    pub maintenance: Option<String>,
    /// The reservation that it runs in.
    pub reservation: Option<BlockGroupId>,
}

/// Work that a call has started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Given by the cloud.
    pub id: OperationId,
    /// What is changed.
    pub instance: InstanceId,
    /// When the call was taken.
    pub created_at: Option<Instant>,
    /// When it ended.
    pub finished_at: Option<Instant>,
    /// How it ended; absent while it goes on.
    pub outcome: Option<Result<(), ComputeError>>,
}

/// Where a time lies as seen from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It comes.
    Scheduled,
    /// It is now.
    Active,
    /// It is over.
    Expired,
}

/// So many GPUs from one time to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapacityInterval {
    /// Given by the cloud.
    pub id: IntervalId,
    /// The group that it adds to.
    pub group: BlockGroupId,
    /// The region.
    pub region: Region,
    /// Where the machines stand.
    pub place: Place,
    /// How many.
    pub gpus: u64,
    /// From when to when.
    pub during: Interval,
    /// Whether it is now.
    pub phase: Phase,
}

/// All that is reserved of a platform in a fabric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockGroup {
    /// Given by the cloud.
    pub id: BlockGroupId,
    /// The region.
    pub region: Region,
    /// Where the machines stand.
    pub place: Place,
    /// GPUs that may be used now.
    pub limit: u64,
    /// GPUs that are.
    pub used: u64,
    /// When the limit changes next, and to what.
    pub next_change: Option<(Instant, u64)>,
    /// Its intervals without a gap between them, taken together.
    pub continuous: Option<Continuous>,
}

/// Intervals without a gap between them: those that hold now, else the next ones, else the last ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Continuous {
    /// From the first's start to the last's end.
    pub during: Interval,
    /// Whether they are now.
    pub phase: Phase,
    /// GPUs now; of those to come at their start, of those that are over at their end.
    pub gpus: u64,
}

/// How far a figure about capacity can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// It is how things stand.
    Fresh,
    /// It was measured long ago.
    Stale,
    /// Nobody knows.
    Unknown,
}

/// How much there is, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Much.
    High,
    /// Some.
    Medium,
    /// Little or nothing.
    Low,
    /// The quota is used up, whatever else there is.
    LimitReached,
    /// Nobody knows.
    Unknown,
}

/// How much of one class can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Availability {
    /// How far it can be relied on.
    pub freshness: Freshness,
    /// GPUs that could be had at once, within the quota.
    pub available: u32,
    /// The quota.
    pub limit: u32,
    /// In a word.
    pub level: Level,
    /// When it was measured.
    pub measured_at: Option<Instant>,
}

impl Availability {
    /// What whole machines of so many GPUs can be had out of what is free at an instant, of all that is there.
    /// A quota is its limit, and what is left of it; without one what is there is the limit.
    pub fn at(measured_at: Instant, gpus: u32, (free, there): (u64, u64), quota: Option<(u64, u64)>) -> Self {
        let gpus = u64::from(gpus);
        let (limit, left) = quota.unwrap_or((there, there));
        let whole = free.min(left).checked_div(gpus).unwrap_or(0).saturating_mul(gpus);
        let level = match () {
            () if left < gpus => Level::LimitReached,
            () if whole == 0 => Level::Low,
            () if whole.saturating_mul(2) >= there => Level::High,
            () if whole.saturating_mul(8) >= there => Level::Medium,
            () => Level::Low,
        };
        let clipped = |number| u32::try_from(number).unwrap_or(u32::MAX);
        Self {
            freshness: Freshness::Fresh,
            available: clipped(whole),
            limit: clipped(limit),
            level,
            measured_at: Some(measured_at),
        }
    }

    /// Nobody knows how much there is; what the quota is may be known.
    pub fn unknown(limit: Option<u64>) -> Self {
        Self {
            freshness: Freshness::Unknown,
            available: 0,
            limit: limit.map_or(0, |limit| u32::try_from(limit).unwrap_or(u32::MAX)),
            level: Level::Unknown,
            measured_at: None,
        }
    }
}

/// What can be had of one size of machine in one place. It promises nothing: others ask too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// The region.
    pub region: Region,
    /// Where the machines stand.
    pub place: Place,
    /// Their size.
    pub preset: Preset,
    /// Within reservations.
    pub reserved: Option<Availability>,
    /// On demand.
    pub on_demand: Option<Availability>,
    /// Preemptible.
    pub preemptible: Option<Availability>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preset_tells_its_parts() {
        let preset = |text: &str| Preset::new(text).unwrap();
        assert_eq!(preset("8gpu-128vcpu-1600gb").gpus(), 8);
        assert_eq!(preset("8gpu-128vcpu-1600gb").part("vcpu"), 128);
        assert_eq!(preset("8gpu-128vcpu-1600gb").part("gb"), 1_600);
        assert_eq!(preset("4vcpu-16gb").gpus(), 0);
        for text in ["", "8gpu/1", "99999gpu-1vcpu", &"8".repeat(65)] {
            assert_eq!(Preset::new(text), Err(NotAPreset), "{text:?}");
        }
    }

    #[test]
    fn what_can_be_had_is_whole_machines_within_the_quota() {
        let now = "2026-11-22T10:00:00Z".parse().unwrap();
        for (gpus, (free, there), quota, available, limit, level) in [
            (1, (40, 128), None, 40, 128, Level::Medium),
            (8, (47, 128), None, 40, 128, Level::Medium),
            (8, (64, 128), None, 64, 128, Level::High),
            (8, (15, 128), None, 8, 128, Level::Low),
            (8, (7, 128), None, 0, 128, Level::Low),
            (8, (128, 128), Some((24, 20)), 16, 24, Level::Medium),
            (8, (128, 128), Some((24, 7)), 0, 24, Level::LimitReached),
            (1, (0, 0), Some((8, 8)), 0, 8, Level::Low),
            (0, (8, 8), None, 0, 8, Level::Low),
            (1, (u64::MAX, u64::MAX), None, u32::MAX, u32::MAX, Level::High),
        ] {
            let measured_at = Some(now);
            let expected = Availability { freshness: Freshness::Fresh, available, limit, level, measured_at };
            let told = Availability::at(now, gpus, (free, there), quota);
            assert_eq!(told, expected, "{gpus} of {free} of {there}, {quota:?}");
        }
    }

    #[test]
    fn a_place_is_written_as_it_is_read() {
        for text in ["gpu-h100-sxm/fabric-1", "gpu-l40s"] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
        }
        assert!("gpu-h100-sxm/".parse::<Place>().is_err());
        assert!("/fabric".parse::<Place>().is_err());
    }
}
