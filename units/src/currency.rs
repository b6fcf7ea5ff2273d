//! ISO 4217 currencies.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A currency of ISO 4217 that has minor units (gold, test codes and the like have none and are
/// refused).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Currency(iso_currency::Currency);

/// The text is no ISO 4217 currency that money can be paid in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown currency {code:?}: use an ISO 4217 code such as USD, EUR or JPY")]
pub struct UnknownCurrency {
    /// What was given, cut to a printable length.
    pub code: String,
}

impl Currency {
    /// United States dollar.
    pub const USD: Self = Self(iso_currency::Currency::USD);
    /// Euro.
    pub const EUR: Self = Self(iso_currency::Currency::EUR);
    /// Japanese yen, which has no minor unit.
    pub const JPY: Self = Self(iso_currency::Currency::JPY);
    /// Kuwaiti dinar, which has three digits of minor units.
    pub const KWD: Self = Self(iso_currency::Currency::KWD);

    /// Digits after the point in a payable sum: 2 for USD, 0 for JPY, 3 for KWD.
    pub fn minor_unit_digits(self) -> u32 {
        // The constructor refuses a currency without an exponent.
        u32::from(self.0.exponent().unwrap_or(0))
    }

    /// Atto-currency (1e-18) in one minor unit: 1e16 for USD, whose minor unit is the cent.
    pub fn attos_per_minor_unit(self) -> i128 {
        10_i128.pow(18_u32.saturating_sub(self.minor_unit_digits()))
    }

    /// The three-letter code.
    pub fn code(self) -> &'static str {
        self.0.code()
    }
}

impl FromStr for Currency {
    type Err = UnknownCurrency;

    fn from_str(code: &str) -> Result<Self, Self::Err> {
        iso_currency::Currency::from_code(code)
            .filter(|currency| currency.exponent().is_some())
            .map(Self)
            .ok_or_else(|| UnknownCurrency { code: code.chars().take(16).collect() })
    }
}

impl PartialOrd for Currency {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Currency {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.code().cmp(other.code())
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minor_units_follow_iso_4217() {
        for (code, digits) in [("USD", 2), ("EUR", 2), ("JPY", 0), ("KWD", 3), ("CLF", 4)] {
            let currency: Currency = code.parse().unwrap();
            assert_eq!((currency.minor_unit_digits(), currency.code()), (digits, code));
        }
        assert_eq!(Currency::JPY.attos_per_minor_unit(), 1_000_000_000_000_000_000);
    }

    #[test]
    fn what_is_no_currency_is_refused_with_its_text() {
        for code in ["", "usd", "US", "XXY", "XAU", "U\u{0}D"] {
            let error = code.parse::<Currency>().unwrap_err();
            assert_eq!(error.code, code);
        }
    }
}
