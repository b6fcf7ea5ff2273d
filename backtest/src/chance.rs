//! Chance that a seed fixes: draws are numbered, so what one job draws depends on no other job.

/// Draws of one job.
#[derive(Debug, Clone)]
pub(crate) struct Chance(u64);

impl Chance {
    /// For the job of a number.
    pub(crate) fn new(seed: u64, job: u64) -> Self {
        Self(mix(seed) ^ mix(job.wrapping_add(GOLDEN)))
    }

    /// A number below `end`, which is not 0; each is as likely as the others within 2^-64.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        let scaled = u128::from(mix(self.0)).saturating_mul(u128::from(end)) >> 64;
        u64::try_from(scaled).unwrap_or(0)
    }
}

/// The step of SplitMix64: the golden ratio, as an odd number of 64 bits.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The mixing function of SplitMix64.
fn mix(value: u64) -> u64 {
    let mixed = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
