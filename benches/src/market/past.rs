//! Reading the past of a market: what one clearing costs whoever has to read its receipt.

use hourglass_consumers::prices::History;

use super::region::{bid, clear, open};
use crate::embedded::start;
use crate::figure::{Figure, seconds};

const BIDS: usize = 1_000;

/// Clearings of 1,000 bids, read by the cache of the price feed.
pub(crate) fn past(quick: bool) -> Figure {
    let clearings = if quick { 20 } else { 300 };
    let directory = tempfile::tempdir().expect("a directory");
    let cell = start(directory.path());
    let handle = cell.handle();
    let submit = |command| drop(handle.submit_blocking(command).expect("an outcome"));
    let pools = [("fabric-0".to_owned(), BIDS as u64 / 2)];
    open(handle.now(), &pools).into_iter().for_each(submit);
    for number in 0..BIDS {
        let limit = format!("1.{number:03}");
        submit(bid(&format!("bid-{number}"), "fabric-0", (1, 1), &limit));
    }
    for number in 0..clearings {
        submit(clear());
        // One more that gets nothing changes the book.
        submit(bid(&format!("more-{number}"), "fabric-0", (1, 1), "0.6"));
    }
    let history = History::default();
    let (time, read) = seconds(|| history.catch_up(handle.reader().as_ref(), usize::MAX));
    assert!(read.expect("the log"), "all was read");
    drop(handle);
    cell.close();
    let value = clearings as f64 / time;
    Figure { name: "receipts of 1,000 bids read", value, unit: "clearings/s", ceiling: None, target: "–" }
}
