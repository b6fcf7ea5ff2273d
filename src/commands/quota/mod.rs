//! `hourglass quota`: how much of what may run, and what it may cost.

mod act;
mod caps;
mod holds;
mod operate;
mod requests;

use hourglass_consumers::billing::quotas::{GroupRow, NodeKind, QuotaFilter, QuotaRow, groups, quotas};
use hourglass_ledger::core::quotas::QuotaCommand;
use hourglass_quota::{Bound, Class, Limits, NodeName};
use hourglass_units::{GroupId, ProjectId, ResourceName, TenantId};
use serde_json::json;

use super::change::AFTER_HELP;
use super::{rows_of, tenant_of};
use crate::client::Server;
use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{Format, answer, log_progress, table};
use crate::wire;

use act::{Act, Method};
pub(super) use caps::whole_seconds;

/// How much of what may run, and what it may cost.
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
    /// Limits and use of a tenant, its groups and projects
    Show(Show),
    /// Set the limits of a node on a resource, or take them away
    Set(Set),
    /// Groups of projects: create, place, list
    #[command(subcommand)]
    Group(Group),
    /// Spend caps: set, show, remove
    #[command(subcommand)]
    Cap(caps::Action),
    /// Hold resources for a project, all of it or nothing
    Reserve(holds::Reserve),
    /// Keep a hold until it is released
    Commit(holds::Which),
    /// Give a hold back
    Release(holds::Which),
    /// Give a hold that is not committed more time, from now on
    Renew(holds::Renew),
    /// Give a hold other amounts
    Resize(holds::Resize),
    /// Holds of a tenant that have not ended
    Holds {
        /// Whose
        tenant: TenantId,
    },
    /// Leases at nodes of a tenant
    Leases {
        /// Whose
        tenant: TenantId,
    },
    /// Ask for another nominal limit
    Request(requests::Ask),
    /// Requests for more, of a tenant or of all
    Requests(requests::List),
    /// Grant a request, in full or in part, or deny it
    Decide(requests::Decide),
    /// The rules that answer requests without a person: show, set, clear
    #[command(subcommand)]
    Rules(requests::Rules),
    /// What would become of a hold, without taking it. Exits with 1 where it would be denied
    Check(operate::Check),
    /// Compare what the compute API runs with what holds quota. Exits with 1 where they differ
    Reconcile(operate::Reconcile),
    /// Orders to stop that have not been carried out
    Preemptions,
}

#[derive(Debug, clap::Args)]
struct Show {
    /// Whose
    tenant: TenantId,
    /// Of this project alone
    #[arg(long)]
    project: Option<ProjectId>,
    /// Of this resource alone, such as compute.instance.gpu.h100
    #[arg(long)]
    resource: Option<ResourceName>,
    /// Of the tenant, of groups or of projects alone
    #[arg(long, value_parser = ["tenant", "group", "project"])]
    kind: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Set {
    /// tenants/T, tenants/T/groups/G or tenants/T/projects/P
    node: NodeName,
    /// What is counted, such as compute.instance.gpu.h100
    resource: ResourceName,
    /// How it is sold: on_demand, preemptible or reserved
    #[arg(long, default_value_t = Class::OnDemand)]
    class: Class,
    /// What the node can always have: a whole number, or unlimited
    #[arg(long, value_name = "LIMIT", required_unless_present = "remove")]
    nominal: Option<Bound>,
    /// What it can have above that of what its siblings leave idle: class preemptible alone [default: 0]
    #[arg(long, value_name = "LIMIT", conflicts_with = "remove")]
    borrowing: Option<Bound>,
    /// What its siblings can have of what it leaves idle [default: unlimited]
    #[arg(long, value_name = "LIMIT", conflicts_with = "remove")]
    lending: Option<Bound>,
    /// Stop what is above the limit, newest first. Otherwise it may run on
    #[arg(long, conflicts_with = "remove")]
    drain: bool,
    /// Take the limits away: the node has none of its own any more
    #[arg(long, conflicts_with = "nominal")]
    remove: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Group {
    /// Make a group of projects
    Create {
        /// Whose
        tenant: TenantId,
        /// Its id, unique in the tenant
        group: GroupId,
        /// In which other group [default: directly in the tenant]
        #[arg(long = "in", value_name = "GROUP")]
        parent: Option<GroupId>,
    },
    /// Put a project in a group, with all that it uses
    Place {
        /// Whose
        tenant: TenantId,
        /// Which project
        project: ProjectId,
        /// In which group [default: directly under the tenant]
        group: Option<GroupId>,
    },
    /// Groups, and the projects in them
    List {
        /// Whose
        tenant: TenantId,
    },
}

/// Runs the command.
pub fn run(args: Args, settings: &Resolved, format: Format) -> Result<(), Failure> {
    let at = Where { server: &args.server, settings, format };
    match args.action {
        Action::Show(args) => show(args, at),
        Action::Set(args) => set(args, at),
        Action::Group(args) => group(args, at),
        Action::Cap(args) => caps::run(args, at),
        Action::Reserve(args) => holds::reserve(args, at),
        Action::Commit(args) => holds::commit(args, at),
        Action::Release(args) => holds::release(args, at),
        Action::Renew(args) => holds::renew(args, at),
        Action::Resize(args) => holds::resize(args, at),
        Action::Holds { tenant } => holds::list(&tenant, at),
        Action::Leases { tenant } => holds::list_leases(&tenant, at),
        Action::Request(args) => requests::ask(args, at),
        Action::Requests(args) => requests::list(&args, at),
        Action::Decide(args) => requests::decide(args, at),
        Action::Rules(args) => requests::rules(args, at),
        Action::Check(args) => operate::check(args, at),
        Action::Reconcile(args) => operate::reconcile(&args, at),
        Action::Preemptions => operate::preemptions(at),
    }
}

/// Which ledger, and how to answer.
#[derive(Clone, Copy)]
struct Where<'a> {
    server: &'a Server,
    settings: &'a Resolved,
    format: Format,
}

fn show(args: Show, at: Where<'_>) -> Result<(), Failure> {
    let Show { tenant, project, resource, kind } = args;
    let rows: Vec<QuotaRow> = match at.server.client()? {
        Some(client) => {
            let given = [
                project.as_ref().map(|it| format!("project={it}")),
                resource.as_ref().map(|it| format!("resource={it}")),
                kind.as_ref().map(|it| format!("kind={it}")),
            ];
            let filters = given.into_iter().flatten().collect::<Vec<_>>().join("&");
            let filters = if filters.is_empty() { filters } else { format!("?{filters}") };
            rows_of(&client, &format!("/v1/tenants/{tenant}/quotas{filters}"))?
        }
        None => {
            let (_reader, loaded) = wire::read_ledger(at.settings, log_progress("reading the ledger"))?;
            tenant_of(&loaded.state, &tenant)?;
            let kind = kind.map(|kind| match kind.as_str() {
                "tenant" => NodeKind::Tenant,
                "group" => NodeKind::Group,
                _ => NodeKind::Project,
            });
            let filter = QuotaFilter { kind, project, resource };
            quotas(&loaded.state, &tenant, &filter, None).map(|(_, row)| row).collect()
        }
    };
    answer(at.format, &rows, |rows| quotas_text(rows))
}

fn quotas_text(rows: &[QuotaRow]) -> String {
    if rows.is_empty() {
        return "nothing is limited or used: `hourglass quota set` sets a limit".to_owned();
    }
    let bound = |bound: &Option<Bound>| bound.map_or_else(|| "-".to_owned(), |bound| bound.to_string());
    let cells = rows.iter().map(|it| {
        let names = [it.node.clone(), it.resource.clone(), it.class.clone()];
        let limits = [bound(&it.nominal), bound(&it.borrowing), bound(&it.lending)];
        let taken = [it.held, it.committed, it.leased, it.pending, it.unheld, it.borrowed];
        let rest = [it.fits.to_string(), it.state.clone()];
        names.into_iter().chain(limits).chain(taken.map(|it| it.to_string())).chain(rest).collect()
    });
    let head = [
        "node",
        "resource",
        "class",
        "nominal",
        "borrowing",
        "lending",
        "held",
        "committed",
        "leased",
        "pending",
        "unheld",
        "borrowed",
        "fits",
        "state",
    ];
    table(&head, &[3, 4, 5, 6, 7, 8, 9, 10, 11, 12], cells)
}

fn set(args: Set, at: Where<'_>) -> Result<(), Failure> {
    let Set { node, resource, class, nominal, borrowing, lending, drain, remove: _ } = args;
    let limits = nominal.map(|nominal| {
        let usual = Limits::nominal(nominal);
        let (borrowing, lending) = (borrowing.unwrap_or(usual.borrowing), lending.unwrap_or(usual.lending));
        Limits { nominal, borrowing, lending, drain }
    });
    let says = match limits {
        Some(limits) => format!("{node} has a limit of {} on {resource} ({class})", limits.nominal),
        None => format!("{node} has no limit of its own on {resource} ({class})"),
    };
    let tenant = node.tenant().clone();
    let act = Act {
        path: format!("/v1/tenants/{tenant}/quotas:set"),
        body: json!({"node": node, "resource": resource, "class": class, "limits": limits}),
        command: QuotaCommand::SetLimits { node, resource, class, limits },
        method: Method::Post,
        resource: format!("/v1/tenants/{tenant}/quotas"),
        tenant: Some(tenant),
    };
    act.run(at.server, at.settings, at.format, |_| says)
}

fn group(action: Group, at: Where<'_>) -> Result<(), Failure> {
    let (command, tenant, path, body, says) = match action {
        Group::List { tenant } => return list_groups(&tenant, at),
        Group::Create { tenant, group, parent } => {
            let says = format!("{tenant} has a group {group}");
            let (path, body) = ("groups".to_owned(), json!({"group": group, "parent": parent}));
            let command = QuotaCommand::CreateGroup { tenant: tenant.clone(), group, parent };
            (command, tenant, path, body, says)
        }
        Group::Place { tenant, project, group } => {
            let says = match &group {
                Some(group) => format!("project {project} lies in group {group}"),
                None => format!("project {project} lies directly under {tenant}"),
            };
            let (path, body) = (format!("projects/{project}:place"), json!({"group": group}));
            let command = QuotaCommand::PlaceProject { tenant: tenant.clone(), project, group };
            (command, tenant, path, body, says)
        }
    };
    let act = Act {
        command,
        method: Method::Post,
        path: format!("/v1/tenants/{tenant}/{path}"),
        body,
        resource: format!("/v1/tenants/{tenant}/groups"),
        tenant: Some(tenant),
    };
    act.run(at.server, at.settings, at.format, |_| says)
}

fn list_groups(tenant: &TenantId, at: Where<'_>) -> Result<(), Failure> {
    let rows: Vec<GroupRow> = match at.server.client()? {
        Some(client) => rows_of(&client, &format!("/v1/tenants/{tenant}/groups"))?,
        None => {
            let (_reader, loaded) = wire::read_ledger(at.settings, log_progress("reading the ledger"))?;
            tenant_of(&loaded.state, tenant)?;
            groups(&loaded.state, tenant)
        }
    };
    answer(at.format, &rows, |rows| {
        let cells = rows.iter().map(|it| vec![it.group.clone(), it.parent.clone(), it.projects.join(" ")]);
        table(&["group", "in", "projects"], &[], cells)
    })
}
