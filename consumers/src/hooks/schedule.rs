//! When a message is tried again. Pure.

/// Pause after the first failed attempt, in milliseconds. Each further one is twice as long.
pub const FIRST_PAUSE_MS: i64 = 5_000;
/// How long a message is tried, from its first attempt on, in milliseconds: one day.
pub const RETRY_WINDOW_MS: i64 = 86_400_000;
/// The longest pause, in milliseconds: eight hours.
pub const PAUSE_MS_MAX: i64 = 8 * 3_600_000;
/// The longest that a receiver can ask for by `Retry-After`, in milliseconds: one hour.
pub const RETRY_AFTER_MS_MAX: i64 = 3_600_000;
/// By how much a pause is stretched at most, in percent, so that many endpoints that failed together do
/// not come back together.
pub const JITTER_PERCENT_MAX: i64 = 20;

/// How long to wait after so many failed attempts. `seed` stands for which message and which endpoint:
/// it decides the jitter, so that the schedule of a message is the same whoever computes it.
pub fn pause_ms(failed: u32, seed: &[u8]) -> i64 {
    let doubled = failed.saturating_sub(1).min(40);
    let pause =
        FIRST_PAUSE_MS.saturating_mul(1_i64.checked_shl(doubled).unwrap_or(i64::MAX)).min(PAUSE_MS_MAX);
    let mut hasher = blake3::Hasher::new_derive_key("hourglass 2026 webhook jitter");
    hasher.update(seed);
    hasher.update(&failed.to_le_bytes());
    let mut drawn = [0; 2];
    hasher.finalize_xof().fill(&mut drawn);
    let share = i64::from(u16::from_le_bytes(drawn));
    let most = pause.saturating_mul(JITTER_PERCENT_MAX).div_euclid(100);
    pause.saturating_add(most.saturating_mul(share).div_euclid(i64::from(u16::MAX)))
}

/// Reads `Retry-After`: seconds, or a date of HTTP. `None` where it is neither.
pub fn retry_after_ms(value: &str, now_unix_ms: i64) -> Option<i64> {
    let ms = match value.trim().parse::<u32>() {
        Ok(seconds) => i64::from(seconds).saturating_mul(1_000),
        Err(_) => {
            let date = httpdate::parse_http_date(value.trim()).ok()?;
            let at = date.duration_since(std::time::UNIX_EPOCH).ok()?.as_millis();
            i64::try_from(at).ok()?.saturating_sub(now_unix_ms)
        }
    };
    Some(ms.clamp(0, RETRY_AFTER_MS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_are_stretched_a_little() {
        let mut total = 0;
        for failed in 1..=30_u32 {
            let pause = pause_ms(failed, b"message");
            let plain = (FIRST_PAUSE_MS << (failed - 1).min(20)).min(PAUSE_MS_MAX);
            assert!((plain..=plain + plain / 5).contains(&pause), "{failed}: {pause}");
            assert_eq!(pause, pause_ms(failed, b"message"));
            total += pause;
            if total > RETRY_WINDOW_MS {
                assert!((12..=18).contains(&failed), "{failed} attempts in the window");
                break;
            }
        }
        let spread: std::collections::BTreeSet<i64> =
            (0..100_u32).map(|seed| pause_ms(5, &seed.to_le_bytes())).collect();
        assert!(spread.len() > 90, "endpoints that failed together come back apart");
        assert!(pause_ms(u32::MAX, b"") >= PAUSE_MS_MAX);
    }

    #[test]
    fn a_receiver_can_ask_for_time() {
        let now = "2026-01-01T00:00:00Z".parse::<hourglass_units::Instant>().unwrap().unix_ms();
        let check = |value: &str, expected: Option<i64>| {
            assert_eq!(retry_after_ms(value, now), expected, "{value}");
        };
        check("120", Some(120_000));
        check(" 0 ", Some(0));
        check("Thu, 01 Jan 2026 00:01:00 GMT", Some(60_000));
        check("Wed, 31 Dec 2025 00:01:00 GMT", Some(0));
        check("4294967295", Some(RETRY_AFTER_MS_MAX));
        for bad in ["", "soon", "-1", "1.5"] {
            check(bad, None);
        }
    }
}
