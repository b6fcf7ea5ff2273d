//! Price, quantity and their exact product.

use std::fmt;

use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::currency::Currency;

/// Highest price: one million of the currency per GPU-hour.
pub const PRICE_NANOS_MAX: i64 = 1_000_000 * NANOS;
/// Digits after the point that a price can have.
pub const PRICE_FRACTION_DIGITS: u32 = 9;
/// Most GPU-milliseconds that one quantity can stand for: about 3.6 billion GPU-hours.
pub const GPU_MILLISECONDS_MAX: i128 = 1 << 53;

const NANOS: i64 = 1_000_000_000;
const ATTOS: i128 = 1_000_000_000_000_000_000;

/// Money that could not be read, or does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// Not a plain decimal number.
    #[error("{text:?} is no decimal number: write it like 2.95")]
    NotADecimal {
        /// What was given, cut to a printable length.
        text: String,
    },
    /// A price below zero.
    #[error("price {text} is negative: a discount is a rule of a contract, not a negative price")]
    NegativePrice {
        /// What was given.
        text: String,
    },
    /// A price above [`PRICE_NANOS_MAX`].
    #[error("price {text} is too high: at most 1000000 per GPU-hour")]
    PriceTooHigh {
        /// What was given.
        text: String,
    },
    /// More than [`PRICE_FRACTION_DIGITS`] digits after the point.
    #[error("price {text} has more than 9 digits after the point: round it yourself, Hourglass will not")]
    PriceTooFine {
        /// What was given.
        text: String,
    },
    /// A sum left the range of the type.
    #[error("amount out of range")]
    Overflow,
    /// U-2.
    #[error("cannot add {right} to {left}: convert one of them first")]
    CurrencyMismatch {
        /// Currency on the left.
        left: Currency,
        /// Currency on the right.
        right: Currency,
    },
}

/// Nano-currency per GPU-hour: at least 0, at most [`PRICE_NANOS_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Price(i64);

impl Price {
    /// Nothing is charged.
    pub const ZERO: Self = Self(0);

    /// From nano-currency per GPU-hour.
    pub fn from_nanos(nanos: i64) -> Result<Self, MoneyError> {
        if nanos < 0 {
            return Err(MoneyError::NegativePrice { text: nanos.to_string() });
        }
        if nanos > PRICE_NANOS_MAX {
            return Err(MoneyError::PriceTooHigh { text: nanos.to_string() });
        }
        Ok(Self(nanos))
    }

    /// From a decimal such as `2.95`; refuses what it would have to round.
    pub fn parse(text: &str) -> Result<Self, MoneyError> {
        let shown = || text.chars().take(48).collect::<String>();
        let not_a_decimal = || MoneyError::NotADecimal { text: shown() };
        let text = text.trim();
        // `Decimal` would also take a plus, separators and a missing digit beside the point.
        digits(text).ok_or_else(not_a_decimal)?;
        let decimal = Decimal::from_str_exact(text).map_err(|_| not_a_decimal())?;
        if decimal.is_sign_negative() && !decimal.is_zero() {
            return Err(MoneyError::NegativePrice { text: shown() });
        }
        let decimal = decimal.normalize();
        if decimal.scale() > PRICE_FRACTION_DIGITS {
            return Err(MoneyError::PriceTooFine { text: shown() });
        }
        let shift = 10_i128.pow(PRICE_FRACTION_DIGITS.saturating_sub(decimal.scale()));
        let nanos = decimal.mantissa().checked_mul(shift).and_then(|nanos| i64::try_from(nanos).ok());
        match nanos {
            Some(nanos) if nanos <= PRICE_NANOS_MAX => Ok(Self(nanos)),
            _ => Err(MoneyError::PriceTooHigh { text: shown() }),
        }
    }

    /// Nano-currency per GPU-hour.
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// U-1: the exact product. Total, because `i64 × i64` always fits an `i128`.
    pub const fn times(self, quantity: Quantity) -> Amount {
        Amount(self.0 as i128 * quantity.0 as i128)
    }
}

impl fmt::Display for Price {
    /// The shortest decimal, such as `2.95`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_decimal(f, i128::from(self.0), 9)
    }
}

impl fmt::Debug for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}/GPU-h")
    }
}

/// Nano-GPU-hours. Negative in a correction.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Quantity(i64);

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// From nano-GPU-hours.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// The one rounding of Hourglass before an invoice: `round_half_even(gpu_ms × 1e9 / 3.6e6)`.
    ///
    /// The fraction is 2500/9; a ninth is never a half, so half-even never has to break a tie.
    /// `None` beyond [`GPU_MILLISECONDS_MAX`] or below zero.
    pub fn of_gpu_milliseconds(gpu_milliseconds: i128) -> Option<Self> {
        if !(0..=GPU_MILLISECONDS_MAX).contains(&gpu_milliseconds) {
            return None;
        }
        // Rounding to nearest: ⌊(2 × 2500 × gpu_ms + 9) / 18⌋. Nearly always that fits an i64, whose
        // division is several times faster.
        if let Ok(small) = i64::try_from(gpu_milliseconds)
            && let Some(doubled) = small.checked_mul(2 * 2500)
            && let Some(shifted) = doubled.checked_add(9)
        {
            return Some(Self(shifted / 18));
        }
        let nanos = gpu_milliseconds.checked_mul(2 * 2500)?.checked_add(9)?.checked_div(18)?;
        i64::try_from(nanos).ok().map(Self)
    }

    /// Nano-GPU-hours.
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// Sum, if it fits.
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// Difference, if it fits.
    #[must_use]
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// Whether there is nothing.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Quantity {
    /// GPU-hours, as the shortest decimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_decimal(f, i128::from(self.0), 9)
    }
}

impl fmt::Debug for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} GPU-h")
    }
}

/// Atto-currency (1e-18), exact.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[must_use]
pub struct Amount(i128);

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// From atto-currency.
    pub const fn from_attos(attos: i128) -> Self {
        Self(attos)
    }

    /// From a count of the currency's minor units (cents), if it fits.
    pub fn from_minor_units(minor: i128, currency: Currency) -> Option<Self> {
        minor.checked_mul(currency.attos_per_minor_unit()).map(Self)
    }

    /// From a decimal such as `-12.5`; exact to 18 digits after the point.
    pub fn parse(text: &str) -> Result<Self, MoneyError> {
        let error = || MoneyError::NotADecimal { text: text.chars().take(48).collect() };
        let (sign, whole, fraction) = digits(text).filter(|it| it.2.len() <= 18).ok_or_else(error)?;
        let whole: i128 = whole.parse().map_err(|_| MoneyError::Overflow)?;
        let fraction: i128 = format!("{fraction:0<18}").parse().map_err(|_| error())?;
        // Signed before they are added, or the least amount would not read back.
        let attos = whole.checked_mul(sign * ATTOS).and_then(|attos| attos.checked_add(sign * fraction));
        attos.map(Self).ok_or(MoneyError::Overflow)
    }

    /// Atto-currency.
    pub const fn attos(self) -> i128 {
        self.0
    }

    /// Sum, if it fits.
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// Difference, if it fits.
    #[must_use]
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// The other sign, if it fits.
    #[must_use]
    pub fn checked_neg(self) -> Option<Self> {
        self.0.checked_neg().map(Self)
    }

    /// Whether there is nothing.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Whole minor units of the currency, halves to the even neighbour. Only invoices round.
    pub fn round_half_even_to_minor(self, currency: Currency) -> i128 {
        let unit = currency.attos_per_minor_unit();
        let (floor, rest) = (self.0.div_euclid(unit), self.0.rem_euclid(unit));
        // `rest` is below `unit`, at most 1e18: doubling it cannot overflow.
        let up = match rest.saturating_mul(2).cmp(&unit) {
            std::cmp::Ordering::Less => 0,
            std::cmp::Ordering::Greater => 1,
            std::cmp::Ordering::Equal => floor.rem_euclid(2),
        };
        floor.saturating_add(up)
    }

    /// Whole minor units below or equal, and what is left over in atto-currency.
    pub fn floor_to_minor(self, currency: Currency) -> (i128, i128) {
        let unit = currency.attos_per_minor_unit();
        (self.0.div_euclid(unit), self.0.rem_euclid(unit))
    }

    /// The decimal with exactly the currency's minor digits where it has no finer ones, such as `12.50`.
    pub fn to_minor_string(self, currency: Currency) -> String {
        let text = self.to_string();
        let digits = usize::try_from(currency.minor_unit_digits()).unwrap_or(0);
        let have = text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
        if have >= digits {
            return text;
        }
        let point = if have == 0 { "." } else { "" };
        format!("{text}{point}{}", "0".repeat(digits.saturating_sub(have)))
    }
}

impl fmt::Display for Amount {
    /// The shortest exact decimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_decimal(f, self.0, 18)
    }
}

impl fmt::Debug for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An amount and what it is counted in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Money {
    /// How much.
    pub amount: Amount,
    /// Of what.
    pub currency: Currency,
}

impl Money {
    /// U-2: the sum, or an error that names both currencies.
    pub fn checked_add(self, other: Self) -> Result<Self, MoneyError> {
        if self.currency != other.currency {
            return Err(MoneyError::CurrencyMismatch { left: self.currency, right: other.currency });
        }
        let amount = self.amount.checked_add(other.amount).ok_or(MoneyError::Overflow)?;
        Ok(Self { amount, currency: self.currency })
    }

    /// The sum of all, which must share `currency`.
    pub fn checked_sum(currency: Currency, all: impl IntoIterator<Item = Self>) -> Result<Self, MoneyError> {
        all.into_iter().try_fold(Self { amount: Amount::ZERO, currency }, Self::checked_add)
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.amount.to_minor_string(self.currency), self.currency)
    }
}

/// Sign, whole part and fraction of a decimal such as `-12.5`: digits on both sides of a point, or no
/// point. There is no other way to write one.
fn digits(text: &str) -> Option<(i128, &str, &str)> {
    let (sign, unsigned) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, "0"));
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    (plain(whole) && plain(fraction)).then_some((sign, whole, fraction))
}

/// Writes `value / 10^digits` as the shortest exact decimal.
fn write_decimal(f: &mut fmt::Formatter<'_>, value: i128, digits: u32) -> fmt::Result {
    let unit = 10_u128.pow(digits);
    let magnitude = value.unsigned_abs();
    let (whole, fraction) = (magnitude / unit, magnitude % unit);
    let sign = if value < 0 { "-" } else { "" };
    let mut text = format!("{sign}{whole}");
    if fraction != 0 {
        let width = usize::try_from(digits).unwrap_or(0);
        let fraction = format!("{fraction:0width$}");
        text.push('.');
        text.push_str(fraction.trim_end_matches('0'));
    }
    f.pad(&text)
}

/// Serialized as text where people read it and as the bare integer where machines do.
macro_rules! serde_number {
    ($name:ident, $inner:ty, $parse:expr, $from:expr) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = String::deserialize(deserializer)?;
                    $parse(&text).map_err(serde::de::Error::custom)
                } else {
                    $from(<$inner>::deserialize(deserializer)?).map_err(serde::de::Error::custom)
                }
            }
        }
    };
}

serde_number!(Price, i64, Price::parse, Price::from_nanos);
serde_number!(Amount, i128, Amount::parse, |attos| Ok::<_, MoneyError>(Amount(attos)));
serde_number!(Quantity, i64, parse_quantity, |nanos| Ok::<_, MoneyError>(Quantity(nanos)));

fn parse_quantity(text: &str) -> Result<Quantity, MoneyError> {
    let attos = Amount::parse(text)?.attos();
    let nanos = attos.checked_div(i128::from(NANOS)).ok_or(MoneyError::Overflow)?;
    if nanos.checked_mul(i128::from(NANOS)) != Some(attos) {
        return Err(MoneyError::NotADecimal { text: text.chars().take(48).collect() });
    }
    i64::try_from(nanos).map(Quantity).map_err(|_| MoneyError::Overflow)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn prices_are_parsed_exactly_or_refused() {
        let ok = |text: &str, nanos: i64| assert_eq!(Price::parse(text).unwrap().nanos(), nanos, "{text}");
        ok("2.95", 2_950_000_000);
        ok(" 0 ", 0);
        ok("-0", 0);
        ok("0.000000001", 1);
        ok("2.9500000000000", 2_950_000_000);
        ok("1000000", PRICE_NANOS_MAX);
        let bad = |text: &str, expected: &str| {
            assert!(Price::parse(text).unwrap_err().to_string().contains(expected), "{text}");
        };
        bad("-0.01", "negative");
        bad("1000000.000000001", "too high");
        bad("0.0000000001", "more than 9 digits");
        bad("123456789012345678901234567890", "no decimal number");
        bad("1e3", "no decimal number");
        bad("NaN", "no decimal number");
        bad("", "no decimal number");
        bad("2,95", "no decimal number");
        bad("2_95", "no decimal number");
        bad("+2.95", "no decimal number");
        bad(".5", "no decimal number");
        bad("5.", "no decimal number");
    }

    #[test]
    fn amounts_round_half_to_even_only_when_asked() {
        let cents = |text: &str| Amount::parse(text).unwrap().round_half_even_to_minor(Currency::USD);
        assert_eq!(cents("0.005"), 0);
        assert_eq!(cents("0.015"), 2);
        assert_eq!(cents("0.0050000000000001"), 1);
        assert_eq!(cents("-0.005"), 0);
        assert_eq!(cents("-0.015"), -2);
        assert_eq!(Amount::parse("2.5").unwrap().round_half_even_to_minor(Currency::JPY), 2);
        assert_eq!(Amount::parse("0.0005").unwrap().round_half_even_to_minor(Currency::KWD), 0);
        assert_eq!(Amount::parse("12.5").unwrap().to_minor_string(Currency::USD), "12.50");
        assert_eq!(Amount::parse("12").unwrap().to_minor_string(Currency::JPY), "12");
    }

    #[test]
    fn u2_money_of_two_currencies_does_not_add() {
        let one = |currency| Money { amount: Amount::from_attos(1), currency };
        let error = one(Currency::USD).checked_add(one(Currency::EUR)).unwrap_err();
        assert_eq!(error, MoneyError::CurrencyMismatch { left: Currency::USD, right: Currency::EUR });
        assert_eq!(one(Currency::USD).checked_add(one(Currency::USD)).unwrap().amount, Amount::from_attos(2));
    }

    fn price() -> impl Strategy<Value = Price> {
        (0..=PRICE_NANOS_MAX).prop_map(|nanos| Price::from_nanos(nanos).unwrap())
    }

    proptest! {
        /// U-1: the product is exact and distributes over sums of quantities.
        #[test]
        fn u1_product_is_exact(price in price(), a in any::<i32>(), b in any::<i32>()) {
            let (a, b) = (Quantity::from_nanos(i64::from(a) << 20), Quantity::from_nanos(i64::from(b) << 20));
            let sum = a.checked_add(b).unwrap();
            prop_assert_eq!(price.times(sum), price.times(a).checked_add(price.times(b)).unwrap());
            prop_assert_eq!(price.times(a).attos(), i128::from(price.nanos()) * i128::from(a.nanos()));
        }

        /// The quantity is within half a nano-GPU-hour of the true fraction.
        #[test]
        fn quantity_is_the_nearest_nano(gpu_ms in 0..=GPU_MILLISECONDS_MAX) {
            let nanos = i128::from(Quantity::of_gpu_milliseconds(gpu_ms).unwrap().nanos());
            prop_assert!((nanos * 9 - gpu_ms * 2500).abs() * 2 < 9);
        }

        #[test]
        fn decimals_read_back(attos in any::<i128>()) {
            for attos in [attos, attos >> 64, i128::MIN, i128::MAX] {
                let amount = Amount::from_attos(attos);
                prop_assert_eq!(Amount::parse(&amount.to_string()).unwrap(), amount);
            }
        }

        #[test]
        fn prices_read_back(price in price()) {
            prop_assert_eq!(Price::parse(&price.to_string()).unwrap(), price);
        }

        #[test]
        fn parsing_never_panics(text in ".{0,60}") {
            let _ = (Price::parse(&text).is_ok(), Amount::parse(&text).is_ok(), parse_quantity(&text).is_ok());
        }
    }
}
