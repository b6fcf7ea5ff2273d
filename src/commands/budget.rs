//! `hourglass budget`: what is to be spent, and who is told when it is.

use hourglass_consumers::billing::budgets::{BudgetRow, budgets};
use hourglass_ledger::core::Command;
use hourglass_ledger::core::quotas::{BudgetDraft, QuotaCommand};
use hourglass_pricing::PurchaseModel;
use hourglass_units::{Amount, BudgetId, Currency, Percent, Platform, ProjectId, TenantId};
use serde_json::{Value, json};

use super::change::AFTER_HELP;
use super::{rows_of, tenant_of};
use crate::client::Server;
use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{Format, answer, log_progress, table};
use crate::wire;

/// Budgets: set, list, remove.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Set a budget, in place of the one with the same id
    Set(Set),
    /// Budgets: what was spent, what the period will cost, which thresholds were reached
    List {
        /// Whose
        tenant: TenantId,
    },
    /// Take a budget away
    Remove {
        /// Whose
        tenant: TenantId,
        /// Which
        budget: BudgetId,
    },
}

#[derive(Debug, clap::Args)]
struct Set {
    /// Whose
    tenant: TenantId,
    /// Its id
    budget: BudgetId,
    /// How much a billing period is to cost, before tax and credit
    #[arg(value_parser = Amount::parse)]
    amount: Amount,
    /// Of the amount: the one that the tenant is billed in
    currency: Currency,
    /// For people
    #[arg(long, default_value = "")]
    description: String,
    /// Of which project [default: of all]
    #[arg(long)]
    project: Option<ProjectId>,
    /// On which platform [default: on all]
    #[arg(long)]
    platform: Option<Platform>,
    /// Sold how: on_demand, reserved or spot [default: in any way]
    #[arg(long)]
    model: Option<PurchaseModel>,
    /// At which parts of it somebody is told that it was spent, in percent
    #[arg(long, value_name = "PERCENT", value_delimiter = ',', default_value = "50,80,100")]
    thresholds: Vec<Percent>,
    /// At which parts of it somebody is told that the period will cost so much, in percent
    #[arg(long, value_name = "PERCENT", value_delimiter = ',', default_value = "100")]
    forecast_thresholds: Vec<Percent>,
}

/// Runs the command.
pub fn run(args: Args, settings: &Resolved, format: Format) -> Result<(), Failure> {
    let server = &args.server;
    match args.action {
        Action::Set(set) => {
            let Set { tenant, budget, amount, currency, description, project, platform, model, .. } = set;
            let (thresholds, forecast_thresholds) = (set.thresholds, set.forecast_thresholds);
            let says = format!("budget {budget} of {tenant} is {amount} {currency}");
            let body = json!({"amount": amount, "currency": currency, "description": description,
                "project": project, "platform": platform, "model": model, "thresholds": thresholds,
                "forecast_thresholds": forecast_thresholds});
            let draft = BudgetDraft {
                description,
                amount,
                project,
                platform,
                model,
                thresholds,
                forecast_thresholds,
            };
            let done = match server.client()? {
                Some(client) => client.put(&format!("/v1/tenants/{tenant}/budgets/{budget}"), &body)?,
                None => here(settings, tenant, budget, Some((draft, currency)))?,
            };
            said(format, &done, &says)
        }
        Action::Remove { tenant, budget } => {
            let says = format!("budget {budget} of {tenant} is gone");
            let done = match server.client()? {
                Some(client) => client.delete(&format!("/v1/tenants/{tenant}/budgets/{budget}"))?,
                None => here(settings, tenant, budget, None)?,
            };
            said(format, &done, &says)
        }
        Action::List { tenant } => {
            let rows: Vec<BudgetRow> = match server.client()? {
                Some(client) => rows_of(&client, &format!("/v1/tenants/{tenant}/budgets"))?,
                None => {
                    let (_reader, loaded) = wire::read_ledger(settings, log_progress("reading the ledger"))?;
                    tenant_of(&loaded.state, &tenant)?;
                    budgets(&loaded.state, &tenant, None).collect()
                }
            };
            answer(format, &rows, |rows| text(rows))
        }
    }
}

fn said(format: Format, done: &Value, says: &str) -> Result<(), Failure> {
    let position = done.get("position").map(ToString::to_string).unwrap_or_default();
    answer(format, done, |_| format!("{says} (position {position})"))
}

/// Does it on the data directory, in the currency that the tenant is billed in.
fn here(
    settings: &Resolved,
    tenant: TenantId,
    budget: BudgetId,
    draft: Option<(BudgetDraft, Currency)>,
) -> Result<Value, Failure> {
    let resource = format!("/v1/tenants/{tenant}/budgets/{budget}");
    let cell = wire::writing_cell(settings, log_progress("recovering the ledger"))?;
    let given = draft.as_ref().map(|(_, currency)| *currency);
    let billed = tenant.clone();
    let fits = cell.handle().read_blocking(move |state| {
        let account = tenant_of(state, &billed)?;
        match given.filter(|given| *given != account.currency) {
            None => Ok(()),
            Some(_) => {
                let how = format!("{billed} is billed in {}: give the amount in it", account.currency);
                Err(Failure::Rejected(how))
            }
        }
    });
    let outcome = fits.map_err(Failure::from).and_then(|fits| fits).and_then(|()| {
        let draft = draft.map(|(draft, _)| draft);
        let command = QuotaCommand::SetBudget { tenant, budget, draft };
        cell.handle().submit_blocking(Command::from(command)).map_err(Failure::from)
    });
    cell.close();
    Ok(json!({"position": outcome?.answer().position.number(), "resource": resource}))
}

fn text(rows: &[BudgetRow]) -> String {
    let cells = rows.iter().map(|it| {
        let parts = [&it.project, &it.platform, &it.model];
        let parts: Vec<&str> = parts.into_iter().flatten().map(String::as_str).collect();
        let of = if parts.is_empty() { "all".to_owned() } else { parts.join(" ") };
        let crossed =
            it.crossed.iter().map(|crossing| format!("{} {}%", crossing.basis, crossing.threshold_percent));
        let crossed = crossed.collect::<Vec<_>>().join(", ");
        let projected = it.projected.clone().unwrap_or_default();
        let (amount, spent) = (format!("{} {}", it.amount, it.currency), it.spent.clone());
        vec![it.budget.clone(), of, it.period.clone(), amount, spent, projected, crossed]
    });
    table(&["budget", "of", "period", "amount", "spent", "projected", "reached"], &[3, 4, 5], cells)
}
