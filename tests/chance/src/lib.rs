//! Chance that a seed fixes, and the loop over seeds that all simulations share.
//!
//! The generator is SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
//! A seed that fails is printed with the variables that show it alone.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests are its only callers: what they ask for wrongly fails them"
)]

/// The variable that holds the first seed; 0 without it.
pub const FIRST_SEED: &str = "HOURGLASS_FIRST_SEED";

/// Draws numbers, the same ones from the same seed.
#[derive(Debug, Clone)]
pub struct Chance(pub u64);

impl Chance {
    /// Any number.
    #[expect(clippy::should_implement_trait, reason = "it never ends, and is no iterator")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number of `[0, end)`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A number of `[from, end)`.
    pub fn within(&mut self, from: i64, end: i64) -> i64 {
        let width = u64::try_from(end - from).expect("an end behind the beginning");
        from + i64::try_from(self.below(width)).expect("a small number")
    }

    /// A number of `[from, to]`.
    pub fn among(&mut self, from: u32, to: u32) -> u32 {
        from + u32::try_from(self.below(u64::from(to - from) + 1)).expect("a small number")
    }

    /// Whether one chance in `of` came up.
    pub fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }

    /// A place in something of this length.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("a small number")
    }

    /// One of several.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.index(items.len())]
    }

    /// One of several; none of nothing.
    pub fn any_of<T: Copy>(&mut self, items: &[T]) -> Option<T> {
        (!items.is_empty()).then(|| *self.pick(items))
    }

    /// Puts them into another order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.index(last + 1));
        }
    }
}

/// The number that a variable holds.
pub fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Runs a simulation for `cases` seeds, or for as many as a variable says, and tells which one fails.
pub fn for_each_seed(variable: &str, cases: u64, simulate: impl Fn(u64) + std::panic::RefUnwindSafe) {
    let first = from_environment(FIRST_SEED, 0);
    for seed in first..first + from_environment(variable, cases) {
        if let Err(panic) = std::panic::catch_unwind(|| simulate(seed)) {
            eprintln!("seed {seed} fails: {FIRST_SEED}={seed} {variable}=1 shows it alone");
            std::panic::resume_unwind(panic);
        }
    }
}
