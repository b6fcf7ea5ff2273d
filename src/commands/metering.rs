//! `hourglass metering`: where every reported millisecond is.

use hourglass_units::TenantId;

use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{Format, answer, log_progress, table};
use crate::wire;

/// Where every reported millisecond is: billed, excluded, in suspense.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Of this tenant only; usage in suspense has no tenant yet
    #[arg(long)]
    tenant: Option<TenantId>,
}

/// Runs the command.
pub fn run(args: Args, settings: &Resolved, format: Format) -> Result<(), Failure> {
    let (_reader, loaded) = wire::read_ledger(settings, log_progress("reading the ledger"))?;
    let all = args.tenant.is_none();
    let wanted = |tenant: &TenantId| args.tenant.as_ref().is_none_or(|only| only == tenant);
    let accounting = loaded.state.accounting(|instance| wanted(instance.tenant()), all);
    let counts = loaded.state.counts();
    answer(format, &accounting, |it| {
        let excluded =
            it.excluded_ms.iter().map(|(reason, ms)| vec![format!("excluded: {reason}"), ms.to_string()]);
        let rows = [vec!["billed".to_owned(), it.billed_ms.to_string()]].into_iter().chain(excluded).chain([
            vec!["in suspense".to_owned(), it.suspense_ms.to_string()],
            vec!["measured".to_owned(), it.measured_ms.to_string()],
            vec!["running, not reported".to_owned(), it.unreported_ms.to_string()],
        ]);
        let quarantined = format!(
            "in quarantine: {} records, {} whole messages",
            counts.quarantined_records, counts.quarantined_messages
        );
        format!("{}\n{quarantined}", table(&["of instances", "milliseconds"], &[1], rows))
    })
}
