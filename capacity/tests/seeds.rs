//! Chance that a seed fixes.

/// SplitMix64.
#[derive(Debug, Clone)]
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number of `[0, end)`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A number of `[from, end)`.
    pub(crate) fn within(&mut self, from: i64, end: i64) -> i64 {
        from + i64::try_from(self.below(u64::try_from(end - from).unwrap())).unwrap()
    }

    pub(crate) fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }

    pub(crate) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap()
    }

    pub(crate) fn pick<T: Copy>(&mut self, items: &[T]) -> Option<T> {
        if items.is_empty() { None } else { Some(items[self.index(items.len())]) }
    }
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs a simulation for many seeds, and says which one fails.
pub(crate) fn for_each_seed(cases: u64, simulate: impl Fn(u64) + std::panic::RefUnwindSafe) {
    let first = from_environment("HOURGLASS_FIRST_SEED").unwrap_or(0);
    for seed in first..first + from_environment("PROPTEST_CASES").unwrap_or(cases) {
        if let Err(panic) = std::panic::catch_unwind(|| simulate(seed)) {
            eprintln!("seed {seed} fails: HOURGLASS_FIRST_SEED={seed} PROPTEST_CASES=1 shows it alone");
            std::panic::resume_unwind(panic);
        }
    }
}
