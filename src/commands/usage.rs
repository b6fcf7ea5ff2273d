//! `hourglass usage`: GPU-hours and what they cost.

use hourglass_consumers::billing::usage::{
    Granularity, GroupBy, LabelFilter, UsageQuery, UsageReport, unwritten, usage_report,
};
use hourglass_ledger::store::ChargeFilter;
use hourglass_pricing::PurchaseModel;
use hourglass_units::{Hour, InstanceId, Instant, Platform, ProjectId, Region, TenantId};

use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{Format, answer, log_progress, table};
use crate::wire;

/// GPU-hours and what they cost, by time and group.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Of this tenant
    #[arg(long)]
    tenant: Option<TenantId>,
    /// Of this project
    #[arg(long)]
    project: Option<ProjectId>,
    /// Of this instance
    #[arg(long)]
    instance: Option<InstanceId>,
    /// From this UTC hour on
    #[arg(long, value_name = "TIME", value_parser = super::instant)]
    from: Option<Instant>,
    /// Before this UTC hour
    #[arg(long, value_name = "TIME", value_parser = super::instant)]
    until: Option<Instant>,
    /// On this platform
    #[arg(long)]
    platform: Option<Platform>,
    /// In this region
    #[arg(long)]
    region: Option<Region>,
    /// Sold so: on_demand, reserved or spot
    #[arg(long)]
    model: Option<PurchaseModel>,
    /// With this label of its instance, such as team=research; several must all be there
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<LabelFilter>,
    /// How finely to cut time: hour, day, month or total
    #[arg(long)]
    granularity: Option<Granularity>,
    /// What to keep apart: tenant, project, instance, platform, region, model (or mode), price, hour, day, month,
    /// label:KEY
    #[arg(long, value_name = "KEY,…", value_delimiter = ',')]
    group_by: Vec<GroupBy>,
}

/// Runs the command.
pub fn run(args: Args, settings: &Resolved, format: Format) -> Result<(), Failure> {
    let filter = ChargeFilter {
        tenant: args.tenant,
        project: args.project,
        instance: args.instance,
        from: args.from.map(whole_hour).transpose()?,
        until: args.until.map(whole_hour).transpose()?,
    };
    let time = args.granularity.and_then(Granularity::group_by);
    let mut group_by: Vec<GroupBy> = time.into_iter().collect();
    for key in args.group_by {
        if !group_by.contains(&key) {
            group_by.push(key);
        }
    }
    let Args { platform, region, model, label: labels, .. } = args;
    let query = UsageQuery { filter, platform, region, model, labels, group_by };
    let (reader, loaded) = wire::read_ledger(settings, log_progress("reading the ledger"))?;
    let report = usage_report(reader.as_ref(), None, unwritten(&loaded.state, &query), &query)?;
    answer(format, &report, |report| text(report, &query.group_by))
}

pub(super) fn whole_hour(at: Instant) -> Result<Hour, Failure> {
    let hour = Hour::containing(at);
    if hour.start() == at {
        Ok(hour)
    } else {
        Err(Failure::Usage(format!("{at} is not a whole UTC hour: charges are kept by the hour")))
    }
}

fn text(report: &UsageReport, group_by: &[GroupBy]) -> String {
    let keys: Vec<String> = group_by.iter().map(ToString::to_string).collect();
    let head: Vec<&str> =
        keys.iter().map(String::as_str).chain(["GPU-hours", "amount", "currency"]).collect();
    let rows = report.rows.iter().map(|row| {
        let group = keys.iter().map(|key| row.group.get(key).cloned().unwrap_or_default());
        group.chain([row.gpu_hours.clone(), row.amount.clone(), row.currency.clone()]).collect()
    });
    let numbers = [keys.len(), keys.len().saturating_add(1)];
    format!(
        "{}\nas of {} (position {})",
        table(&head, &numbers, rows),
        report.as_of.time,
        report.as_of.position
    )
}
