//! What the clock brings about in a running cell: ticks, invoices that are due, and clearings of the market.

use std::sync::atomic::Ordering;
use std::time::Duration;

use hourglass_ledger::cell::{CellError, CellHandle};
use hourglass_ledger::core::market::{MarketCommand, MarketRejection, Trigger};
use hourglass_ledger::core::quotas::{QuotaCommand, QuotaRejection};
use hourglass_ledger::core::{Command, Outcome, Rejection, State, invoicing};

/// How often it is looked whether a hold has expired, something else about quota is due, or the supply of a
/// pool has changed between ticks.
const REVIEW_EVERY: Duration = Duration::from_secs(1);

/// What the clock brings about, and how often.
#[derive(Debug, Clone, Copy)]
pub struct Clockwork {
    /// Time between two ticks.
    pub every: Duration,
    /// Time between two clearings of the market. A change of supply does not wait for the next one.
    pub market_every: Duration,
    /// Whether a due invoice is finalised without being asked for.
    pub finalise_invoices: bool,
}

/// What it is time for.
enum Due {
    Tick,
    Clearing,
    Look,
}

/// Ticks until told to stop: accrual is never older than one tick, and a due invoice waits no longer
/// than that. What fails is tried again at the next tick, for nothing here depends on when it is done.
/// A process that stands by leaves it to the writer.
pub async fn run(cell: CellHandle, clockwork: Clockwork, mut stop: tokio::sync::watch::Receiver<bool>) {
    let mut ticks = tokio::time::interval(clockwork.every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut reviews = tokio::time::interval(REVIEW_EVERY);
    reviews.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut clearings = tokio::time::interval(clockwork.market_every);
    clearings.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let due = tokio::select! {
            _ = ticks.tick() => Due::Tick,
            _ = clearings.tick() => Due::Clearing,
            _ = reviews.tick() => Due::Look,
            _ = stop.changed() => return,
        };
        if cell.status().writable.load(Ordering::Acquire) == 0 {
            continue;
        }
        let done = match due {
            Due::Tick => tick(&cell, clockwork.finalise_invoices).await,
            Due::Clearing => clear(&cell, Trigger::Tick).await.map(|()| 0),
            Due::Look => look(&cell).await.map(|()| 0),
        };
        match done {
            Ok(0) => {}
            Ok(invoices) => tracing::info!(invoices, "invoices were finalised"),
            Err(CellError::Closed) => return,
            Err(error) => tracing::warn!(%error, "a tick was not done; the next one does its work"),
        }
    }
}

/// One tick, and the invoices that are due at it.
async fn tick(cell: &CellHandle, finalise_invoices: bool) -> Result<u64, CellError> {
    let opened = cell.read(|state| state.cell().is_some()).await?;
    if !opened {
        return Ok(0);
    }
    let _ticked: Outcome = cell.submit(Command::Tick).await?;
    // Many lines are written by many ticks, so that usage gets its turn between them.
    while cell.read(State::has_lines_to_write).await? {
        let _ticked: Outcome = cell.submit(Command::Tick).await?;
    }
    review(cell).await?;
    if !finalise_invoices {
        return Ok(0);
    }
    let due = cell.read(|state| invoicing::due(state, state.now())).await?;
    let mut finalised = 0_u64;
    for (tenant, period) in due {
        let _invoice: Outcome = cell.submit(Command::FinaliseInvoice { tenant, period }).await?;
        finalised = finalised.saturating_add(1);
    }
    Ok(finalised)
}

/// A review and a clearing between two ticks, where they have something to do.
async fn look(cell: &CellHandle) -> Result<(), CellError> {
    let now = cell.now();
    let due = cell.read(move |state| (state.quotas().is_due(now), state.market().is_due(now)));
    let (review_is_due, clearing_is_due) = due.await?;
    if review_is_due {
        review(cell).await?;
    }
    if clearing_is_due {
        clear(cell, Trigger::Supply).await?;
    }
    Ok(())
}

/// Clears the market, where there is one. That nothing would change is fine.
async fn clear(cell: &CellHandle, trigger: Trigger) -> Result<(), CellError> {
    if cell.read(|state| state.market().pools().next().is_none()).await? {
        return Ok(());
    }
    match cell.submit(Command::from(MarketCommand::Clear { trigger })).await {
        Ok(_) | Err(CellError::Rejected(Rejection::Market(MarketRejection::NothingToClear))) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Lets expired holds and lapsed leases go, and orders what has to stop.
async fn review(cell: &CellHandle) -> Result<(), CellError> {
    match cell.submit(Command::from(QuotaCommand::Review)).await {
        Ok(_) | Err(CellError::Rejected(Rejection::Quota(QuotaRejection::NothingDue))) => Ok(()),
        Err(error) => Err(error),
    }
}
