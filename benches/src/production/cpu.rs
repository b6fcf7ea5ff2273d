//! Processor time of all who take part: it says what a record costs, whatever else the machine does.

use std::fs;

/// Ticks of the kernel's clock in a second, as Linux tells every process.
const TICKS_A_SECOND: f64 = 100.0;

/// Seconds of processor time that this process, the broker and the database took so far.
pub(crate) fn seconds(broker: u32, database: u32) -> f64 {
    let processes = fs::read_dir("/proc").expect("a Linux kernel").flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let own = std::process::id();
    let ticks = ids.filter_map(|id| {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // The name may have blanks; behind it come state, parent, and from the twelfth on the times.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok());
        let ours = [own, broker, database].contains(&id) || number(1) == Some(u64::from(database));
        let children = if id == database { number(13)? + number(14)? } else { 0 };
        ours.then_some(number(11)? + number(12)? + children)
    });
    ticks.sum::<u64>() as f64 / TICKS_A_SECOND
}
