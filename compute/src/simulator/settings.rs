//! How a simulated cloud is.

use std::collections::BTreeMap;

use hourglass_units::{Fabric, Region, ResourceName};
use serde::{Deserialize, Serialize};

use crate::ids::{BlockGroupId, ClusterId, ParentId};
use crate::model::{Place, Preset};

use super::duration::milliseconds;
use super::faults::Rates;
use super::script::Script;

/// How the id of the GPU cluster of a fabric begins; the rest is the fabric.
pub const CLUSTER_PREFIX: &str = "computegpucluster-";
/// Most GPUs of a place.
pub const PLACE_GPUS_MAX: u64 = 1_000_000;

/// How a simulated cloud is. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// From what all chance follows.
    pub seed: u64,
    /// Its region.
    pub region: Region,
    /// Who has the reservations.
    pub tenant: ParentId,
    /// From a call to an instance that runs.
    pub boot_ms: i64,
    /// From a call to an instance that is off.
    pub stop_ms: i64,
    /// From when the provider takes an instance away to when it is off.
    pub notice_ms: i64,
    /// How long a call waits for room before it fails.
    pub patience_ms: i64,
    /// How long an operation that has ended is remembered.
    pub operation_memory_ms: i64,
    /// How long an idempotency key is remembered.
    pub key_memory_ms: i64,
    /// What becomes of a second call while the first one's operation goes on.
    pub second_call: SecondCall,
    /// GPUs by place.
    pub capacity: BTreeMap<Place, u64>,
    /// What is reserved.
    pub reservations: BTreeMap<BlockGroupId, Reservation>,
    /// Limits by the name of what they limit, such as `compute.instance.gpu.h100`; what is preemptible
    /// is counted by a name of its own that ends in `.preemptible`. What has no limit here has none.
    pub quotas: BTreeMap<ResourceName, u64>,
    /// The sizes that advice is given about.
    pub presets: Vec<Preset>,
    /// How often something goes wrong.
    pub rates: Rates,
    /// What goes wrong and when.
    pub script: Script,
}

/// What becomes of a second call on an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecondCall {
    /// It is refused.
    Conflicts,
    /// It puts an end to the first, where it can: a stop ends a start, a deletion ends everything.
    Aborts,
}

/// What is reserved in one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// Where.
    pub place: Place,
    /// How many GPUs, from when to when, in milliseconds since the cloud began.
    pub intervals: Vec<(u64, i64, i64)>,
}

/// A setting that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// No number of GPUs of a place.
    #[error("{0:?} is no capacity: write it like gpu-h100-sxm/fabric-1=512, at most {PLACE_GPUS_MAX} GPUs")]
    Capacity(String),
    /// No limit of a quota.
    #[error("{0:?} is no quota: write it like compute.instance.gpu.h100=64")]
    Quota(String),
    /// No reservation.
    #[error(
        "{0:?} is no reservation: write it like capacityblockgroup-1=gpu-h100-sxm/fabric-1:64, or with times since the \
         start ...:64@1h..30d"
    )]
    Reservation(String),
    /// A reservation of what is not there.
    #[error("{group} reserves up to {reserved} GPUs of {place}, where there are {there}: raise --capacity")]
    Overbooked {
        /// The group.
        group: BlockGroupId,
        /// Where.
        place: Place,
        /// With all others there, at most.
        reserved: u64,
        /// What there is.
        there: u64,
    },
    /// A reservation whose intervals are in different places.
    #[error("{0} is in two places: give each place a group of its own")]
    TwoPlaces(BlockGroupId),
    /// A time that is not above 0.
    #[error("{0} is not above 0")]
    Time(&'static str),
}

impl Settings {
    /// A cloud without machines: half a minute to boot, ten seconds to stop, a minute's notice.
    pub fn new(region: Region, tenant: ParentId, presets: Vec<Preset>) -> Self {
        Self {
            seed: 0,
            region,
            tenant,
            boot_ms: 30_000,
            stop_ms: 10_000,
            notice_ms: 60_000,
            patience_ms: 120_000,
            operation_memory_ms: 3_600_000,
            key_memory_ms: 86_400_000,
            second_call: SecondCall::Conflicts,
            capacity: BTreeMap::new(),
            reservations: BTreeMap::new(),
            quotas: BTreeMap::new(),
            presets,
            rates: Rates::default(),
            script: Script::default(),
        }
    }

    /// Adds what `PLATFORM/FABRIC=GPUS` says.
    pub fn add_capacity(&mut self, text: &str) -> Result<(), SettingsError> {
        let wrong = || SettingsError::Capacity(shown(text));
        let (place, gpus) = text.split_once('=').ok_or_else(wrong)?;
        let gpus = gpus.parse().ok().filter(|gpus| *gpus <= PLACE_GPUS_MAX).ok_or_else(wrong)?;
        self.capacity.insert(place.parse().map_err(|_| wrong())?, gpus);
        Ok(())
    }

    /// Adds what `NAME=GPUS` says.
    pub fn add_quota(&mut self, text: &str) -> Result<(), SettingsError> {
        let wrong = || SettingsError::Quota(shown(text));
        let (name, gpus) = text.split_once('=').ok_or_else(wrong)?;
        self.quotas.insert(name.parse().map_err(|_| wrong())?, gpus.parse().map_err(|_| wrong())?);
        Ok(())
    }

    /// Adds what `ID=PLATFORM/FABRIC:GPUS` or `ID=PLATFORM/FABRIC:GPUS@FROM..UNTIL` says. The same id again adds
    /// another interval to it.
    pub fn add_reservation(&mut self, text: &str) -> Result<(), SettingsError> {
        let wrong = || SettingsError::Reservation(shown(text));
        let (id, rest) = text.split_once('=').ok_or_else(wrong)?;
        let (place, rest) = rest.split_once(':').ok_or_else(wrong)?;
        let (gpus, during) = rest.split_once('@').unwrap_or((rest, "0s..3660d"));
        let (from, until) = during.split_once("..").ok_or_else(wrong)?;
        let (from, until) = milliseconds(from).zip(milliseconds(until)).ok_or_else(wrong)?;
        let gpus: u64 = gpus.parse().map_err(|_| wrong())?;
        if from >= until || gpus > PLACE_GPUS_MAX {
            return Err(wrong());
        }
        let id: BlockGroupId = id.parse().map_err(|_| wrong())?;
        let place: Place = place.parse().map_err(|_| wrong())?;
        let known = self.reservations.entry(id.clone());
        let known = known.or_insert_with(|| Reservation { place: place.clone(), intervals: Vec::new() });
        if known.place != place {
            return Err(SettingsError::TwoPlaces(id));
        }
        known.intervals.push((gpus, from, until));
        Ok(())
    }

    /// Looks at all of it at once.
    pub fn check(&self) -> Result<(), SettingsError> {
        let times = [
            ("--boot", self.boot_ms),
            ("--stop", self.stop_ms),
            ("--notice", self.notice_ms),
            ("--patience", self.patience_ms),
            ("--operation-memory", self.operation_memory_ms),
            ("--key-memory", self.key_memory_ms),
        ];
        if let Some((name, _)) = times.iter().find(|(_, ms)| *ms <= 0) {
            return Err(SettingsError::Time(name));
        }
        for (group, reservation) in &self.reservations {
            let place = &reservation.place;
            let there = self.capacity.get(place).copied().unwrap_or(0);
            // It is the most where an interval begins.
            let starts = reservation.intervals.iter().map(|(_, from, _)| *from);
            let reserved = starts.map(|from| self.reserved(place, from)).max().unwrap_or(0);
            if reserved > there {
                return Err(SettingsError::Overbooked {
                    group: group.clone(),
                    place: place.clone(),
                    reserved,
                    there,
                });
            }
        }
        Ok(())
    }

    /// GPUs of a place that are reserved at a time since the cloud began.
    pub(crate) fn reserved(&self, place: &Place, at_ms: i64) -> u64 {
        let there = self.reservations.values().filter(|reservation| reservation.place == *place);
        there.map(|reservation| reservation.limit(at_ms)).fold(0, u64::saturating_add)
    }

    /// The GPU cluster of a fabric.
    pub fn cluster_of(fabric: &Fabric) -> Option<ClusterId> {
        ClusterId::new(&format!("{CLUSTER_PREFIX}{fabric}")).ok()
    }
}

impl Reservation {
    /// GPUs of it at a time since the cloud began.
    pub(crate) fn limit(&self, at_ms: i64) -> u64 {
        let now = self.intervals.iter().filter(|(_, from, until)| (*from..*until).contains(&at_ms));
        now.map(|(gpus, ..)| *gpus).fold(0, u64::saturating_add)
    }

    /// When its limit may change, in order.
    pub(crate) fn edges(&self) -> Vec<i64> {
        let mut edges: Vec<i64> =
            self.intervals.iter().flat_map(|(_, from, until)| [*from, *until]).collect();
        edges.sort_unstable();
        edges.dedup();
        edges
    }
}

fn shown(text: &str) -> String {
    text.chars().take(96).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings::new("eu-north1".parse().unwrap(), "tenant-1".parse().unwrap(), Vec::new())
    }

    #[test]
    fn flags_are_read() {
        let mut settings = settings();
        settings.add_capacity("gpu-h100-sxm/fabric-1=512").unwrap();
        settings.add_quota("compute.instance.gpu.h100=64").unwrap();
        settings.add_reservation("group-1=gpu-h100-sxm/fabric-1:256").unwrap();
        settings.add_reservation("group-1=gpu-h100-sxm/fabric-1:256@1h..2h").unwrap();
        assert_eq!(settings.check(), Ok(()));
        let place = "gpu-h100-sxm/fabric-1".parse().unwrap();
        assert_eq!([0, 3_600_000, 7_200_000].map(|at| settings.reserved(&place, at)), [256, 512, 256]);
        assert!(matches!(
            settings.add_reservation("group-1=gpu-h100-sxm/fabric-2:1"),
            Err(SettingsError::TwoPlaces(_))
        ));
        for text in ["", "x", "gpu=many", "gpu/=1", "gpu=1000001"] {
            assert!(settings.add_capacity(text).is_err(), "{text:?}");
        }
        for text in ["", "h100", "h100=", "H 100=1"] {
            assert!(settings.add_quota(text).is_err(), "{text:?}");
        }
        for text in ["", "g", "g=gpu", "g=gpu:x", "g=gpu:1@5s", "g=gpu:1@5s..5s", "g g=gpu:1"] {
            assert!(settings.add_reservation(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn nothing_is_reserved_twice() {
        let mut settings = settings();
        settings.add_capacity("gpu/a=10").unwrap();
        settings.add_reservation("one=gpu/a:6@0s..2h").unwrap();
        settings.add_reservation("two=gpu/a:6@2h..3h").unwrap();
        assert_eq!(settings.check(), Ok(()));
        settings.add_reservation("two=gpu/a:6@1h..2h").unwrap();
        assert!(matches!(settings.check(), Err(SettingsError::Overbooked { reserved: 12, there: 10, .. })));
        settings.boot_ms = 0;
        assert_eq!(settings.check(), Err(SettingsError::Time("--boot")));
    }
}
