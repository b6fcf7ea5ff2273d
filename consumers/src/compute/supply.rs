//! What the cloud says that pools have.
//!
//! A pool whose terms say so has the GPUs that are reserved at the provider, by its capacity intervals: also those
//! to come, and only until they end, so that spot is gone in time. Or it has what the provider advises: what could
//! be had at once, and what its units have already. An answer that makes no sense changes nothing: what was known
//! last stays.

use hourglass_capacity::pool::PoolName;
use hourglass_compute::model::{Advice, Availability, CapacityInterval, Freshness, Level, Phase, Place};
use hourglass_ledger::core::market::Backend;
use hourglass_units::{Instant, Interval};

fn is_of(pool: &PoolName, region: &hourglass_units::Region, place: &Place) -> bool {
    pool.region == *region && pool.platform == place.platform && place.fabric.as_ref() == Some(&pool.fabric)
}

/// What is reserved for a pool, now and later. `None` where nothing ever was, as far as the provider says: a name
/// that is written wrongly looks the same.
pub fn reserved(intervals: &[CapacityInterval], pool: &PoolName) -> Option<Vec<(Interval, u64)>> {
    let of_pool: Vec<_> = intervals.iter().filter(|it| is_of(pool, &it.region, &it.place)).collect();
    let holds = of_pool.iter().filter(|it| it.phase != Phase::Expired).map(|it| (it.during, it.gpus));
    (!of_pool.is_empty()).then(|| holds.collect())
}

/// What a pool has by the provider's advice, in GPUs: what could be had at once, of the size of machine that gives
/// most, and what its units take already, never above the quota. Of what units take some may not be made yet, so it
/// can be too much: what then proves not to be there cools down. `None` where the provider does not say, or not how
/// things stand.
pub fn advised(advice: &[Advice], pool: &PoolName, backend: Backend, taken: u64) -> Option<u64> {
    let of_pool = advice.iter().filter(|it| is_of(pool, &it.region, &it.place));
    let said = of_pool.filter_map(|it| match backend {
        Backend::Regular => it.on_demand.as_ref(),
        Backend::Preemptible => it.preemptible.as_ref(),
    });
    let known = said.filter(|it| can_be_relied_on(it));
    known.map(|it| u64::from(it.available).saturating_add(taken).min(u64::from(it.limit))).max()
}

fn can_be_relied_on(it: &Availability) -> bool {
    it.freshness == Freshness::Fresh && it.level != Level::Unknown
}

/// So many from an instant on, as far as anybody knows.
pub(super) fn from_now_on(gpus: u64, now: Instant) -> Vec<(Interval, u64)> {
    Interval::from(now).map(|rest| (rest, gpus)).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> PoolName {
        "eu/gpu-h100-sxm/fabric-1".parse().unwrap()
    }

    fn at(hour: i64) -> Instant {
        "2026-01-01T00:00:00Z".parse::<Instant>().unwrap().saturating_add_ms(hour * 3_600_000)
    }

    #[test]
    fn intervals_of_the_pool_that_are_not_over_count() {
        let interval = |region: &str, place: &str, hours: (i64, i64), phase| CapacityInterval {
            id: "capacityinterval-1".parse().unwrap(),
            group: "capacityblockgroup-1".parse().unwrap(),
            region: region.parse().unwrap(),
            place: place.parse().unwrap(),
            gpus: 8,
            during: Interval::new(at(hours.0), at(hours.1)).unwrap(),
            phase,
        };
        let of_pool = interval("eu", "gpu-h100-sxm/fabric-1", (0, 5), Phase::Active);
        let later = interval("eu", "gpu-h100-sxm/fabric-1", (5, 9), Phase::Scheduled);
        let all = [
            of_pool.clone(),
            interval("us", "gpu-h100-sxm/fabric-1", (0, 5), Phase::Active),
            interval("eu", "gpu-h100-sxm/fabric-2", (0, 5), Phase::Active),
            interval("eu", "gpu-h100-sxm", (0, 5), Phase::Active),
            interval("eu", "gpu-h100-sxm/fabric-1", (-5, 0), Phase::Expired),
            later.clone(),
        ];
        assert_eq!(reserved(&all, &pool()), Some(vec![(of_pool.during, 8), (later.during, 8)]));
        assert_eq!(reserved(&all[4..5], &pool()), Some(vec![]), "all of it is over");
        assert_eq!(reserved(&all[1..4], &pool()), None, "nobody speaks of it");
    }

    #[test]
    fn advice_counts_where_it_can_be_relied_on() {
        let said = |freshness, level, available| {
            Some(Availability { freshness, available, limit: 99, level, measured_at: None })
        };
        let advice = |preset: &str, on_demand, preemptible| Advice {
            region: "eu".parse().unwrap(),
            place: "gpu-h100-sxm/fabric-1".parse().unwrap(),
            preset: preset.parse().unwrap(),
            reserved: None,
            on_demand,
            preemptible,
        };
        let fresh = |gpus| said(Freshness::Fresh, Level::High, gpus);
        let all = [
            advice("1gpu-16vcpu-200gb", fresh(7), fresh(3)),
            advice("8gpu-128vcpu-1600gb", fresh(0), said(Freshness::Stale, Level::High, 16)),
        ];
        assert_eq!(advised(&all, &pool(), Backend::Regular, 0), Some(7));
        assert_eq!(advised(&all, &pool(), Backend::Regular, 8), Some(15));
        assert_eq!(advised(&all, &pool(), Backend::Regular, 98), Some(99), "the quota");
        assert_eq!(advised(&all, &pool(), Backend::Preemptible, 0), Some(3), "what is stale says nothing");
        let unknown = [advice("1gpu-16vcpu-200gb", None, said(Freshness::Fresh, Level::Unknown, 5))];
        assert_eq!(advised(&unknown, &pool(), Backend::Preemptible, 4), None);
        assert_eq!(advised(&unknown, &pool(), Backend::Regular, 4), None);
        assert_eq!(advised(&all, &"eu/gpu-h100-sxm/fabric-2".parse().unwrap(), Backend::Regular, 4), None);
    }
}
