use proptest::prelude::{
    Just, ProptestConfig, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest,
};
use proptest::sample::{Index, select};

use super::*;

/// Zones whole hours from UTC, east and west, with and without summer time, at the ends of the day and
/// with clocks that jump over midnight.
const ZONES: [&str; 16] = [
    "UTC",
    "Europe/Berlin",
    "Europe/London",
    "Europe/Lisbon",
    "America/New_York",
    "America/Los_Angeles",
    "America/Sao_Paulo",
    "America/Havana",
    "America/Santiago",
    "America/Asuncion",
    "Asia/Tokyo",
    "Asia/Beirut",
    "Africa/Cairo",
    "Pacific/Apia",
    "Pacific/Kiritimati",
    "Pacific/Pago_Pago",
];

fn at(text: &str) -> Instant {
    text.parse().unwrap()
}

fn billing(zone: &str, anchor: u32) -> Billing {
    Billing { time_zone: Some(zone.to_owned()), anchor_day: Some(anchor) }
}

fn compute(zone: &str, anchor: u32, from: &str) -> Calendar {
    Calendar::compute(&billing(zone, anchor), at(from)).unwrap()
}

#[test]
fn periods_begin_at_local_midnight_of_the_anchor_day() {
    let check = |zone, anchor, now: &str, name: &str, interval: &str| {
        let calendar = compute(zone, anchor, now);
        let period = calendar.containing(at(now));
        assert_eq!(
            (period.to_string().as_str(), calendar.interval(period).to_string().as_str()),
            (name, interval)
        );
    };
    let now = "2026-03-15T12:00:00Z";
    check("UTC", 1, now, "2026-03", "[2026-03-01T00:00:00Z, 2026-04-01T00:00:00Z)");
    check("UTC", 20, now, "2026-02", "[2026-02-20T00:00:00Z, 2026-03-20T00:00:00Z)");
    check("Europe/Berlin", 1, now, "2026-03", "[2026-02-28T23:00:00Z, 2026-03-31T22:00:00Z)");
    check("Asia/Tokyo", 1, "2026-03-31T15:00:00Z", "2026-04", "[2026-03-31T15:00:00Z, 2026-04-30T15:00:00Z)");
    check("America/New_York", 15, now, "2026-03", "[2026-03-15T04:00:00Z, 2026-04-15T04:00:00Z)");
    check(
        "America/New_York",
        15,
        "2026-03-15T03:59:59Z",
        "2026-02",
        "[2026-02-15T05:00:00Z, 2026-03-15T04:00:00Z)",
    );
    // Cuba jumped from midnight to one o'clock on 8 March 2026; Samoa left out 30 December 2011.
    check("America/Havana", 8, now, "2026-03", "[2026-03-08T05:00:00Z, 2026-04-08T04:00:00Z)");
    let samoa = compute("Pacific/Apia", 28, "2011-12-31T00:00:00Z");
    assert!(
        samoa.interval(samoa.containing(at("2011-12-30T11:00:00Z"))).contains(at("2011-12-30T09:00:00Z"))
    );
    assert_eq!(
        local_midnight(Tz::Pacific__Apia, 30, "2011-12".parse().unwrap()),
        Some(at("2011-12-30T10:00:00Z"))
    );
}

#[test]
fn what_cannot_be_a_calendar_is_refused_with_its_reason() {
    let check = |zone: &str, anchor, expected: &str| {
        let error = Calendar::compute(&billing(zone, anchor), at("2026-03-15T12:00:00Z")).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    check("Europe/Bielefeld", 1, "unknown time zone \"Europe/Bielefeld\"");
    check("", 1, "unknown time zone");
    check("Europe/Berlin", 0, "anchor_day is 0");
    check("Europe/Berlin", 29, "anchor_day is 29: give a day between 1 and 28");
    check(
        "Asia/Kolkata",
        1,
        "a period of time zone Asia/Kolkata begins at 2025-11-30T18:30:00Z, within a UTC hour",
    );
    check("Australia/Lord_Howe", 1, "within a UTC hour");
    check("Asia/Kathmandu", 5, "within a UTC hour");

    let (first, month) =
        ("2026-01".parse::<Month>().unwrap(), |n: u16| "2026-01".parse::<Month>().unwrap().plus(n));
    let check = |first: Month, boundaries: Vec<Instant>, expected: &str| {
        let error = Calendar::from_boundaries(first, boundaries).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(first, vec![], "are empty");
    check(first, vec![month(1).start(), month(0).start()], "do not ascend");
    check(first, vec![month(0).start(), month(0).start()], "do not ascend");
    check(first, vec![at("2026-01-01T00:00:00.001Z")], "no full UTC hours");
    check(first, vec![month(5).start()], "do not fit the names");
    check(first, vec!["2025-12".parse::<Month>().unwrap().start()], "do not fit the names");
    check("1970-01".parse().unwrap(), vec![at("1970-01-20T00:00:00Z")], "leave the range");
    check(first, (0..600).map(|n| month(n).start()).collect(), "too many");
}

#[test]
fn a_calendar_starts_three_periods_early_and_reads_back() {
    let calendar = compute("Europe/Berlin", 15, "2026-03-01T00:00:00Z");
    let (first, boundaries) = calendar.boundaries().unwrap();
    assert_eq!((first.to_string().as_str(), boundaries.len()), ("2025-11", 481));
    assert_eq!(Calendar::from_boundaries(first, boundaries.to_vec()).unwrap(), calendar);
    let bytes = postcard::to_stdvec(&calendar).unwrap();
    assert_eq!(postcard::from_bytes::<Calendar>(&bytes).unwrap(), calendar);
    assert_eq!(compute("UTC", 1, "2026-03-01T00:00:00Z"), Calendar::default());
}

fn instant() -> impl Strategy<Value = Instant> {
    (0..INSTANT_MAX.unix_ms()).prop_map(|ms| Instant::from_unix_ms(ms).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    /// Periods tile all time: each begins where the one before ends, none shares a name, and
    /// `containing` and `interval` agree; before, within and after what is stored.
    #[test]
    fn periods_tile_time(
        zone in select(&ZONES[..]),
        anchor in 1..=28_u32,
        from in prop_oneof![instant(), Just(INSTANT_MIN), Just(at("2999-12-31T23:59:59Z")), Just(at("2999-01-31T23:00:00Z"))],
        instants in proptest::collection::vec(instant(), 8),
        near in proptest::collection::vec((any::<Index>(), -3_600_000..=3_600_000_i64), 32),
    ) {
        // Some zones were within an hour of UTC long ago.
        let Ok(calendar) = Calendar::compute(&billing(zone, anchor), from) else {
            prop_assert!(from < at("1990-01-01T00:00:00Z"), "{zone} is refused");
            return Ok(());
        };
        let boundaries = calendar.boundaries().map_or(vec![from], |(_, it)| it.to_vec());
        let near = near.iter().map(|(index, off)| boundaries[index.index(boundaries.len())].saturating_add_ms(*off));
        let ends = [INSTANT_MIN, from, boundaries[0], boundaries[boundaries.len() - 1]];
        for it in instants.into_iter().chain(near).chain(ends).filter(|it| *it < INSTANT_MAX) {
            let period = calendar.containing(it);
            let interval = calendar.interval(period);
            prop_assert!(interval.contains(it), "{it} in {period} {interval}");
            prop_assert_eq!(calendar.containing(interval.start()), period);
            prop_assert_eq!(calendar.containing(interval.end().saturating_add_ms(-1)), period);
            prop_assert_eq!(interval.start().unix_ms() % HOUR_MILLISECONDS, 0);
            prop_assert!(interval.milliseconds() <= 60 * 86_400_000);
            if interval.end() < INSTANT_MAX {
                prop_assert_eq!(calendar.containing(interval.end()), period.next());
                prop_assert_eq!(calendar.interval(period.next()).start(), interval.end());
            }
        }
    }
}
