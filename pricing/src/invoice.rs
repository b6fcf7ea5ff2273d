//! The arithmetic of an invoice: where exact amounts become payable ones.

use hourglass_units::{Amount, Currency};

/// Lines in minor units (cents) that sum to the total.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Apportioned {
    /// Each line in minor units, in the order given.
    pub lines: Vec<i128>,
    /// I-1: the sum of the lines, and the exact sum rounded half to even.
    pub total: i128,
    /// Rounded total less exact total: what the rounding account takes.
    pub rounding: Amount,
}

/// Rounds lines by largest remainder (Hamilton's method) so that they sum to the rounded exact total.
///
/// Each line is first rounded down; the minor units still missing go, one each, to the lines with the
/// largest remainders, among equals to the earlier line. A line so differs from its exact amount by
/// less than one minor unit. `None` where a sum leaves the range of [`Amount`].
pub fn apportion(exact: &[Amount], currency: Currency) -> Option<Apportioned> {
    let exact_total = exact.iter().try_fold(Amount::ZERO, |sum, line| sum.checked_add(*line))?;
    let total = exact_total.round_half_even_to_minor(currency);

    let (mut lines, remainders): (Vec<i128>, Vec<i128>) =
        exact.iter().map(|line| line.floor_to_minor(currency)).unzip();
    let floored = lines.iter().try_fold(0_i128, |sum, line| sum.checked_add(*line))?;
    let missing = usize::try_from(total.checked_sub(floored)?).ok()?;

    let mut order: Vec<usize> = (0..lines.len()).collect();
    order.sort_by_key(|line| std::cmp::Reverse(remainders.get(*line).copied()));
    for line in order.into_iter().take(missing) {
        if let Some(line) = lines.get_mut(line) {
            *line = line.checked_add(1)?;
        }
    }
    let rounding = Amount::from_minor_units(total, currency)?.checked_sub(exact_total)?;
    Some(Apportioned { lines, total, rounding })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{Just, prop_assert, prop_assert_eq, prop_oneof, proptest};

    use super::*;

    #[test]
    fn largest_remainder_by_table() {
        let check = |currency: Currency, exact: &[&str], lines: &[i128], total: i128| {
            let exact: Vec<Amount> = exact.iter().map(|text| Amount::parse(text).unwrap()).collect();
            let got = apportion(&exact, currency).unwrap();
            assert_eq!((got.lines.as_slice(), got.total), (lines, total));
        };
        check(Currency::USD, &[], &[], 0);
        check(Currency::USD, &["0.333", "0.333", "0.334"], &[33, 33, 34], 100);
        check(Currency::USD, &["0.005", "0.005"], &[1, 0], 1);
        check(Currency::USD, &["0.004", "0.004"], &[1, 0], 1);
        check(Currency::USD, &["0.005"], &[0], 0);
        check(Currency::JPY, &["0.4", "0.4", "0.4"], &[1, 0, 0], 1);
        check(Currency::KWD, &["1.0004", "1.0004"], &[1001, 1000], 2001);
        check(Currency::USD, &["10.006", "-0.501"], &[1000, -50], 950);
    }

    proptest! {
        /// I-1: the lines sum to the total, the total is the rounded exact sum, and no line is off by
        /// a minor unit or more.
        #[test]
        fn i1_lines_sum_to_the_rounded_total(
            attos in vec(-1_000_000_000_000_000_000_000_i128..1_000_000_000_000_000_000_000_000, 0..60),
            currency in prop_oneof![Just(Currency::USD), Just(Currency::JPY), Just(Currency::KWD)],
        ) {
            let exact: Vec<Amount> = attos.iter().map(|attos| Amount::from_attos(*attos)).collect();
            let got = apportion(&exact, currency).unwrap();
            let unit = currency.attos_per_minor_unit();
            prop_assert_eq!(got.lines.iter().sum::<i128>(), got.total);
            let off = got.total * unit - attos.iter().sum::<i128>();
            prop_assert!(off.abs() * 2 <= unit);
            prop_assert_eq!(got.rounding.attos(), off);
            prop_assert!(got.lines.iter().zip(&attos).all(|(line, exact)| (line * unit - exact).abs() < unit));
        }
    }
}
