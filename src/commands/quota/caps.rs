//! Spend caps.

use hourglass_consumers::billing::quotas::{CapRow, caps};
use hourglass_ledger::core::quotas::QuotaCommand;
use hourglass_quota::cap::{CapDraft, CapPeriod, Enforcement};
use hourglass_units::{Amount, Currency, Percent, ProjectId, TenantId};
use serde_json::json;

use super::Where;
use super::act::{Act, Method};
use crate::commands::{milliseconds, rows_of, tenant_of};
use crate::failure::Failure;
use crate::output::{answer, log_progress, table};
use crate::wire;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Action {
    /// Set a spend cap, in place of the one of the same project and period
    Set(Set),
    /// Spend caps, and what their last review found
    Show {
        /// Whose
        tenant: TenantId,
    },
    /// Take a spend cap away
    Remove {
        /// Whose
        tenant: TenantId,
        /// Over which time it counts: monthly, total or prepaid
        #[arg(value_parser = period)]
        period: CapPeriod,
        /// Of which project [default: of the whole tenant]
        #[arg(long)]
        project: Option<ProjectId>,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Set {
    /// Whose
    tenant: TenantId,
    /// Over which time it counts: monthly (a billing period), total, or prepaid (as long as bought credit lasts)
    #[arg(value_parser = period)]
    period: CapPeriod,
    /// How much, before tax and credit; none for prepaid, where the balance is the limit
    #[arg(value_parser = Amount::parse, requires = "currency")]
    amount: Option<Amount>,
    /// Of the amount: the one that the tenant is billed in
    currency: Option<Currency>,
    /// Of which project [default: of the whole tenant]
    #[arg(long)]
    project: Option<ProjectId>,
    /// Alerts alone. Otherwise nothing starts that could break the cap, and what runs is stopped in time
    #[arg(long)]
    soft: bool,
    /// At which parts of the limit an alert is given, in percent, such as 50,80,100
    #[arg(long, value_name = "PERCENT", value_delimiter = ',')]
    thresholds: Vec<Percent>,
    /// How long it takes at most from the order to stop until nothing runs
    #[arg(long, value_name = "DURATION", value_parser = whole_seconds, default_value = "2m")]
    notice: i64,
}

/// Reads a period.
fn period(text: &str) -> Result<CapPeriod, String> {
    let known = [CapPeriod::Monthly, CapPeriod::Total, CapPeriod::Prepaid];
    let found = known.into_iter().find(|period| period.as_str() == text);
    found.ok_or_else(|| "use monthly, total or prepaid".to_owned())
}

/// Reads a duration that the API takes in seconds.
pub(in crate::commands) fn whole_seconds(text: &str) -> Result<i64, String> {
    match milliseconds(text)? {
        whole if whole.rem_euclid(1_000) == 0 => Ok(whole),
        _ => Err("give it in whole seconds".to_owned()),
    }
}

pub(super) fn run(action: Action, at: Where<'_>) -> Result<(), Failure> {
    match action {
        Action::Set(args) => set(args, at),
        Action::Show { tenant } => show(&tenant, at),
        Action::Remove { tenant, period, project } => {
            let says =
                format!("the {} spend cap of {} is gone", period.as_str(), of(&tenant, project.as_ref()));
            let path = format!("/v1/tenants/{tenant}/spend-caps");
            let which = project.as_ref().map(|project| format!("&project={project}")).unwrap_or_default();
            let act = Act {
                command: QuotaCommand::SetCap { tenant: tenant.clone(), project, period, cap: None },
                method: Method::Delete,
                path: format!("{path}?period={}{which}", period.as_str()),
                body: json!(null),
                tenant: Some(tenant),
                resource: path,
            };
            act.run(at.server, at.settings, at.format, |_| says)
        }
    }
}

fn of(tenant: &TenantId, project: Option<&ProjectId>) -> String {
    project.map_or_else(|| tenant.to_string(), |project| format!("{tenant}/{project}"))
}

fn set(args: Set, at: Where<'_>) -> Result<(), Failure> {
    let Set { tenant, period, amount, currency, project, soft, thresholds, notice } = args;
    let enforcement = if soft { Enforcement::Soft } else { Enforcement::Hard };
    let limit = match (amount, currency) {
        (Some(amount), Some(currency)) => format!("{amount} {currency}"),
        _ => "the balance of bought credit".to_owned(),
    };
    let says = format!("the {} spend cap of {} is {limit}", period.as_str(), of(&tenant, project.as_ref()));
    let path = format!("/v1/tenants/{tenant}/spend-caps");
    let body = json!({"project": project, "period": period, "amount": amount, "currency": currency,
        "enforcement": enforcement, "thresholds": thresholds, "notice_seconds": notice.div_euclid(1_000)});
    let cap = Some(CapDraft { period, amount, enforcement, thresholds, notice_ms: notice });
    let billed = tenant.clone();
    let act = Act {
        command: QuotaCommand::SetCap { tenant: tenant.clone(), project, period, cap },
        method: Method::Put,
        path: path.clone(),
        body,
        tenant: Some(tenant),
        resource: path,
    };
    let in_its_currency = move |state: &hourglass_ledger::core::State| {
        let account = tenant_of(state, &billed)?;
        match currency {
            Some(given) if given != account.currency => {
                let billed_in = account.currency;
                let how = format!("{billed} is billed in {billed_in}: give the amount in it");
                Err(Failure::Rejected(how))
            }
            _ => Ok(()),
        }
    };
    act.run_on(at.server, at.settings, at.format, in_its_currency, |_| says)
}

fn show(tenant: &TenantId, at: Where<'_>) -> Result<(), Failure> {
    let rows: Vec<CapRow> = match at.server.client()? {
        Some(client) => rows_of(&client, &format!("/v1/tenants/{tenant}/spend-caps"))?,
        None => {
            let (_reader, loaded) = wire::read_ledger(at.settings, log_progress("reading the ledger"))?;
            tenant_of(&loaded.state, tenant)?;
            caps(&loaded.state, tenant)
        }
    };
    answer(at.format, &rows, |rows| {
        let cells = rows.iter().map(|it| {
            let of = it.project.clone().unwrap_or_else(|| "all".to_owned());
            let state = if it.exhausted { "exhausted" } else { "open" };
            let crossed = format!("{} of {}", it.crossed.len(), it.thresholds.len());
            let names = [of, it.period.clone(), it.enforcement.clone()];
            let amounts = [&it.limit, &it.spent, &it.held, &it.currency].map(Clone::clone);
            let rest = [crossed, state.to_owned(), it.reviewed_at.clone()];
            names.into_iter().chain(amounts).chain(rest).collect()
        });
        let head = [
            "project",
            "period",
            "enforcement",
            "limit",
            "spent",
            "held",
            "currency",
            "thresholds",
            "state",
            "reviewed",
        ];
        table(&head, &[3, 4, 5], cells)
    })
}
