//! What NVML measures beside the time: kept with the records, never priced.
//!
//! The library comes with the driver and is loaded when the agent starts. A node without it is metered
//! all the same.

use std::collections::BTreeMap;

use hourglass_proto::v1::Evidence;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{EventSet, Nvml};

use crate::assignment::{Assignment, Run};

/// Most XIDs that one record names.
const XIDS_MAX: usize = 16;
/// Most events that one sample takes in: a device that floods must not hold up the others.
const EVENTS_MAX: usize = 1_024;

/// The way to the devices, where there is one.
pub(crate) struct Devices(Option<Loaded>);

struct Loaded {
    nvml: &'static Nvml,
    /// Tells of XIDs; absent where the driver does not.
    events: Option<EventSet<'static>>,
    /// XIDs since the last sample, by device.
    xids: BTreeMap<String, Vec<u32>>,
}

impl Devices {
    /// Without NVML, as on a node that does not want it.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// Loads NVML. Its absence is no error, and is said once.
    pub(crate) fn load() -> Self {
        match Nvml::init() {
            Ok(nvml) => {
                // It is loaded once and lives as long as the process: events borrow it.
                let nvml: &'static Nvml = Box::leak(Box::new(nvml));
                let events = register(nvml);
                tracing::info!("NVML is loaded: utilisation, memory, power and XIDs go with the records");
                Self(Some(Loaded { nvml, events, xids: BTreeMap::new() }))
            }
            Err(error) => {
                tracing::info!("no NVML on this node, so records carry no measurements: {error}");
                Self(None)
            }
        }
    }

    /// Measures the devices of each assignment that names them.
    pub(crate) fn measure(&mut self, assignments: &[Assignment]) -> BTreeMap<Run, Evidence> {
        let Some(loaded) = &mut self.0 else { return BTreeMap::new() };
        loaded.take_events();
        let named = assignments.iter().filter(|assignment| !assignment.gpu_uuids.is_empty());
        let measured: BTreeMap<_, _> = named
            .filter_map(|assignment| Some((assignment.run.clone(), loaded.evidence(&assignment.gpu_uuids)?)))
            .collect();
        loaded.xids.clear();
        measured
    }
}

fn register(nvml: &'static Nvml) -> Option<EventSet<'static>> {
    let mut events = nvml.create_event_set().ok()?;
    for index in 0..nvml.device_count().unwrap_or(0) {
        let Ok(device) = nvml.device_by_index(index) else { continue };
        match device.register_events(EventTypes::CRITICAL_XID_ERROR, events) {
            Ok(registered) => events = registered,
            Err(error) => {
                tracing::info!("this driver does not tell of XIDs: {error}");
                return None;
            }
        }
    }
    Some(events)
}

impl Loaded {
    fn take_events(&mut self) {
        let Some(events) = &self.events else { return };
        for _ in 0..EVENTS_MAX {
            match events.wait(0) {
                Ok(event) => {
                    let xid = match event.event_data {
                        Some(XidError::Value(xid)) => u32::try_from(xid).unwrap_or(u32::MAX),
                        Some(XidError::Unknown) | None => continue,
                    };
                    let Ok(device) = event.device.uuid() else { continue };
                    let xids = self.xids.entry(device).or_default();
                    if xids.len() < XIDS_MAX && !xids.contains(&xid) {
                        xids.push(xid);
                    }
                }
                Err(NvmlError::Timeout) => return,
                Err(error) => {
                    tracing::debug!("no events from NVML: {error}");
                    return;
                }
            }
        }
    }

    /// One answer for all devices of an instance: means of utilisation, sums of memory and power.
    /// `None` where not one of them answers.
    fn evidence(&self, uuids: &[String]) -> Option<Evidence> {
        let mut sums = Sums::default();
        for uuid in uuids {
            let Ok(device) = self.nvml.device_by_uuid(uuid.as_str()) else { continue };
            let Ok(utilization) = device.utilization_rates() else { continue };
            sums.devices = sums.devices.saturating_add(1);
            sums.percent = sums.percent.saturating_add(utilization.gpu);
            let used = device.memory_info().map_or(0, |memory| memory.used >> 20);
            sums.memory_mib = sums.memory_mib.saturating_add(used);
            sums.milliwatts = sums.milliwatts.saturating_add(device.power_usage().unwrap_or(0));
            sums.xids.extend(self.xids.get(uuid).into_iter().flatten());
        }
        sums.evidence()
    }
}

#[derive(Default)]
struct Sums {
    devices: u32,
    percent: u32,
    memory_mib: u64,
    milliwatts: u32,
    xids: Vec<u32>,
}

impl Sums {
    fn evidence(mut self) -> Option<Evidence> {
        self.xids.sort_unstable();
        self.xids.dedup();
        self.xids.truncate(XIDS_MAX);
        Some(Evidence {
            gpu_util_percent: self.percent.checked_div(self.devices)?,
            fb_used_mib: self.memory_mib,
            power_usage_milliwatts: self.milliwatts,
            xid_errors: self.xids,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_nvml_there_is_no_evidence_and_no_error() {
        let file = br#"{"instance_id":"i-1","gpus":8,"since":1,"gpu_uuids":["GPU-1"]}"#;
        let assignments = [Assignment::parse(file).unwrap()];
        assert!(Devices::none().measure(&assignments).is_empty());
        // Whether or not this machine has the library, a device of that name it has not.
        assert!(Devices::load().measure(&assignments).is_empty());
    }

    #[test]
    fn devices_are_taken_together() {
        assert_eq!(Sums::default().evidence(), None);
        let sums = Sums { devices: 2, percent: 151, memory_mib: 9, milliwatts: 7, xids: vec![79, 31, 79] };
        let evidence = sums.evidence().unwrap();
        assert_eq!((evidence.gpu_util_percent, evidence.xid_errors), (75, vec![31, 79]));
    }
}
