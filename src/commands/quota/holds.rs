//! Holds and leases.

use hourglass_consumers::billing::quotas::{HoldRow, LeaseRow, hold_is_of, holds, leases};
use hourglass_ledger::core::State;
use hourglass_ledger::core::quotas::{Ask, QuotaCommand, QuotaRejection};
use hourglass_quota::hold::HoldError;
use hourglass_quota::{HoldId, LeaseId};
use hourglass_units::{ProjectId, TenantId};
use serde_json::{Value, json};

use super::Where;
use super::act::{Act, Method, number, text};
use super::caps::whole_seconds;
use crate::commands::{item, rows_of, tenant_of};
use crate::failure::Failure;
use crate::output::{answer, log_progress, table};
use crate::wire;

#[derive(Debug, clap::Args)]
pub(super) struct Reserve {
    /// For whom
    tenant: TenantId,
    /// For which project
    project: ProjectId,
    /// How much of what: RESOURCE=AMOUNT or RESOURCE=AMOUNT@CLASS, on_demand where it names no class
    #[arg(required = true, value_name = "ITEM", value_parser = item)]
    items: Vec<Ask>,
    /// How long it is held without being committed
    #[arg(long, value_name = "DURATION", value_parser = whole_seconds, default_value = "10m")]
    ttl: i64,
}

#[derive(Debug, clap::Args)]
pub(super) struct Which {
    /// Whose
    tenant: TenantId,
    /// Its number
    hold: HoldId,
}

#[derive(Debug, clap::Args)]
pub(super) struct Renew {
    #[command(flatten)]
    which: Which,
    /// How long from now on
    #[arg(long, value_name = "DURATION", value_parser = whole_seconds, default_value = "10m")]
    ttl: i64,
}

#[derive(Debug, clap::Args)]
pub(super) struct Resize {
    #[command(flatten)]
    which: Which,
    /// How much of what from now on: RESOURCE=AMOUNT or RESOURCE=AMOUNT@CLASS
    #[arg(required = true, value_name = "ITEM", value_parser = item)]
    items: Vec<Ask>,
}

pub(super) fn reserve(args: Reserve, at: Where<'_>) -> Result<(), Failure> {
    let Reserve { tenant, project, items, ttl } = args;
    let path = format!("/v1/tenants/{tenant}/holds");
    let act = Act {
        body: json!({"project": project, "items": items, "ttl_seconds": ttl.div_euclid(1_000)}),
        command: QuotaCommand::Reserve { tenant: tenant.clone(), project, items, ttl_ms: ttl },
        method: Method::Post,
        resource: path.clone(),
        path,
        tenant: Some(tenant),
    };
    act.run(at.server, at.settings, at.format, says)
}

/// What became of a hold, in words.
fn says(done: &Value) -> String {
    let hold = number(done, "hold");
    match (text(done, "state"), text(done, "expires_at")) {
        ("pending", until) => format!(
            "hold {hold} waits until lent quota is taken back: renew it before {until}, and commit it when it is held"
        ),
        ("held", until) => format!("hold {hold} is held until {until}"),
        (state, _) => format!("hold {hold} is {state}"),
    }
}

/// A change of one hold.
fn change(
    which: &Which,
    action: &str,
    body: Value,
    command: QuotaCommand,
    at: Where<'_>,
) -> Result<(), Failure> {
    let (tenant, hold) = (which.tenant.clone(), which.hold);
    let resource = format!("/v1/tenants/{tenant}/holds/{hold}");
    let of = tenant.clone();
    let act = Act {
        command,
        method: Method::Post,
        path: format!("{resource}:{action}"),
        body,
        tenant: Some(tenant),
        resource,
    };
    let its_own = move |state: &State| {
        tenant_of(state, &of)?;
        let unknown = || Failure::Rejected(QuotaRejection::from(HoldError::Unknown { hold }).to_string());
        if hold_is_of(state, hold, &of) { Ok(()) } else { Err(unknown()) }
    };
    act.run_on(at.server, at.settings, at.format, its_own, says)
}

pub(super) fn commit(which: Which, at: Where<'_>) -> Result<(), Failure> {
    change(&which, "commit", json!({}), QuotaCommand::Commit { hold: which.hold }, at)
}

pub(super) fn release(which: Which, at: Where<'_>) -> Result<(), Failure> {
    change(&which, "release", json!({}), QuotaCommand::Release { hold: which.hold }, at)
}

pub(super) fn renew(Renew { which, ttl }: Renew, at: Where<'_>) -> Result<(), Failure> {
    let command = QuotaCommand::Renew { hold: which.hold, ttl_ms: ttl };
    change(&which, "renew", json!({"ttl_seconds": ttl.div_euclid(1_000)}), command, at)
}

pub(super) fn resize(Resize { which, items }: Resize, at: Where<'_>) -> Result<(), Failure> {
    let body = json!({"items": items});
    change(&which, "resize", body, QuotaCommand::Resize { hold: which.hold, items }, at)
}

pub(super) fn list(tenant: &TenantId, at: Where<'_>) -> Result<(), Failure> {
    let rows: Vec<HoldRow> = match at.server.client()? {
        Some(client) => rows_of(&client, &format!("/v1/tenants/{tenant}/holds"))?,
        None => {
            let (_reader, loaded) = wire::read_ledger(at.settings, log_progress("reading the ledger"))?;
            tenant_of(&loaded.state, tenant)?;
            holds(&loaded.state, tenant, HoldId(0)).collect()
        }
    };
    answer(at.format, &rows, |rows| {
        let cells = rows.iter().map(|it| {
            let items = it.items.iter().map(|it| format!("{}={}@{}", it.resource, it.amount, it.class));
            let items = items.collect::<Vec<_>>().join(" ");
            let until = it.expires_at.clone().unwrap_or_default();
            let order = it.preemption.as_ref().map(|order| format!("stop by {}", order.deadline));
            let number = it.hold.to_string();
            vec![number, it.project.clone(), items, it.state.clone(), until, order.unwrap_or_default()]
        });
        table(&["hold", "project", "items", "state", "until", "order"], &[0], cells)
    })
}

pub(super) fn list_leases(tenant: &TenantId, at: Where<'_>) -> Result<(), Failure> {
    let rows: Vec<LeaseRow> = match at.server.client()? {
        Some(client) => rows_of(&client, &format!("/v1/tenants/{tenant}/leases"))?,
        None => {
            let (_reader, loaded) = wire::read_ledger(at.settings, log_progress("reading the ledger"))?;
            tenant_of(&loaded.state, tenant)?;
            leases(&loaded.state, tenant, LeaseId(0)).collect()
        }
    };
    answer(at.format, &rows, |rows| {
        let cells = rows.iter().map(|it| {
            let names = [it.lease.to_string(), it.holder.clone(), it.node.clone(), it.resource.clone()];
            let numbers = [it.capacity, it.safe_capacity, it.in_use, it.counted].map(|it| it.to_string());
            let rest = [it.state.clone(), it.expires_at.clone()];
            names.into_iter().chain([it.class.clone()]).chain(numbers).chain(rest).collect()
        });
        let head = [
            "lease", "holder", "node", "resource", "class", "capacity", "safe", "in use", "counted", "state",
            "until",
        ];
        table(&head, &[0, 5, 6, 7, 8], cells)
    })
}
