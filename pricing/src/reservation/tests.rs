use proptest::collection::{btree_set, vec};
use proptest::prelude::{ProptestConfig, Strategy, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::*;

fn hour(n: i64) -> Instant {
    Instant::from_unix_ms(n * HOUR_MILLISECONDS).unwrap()
}

fn price(nanos: i64) -> Price {
    Price::from_nanos(nanos).unwrap()
}

fn draft(gpus: u32, from: i64, until: i64, payment: Payment) -> ReservationDraft {
    ReservationDraft {
        reservation: "r1".parse().unwrap(),
        project: "p".parse().unwrap(),
        platform: "h100".parse().unwrap(),
        gpus,
        from: hour(from),
        until: hour(until),
        payment,
        fabric: None,
    }
}

#[test]
fn what_cannot_be_a_reservation_is_refused_with_its_reason() {
    let check = |draft: ReservationDraft, expected: &str| {
        let error = Reservation::check(draft).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    let monthly = Payment::Monthly { price: price(1) };
    let total = |attos| Payment::UpfrontTotal { total: Amount::from_attos(attos) };
    check(draft(8, 5, 5, monthly), "not after its start");
    check(
        ReservationDraft { from: hour(1).saturating_add_ms(1), ..draft(8, 1, 5, monthly) },
        "begins at 1970-01-01T01:00:00.001Z: give a full UTC hour",
    );
    check(
        ReservationDraft { until: hour(5).saturating_add_ms(-1), ..draft(8, 1, 5, monthly) },
        "ends at 1970-01-01T04:59:59.999Z",
    );
    check(draft(0, 1, 5, monthly), "has 0 GPUs");
    check(draft(1_000_001, 1, 5, monthly), "between 1 and 1000000");
    check(draft(1, 0, RESERVATION_HOURS_MAX + 1, monthly), "at most 87840");
    check(draft(1_000_000, 0, RESERVATION_HOURS_MAX, monthly), "split it by time");
    check(draft(1, 0, 1, total(0)), "costs 0 in total");
    check(draft(1, 0, 1, total(-1)), "give more than 0");
    check(draft(1, 0, 1, total(1_000_001 * 10_i128.pow(18))), "above 1000000 per GPU-hour");
}

#[test]
fn payments_by_table() {
    let window = |from, until| Interval::new(hour(from), hour(until)).unwrap();
    let of = |payment| Reservation::check(draft(2, 10, 13, payment)).unwrap();
    let total = Amount::parse("10").unwrap();
    let whole = of(Payment::UpfrontTotal { total });
    assert_eq!(whole.committed_price(), "1.666666666".parse_price());
    assert_eq!(whole.remainder(), Amount::parse("0.000000004").unwrap());
    assert_eq!(whole.upfront(), Some(total));
    assert_eq!(whole.fee_within(window(10, 12)), Some(Amount::parse("6.666666664").unwrap()));
    assert_eq!(whole.fee_within(window(12, 99)), Some(Amount::parse("3.333333336").unwrap()));
    assert_eq!(whole.fee_within(window(13, 99)), Some(Amount::ZERO));
    assert!(matches!(whole.amended(hour(20)), Err(ReservationError::TotalIsFinal { .. })));

    let upfront = of(Payment::Upfront { price: "2.5".parse_price() });
    assert_eq!((upfront.upfront(), upfront.usage_price()), (Some(Amount::parse("15").unwrap()), Price::ZERO));
    let longer = upfront.amended(hour(14)).unwrap();
    assert_eq!(longer.fee_within(window(13, 14)), Some(Amount::parse("5").unwrap()));
    assert_eq!(longer.upfront(), Some(Amount::parse("20").unwrap()));
    assert!(matches!(upfront.amended(hour(12)), Err(ReservationError::PaidAlready { .. })));

    let (holding, usage) = ("0.5".parse_price(), "1.5".parse_price());
    let flex = of(Payment::Flex { holding, usage });
    assert_eq!((flex.upfront(), flex.committed_price(), flex.usage_price()), (None, holding, usage));
    assert_eq!(flex.amended(hour(11)).unwrap().quantity(), Quantity::from_nanos(2_000_000_000));
    assert!(matches!(flex.amended(hour(10)), Err(ReservationError::Reversed { .. })));

    let bytes = postcard::to_stdvec(&whole).unwrap();
    assert_eq!(postcard::from_bytes::<Reservation>(&bytes).unwrap(), whole);
}

trait ParsePrice {
    fn parse_price(&self) -> Price;
}

impl ParsePrice for str {
    fn parse_price(&self) -> Price {
        Price::parse(self).unwrap()
    }
}

fn reservation() -> impl Strategy<Value = Reservation> {
    let nanos = || (0..5_000_000_000_i64).prop_map(price);
    let payment = prop_oneof![
        nanos().prop_map(|price| Payment::Upfront { price }),
        nanos().prop_map(|price| Payment::Monthly { price }),
        (nanos(), nanos()).prop_map(|(holding, usage)| Payment::Flex { holding, usage }),
        (1..10_i128.pow(24)).prop_map(|attos| Payment::UpfrontTotal { total: Amount::from_attos(attos) }),
    ];
    (1..3_000_u32, 1..40_i64, 1..60_i64, payment).prop_map(|(gpus, from, hours, payment)| {
        Reservation::check(draft(gpus, from, from + hours, payment)).unwrap()
    })
}

/// What is bought, whenever it is paid.
fn purchase(it: &Reservation) -> Amount {
    it.upfront().unwrap_or(it.committed_price().times(it.quantity()))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// P-2: in each hour used + unused = reserved; and what used and unused hours cost in the end,
    /// with the remainder, is what was paid.
    #[test]
    fn p2_used_and_unused_make_the_reserved(
        reservation in reservation(),
        used in vec((0..100 * HOUR_MILLISECONDS, 1..9 * HOUR_MILLISECONDS, 1..4_000_u32), 0..12),
    ) {
        let mut cost = reservation.remainder();
        let mut reserved_in_all = Quantity::ZERO;
        for (hour, window) in reservation.interval().by_hour() {
            let reserved = reservation.quantity_within(window);
            prop_assert_eq!(reserved.nanos(), i64::from(reservation.draft().gpus) * 1_000_000_000);
            // Usage is capped at the reservation, millisecond by millisecond; here by its sum.
            let milliseconds: i128 = used
                .iter()
                .filter_map(|(start, length, gpus)| {
                    let at = |ms| Instant::from_unix_ms(ms).unwrap();
                    let part = Interval::new(at(*start), at(start + length)).unwrap().intersection(hour.interval())?;
                    Some(i128::from(part.milliseconds()) * i128::from(*gpus))
                })
                .sum();
            let used = Quantity::of_gpu_milliseconds(milliseconds).unwrap().min(reserved);
            let unused = reserved.checked_sub(used).unwrap();
            prop_assert!(unused >= Quantity::ZERO);
            for part in [used, unused] {
                cost = cost.checked_add(reservation.committed_price().times(part)).unwrap();
            }
            reserved_in_all = reserved_in_all.checked_add(reserved).unwrap();
        }
        prop_assert_eq!(reserved_in_all, reservation.quantity());
        prop_assert_eq!(cost, purchase(&reservation));
        prop_assert!(reservation.remainder() >= Amount::ZERO);
        prop_assert!(reservation.remainder().attos() < i128::from(reservation.quantity().nanos()));
    }

    /// Whatever windows tile its time, their shares make the whole; and an amendment changes none of
    /// what lies before it.
    #[test]
    fn p2_shares_of_any_tiling_make_the_whole(
        reservation in reservation(),
        cuts in btree_set(0..120 * HOUR_MILLISECONDS, 0..12),
        longer in 1..30_i64,
    ) {
        let at = |ms: i64| Instant::from_unix_ms(ms).unwrap();
        let cuts: Vec<Instant> = [0].into_iter().chain(cuts).chain([120 * HOUR_MILLISECONDS]).map(at).collect();
        let windows = || cuts.windows(2).filter_map(|pair| Interval::between(pair[0], pair[1]));
        let fees = windows().map(|it| reservation.fee_within(it).unwrap().attos()).sum::<i128>();
        prop_assert_eq!(fees, purchase(&reservation).attos());
        let quantities = windows().map(|it| reservation.quantity_within(it).nanos()).sum::<i64>();
        prop_assert_eq!(quantities, reservation.quantity().nanos());

        let end = reservation.interval().end();
        if let Ok(amended) = reservation.amended(end.saturating_add_ms(longer * HOUR_MILLISECONDS)) {
            for window in windows().filter(|it| it.end() <= end) {
                prop_assert_eq!(amended.fee_within(window), reservation.fee_within(window));
            }
            let added = Interval::new(end, amended.interval().end()).unwrap();
            let difference = purchase(&amended).checked_sub(purchase(&reservation)).unwrap();
            prop_assert_eq!(amended.fee_within(added), Some(difference));
        }
    }
}
