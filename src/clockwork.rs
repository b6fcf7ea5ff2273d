//! What the clock brings about in a running cell: ticks, and invoices that are due.

use std::time::Duration;

use hourglass_ledger::cell::{CellError, CellHandle};
use hourglass_ledger::core::{Command, Outcome, invoicing};

/// Ticks until told to stop: accrual is never older than one tick, and a due invoice waits no longer
/// than that. What fails is tried again at the next tick, for nothing here depends on when it is done.
pub async fn run(cell: CellHandle, every: Duration, mut stop: tokio::sync::watch::Receiver<bool>) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stop.changed() => return,
        }
        match tick(&cell).await {
            Ok(0) => {}
            Ok(invoices) => tracing::info!(invoices, "invoices were finalised"),
            Err(CellError::Closed) => return,
            Err(error) => tracing::warn!(%error, "a tick was not done; the next one does its work"),
        }
    }
}

/// One tick, and the invoices that are due at it.
async fn tick(cell: &CellHandle) -> Result<u64, CellError> {
    let _ticked: Outcome = cell.submit(Command::Tick).await?;
    let due = cell.read(|state| invoicing::due(state, state.now())).await?;
    let mut finalised = 0_u64;
    for (tenant, period) in due {
        let _invoice: Outcome = cell.submit(Command::FinaliseInvoice { tenant, period }).await?;
        finalised = finalised.saturating_add(1);
    }
    Ok(finalised)
}
