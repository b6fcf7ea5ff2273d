//! Tax on an invoice.
//!
//! Tax is the second and last place where money is rounded: it is a share of payable sums, which are
//! whole minor units by then, and is payable itself. Halves go to the even neighbour.

use hourglass_units::Percent;
use serde::{Deserialize, Serialize};

/// Longest name of a tax, in characters.
pub const TAX_NAME_LENGTH_MAX: usize = 64;

/// Whether prices hold the tax.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaxKind {
    /// It comes on top.
    Exclusive,
    /// It is within.
    Inclusive,
}

/// What is rounded to minor units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaxRounding {
    /// The tax of each line; their sum is the tax.
    Line,
    /// The tax of the total; lines have none of their own.
    Total,
}

/// How a tenant is taxed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tax {
    /// As it is called on the invoice, such as `VAT`.
    pub name: String,
    /// Between 0 and 100.
    pub rate_percent: Percent,
    /// Whether prices hold it.
    pub kind: TaxKind,
    /// What is rounded.
    pub rounding: TaxRounding,
}

/// The tax of an invoice, in minor units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taxed {
    /// Of each line, where lines are rounded.
    pub lines: Option<Vec<i128>>,
    /// All of it. On top of the lines where it is exclusive, within them where it is inclusive.
    pub total: i128,
}

/// What is wrong with a tax.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TaxError {
    /// No name, too long a name, or one that cannot be printed.
    #[error(
        "the name of the tax has {length} characters: give 1 to {TAX_NAME_LENGTH_MAX}, none of them control characters"
    )]
    Name {
        /// Characters given.
        length: usize,
    },
    /// More than all of it.
    #[error("the rate of the tax is {rate} percent: give between 0 and 100")]
    Rate {
        /// What was given.
        rate: Percent,
    },
}

impl Tax {
    /// Whether the name can stand on an invoice and the rate is one.
    pub fn check(&self) -> Result<(), TaxError> {
        let length = self.name.chars().count();
        if !(1..=TAX_NAME_LENGTH_MAX).contains(&length) || self.name.chars().any(char::is_control) {
            return Err(TaxError::Name { length });
        }
        if self.rate_percent > Percent::WHOLE {
            return Err(TaxError::Rate { rate: self.rate_percent });
        }
        Ok(())
    }

    /// The tax of lines in minor units. `None` out of range.
    pub fn of(&self, lines: &[i128]) -> Option<Taxed> {
        let sum = |lines: &[i128]| lines.iter().try_fold(0_i128, |sum, line| sum.checked_add(*line));
        match self.rounding {
            TaxRounding::Total => Some(Taxed { lines: None, total: self.share(sum(lines)?)? }),
            TaxRounding::Line => {
                let lines = lines.iter().map(|line| self.share(*line)).collect::<Option<Vec<_>>>()?;
                let total = sum(&lines)?;
                Some(Taxed { lines: Some(lines), total })
            }
        }
    }

    fn share(&self, minor: i128) -> Option<i128> {
        match self.kind {
            TaxKind::Exclusive => self.rate_percent.of_minor_units(minor),
            TaxKind::Inclusive => self.rate_percent.within_gross_minor_units(minor),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{Just, prop_assert, prop_assert_eq, prop_oneof, proptest};

    use super::*;

    fn tax(rate: &str, kind: TaxKind, rounding: TaxRounding) -> Tax {
        Tax { name: "VAT".to_owned(), rate_percent: rate.parse().unwrap(), kind, rounding }
    }

    #[test]
    fn tax_by_table() {
        use TaxKind::{Exclusive, Inclusive};
        let check = |rate: &str, kind, lines: &[i128], by_line: &[i128], of_total: i128| {
            let got = tax(rate, kind, TaxRounding::Line).of(lines).unwrap();
            assert_eq!((got.lines.as_deref(), got.total), (Some(by_line), by_line.iter().sum()));
            let got = tax(rate, kind, TaxRounding::Total).of(lines).unwrap();
            assert_eq!((got.lines, got.total), (None, of_total));
        };
        check("19", Exclusive, &[], &[], 0);
        check("19", Exclusive, &[10_000, 50], &[1_900, 10], 1_910);
        check("10", Exclusive, &[5, 5, 5], &[0, 0, 0], 2);
        check("10", Exclusive, &[15, 15], &[2, 2], 3);
        check("19", Inclusive, &[11_900, -119], &[1_900, -19], 1_881);
        check("0", Inclusive, &[11_900], &[0], 0);
        let everything = tax("100", Exclusive, TaxRounding::Line);
        assert_eq!(everything.of(&[i128::MAX]), None);
        assert_eq!(everything.check(), Ok(()));
        let rate = "100.0001".parse().unwrap();
        assert_eq!(Tax { rate_percent: rate, ..everything.clone() }.check(), Err(TaxError::Rate { rate }));
        for (name, length) in [("", 0), ("V\nT", 3), ("x".repeat(65).as_str(), 65)] {
            let error = Tax { name: name.to_owned(), ..everything.clone() }.check().unwrap_err();
            assert_eq!(error, TaxError::Name { length });
        }
    }

    proptest! {
        /// Σ taxes of lines = tax; and where the total is rounded, tax is off by half a minor unit at
        /// most.
        #[test]
        fn taxes_of_lines_sum_to_the_tax(
            lines in vec(-1_000_000_000_i128..1_000_000_000_000, 0..40),
            ppm in 0..=1_000_000_u32,
            kind in prop_oneof![Just(TaxKind::Exclusive), Just(TaxKind::Inclusive)],
        ) {
            let rate_percent = Percent::from_ppm(ppm).unwrap();
            let by_line = Tax { rate_percent, ..tax("0", kind, TaxRounding::Line) }.of(&lines).unwrap();
            prop_assert_eq!(by_line.lines.unwrap().iter().sum::<i128>(), by_line.total);
            let total = Tax { rate_percent, ..tax("0", kind, TaxRounding::Total) }.of(&lines).unwrap().total;
            let (whole, ppm) = (1_000_000_i128, i128::from(ppm));
            let divisor = if kind == TaxKind::Exclusive { whole } else { whole + ppm };
            let exact = lines.iter().sum::<i128>() * ppm;
            prop_assert!((total * divisor - exact).abs() * 2 <= divisor);
            let half_each = i128::try_from(lines.len()).unwrap() * divisor;
            prop_assert!((by_line.total * divisor - exact).abs() * 2 <= half_each);
        }
    }
}
