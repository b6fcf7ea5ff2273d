//! What would fit, what has to stop, what differs.

use std::path::PathBuf;

use hourglass_consumers::billing::quotas::{
    self, DriftReport, PreemptionRow, Verdict, VerdictOutcome, drift, preemptions as orders,
};
use hourglass_ledger::cell::{Clock, Submission};
use hourglass_ledger::core::Command;
use hourglass_ledger::core::quotas::{Ask, Listed, QuotaCommand, Target};
use hourglass_units::{Instant, ProjectId, TenantId};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Where;
use crate::client::not_understood;
use crate::commands::{body, item, read_draft, rows_of};
use crate::failure::Failure;
use crate::output::{answer, log_progress, table};
use crate::wire::{self, WallClock};

#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// For whom
    tenant: TenantId,
    /// For which project
    project: ProjectId,
    /// How much of what: RESOURCE=AMOUNT or RESOURCE=AMOUNT@CLASS, on_demand where it names no class
    #[arg(required = true, value_name = "ITEM", value_parser = item)]
    items: Vec<Ask>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Reconcile {
    /// What the compute API runs, in JSON or TOML: listed_at, and instances with instance, running and gpus
    #[arg(long)]
    file: PathBuf,
}

/// A listing, as the API takes it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listing {
    listed_at: Instant,
    instances: Vec<Listed>,
}

pub(super) fn check(args: Check, at: Where<'_>) -> Result<(), Failure> {
    let Check { tenant, project, items } = args;
    let verdict: Verdict = match at.server.client()? {
        Some(client) => {
            let path = format!("/v1/tenants/{tenant}/quotas:check");
            let said = client.post(&path, &json!({"project": project, "items": items}))?;
            serde_json::from_value(said).map_err(|error| not_understood(&error))?
        }
        None => {
            let (_reader, loaded) = wire::read_ledger(at.settings, log_progress("reading the ledger"))?;
            let judged = quotas::check(&loaded.state, tenant, project, items, WallClock.now());
            judged.map_err(|rejection| Failure::Rejected(rejection.to_string()))?
        }
    };
    answer(at.format, &verdict, |verdict| match verdict.outcome {
        VerdictOutcome::Held => "it fits".to_owned(),
        VerdictOutcome::Pending => {
            "it fits when lent quota is taken back: a hold would wait for it".to_owned()
        }
        VerdictOutcome::Denied => "it does not fit".to_owned(),
    })?;
    match (verdict.outcome, verdict.detail) {
        (VerdictOutcome::Denied, detail) => Err(Failure::Unsound(detail.unwrap_or_default())),
        _ => Ok(()),
    }
}

pub(super) fn reconcile(args: &Reconcile, at: Where<'_>) -> Result<(), Failure> {
    let listing: Listing = read_draft(&args.file)?;
    let report: DriftReport = match at.server.client()? {
        Some(client) => {
            let said = client.post("/v1/quotas:reconcile", &body(&listing)?)?;
            serde_json::from_value(said).map_err(|error| not_understood(&error))?
        }
        None => {
            let Listing { listed_at, instances } = listing;
            let cell = wire::writing_cell(at.settings, log_progress("recovering the ledger"))?;
            let command = Command::from(QuotaCommand::Reconcile { listed_at, instances });
            let done = cell.handle().submit_blocking(Submission { command, key: None, at: None });
            let report = done.and_then(|_done| cell.handle().read_blocking(drift));
            cell.close();
            report?.ok_or_else(|| Failure::Unavailable("the comparison was not recorded".to_owned()))?
        }
    };
    answer(at.format, &report, drift_text)?;
    match report.drift.len() {
        0 => Ok(()),
        1 => Err(Failure::Unsound("one instance differs".to_owned())),
        count => Err(Failure::Unsound(format!("{count} instances differ"))),
    }
}

fn drift_text(report: &DriftReport) -> String {
    if report.drift.is_empty() {
        return format!("nothing differs: {} instances were listed at {}", report.listed, report.listed_at);
    }
    let cells = report.drift.iter().map(|it| {
        let tenant = it.tenant.as_ref().map(ToString::to_string).unwrap_or_default();
        let numbers = [it.counted.to_string(), it.listed.to_string()];
        [it.instance.to_string(), tenant, it.kind.as_str().to_owned()].into_iter().chain(numbers).collect()
    });
    table(&["instance", "tenant", "difference", "GPUs counted", "GPUs listed"], &[3, 4], cells)
}

pub(super) fn preemptions(at: Where<'_>) -> Result<(), Failure> {
    let rows: Vec<PreemptionRow> = match at.server.client()? {
        Some(client) => rows_of(&client, "/v1/preemptions")?,
        None => {
            let (_reader, loaded) = wire::read_ledger(at.settings, log_progress("reading the ledger"))?;
            orders(&loaded.state, None).collect()
        }
    };
    answer(at.format, &rows, |rows| {
        if rows.is_empty() {
            return "nothing has to stop".to_owned();
        }
        let cells = rows.iter().map(|it| {
            let target = match &it.target {
                Target::Instance(instance) => format!("instance {instance}"),
                Target::Hold(hold) => format!("hold {hold}"),
            };
            let order = [&it.order.cause, &it.order.reason, &it.order.ordered_at, &it.order.deadline];
            [target, it.tenant.clone()].into_iter().chain(order.map(Clone::clone)).collect()
        });
        table(&["what", "tenant", "cause", "why", "ordered", "deadline"], &[], cells)
    })
}
