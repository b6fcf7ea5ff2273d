//! Budgets: money that is watched, and never enforced.
//!
//! A budget says how much a billing period is to cost, and at which parts of that somebody is to be told:
//! of what was charged (*actual*), and of what the period will cost if it goes on as it did (*forecast*).
//! What has to hold is a spend cap ([`crate::cap`]); a budget is only looked at.

use hourglass_units::{Amount, Instant, Interval, Percent};
use serde::{Deserialize, Serialize};

use crate::cap::THRESHOLDS_MAX;

/// Most budgets of a tenant.
pub const BUDGETS_A_TENANT_MAX: usize = 100;
/// A forecast is not made before so much of the period is over, in milliseconds: one day. What one hour
/// cost says little of a month.
pub const FORECAST_AFTER_MS: i64 = 86_400_000;

/// What a threshold is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// What was charged.
    Actual,
    /// What the whole period will cost, if it goes on like this.
    Forecast,
}

impl Basis {
    /// The name in snake case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Actual => "actual",
            Self::Forecast => "forecast",
        }
    }
}

/// Whether a list of thresholds makes sense: rising, above zero, and not too many.
pub fn are_thresholds(thresholds: &[Percent]) -> bool {
    let zero = |percent: &Percent| *percent == Percent::default();
    let rising = thresholds.windows(2).all(|two| matches!(two, [first, second] if first < second));
    thresholds.len() <= THRESHOLDS_MAX && rising && !thresholds.iter().any(zero)
}

/// What a period will cost if it goes on as it did until now: what was charged, times the whole period,
/// by the part of it that is over. Rounded down to an atto-currency.
///
/// `None` before [`FORECAST_AFTER_MS`] of the period are over, and out of range. When the period is over
/// it is what was charged.
pub fn projected(charged: Amount, period: Interval, now: Instant) -> Option<Amount> {
    let whole = period.milliseconds();
    let over = now.ms_since(period.start()).min(whole);
    if over < FORECAST_AFTER_MS.min(whole) {
        return None;
    }
    let (whole, over) = (i128::from(whole), i128::from(over));
    // In two steps, so that the product stays small: (q·over + r)·whole / over = q·whole + r·whole / over.
    let (quotient, rest) =
        (charged.attos().checked_div_euclid(over)?, charged.attos().checked_rem_euclid(over)?);
    let of_rest = rest.checked_mul(whole)?.checked_div_euclid(over)?;
    quotient.checked_mul(whole)?.checked_add(of_rest).map(Amount::from_attos)
}

/// The thresholds that an amount has reached, of a budget.
pub fn reached(thresholds: &[Percent], budget: Amount, amount: Amount) -> impl Iterator<Item = Percent> + '_ {
    let over = move |it: &Percent| it.of_amount(budget).is_some_and(|part| amount >= part);
    thresholds.iter().copied().filter(over)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: i64 = 86_400_000;

    fn amount(text: &str) -> Amount {
        Amount::parse(text).unwrap()
    }

    fn at(text: &str) -> Instant {
        text.parse().unwrap()
    }

    fn january() -> Interval {
        Interval::new(at("2026-01-01T00:00:00Z"), at("2026-02-01T00:00:00Z")).unwrap()
    }

    #[test]
    fn a_period_goes_on_as_it_did() {
        let check = |charged: &str, now: &str, expected: Option<&str>| {
            let found = projected(amount(charged), january(), at(now)).map(|it| it.to_string());
            assert_eq!(found.as_deref(), expected, "{charged} at {now}");
        };
        check("10", "2026-01-01T23:59:59.999Z", None);
        check("10", "2026-01-02T00:00:00Z", Some("310"));
        check("10", "2026-01-16T12:00:00Z", Some("20"));
        check("10", "2026-02-01T00:00:00Z", Some("10"));
        check("10", "2026-03-01T00:00:00Z", Some("10"));
        check("0", "2026-01-09T00:00:00Z", Some("0"));
        check("1", "2026-01-04T00:00:00Z", Some("10.333333333333333333"));
        check("-3", "2026-01-02T00:00:00Z", Some("-93"));
        check("9000000000000000000", "2026-01-31T00:00:00Z", Some("9300000000000000000"));
    }

    #[test]
    fn thresholds_are_reached_at_their_part() {
        let percents = |texts: &[&str]| texts.iter().map(|it| it.parse().unwrap()).collect::<Vec<Percent>>();
        let check = |budget: &str, charged: &str, expected: &[&str]| {
            let thresholds = percents(&["50", "80.5", "100", "120"]);
            let found: Vec<Percent> = reached(&thresholds, amount(budget), amount(charged)).collect();
            assert_eq!(found, percents(expected), "{charged} of {budget}");
        };
        check("200", "99.999999999999999999", &[]);
        check("200", "100", &["50"]);
        check("200", "161", &["50", "80.5"]);
        check("200", "240", &["50", "80.5", "100", "120"]);
        check("200", "-5", &[]);
        assert!(are_thresholds(&percents(&["50", "100"])) && are_thresholds(&[]));
        for bad in [&["0"][..], &["100", "50"], &["50", "50"]] {
            assert!(!are_thresholds(&percents(bad)), "{bad:?}");
        }
        let many: Vec<String> = (1..=11).map(|it| it.to_string()).collect();
        assert!(!are_thresholds(&percents(&many.iter().map(String::as_str).collect::<Vec<_>>())));
    }

    proptest! {
        /// The exact quotient lies within one atto above it, for whatever was charged.
        #[test]
        fn a_projection_is_the_exact_quotient(attos in 0_i128..1 << 90, over in DAY..=31 * DAY) {
            let now = january().start().saturating_add_ms(over);
            let found = projected(Amount::from_attos(attos), january(), now).unwrap().attos();
            let (whole, over) = (i128::from(31 * DAY), i128::from(over));
            let exact = attos * whole;
            prop_assert!(found * over <= exact && exact < (found + 1) * over);
        }
    }
}
