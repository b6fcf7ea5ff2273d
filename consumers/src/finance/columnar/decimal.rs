//! Decimals as text. The formatter of the standard library takes several times as long, and the numbers
//! of a large export are written by the million.

use super::DECIMAL_FRACTION_DIGITS;

const ATTOS: u128 = 10_u128.pow(DECIMAL_FRACTION_DIGITS);

/// Appends `attos` × 1e-18 as the shortest exact decimal with a digit after the point, such as `8.0`:
/// some readers take a number without a point for a whole one, and then the whole column.
pub(super) fn write(out: &mut Vec<u8>, attos: i128) {
    let magnitude = attos.unsigned_abs();
    if attos < 0 {
        out.push(b'-');
    }
    // Most numbers fit the machine's own, for which division is much cheaper.
    let (whole, mut fraction) = match u64::try_from(magnitude) {
        Ok(small) => (u128::from(small / ATTOS_U64), small % ATTOS_U64),
        Err(_) => (magnitude / ATTOS, u64::try_from(magnitude % ATTOS).unwrap_or(0)),
    };
    write_whole(out, whole);
    out.push(b'.');
    if fraction == 0 {
        out.push(b'0');
        return;
    }
    let mut digits = [b'0'; DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit = b'0'.saturating_add(u8::try_from(fraction % 10).unwrap_or(0));
        fraction /= 10;
    }
    let kept = digits.iter().rposition(|digit| *digit != b'0').map_or(0, |last| last.saturating_add(1));
    out.extend_from_slice(digits.get(..kept).unwrap_or_default());
}

const ATTOS_U64: u64 = 10_u64.pow(DECIMAL_FRACTION_DIGITS);
const DIGITS: usize = DECIMAL_FRACTION_DIGITS as usize;

fn write_whole(out: &mut Vec<u8>, whole: u128) {
    match u64::try_from(whole) {
        Ok(mut small) => {
            let mut digits = [b'0'; 20];
            let mut first = digits.len();
            for (place, digit) in digits.iter_mut().enumerate().rev() {
                *digit = b'0'.saturating_add(u8::try_from(small % 10).unwrap_or(0));
                small /= 10;
                first = place;
                if small == 0 {
                    break;
                }
            }
            out.extend_from_slice(digits.get(first..).unwrap_or_default());
        }
        Err(_) => out.extend_from_slice(whole.to_string().as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use hourglass_units::Amount;
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;

    fn text(attos: i128) -> String {
        let mut out = Vec::new();
        write(&mut out, attos);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn there_is_always_a_digit_after_the_point() {
        let check = |amount: &str, expected: &str| {
            assert_eq!(text(Amount::parse(amount).unwrap().attos()), expected);
        };
        check("0", "0.0");
        check("8", "8.0");
        check("-8.50", "-8.5");
        check("0.000000000000000001", "0.000000000000000001");
        check("-99999999999999999999.999999999999999999", "-99999999999999999999.999999999999999999");
        check("18.446744073709551616", "18.446744073709551616");
        check("100000000000000000000", "100000000000000000000.0");
    }

    proptest! {
        /// The same number as the standard formatter gives, but for the digit after the point.
        #[test]
        fn as_the_standard_formatter_writes(attos in any::<i128>(), shift in 0_u32..127) {
            let attos = attos >> shift;
            let mut expected = Amount::from_attos(attos).to_string();
            if !expected.contains('.') {
                expected.push_str(".0");
            }
            prop_assert_eq!(text(attos), expected);
        }
    }
}
