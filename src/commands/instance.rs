//! `hourglass instance`: how instances are sold, and usage that is not to count.

use hourglass_consumers::billing::timeline::StepRow;
use hourglass_ledger::core::{Command, InstanceView, Mode, Rejection, State};
use hourglass_ledger::store::{PAGE_ROWS_MAX, Page, RowKey, TimelineFilter};
use hourglass_pricing::PurchaseModel;
use hourglass_units::{BidId, Fabric, InstanceId, Instant, Labels, Price, ReservationId, TenantId};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::change::{AFTER_HELP, Change, Done};
use super::{instant, rows_of, tenant_of};
use crate::client::{Server, not_understood};
use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{Format, answer, log_progress, table};
use crate::wire;

/// Instances: list, change how one is sold, void usage.
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
    /// List a tenant's instances, in the order of their registration
    List {
        /// Whose
        tenant: TenantId,
    },
    /// What became of an instance, step by step, with the reason of each
    Timeline {
        /// Whose
        tenant: TenantId,
        /// Which
        instance: InstanceId,
    },
    /// Give an instance labels, in place of those that it has: to group costs by
    Label {
        /// Whose
        tenant: TenantId,
        /// Which
        instance: InstanceId,
        /// All of its labels, such as team=research; none takes them away
        #[arg(value_name = "KEY=VALUE")]
        labels: Vec<String>,
    },
    /// Sell an instance differently from a time on
    Mode(ChangeMode),
    /// Exclude what was reported of an instance: the agent was wrong
    VoidUsage(VoidUsage),
}

#[derive(Debug, clap::Args)]
struct ChangeMode {
    /// Whose
    tenant: TenantId,
    /// Which
    instance: InstanceId,
    /// How it is sold: on_demand, reserved or spot
    model: PurchaseModel,
    /// Since when
    #[arg(long, value_name = "TIME", value_parser = instant)]
    at: Instant,
    /// With reserved: out of which reservation
    #[arg(long)]
    reservation: Option<ReservationId>,
    /// With spot: by which bid
    #[arg(long)]
    bid: Option<BidId>,
    /// With spot: its GPU-hours never cost more
    #[arg(long, value_parser = Price::parse)]
    limit: Option<Price>,
    /// With spot: in the pool of which fabric
    #[arg(long)]
    fabric: Option<Fabric>,
}

#[derive(Debug, clap::Args)]
struct VoidUsage {
    /// Whose
    tenant: TenantId,
    /// Which
    instance: InstanceId,
    /// From when
    #[arg(long, value_name = "TIME", value_parser = instant)]
    from: Instant,
    /// Until when
    #[arg(long, value_name = "TIME", value_parser = instant)]
    until: Instant,
    /// Why, for the record
    #[arg(long)]
    reason: String,
}

/// An instance in a list, as the API answers too.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    instance: String,
    tenant: String,
    project: String,
    platform: String,
    region: String,
    model: String,
    gpus: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
    currency: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    running_since: Option<String>,
}

/// Runs the command.
pub fn run(args: Args, settings: &Resolved, format: Format) -> Result<(), Failure> {
    let server = &args.server;
    match args.action {
        Action::List { tenant } => {
            let rows: Vec<Row> = match server.client()? {
                Some(client) => rows_of(&client, &format!("/v1/tenants/{tenant}/instances"))?,
                None => {
                    let (_reader, loaded) = wire::read_ledger(settings, log_progress("reading the ledger"))?;
                    tenant_of(&loaded.state, &tenant)?;
                    loaded.state.instances().filter(|it| *it.tenant() == tenant).map(row).collect()
                }
            };
            answer(format, &rows, |rows| text(rows))
        }
        Action::Timeline { tenant, instance } => timeline(&tenant, &instance, server, settings, format),
        Action::Label { tenant, instance, labels } => {
            label(&tenant, &instance, &labels, server, settings, format)
        }
        Action::Mode(ChangeMode { tenant, instance, model, at, reservation, bid, limit, fabric }) => {
            let body = json!({"at": at, "model": model, "reservation": reservation, "bid": bid, "limit": limit, "fabric": fabric});
            let mode = mode(model, reservation, (bid, limit, fabric))?;
            let says = format!("instance {instance} is sold {model} from {at} on");
            let command = Command::ChangeMode { instance: instance.clone(), mode, at };
            let change = change(&tenant, &instance, "change-mode", command, body);
            check_whose(server, settings, &tenant, &instance)?;
            change.run(server, settings, format, |_| says)
        }
        Action::VoidUsage(VoidUsage { tenant, instance, from, until, reason }) => {
            let body = json!({"from": from, "until": until, "reason": reason});
            let says = format!("usage of {instance} from {from} until {until} is excluded");
            let command = Command::VoidUsage { instance: instance.clone(), from, until, reason };
            let change = change(&tenant, &instance, "void-usage", command, body);
            check_whose(server, settings, &tenant, &instance)?;
            change.run(server, settings, format, |_| says)
        }
    }
}

fn timeline(
    tenant: &TenantId,
    instance: &InstanceId,
    server: &Server,
    settings: &Resolved,
    format: Format,
) -> Result<(), Failure> {
    let steps: Vec<StepRow> = match server.client()? {
        Some(client) => rows_of(&client, &format!("/v1/tenants/{tenant}/instances/{instance}/timeline"))?,
        None => {
            check_whose(server, settings, tenant, instance)?;
            let (reader, loaded) = wire::read_ledger(settings, log_progress("reading the ledger"))?;
            let filter = TimelineFilter { tenant: Some(tenant.clone()), instance: Some(instance.clone()) };
            let (mut after, until) = (RowKey::default(), loaded.state.position());
            let mut steps = Vec::new();
            loop {
                let rows = reader.timeline(&filter, Page { after, until, limit: PAGE_ROWS_MAX })?;
                let Some(last) = rows.last() else { break steps };
                after = last.key;
                steps.extend(rows.into_iter().map(StepRow::from));
            }
        }
    };
    answer(format, &steps, |steps| {
        let or_empty = |text: &Option<String>| text.clone().unwrap_or_default();
        let cells = steps.iter().map(|it| {
            let why = [&it.cause, &it.detail, &it.deadline].map(or_empty);
            [it.at.clone(), it.step.clone()].into_iter().chain(why).collect()
        });
        table(&["at", "step", "cause", "detail", "until"], &[], cells)
    })
}

fn label(
    tenant: &TenantId,
    instance: &InstanceId,
    pairs: &[String],
    server: &Server,
    settings: &Resolved,
    format: Format,
) -> Result<(), Failure> {
    let split = |pair: &String| match pair.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err(Failure::Usage(format!("{pair} is no label: give KEY=VALUE, such as team=research"))),
    };
    let pairs = pairs.iter().map(split).collect::<Result<Vec<_>, Failure>>()?;
    let labels = Labels::new(pairs).map_err(|error| Failure::Usage(error.to_string()))?;
    let resource = format!("/v1/tenants/{tenant}/instances/{instance}");
    let done = match server.client()? {
        Some(client) => {
            let done = client.put(&format!("{resource}/labels"), &json!({"labels": labels}))?;
            serde_json::from_value::<Done>(done).map_err(|error| not_understood(&error))?
        }
        None => {
            check_whose(server, settings, tenant, instance)?;
            let command = Command::LabelInstance { instance: instance.clone(), labels };
            let path = String::new();
            Change { command, path, body: json!({}), resource }.submit(server, settings, None)?
        }
    };
    answer(format, &done, |done| format!("instance {instance} is labelled (position {})", done.position))
}

fn change(
    tenant: &TenantId,
    instance: &InstanceId,
    action: &str,
    command: Command,
    body: serde_json::Value,
) -> Change {
    let resource = format!("/v1/tenants/{tenant}/instances/{instance}");
    Change { command, path: format!("{resource}:{action}"), body, resource }
}

/// The core knows an instance by its id alone: that it is the tenant's is looked at here, as the API does.
fn check_whose(
    server: &Server,
    settings: &Resolved,
    tenant: &TenantId,
    instance: &InstanceId,
) -> Result<(), Failure> {
    if server.client()?.is_some() {
        return Ok(());
    }
    let (_reader, loaded) = wire::read_ledger(settings, log_progress("reading the ledger"))?;
    let state: &State = &loaded.state;
    match state.instance(instance.as_str()).filter(|it| it.tenant() == tenant) {
        Some(_) => Ok(()),
        None => {
            let unknown = Rejection::InstanceUnknown { instance: instance.clone() };
            Err(Failure::Rejected(unknown.to_string()))
        }
    }
}

/// The mode that the arguments say together.
fn mode(
    model: PurchaseModel,
    reservation: Option<ReservationId>,
    spot: (Option<BidId>, Option<Price>, Option<Fabric>),
) -> Result<Mode, Failure> {
    match (model, reservation, spot) {
        (PurchaseModel::OnDemand, None, (None, None, None)) => Ok(Mode::OnDemand),
        (PurchaseModel::Reserved, Some(reservation), (None, None, None)) => {
            Ok(Mode::Reserved { reservation })
        }
        (PurchaseModel::Spot, None, (bid, limit, fabric)) => Ok(Mode::Spot { bid, limit, fabric }),
        _ => {
            let how = "reserved needs --reservation and takes nothing else, spot takes --bid, --limit and --fabric, \
                       on_demand none of them";
            Err(Failure::Usage(how.to_owned()))
        }
    }
}

fn row(it: InstanceView<'_>) -> Row {
    let modes = it.modes();
    Row {
        instance: it.id().to_string(),
        tenant: it.tenant().to_string(),
        project: it.project().to_string(),
        platform: it.sku().platform.to_string(),
        region: it.sku().region.to_string(),
        model: modes.last().map_or(it.sku().model, |(_, mode)| mode.model()).to_string(),
        gpus: it.gpus(),
        agent: it.agent().map(ToString::to_string),
        currency: it.currency().to_string(),
        running_since: it.running_since().map(|since| since.to_string()),
    }
}

fn text(rows: &[Row]) -> String {
    let cells = rows.iter().map(|it| {
        let or_empty = |text: &Option<String>| text.clone().unwrap_or_default();
        let texts = [&it.instance, &it.project, &it.platform, &it.model].map(Clone::clone);
        let rest = [it.gpus.to_string(), or_empty(&it.agent), or_empty(&it.running_since)];
        texts.into_iter().chain(rest).collect()
    });
    table(&["instance", "project", "platform", "model", "GPUs", "agent", "running since"], &[4], cells)
}
