//! Who gets which machines.
//!
//! A place has so many GPUs. What is reserved of them is for reservations; the rest is on demand. Preemptible
//! instances take what nobody uses, idle reservations included, and leave when somebody with a right to it
//! comes. Whoever finds no room waits, and what an earlier one waits for is not given to a later one.

use std::collections::BTreeMap;

use hourglass_units::InstanceId;

use crate::ids::OperationId;
use crate::model::{InstanceSpec, Place, Supply};

use super::cloud::Cloud;
use super::settings::Settings;
use super::state::{Machine, Pool, Room, State};

/// What those who wait have a right to, and others therefore have not.
#[derive(Debug, Default)]
struct Claims {
    places: BTreeMap<Place, u64>,
    pools: BTreeMap<Room, u64>,
}

enum Seat {
    Free(Room),
    /// There will be room when preemptible instances have left.
    Claimed(Room),
}

impl State {
    fn held(&self, mut by: impl FnMut(&Machine, &Room) -> bool) -> u64 {
        let holders = self.machines.values().filter_map(|machine| Some((machine, machine.room.as_ref()?)));
        let held = holders.filter(|(machine, room)| by(machine, room)).map(|(machine, _)| machine.gpus());
        held.fold(0, u64::saturating_add)
    }

    /// GPUs of a place that somebody holds.
    pub(super) fn used(&self, place: &Place) -> u64 {
        self.held(|_, room| room.place == *place)
    }

    /// GPUs that are held out of a pool.
    pub(super) fn used_of(&self, room: &Room) -> u64 {
        self.held(|_, held| held == room)
    }

    /// GPUs that there are in a place.
    pub(super) fn there(&self, place: &Place) -> u64 {
        self.capacity.get(place).copied().unwrap_or(0)
    }

    /// GPUs that a pool may give.
    pub(super) fn limit(&self, settings: &Settings, room: &Room) -> u64 {
        match &room.pool {
            Pool::OnDemand => {
                self.there(&room.place).saturating_sub(settings.reserved(&room.place, self.age_ms()))
            }
            Pool::Group(id) => {
                settings.reservations.get(id).map_or(0, |reservation| reservation.limit(self.age_ms()))
            }
            Pool::Preemptible => self.there(&room.place),
        }
    }
}

/// Where an instance could be, the best first.
pub(super) fn rooms(state: &State, settings: &Settings, spec: &InstanceSpec) -> Vec<Room> {
    let fits = |place: &Place| {
        let cluster = place.fabric.as_ref().and_then(Settings::cluster_of);
        place.platform == spec.platform && (spec.cluster.is_none() || spec.cluster == cluster)
    };
    let everywhere = |pool: &Pool| -> Vec<Room> {
        let places = state.capacity.keys().filter(|place| fits(place));
        places.map(|place| Room { place: place.clone(), pool: pool.clone() }).collect()
    };
    let reserved = |ids: &[crate::ids::BlockGroupId]| -> Vec<Room> {
        let meant = settings.reservations.iter().filter(|(id, _)| ids.is_empty() || ids.contains(id));
        let meant = meant.filter(|(_, reservation)| fits(&reservation.place));
        meant.map(|(id, known)| Room { place: known.place.clone(), pool: Pool::Group(id.clone()) }).collect()
    };
    match &spec.supply {
        Supply::OnDemand => everywhere(&Pool::OnDemand),
        Supply::Preemptible => everywhere(&Pool::Preemptible),
        Supply::Reserved(ids) => reserved(ids),
        Supply::Either(ids) => [reserved(ids), everywhere(&Pool::OnDemand)].concat(),
    }
}

impl Cloud {
    /// Gives room to those who wait, as far as there is any, and makes some for those who have a right to it.
    pub(super) fn seat(&mut self) {
        let mut claims = Claims::default();
        for operation in self.state.waiting.clone() {
            let machine = self.state.works.get(&operation).map(|work| &work.operation.instance);
            let Some(machine) = machine.and_then(|id| self.state.machines.get(id)) else { continue };
            let gpus = machine.gpus();
            let spec = machine.instance.spec.clone();
            let mut seat = self.find_seat(&spec, gpus, &claims);
            if let Some(Seat::Claimed(room)) = &seat {
                let before = claims.places.get(&room.place).copied().unwrap_or(0);
                self.preempt(&room.place, before.saturating_add(gpus));
                // What did not run yet has left at once.
                seat = self.find_seat(&spec, gpus, &claims);
            }
            match seat {
                Some(Seat::Free(room)) => self.sit(&operation, room),
                Some(Seat::Claimed(room)) => {
                    add(&mut claims.places, room.place.clone(), gpus);
                    add(&mut claims.pools, room, gpus);
                }
                None => {}
            }
        }
    }

    fn find_seat(&self, spec: &InstanceSpec, gpus: u64, claims: &Claims) -> Option<Seat> {
        let state = &self.state;
        let sum = |used: u64, claimed: Option<&u64>| {
            used.saturating_add(claimed.copied().unwrap_or(0)).saturating_add(gpus)
        };
        let mut claimed = None;
        for room in rooms(state, &self.settings, spec) {
            if sum(state.used_of(&room), claims.pools.get(&room)) > state.limit(&self.settings, &room) {
                continue;
            }
            if sum(state.used(&room.place), claims.places.get(&room.place)) <= state.there(&room.place) {
                return Some(Seat::Free(room));
            }
            if room.pool != Pool::Preemptible && claimed.is_none() {
                claimed = Some(Seat::Claimed(room));
            }
        }
        claimed
    }

    fn sit(&mut self, operation: &OperationId, room: Room) {
        self.state.waiting.retain(|waiting| waiting != operation);
        let Some(work) = self.state.works.get(operation) else { return };
        let Some(machine) = self.state.machines.get_mut(&work.operation.instance) else { return };
        machine.instance.reservation = match &room.pool {
            Pool::Group(id) => Some(id.clone()),
            Pool::OnDemand | Pool::Preemptible => None,
        };
        machine.room = Some(room);
        self.plan_end(operation, self.settings.boot_ms);
    }

    /// Takes preemptible instances away, the newest first, until so many GPUs of a place are free or will be.
    fn preempt(&mut self, place: &Place, claimed: u64) {
        loop {
            let state = &self.state;
            let going = state.held(|machine, room| room.place == *place && state.is_going(machine));
            let free = state.there(place).saturating_sub(state.used(place));
            if free.saturating_add(going) >= claimed {
                return;
            }
            match self.newest(|room| room.place == *place && room.pool == Pool::Preemptible) {
                Some(id) => self.take_away(&id),
                None => return,
            }
        }
    }

    /// Takes instances away until no more is used than there is: first what is preemptible, last what is reserved.
    pub(super) fn shrink(&mut self) {
        for place in self.state.capacity.keys().cloned().collect::<Vec<_>>() {
            while self.staying(|room| room.place == place) > self.state.there(&place) {
                let here = |room: &Room| room.place == place;
                let next = self
                    .newest(|room| here(room) && room.pool == Pool::Preemptible)
                    .or_else(|| self.newest(|room| here(room) && room.pool == Pool::OnDemand))
                    .or_else(|| self.newest(here));
                let Some(id) = next else { break };
                self.take_away(&id);
            }
        }
        let groups = self.settings.reservations.iter();
        let groups: Vec<Room> = groups
            .map(|(id, known)| Room { place: known.place.clone(), pool: Pool::Group(id.clone()) })
            .collect();
        for group in groups {
            while self.staying(|room| *room == group) > self.state.limit(&self.settings, &group) {
                let Some(id) = self.newest(|room| *room == group) else { break };
                self.take_away(&id);
            }
        }
    }

    /// GPUs that are held and do not come free by themselves.
    pub(super) fn staying(&self, meant: impl Fn(&Room) -> bool) -> u64 {
        self.state.held(|machine, room| meant(room) && !self.state.is_going(machine))
    }

    /// The newest instance that stays. Ids grow.
    fn newest(&self, meant: impl Fn(&Room) -> bool) -> Option<InstanceId> {
        let stays =
            |machine: &Machine| machine.room.as_ref().is_some_and(&meant) && !self.state.is_going(machine);
        self.state.machines.iter().rev().find(|(_, machine)| stays(machine)).map(|(id, _)| id.clone())
    }
}

fn add<K: Ord>(sums: &mut BTreeMap<K, u64>, key: K, gpus: u64) {
    let sum = sums.entry(key).or_default();
    *sum = sum.saturating_add(gpus);
}
