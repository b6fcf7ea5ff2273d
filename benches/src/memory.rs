//! Memory: what a running instance costs.

use hourglass_ledger::core::State;

use crate::figure::Figure;
use crate::workload::{self, REPORT_MS, meter, opens_at, run as run_command, set_up};

/// Runs it.
pub(crate) fn run(quick: bool) -> Vec<Figure> {
    let instances = if quick { 100_000 } else { 1_000_000 };
    let before = resident_bytes();
    let mut state = State::empty();
    for command in set_up(instances) {
        run_command(&mut state, &command, opens_at());
    }
    for raw in workload::round(instances, 0) {
        meter(&mut state, raw, opens_at().saturating_add_ms(REPORT_MS));
    }
    let held = resident_bytes().saturating_sub(before);
    assert_eq!(state.instances().count(), instances);
    let value = held as f64 / instances as f64;
    vec![Figure { name: "state a running instance", value, unit: "bytes", ceiling: None, target: "<= 400" }]
}

/// Memory of this process that is in use, as the kernel counts it.
pub(crate) fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a Linux kernel");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a resident set");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") * 1024
}
