//! What the cloud tells.

use hourglass_units::{Instant, Interval};

use crate::error::ComputeError;
use crate::ids::{BlockGroupId, IntervalId};
use crate::model::{
    Advice, Availability, BlockGroup, CapacityInterval, Continuous, InstanceSpec, Phase, Place, Preset,
    Recovery, Supply, Template,
};

use super::call::{Answer, Listed, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX, Page, Query};
use super::cloud::{Cloud, not_found};
use super::settings::Reservation;
use super::state::{Pool, Room, quota_of};

impl Cloud {
    pub(super) fn query(&self, query: &Query) -> Result<Answer, ComputeError> {
        let machines = &self.state.machines;
        match query {
            Query::Instance(id) => {
                let machine = machines.get(id).ok_or_else(|| not_found(id.as_str()))?;
                Ok(Answer::Instance(Box::new(machine.instance.clone())))
            }
            Query::InstanceByName(parent, name) => {
                let mut all = self.instances();
                let found = all.find(|known| known.parent == *parent && known.name == *name);
                Ok(Answer::Instance(Box::new(found.ok_or_else(|| not_found(name))?.clone())))
            }
            Query::InstanceBatch(ids) => {
                let found = ids.iter().map(|id| {
                    let machine = machines.get(id).ok_or_else(|| not_found(id.as_str()));
                    (id.clone(), machine.map(|machine| machine.instance.clone()))
                });
                Ok(Answer::InstanceBatch(found.collect()))
            }
            Query::Instances(parent, page) => {
                let all = self.instances().filter(|known| known.parent == *parent);
                Ok(Answer::Instances(listed(page, all.map(|known| (known.id.as_str(), known)))?))
            }
            Query::Operation(id) => {
                let work = self.state.works.get(id).filter(|work| !work.forgotten);
                Ok(Answer::Operation(work.ok_or_else(|| not_found(id.as_str()))?.operation.clone()))
            }
            Query::Operations(instance, page) => {
                let known = self.state.works.values().filter(|work| !work.forgotten);
                let mine = known.map(|work| &work.operation).filter(|known| known.instance == *instance);
                Ok(Answer::Operations(listed(page, mine.map(|known| (known.id.as_str(), known)))?))
            }
            _ => self.query_capacity(query),
        }
    }

    fn query_capacity(&self, query: &Query) -> Result<Answer, ComputeError> {
        let groups = &self.settings.reservations;
        let known = |id: &BlockGroupId| groups.get(id).ok_or_else(|| not_found(id.as_str()));
        match query {
            Query::BlockGroup(id) => Ok(Answer::BlockGroup(self.group(id, known(id)?))),
            Query::BlockGroupOf(place) => {
                let found = groups.iter().find(|(_, reservation)| reservation.place == *place);
                let (id, reservation) = found.ok_or_else(|| not_found(&place.to_string()))?;
                Ok(Answer::BlockGroup(self.group(id, reservation)))
            }
            Query::BlockGroups(page) => {
                let all: Vec<_> =
                    groups.iter().map(|(id, known)| (id.as_str(), self.group(id, known))).collect();
                Ok(Answer::BlockGroups(listed(page, all.iter().map(|(id, group)| (*id, group)))?))
            }
            Query::BlockGroupMembers(id) => {
                known(id)?;
                let members = self.instances().filter(|known| known.reservation.as_ref() == Some(id));
                Ok(Answer::BlockGroupMembers(members.map(|known| known.id.clone()).collect()))
            }
            Query::Interval(id) => {
                let mut all = groups.iter().flat_map(|(group, known)| self.intervals(group, known));
                Ok(Answer::Interval(all.find(|known| known.id == *id).ok_or_else(|| not_found(id.as_str()))?))
            }
            Query::Intervals(group, page) => {
                let all = self.intervals(group, known(group)?);
                Ok(Answer::Intervals(listed(page, all.iter().map(|known| (known.id.as_str(), known)))?))
            }
            Query::Advice(page) => {
                let places = self.state.capacity.keys();
                let all = places.flat_map(|place| {
                    self.settings.presets.iter().map(move |preset| {
                        (format!("{place}/{}", preset.as_str()), self.advice(place, preset))
                    })
                });
                let all: std::collections::BTreeMap<_, _> = all.collect();
                let all = all.iter().map(|(name, advice)| (name.as_str(), advice));
                Ok(Answer::Advice(listed(page, all)?))
            }
            _ => Err(not_found("such a call")),
        }
    }

    fn group(&self, id: &BlockGroupId, known: &Reservation) -> BlockGroup {
        let age_ms = self.state.age_ms();
        let limit = known.limit(age_ms);
        let mut changes = known.edges().into_iter().filter(|edge| *edge > age_ms);
        let next = changes.find(|edge| known.limit(*edge) != limit);
        let room = Room { place: known.place.clone(), pool: Pool::Group(id.clone()) };
        BlockGroup {
            id: id.clone(),
            region: self.settings.region.clone(),
            place: known.place.clone(),
            limit,
            used: self.state.used_of(&room),
            next_change: next.map(|edge| (self.since_begun(edge), known.limit(edge))),
            continuous: self.continuous(known),
        }
    }

    /// The stretch without a gap that holds now, else the next, else the last.
    fn continuous(&self, known: &Reservation) -> Option<Continuous> {
        let age_ms = self.state.age_ms();
        let mut stretches: Vec<(i64, i64)> = Vec::new();
        let mut intervals = known.intervals.clone();
        intervals.sort_by_key(|(_, from, _)| *from);
        for (_, from, until) in intervals.into_iter().filter(|(gpus, ..)| *gpus > 0) {
            match stretches.last_mut() {
                Some((_, end)) if from <= *end => *end = until.max(*end),
                _ => stretches.push((from, until)),
            }
        }
        let chosen = stretches.iter().find(|(_, until)| age_ms < *until).or(stretches.last());
        let (from, until) = *chosen?;
        let (phase, gpus) = match () {
            () if age_ms < from => (Phase::Scheduled, known.limit(from)),
            () if until <= age_ms => (Phase::Expired, known.limit(until.saturating_sub(1))),
            () => (Phase::Active, known.limit(age_ms)),
        };
        let during = Interval::new(self.since_begun(from), self.since_begun(until)).ok()?;
        Some(Continuous { during, phase, gpus })
    }

    fn intervals(&self, group: &BlockGroupId, known: &Reservation) -> Vec<CapacityInterval> {
        let now = self.state.now;
        let intervals = known.intervals.iter().zip(1..).filter_map(|(&(gpus, from, until), number)| {
            let during = Interval::new(self.since_begun(from), self.since_begun(until)).ok()?;
            Some(CapacityInterval {
                id: IntervalId::new(&format!("{group}-interval-{number:03}")).ok()?,
                group: group.clone(),
                region: self.settings.region.clone(),
                place: known.place.clone(),
                gpus,
                during,
                phase: match () {
                    () if during.contains(now) => Phase::Active,
                    () if now < during.start() => Phase::Scheduled,
                    () => Phase::Expired,
                },
            })
        });
        intervals.collect()
    }

    fn since_begun(&self, ms: i64) -> Instant {
        self.state.begun.saturating_add_ms(ms)
    }

    fn advice(&self, place: &Place, preset: &Preset) -> Advice {
        let reserved = {
            let groups = self.settings.reservations.iter().filter(|(_, known)| known.place == *place);
            let rooms: Vec<_> =
                groups.map(|(id, _)| Room { place: place.clone(), pool: Pool::Group(id.clone()) }).collect();
            let free = rooms.iter().map(|room| self.free(room)).fold(0, u64::saturating_add);
            self.availability(place, preset, free, &Supply::Reserved(Vec::new()))
        };
        let pool = |pool| Room { place: place.clone(), pool };
        let on_demand = self.free(&pool(Pool::OnDemand));
        let preemptible = self.state.there(place).saturating_sub(self.state.used(place));
        Advice {
            region: self.settings.region.clone(),
            place: place.clone(),
            preset: preset.clone(),
            reserved: Some(reserved),
            on_demand: Some(self.availability(place, preset, on_demand, &Supply::OnDemand)),
            preemptible: Some(self.availability(place, preset, preemptible, &Supply::Preemptible)),
        }
    }

    /// GPUs that a pool can still give: what preemptible instances hold of it can be had as well.
    fn free(&self, room: &Room) -> u64 {
        self.state.limit(&self.settings, room).saturating_sub(self.state.used_of(room))
    }

    fn availability(&self, place: &Place, preset: &Preset, free: u64, supply: &Supply) -> Availability {
        let spec = InstanceSpec {
            platform: place.platform.clone(),
            preset: preset.clone(),
            cluster: None,
            recovery: Recovery::Fail,
            supply: supply.clone(),
            hostname: String::new(),
            stopped: false,
            template: Template::default(),
        };
        let quota = quota_of(&spec).and_then(|quota| {
            let limit = self.settings.quotas.get(&quota).copied()?;
            Some((limit, limit.saturating_sub(self.state.counted(&quota))))
        });
        let there = self.state.there(place);
        Availability::at(self.state.now, preset.gpus(), (free, there), quota)
    }
}

/// A page of what is sorted by its names. The token is the name of the last item of the page before.
fn listed<'a, T: Clone + 'a>(
    page: &Page,
    all: impl Iterator<Item = (&'a str, &'a T)>,
) -> Result<Listed<T>, ComputeError> {
    let size = if page.size == 0 { PAGE_SIZE_DEFAULT } else { page.size };
    if size > PAGE_SIZE_MAX {
        return Err(ComputeError::bad_request("page_size", format!("it is at most {PAGE_SIZE_MAX}")));
    }
    let mut rest = all.filter(|(name, _)| *name > page.token.as_str());
    let shown: Vec<_> = rest.by_ref().take(size).collect();
    let next = shown.last().filter(|_| rest.next().is_some()).map(|(name, _)| (*name).to_owned());
    Ok(Listed {
        items: shown.iter().map(|(_, item)| (*item).clone()).collect(),
        next: next.unwrap_or_default(),
    })
}
