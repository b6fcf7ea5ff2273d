//! `hourglass balance`: what stands on the accounts.

use hourglass_consumers::billing::report::balances;
use hourglass_units::TenantId;

use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{Format, answer, log_progress, table};
use crate::wire;

/// Balances of the book: debits less credits.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Of this tenant only
    #[arg(long)]
    tenant: Option<TenantId>,
}

/// Runs the command.
pub fn run(args: Args, settings: &Resolved, format: Format) -> Result<(), Failure> {
    let (_reader, loaded) = wire::read_ledger(settings, log_progress("reading the ledger"))?;
    if let Some(tenant) = args.tenant.as_ref().filter(|tenant| loaded.state.tenant(tenant).is_none()) {
        return Err(Failure::Rejected(format!("tenant {tenant} is not known")));
    }
    let report = balances(&loaded.state, args.tenant.as_ref());
    answer(format, &report, |report| {
        let rows = report.rows.iter().map(|row| {
            let unposted = row.unposted.clone().unwrap_or_default();
            vec![row.account.clone(), row.balance.clone(), unposted, row.currency.clone()]
        });
        let table = table(&["account", "balance", "unposted", "currency"], &[1, 2], rows);
        format!("{table}\nas of {} (position {})", report.as_of.time, report.as_of.position)
    })
}
