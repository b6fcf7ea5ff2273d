//! What happens to instances without a call: they go off by themselves, the provider takes them away, and
//! the script has its way.

use hourglass_units::InstanceId;

use crate::error::ComputeError;
use crate::model::{InstanceState, Recovery};

use super::call::CallKind;
use super::cloud::Cloud;
use super::script::{Mishap, What};
use super::state::Event;

impl Cloud {
    /// The notice of an instance that is taken away is over.
    pub(super) fn off(&mut self, id: &InstanceId, run: u64) {
        let Some(machine) = self.state.machines.get_mut(id) else { return };
        if !machine.taken || machine.run != run {
            return;
        }
        machine.taken = false;
        machine.release();
        // A deletion goes on with what is left of it.
        if machine.instance.state == InstanceState::Stopping {
            machine.enter(InstanceState::Stopped);
        }
        if let Some(work) = self.state.machines.get(id).and_then(|machine| self.state.work_on(machine))
            && work.change.kind() == CallKind::Stop
        {
            let stop = work.operation.id.clone();
            self.end(&stop, Ok(()));
        }
    }

    /// The provider takes an instance away: it has its notice, then it is off. Nobody is told why.
    pub(super) fn take_away(&mut self, id: &InstanceId) {
        let Some(machine) = self.state.machines.get(id) else { return };
        if self.state.is_going(machine) || machine.room.is_none() {
            return;
        }
        if let Some(work) = self.state.work_on(machine)
            && work.change.kind() != CallKind::Update
        {
            // It does not run yet, so there is nobody to give notice to.
            let (work, message) = (work.operation.id.clone(), "its room was needed".to_owned());
            self.end(&work, Err(ComputeError::NotEnoughResources { message }));
            return;
        }
        let Some(machine) = self.state.machines.get_mut(id) else { return };
        machine.taken = true;
        machine.enter(InstanceState::Stopping);
        let off = Event::Off(id.clone(), machine.run);
        self.state.plan(self.settings.notice_ms, off);
    }

    /// An instance goes off by itself.
    pub(super) fn power_off(&mut self, id: &InstanceId) {
        let Some(machine) = self.state.machines.get_mut(id) else { return };
        if !matches!(machine.instance.state, InstanceState::Running | InstanceState::Updating) {
            return;
        }
        match machine.instance.spec.recovery {
            Recovery::Fail => {
                machine.release();
                machine.enter(InstanceState::Stopped);
            }
            Recovery::Recover | Recovery::Always => {
                machine.enter(InstanceState::Starting);
                let back = Event::Back(id.clone(), machine.run);
                self.state.plan(self.settings.boot_ms, back);
            }
        }
    }

    /// A line of the script.
    pub(super) fn play(&mut self, place: usize) {
        let Some(rule) = self.settings.script.rules.get(place) else { return };
        match rule.what.clone() {
            What::Instance(name, mishap) => {
                let mut all = self.state.machines.values();
                let found =
                    all.find(|machine| machine.instance.name == name || machine.instance.id.as_str() == name);
                let Some(id) = found.map(|machine| machine.instance.id.clone()) else { return };
                match mishap {
                    Mishap::PowerOff => self.power_off(&id),
                    Mishap::TakeAway => self.take_away(&id),
                    Mishap::Maintenance => {
                        let event = format!("maintenance-{}", self.state.turn());
                        if let Some(machine) = self.state.machines.get_mut(&id) {
                            machine.instance.maintenance = Some(event);
                        }
                    }
                }
            }
            What::Capacity(place, gpus) => {
                self.state.capacity.insert(place, gpus);
                self.shrink();
            }
            What::Next(..) | What::Every(..) => {}
        }
    }
}
