//! Percentages, exact to a ten-thousandth of a percent.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::money::{Amount, PRICE_NANOS_MAX, Price};

/// Parts of a whole that a percentage counts: one hundred percent is a million of them.
const WHOLE: u32 = 1_000_000;
/// Parts in one percent.
const PERCENT: u32 = WHOLE / 100;
/// Highest percentage: ten times the whole.
pub const PERCENT_MAX: u32 = 1_000;
/// Digits after the point that a percentage can have.
pub const PERCENT_FRACTION_DIGITS: usize = 4;

/// A text that is no percentage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no percentage: write it like 12.5, between 0 and {PERCENT_MAX}, with at most {PERCENT_FRACTION_DIGITS} digits after the point and without a sign"
)]
pub struct PercentError {
    /// What was given, cut to a printable length.
    pub text: String,
}

/// A share of something, between 0 and [`PERCENT_MAX`] percent. Stored as parts per million.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Percent(u32);

impl Percent {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// All of it.
    pub const WHOLE: Self = Self(WHOLE);

    /// From parts per million.
    pub fn from_ppm(ppm: u32) -> Result<Self, PercentError> {
        if ppm > PERCENT_MAX.saturating_mul(PERCENT) {
            return Err(PercentError { text: format!("{ppm} parts per million") });
        }
        Ok(Self(ppm))
    }

    /// Parts per million.
    pub const fn ppm(self) -> u32 {
        self.0
    }

    /// What is left of the whole. `None` above one hundred percent.
    pub fn complement(self) -> Option<Self> {
        WHOLE.checked_sub(self.0).map(Self)
    }

    /// The share of a price, rounded half to even to a nano-currency: a derived price is a price, so
    /// that its product with a quantity is exact (U-1). `None` above [`PRICE_NANOS_MAX`].
    pub fn of_price(self, price: Price) -> Option<Price> {
        let nanos = self.of_whole(i128::from(price.nanos()))?;
        i64::try_from(nanos)
            .ok()
            .filter(|nanos| *nanos <= PRICE_NANOS_MAX)
            .and_then(|nanos| Price::from_nanos(nanos).ok())
    }

    /// The share of a count of minor units (cents), rounded half to even. `None` out of range.
    pub fn of_minor_units(self, minor: i128) -> Option<i128> {
        self.of_whole(minor)
    }

    /// The part of a gross count of minor units that this rate on top of the net makes,
    /// `gross × rate / (1 + rate)`, rounded half to even. `None` out of range.
    pub fn within_gross_minor_units(self, gross: i128) -> Option<i128> {
        let parts = gross.checked_mul(i128::from(self.0))?;
        round_half_even(parts, i128::from(WHOLE.checked_add(self.0)?))
    }

    /// The share of an amount, rounded half to even to an atto-currency. `None` out of range.
    pub fn of_amount(self, amount: Amount) -> Option<Amount> {
        self.of_whole(amount.attos()).map(Amount::from_attos)
    }

    fn of_whole(self, count: i128) -> Option<i128> {
        round_half_even(count.checked_mul(i128::from(self.0))?, i128::from(WHOLE))
    }
}

/// `numerator / denominator` as a whole number, halves to the even neighbour.
fn round_half_even(numerator: i128, denominator: i128) -> Option<i128> {
    let floor = numerator.checked_div_euclid(denominator)?;
    let rest = numerator.checked_rem_euclid(denominator)?;
    let up = match rest.checked_mul(2)?.cmp(&denominator) {
        std::cmp::Ordering::Less => 0,
        std::cmp::Ordering::Greater => 1,
        std::cmp::Ordering::Equal => floor.rem_euclid(2),
    };
    floor.checked_add(up)
}

impl fmt::Display for Percent {
    /// The shortest decimal without the sign: `12.5`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / PERCENT, self.0 % PERCENT);
        if rest == 0 {
            return f.pad(&whole.to_string());
        }
        let fraction = format!("{rest:0width$}", width = PERCENT_FRACTION_DIGITS);
        f.pad(&format!("{whole}.{}", fraction.trim_end_matches('0')))
    }
}

impl fmt::Debug for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} %")
    }
}

impl FromStr for Percent {
    type Err = PercentError;

    fn from_str(text: &str) -> Result<Self, PercentError> {
        let error = || PercentError { text: text.chars().take(48).collect() };
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let plain = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !plain(whole) || !plain(fraction) || fraction.len() > PERCENT_FRACTION_DIGITS {
            return Err(error());
        }
        let whole: u32 = whole.parse().map_err(|_| error())?;
        let parts: u32 = format!("{fraction:0<PERCENT_FRACTION_DIGITS$}").parse().map_err(|_| error())?;
        let ppm = whole.checked_mul(PERCENT).and_then(|ppm| ppm.checked_add(parts)).ok_or_else(error)?;
        Self::from_ppm(ppm).map_err(|_| error())
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
        } else {
            Self::from_ppm(u32::deserialize(deserializer)?).map_err(serde::de::Error::custom)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn percent(text: &str) -> Percent {
        text.parse().unwrap()
    }

    #[test]
    fn percentages_are_read_exactly_or_refused() {
        for (text, ppm) in [("0", 0), ("12.5", 125_000), ("100", WHOLE), ("0.0001", 1), ("1000", 10 * WHOLE)]
        {
            assert_eq!((percent(text).ppm(), percent(text).to_string().as_str()), (ppm, text));
        }
        for bad in
            ["", "-5", "+5", "5%", "1e2", "12,5", ".5", "5.", "0.00001", "1000.1", "NaN", "99999999999"]
        {
            assert!(bad.parse::<Percent>().is_err(), "{bad}");
        }
    }

    #[test]
    fn shares_round_half_to_even_by_table() {
        let price = |text: &str| Price::parse(text).unwrap();
        assert_eq!(percent("70").of_price(price("2.95")), Some(price("2.065")));
        assert_eq!(percent("50").of_price(price("0.000000001")), Some(Price::ZERO));
        assert_eq!(percent("50").of_price(price("0.000000003")), Some(price("0.000000002")));
        assert_eq!(percent("1000").of_price(price("999999")), None);
        assert_eq!(percent("19").of_minor_units(10_050), Some(1_910));
        assert_eq!(percent("19").of_minor_units(-10_050), Some(-1_910));
        assert_eq!(percent("19").within_gross_minor_units(11_900), Some(1_900));
        assert_eq!(percent("30").complement(), Some(percent("70")));
        assert_eq!(percent("100.5").complement(), None);
    }

    proptest! {
        #[test]
        fn percentages_read_back(ppm in 0..=PERCENT_MAX * PERCENT) {
            let percent = Percent::from_ppm(ppm).unwrap();
            prop_assert_eq!(percent.to_string().parse::<Percent>().unwrap(), percent);
        }

        /// A share and the rest of the whole make the whole, but for one unit of rounding.
        #[test]
        fn a_share_and_its_complement_make_the_whole(ppm in 0..=WHOLE, nanos in 0..PRICE_NANOS_MAX) {
            let share = Percent::from_ppm(ppm).unwrap();
            let price = Price::from_nanos(nanos).unwrap();
            let sum = share.of_price(price).unwrap().nanos() + share.complement().unwrap().of_price(price).unwrap().nanos();
            prop_assert!((sum - nanos).abs() <= 1);
        }
    }
}
