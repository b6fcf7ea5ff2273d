//! Durations as people write them: `90s`, `1m30s`, `500ms`.

use std::fmt;

/// Longest duration, in milliseconds: ten years.
pub(crate) const DURATION_MS_MAX: i64 = 10 * 366 * 24 * 3_600_000;

const UNITS: [(&str, i64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Reads a duration, in milliseconds: whole numbers, each with its unit, one after the other.
pub(crate) fn milliseconds(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut total: i64 = 0;
    while !rest.is_empty() || text.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at_checked(digits)?;
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at_checked(letters)?;
        let (_, of) = UNITS.iter().find(|(name, _)| *name == unit)?;
        total = total.checked_add(number.parse::<i64>().ok()?.checked_mul(*of)?)?;
        rest = after;
    }
    Some(total).filter(|total| *total <= DURATION_MS_MAX)
}

/// Milliseconds as [`milliseconds`] reads them.
pub(crate) struct Shown(pub(crate) i64);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 <= 0 {
            return f.write_str("0s");
        }
        let mut rest = self.0;
        for (unit, of) in UNITS.iter().rev() {
            let count = rest / of;
            rest %= of;
            if count > 0 {
                write!(f, "{count}{unit}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written() {
        for (text, ms) in
            [("0s", 0), ("500ms", 500), ("1m30s", 90_000), ("2h", 7_200_000), ("1d1ms", 86_400_001)]
        {
            assert_eq!(milliseconds(text), Some(ms), "{text}");
            assert_eq!(Shown(ms).to_string(), text);
        }
        assert_eq!(milliseconds("90s"), Some(90_000));
        for text in ["", "s", "5", "5 s", "-5s", "1.5s", "5x", "99999999999999999999s", "9999999999d", "5sö"]
        {
            assert_eq!(milliseconds(text), None, "{text:?}");
        }
    }
}
