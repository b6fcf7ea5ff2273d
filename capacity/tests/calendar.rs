//! C-1 against a model that counts every instant, and texts.

use std::collections::BTreeMap;

use hourglass_capacity::calendar::{
    Allowance, Calendar, Entitlement, Overpromise, Refusal, Reservation, ReservationError, ReservationName,
    SEARCH_MS_MAX,
};
use hourglass_capacity::nodes::{NodeState, Nodes};
use hourglass_capacity::steps::Steps;
use hourglass_units::{INSTANT_MAX, Instant, Interval};

use hourglass_test_chance::{Chance, for_each_seed};

const SPAN: i64 = 40;
const OPERATIONS: usize = 60;

fn at(ms: i64) -> Instant {
    Instant::from_unix_ms(ms).unwrap()
}

fn during(start: i64, end: i64) -> Interval {
    Interval::new(at(start), at(end)).unwrap()
}

fn name(number: u64) -> ReservationName {
    ReservationName { tenant: "acme".parse().unwrap(), reservation: format!("r{number}").parse().unwrap() }
}

fn reservation(gpus: u64, interval: Interval) -> Reservation {
    Reservation::new(gpus, interval).unwrap()
}

/// Reservations as a plain list, asked about each instant.
#[derive(Default)]
struct Model {
    /// By instant.
    capacity: Vec<u64>,
    reservations: BTreeMap<u64, (u64, i64, i64)>,
}

impl Model {
    fn capacity(&self, ms: i64) -> u64 {
        self.capacity.get(usize::try_from(ms).unwrap()).copied().unwrap_or(*self.capacity.last().unwrap())
    }

    fn promised(&self, ms: i64, except: Option<u64>) -> u64 {
        let all = self.reservations.iter().filter(|(number, _)| Some(**number) != except);
        all.filter(|(_, (_, start, end))| (*start..*end).contains(&ms)).map(|(_, (gpus, ..))| gpus).sum()
    }

    /// How many a reservation could have at an instant.
    fn there(&self, number: u64, ms: i64) -> u64 {
        let own = self.reservations.get(&number).filter(|(_, start, end)| (*start..*end).contains(&ms));
        let free = self.capacity(ms).saturating_sub(self.promised(ms, Some(number)));
        free.max(own.map_or(0, |(gpus, ..)| *gpus))
    }

    fn fits(&self, number: u64, gpus: u64, start: i64, end: i64) -> bool {
        (start..end).all(|ms| gpus <= self.there(number, ms))
    }

    fn check(&self, number: u64, gpus: u64, within: Interval, answer: &Result<(), Refusal>) {
        let (start, end) = (within.start().unix_ms(), within.end().unix_ms());
        match answer {
            Ok(()) => assert!(self.fits(number, gpus, start, end), "admitted, and it does not fit"),
            Err(Refusal::Shortage { shortage, .. }) => {
                let first = (start..end).find(|ms| self.there(number, *ms) < gpus).unwrap();
                assert_eq!((shortage.first, shortage.there), (at(first), self.there(number, first)));
                assert_eq!((shortage.asked, shortage.within), (gpus, within));
                assert!(shortage.fits == 0 || self.fits(number, shortage.fits, start, end));
                assert!(!self.fits(number, shortage.fits + 1, start, end));
                // After the last change nothing changes: what fits nowhere before fits nowhere.
                let later = (0..=SPAN * 2).find(|by| self.fits(number, gpus, start + by, end + by));
                assert_eq!(shortage.earliest_start, later.map(|by| at(start + by)));
            }
            Err(refusal) => panic!("{refusal}"),
        }
    }
}

fn some_time(chance: &mut Chance) -> Interval {
    let start = chance.within(0, SPAN - 1);
    during(start, chance.within(start + 1, SPAN))
}

fn simulate(seed: u64) {
    let mut chance = Chance(seed);
    let (mut calendar, mut model) = (Calendar::default(), Model::default());
    let mut capacity = Steps::default();
    let (mut has_fallen, mut number) = (false, 0);
    for operation in 0..OPERATIONS {
        if operation == 0 || chance.one_in(12) {
            let mut level = 4 + chance.below(12);
            let change_in = 2 + chance.below(20);
            model.capacity = (0..SPAN)
                .map(|_| {
                    level = if chance.one_in(change_in) { chance.below(16) } else { level };
                    level
                })
                .collect();
            let instants = model.capacity.iter().zip(0..);
            let last = Interval::new(at(SPAN), INSTANT_MAX).map(|rest| (rest, level));
            capacity = Steps::sum(instants.map(|(gpus, ms)| (during(ms, ms + 1), *gpus)).chain(last.ok()));
            has_fallen |= operation > 0;
        }
        let (gpus, within) = (1 + chance.below(7), some_time(&mut chance));
        let known = chance.any_of(&model.reservations.keys().copied().collect::<Vec<_>>());
        match (chance.below(8), known) {
            (0..4, _) | (_, None) => {
                number += 1;
                let answer = calendar.admit(&capacity, name(number), reservation(gpus, within));
                model.check(number, gpus, within, &answer);
                if answer.is_ok() {
                    let (start, end) = (within.start().unix_ms(), within.end().unix_ms());
                    model.reservations.insert(number, (gpus, start, end));
                }
            }
            (4 | 5, Some(known)) => {
                let answer = calendar.amend(&capacity, &name(known), gpus, within);
                model.check(known, gpus, within, &answer);
                if answer.is_ok() {
                    let (start, end) = (within.start().unix_ms(), within.end().unix_ms());
                    model.reservations.insert(known, (gpus, start, end));
                }
            }
            (6, Some(known)) => {
                let ends = chance.within(0, SPAN);
                calendar.end(&name(known), at(ends)).unwrap();
                let (gpus, start, end) = model.reservations[&known];
                model.reservations.insert(known, (gpus, start, end.min(ends)));
                model.reservations.retain(|_, (_, start, end)| start < end);
            }
            (_, Some(known)) => {
                calendar.cancel(&name(known)).unwrap();
                model.reservations.remove(&known);
            }
        }

        let over: BTreeMap<i64, u64> = (0..SPAN)
            .map(|ms| (ms, model.promised(ms, None).saturating_sub(model.capacity(ms))))
            .filter(|(_, by)| *by > 0)
            .collect();
        let said = calendar.overpromised(&capacity, during(0, SPAN));
        assert!(has_fallen || said.is_empty(), "C-1: {said:?}");
        let instants = said
            .iter()
            .flat_map(|it| (it.within.start().unix_ms()..it.within.end().unix_ms()).map(|ms| (ms, it.by)));
        assert!(instants.eq(over), "{said:?}");
        assert!(
            said.windows(2).all(|two| two[0].within.end() < two[1].within.start() || two[0].by != two[1].by)
        );
        let room = (within.start().unix_ms()..within.end().unix_ms())
            .map(|ms| model.capacity(ms).saturating_sub(model.promised(ms, None)));
        assert_eq!(calendar.room(&capacity, within), room.min().unwrap());
        assert_eq!(calendar.iter().count(), model.reservations.len());
    }
    let bytes = postcard::to_stdvec(&calendar).unwrap();
    assert_eq!(postcard::from_bytes::<Calendar>(&bytes).unwrap(), calendar);
    calendar.forget_before(at(SPAN / 2));
    assert!(calendar.iter().all(|(_, it)| it.interval().end() > at(SPAN / 2)));
    assert!((0..SPAN).all(|ms| {
        let left = model.reservations.values().filter(|(.., end)| *end > SPAN / 2);
        let left = left.filter(|(_, start, end)| (*start..*end).contains(&ms));
        calendar.promised().at(at(ms)) == left.map(|(gpus, ..)| gpus).sum::<u64>()
    }));
}

#[test]
fn c1_nothing_is_promised_that_is_not_there() {
    for_each_seed("PROPTEST_CASES", 1_000, simulate);
}

#[test]
fn a_refusal_says_what_would_do() {
    let mut nodes = Nodes::default();
    nodes.register_number("h100", 4, 8).unwrap();
    let day = |number: i64| number * 24 * 3_600_000;
    let mut calendar = Calendar::default();
    let capacity = nodes.capacity();
    calendar.admit(capacity, name(1), reservation(20, during(day(1), day(3)))).unwrap();
    calendar.admit(capacity, name(2), reservation(8, during(day(2), day(4)))).unwrap();
    let refused = calendar.admit(capacity, name(3), reservation(10, during(day(0), day(3))));
    assert_eq!(
        refused.unwrap_err().to_string(),
        "tenants/acme/reservations/r3 does not fit: 10 GPUs for [1970-01-01T00:00:00Z, 1970-01-04T00:00:00Z): \
         from 1970-01-03T00:00:00Z on there are 4; 4 would fit, or all from 1970-01-04T00:00:00Z on for as long"
    );
    let refused = calendar.admit(capacity, name(3), reservation(33, during(day(5), day(6))));
    assert_eq!(
        refused.unwrap_err().to_string(),
        "tenants/acme/reservations/r3 does not fit: 33 GPUs for [1970-01-06T00:00:00Z, 1970-01-07T00:00:00Z): \
         from 1970-01-06T00:00:00Z on there are 32; 32 would fit, and all at no start within 90 days"
    );
    let twice = calendar.admit(capacity, name(1), reservation(1, during(0, 1)));
    assert_eq!(twice, Err(Refusal::Exists { name: name(1) }));
    assert_eq!(calendar.cancel(&name(9)), Err(Refusal::Unknown { name: name(9) }));
}

#[test]
fn a_failure_over_promises_and_what_is_there_may_only_shrink() {
    let mut nodes = Nodes::default();
    nodes.register_number("h100", 2, 8).unwrap();
    let mut calendar = Calendar::default();
    calendar.admit(nodes.capacity(), name(1), reservation(12, during(10, 20))).unwrap();
    nodes.set_state(&"h100-1".parse().unwrap(), NodeState::Failed).unwrap();
    let capacity = nodes.capacity();
    let over = [Overpromise { within: during(10, 20), by: 4 }];
    assert_eq!(calendar.overpromised(capacity, during(0, 100)), over);
    assert!(calendar.admit(capacity, name(2), reservation(1, during(19, 21))).is_err());
    calendar.admit(capacity, name(2), reservation(1, during(20, 21))).unwrap();
    assert!(calendar.amend(capacity, &name(1), 13, during(10, 20)).is_err());
    assert!(calendar.amend(capacity, &name(1), 12, during(9, 20)).is_err());
    calendar.amend(capacity, &name(1), 10, during(12, 20)).unwrap();
    let over = [Overpromise { within: during(12, 20), by: 2 }];
    assert_eq!(calendar.overpromised(capacity, during(0, 100)), over);
}

#[test]
fn projects_share_what_is_not_assigned() {
    let allowance = |project: &str, gpus, start, end| Allowance {
        project: project.parse().unwrap(),
        gpus,
        interval: during(start, end),
    };
    let it = reservation(10, during(0, 100));
    let it = it.assigned(vec![allowance("train", 6, 0, 50), allowance("serve", 4, 20, 80)]).unwrap();
    let entitled = |project: &str, ms| {
        let Entitlement { assigned, shared } = it.entitlement(&project.parse().unwrap(), at(ms));
        (assigned, shared)
    };
    assert_eq!(["train", "serve", "other"].map(|project| entitled(project, 10)), [(6, 4), (0, 4), (0, 4)]);
    assert_eq!(["train", "serve", "other"].map(|project| entitled(project, 30)), [(6, 0), (4, 0), (0, 0)]);
    assert_eq!((entitled("train", 60), entitled("train", 100)), ((0, 6), (0, 0)));

    let more = it.clone().assigned(vec![allowance("train", 6, 0, 50), allowance("serve", 5, 20, 80)]);
    assert_eq!(more, Err(ReservationError::Assigned { at: at(20), assigned: 11, gpus: 10 }));
    let outside = it.clone().assigned(vec![allowance("train", 1, 50, 101)]);
    assert!(matches!(outside, Err(ReservationError::Outside { .. })));
    // Another time cuts them, and a size that is too small for them is refused.
    let shorter = it.amended(10, during(30, 70)).unwrap();
    assert_eq!(shorter.allowances(), [allowance("train", 6, 30, 50), allowance("serve", 4, 30, 70)]);
    assert_eq!(
        it.amended(9, during(0, 100)),
        Err(ReservationError::Assigned { at: at(20), assigned: 10, gpus: 9 })
    );
    it.amended(6, during(50, 100)).unwrap();
}

/// 20,000 reservations of a week within five years: each admission costs its week.
#[test]
fn a_calendar_of_many_reservations_answers_at_once() {
    const HOUR: i64 = 3_600_000;
    let mut chance = Chance(7);
    let capacity = Steps::constant(1_000_000);
    let mut calendar = Calendar::default();
    for number in 0..20_000 {
        let start = chance.within(0, 5 * 366 * 24) * HOUR;
        let wanted = reservation(1 + chance.below(64), during(start, start + 7 * 24 * HOUR));
        calendar.admit(&capacity, name(number), wanted).unwrap();
    }
    let bytes = postcard::to_stdvec(&calendar).unwrap();
    assert_eq!(postcard::from_bytes::<Calendar>(&bytes).unwrap(), calendar);
    let refused = calendar.admit(&capacity, name(20_000), reservation(999_999, during(0, HOUR)));
    let Err(Refusal::Shortage { shortage, .. }) = refused else { panic!("{refused:?}") };
    assert!(shortage.earliest_start.is_none_or(|start| start.unix_ms() <= SEARCH_MS_MAX));
}
