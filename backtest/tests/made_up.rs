//! Traces that a seed makes up.

use std::fmt::Write;

/// SplitMix64.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// As many jobs as that over so many days: most with one GPU, some with nodes of 8 up to 16 of them, a tenth
/// elastic; a few seconds to a day, most of them about an hour.
pub(crate) fn trace(seed: u64, jobs: u64, days: u64) -> String {
    let mut chance = Chance(seed);
    let mut text = String::from("timestamp,duration,num_gpus,gpus_per_unit,min_units,max_units\n");
    for at in 0..jobs {
        let timestamp = at * days * 86_400 / jobs;
        let gpus =
            [1, 1, 1, 1, 1, 2, 4, 8, 8, 8 << chance.below(5)][usize::try_from(chance.below(10)).unwrap()];
        let duration = 30 << chance.below(11);
        let duration = duration + chance.below(duration);
        let (unit, most) = if gpus > 8 { (8, gpus / 8) } else { (gpus, 1) };
        let least = if chance.below(10) == 0 { 1 + chance.below(most) } else { most };
        writeln!(text, "{timestamp},{duration},{gpus},{unit},{least},{most}").unwrap();
    }
    text
}

/// Pools of so many GPUs, each losing a tenth during every second half-day.
pub(crate) fn supply(pools: u64, gpus: u64, days: u64) -> String {
    let mut text = String::new();
    for pool in 0..pools {
        writeln!(text, "[[pools]]\nname = \"r/h100/fabric-{pool:02}\"\ngpus = {gpus}\nchanges = [").unwrap();
        for half in 1..days * 2 {
            let left = if half % 2 == 1 { gpus - gpus / 10 } else { gpus };
            writeln!(text, "  {{ at = {}, gpus = {left} }},", half * 43_200 + pool * 600).unwrap();
        }
        text.push_str("]\n");
    }
    text
}

pub(crate) const POLICY: &str = r#"
    seed = 7
    margin = "10"
    tick_seconds = 60
    notice_seconds = 60
    boot_seconds = 90
    checkpoint_seconds = 600
    gang_max = "50"

    [reserve]
    shape = "lines"
    points = [{ utilisation = "0", price = "0.50" }, { utilisation = "80", price = "2.00" }]

    [jobs]
    pools_per_job = 2

    [jobs.limit]
    distribution = "histogram"
    bins = [
        { weight = 6, from = "0.60", to = "2.00" },
        { weight = 3, from = "2.00", to = "3.00" },
        { weight = 1, from = "3.00", to = "6.00" },
    ]
"#;
