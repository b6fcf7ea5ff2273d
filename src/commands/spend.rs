//! `hourglass spend`: where a billing period stands and ends, and how far commitments are.

use hourglass_consumers::billing::spend::{ChargesRow, CommitmentRow, SpendRow, commitments, spend};
use hourglass_ledger::core::Rejection;
use hourglass_units::TenantId;
use serde::Serialize;

use super::change::AFTER_HELP;
use super::{rows_of, tenant_of};
use crate::client::{Server, not_understood};
use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{Format, answer, log_progress, table};
use crate::wire;

/// Where a tenant's billing period stands and ends, and how far its commitments are.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    #[command(flatten)]
    server: Server,
    /// Whose
    tenant: TenantId,
}

#[derive(Debug, Serialize)]
struct Answer {
    #[serde(flatten)]
    spend: SpendRow,
    commitments: Vec<CommitmentRow>,
}

/// Runs the command.
pub fn run(args: Args, settings: &Resolved, format: Format) -> Result<(), Failure> {
    let Args { server, tenant } = args;
    let found = match server.client()? {
        Some(client) => {
            let spend = client.get(&format!("/v1/tenants/{tenant}/spend"))?;
            let spend = serde_json::from_value(spend).map_err(|error| not_understood(&error))?;
            let commitments = rows_of(&client, &format!("/v1/tenants/{tenant}/commitments"))?;
            Answer { spend, commitments }
        }
        None => {
            let (_reader, loaded) = wire::read_ledger(settings, log_progress("reading the ledger"))?;
            tenant_of(&loaded.state, &tenant)?;
            let refused = |rejection: Rejection| Failure::Rejected(rejection.to_string());
            let spend = spend(&loaded.state, &tenant).map_err(refused)?;
            Answer { spend, commitments: commitments(&loaded.state, &tenant).map_err(refused)? }
        }
    };
    answer(format, &found, text)
}

fn text(found: &Answer) -> String {
    let Answer { spend, commitments } = found;
    let amounts = |it: &ChargesRow| {
        [&it.usage, &it.fees, &it.minimum, &it.true_up, &it.credit, &it.total].map(Clone::clone)
    };
    let names = ["usage", "reservations", "minimum", "true-up", "credit", "total"];
    let rows = names.iter().zip(amounts(&spend.to_date)).zip(amounts(&spend.projected));
    let rows = rows.map(|((name, now), end)| vec![(*name).to_owned(), now, end]);
    let head = [spend.period.as_str(), "to date", "at its end"];
    let mut text = table(&head, &[1, 2], rows);
    text.push_str(&format!("\nin {}, before tax and rounding; at its end: {}", spend.currency, spend.method));
    if !commitments.is_empty() {
        let rows = commitments.iter().map(|it| {
            let last = it.last_period.clone().unwrap_or_else(|| "open".to_owned());
            let term = format!("{} to {last}", it.first_period);
            vec![it.contract.clone(), term, it.amount.clone(), it.drawn.clone(), it.remaining.clone()]
        });
        let table = table(&["commitment", "term", "amount", "drawn", "left"], &[2, 3, 4], rows);
        text.push_str(&format!("\n\n{table}"));
    }
    text
}
