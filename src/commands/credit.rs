//! `hourglass credit`: grant credit, and see what is left of it.

use hourglass_consumers::billing::credits::{CreditRow, credits};
use hourglass_ledger::core::{CREDIT_PRIORITY_DEFAULT, Command, CreditDraft, CreditKind};
use hourglass_units::{Amount, CreditId, Instant, Platform, ProjectId, TenantId};

use super::change::{AFTER_HELP, Change};
use super::{instant, rows_of, tenant_of};
use crate::client::Server;
use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{Format, answer, log_progress, table};
use crate::wire;

/// Credit of tenants: grant, list.
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
    /// Give a tenant credit, or book what it paid in advance
    Grant(Grant),
    /// List a tenant's credit and what is left of it
    List {
        /// Whose
        tenant: TenantId,
    },
}

#[derive(Debug, clap::Args)]
struct Grant {
    /// Whom
    tenant: TenantId,
    /// Its id, unique in the tenant
    credit: CreditId,
    /// How much, in the tenant's currency
    #[arg(value_parser = Amount::parse)]
    amount: Amount,
    /// The tenant paid for it: it stands as cash. Otherwise it is given
    #[arg(long)]
    prepaid: bool,
    /// Lower ones are drawn first, then those that expire first
    #[arg(long, default_value_t = CREDIT_PRIORITY_DEFAULT)]
    priority: u32,
    /// Pays for usage from this full UTC hour on [default: from the first period that has no invoice]
    #[arg(long, value_name = "TIME", value_parser = instant)]
    from: Option<Instant>,
    /// Pays for usage before this full UTC hour [default: it never expires]
    #[arg(long, value_name = "TIME", value_parser = instant)]
    until: Option<Instant>,
    /// Pays only for usage of this project
    #[arg(long)]
    project: Option<ProjectId>,
    /// Pays only for usage on this platform
    #[arg(long)]
    platform: Option<Platform>,
    /// For people
    #[arg(long, default_value = "")]
    note: String,
}

/// Runs the command.
pub fn run(args: Args, settings: &Resolved, format: Format) -> Result<(), Failure> {
    match args.action {
        Action::Grant(grant) => self::grant(grant, &args.server, settings, format),
        Action::List { tenant } => list(&tenant, &args.server, settings, format),
    }
}

fn grant(grant: Grant, server: &Server, settings: &Resolved, format: Format) -> Result<(), Failure> {
    let Grant { tenant, credit, amount, prepaid, priority, from, until, project, platform, note } = grant;
    let says = format!("{tenant} has credit {credit} of {amount}");
    let path = format!("/v1/tenants/{tenant}/credits");
    let kind = if prepaid { CreditKind::Prepaid } else { CreditKind::Promotional };
    let (valid_from, valid_until) = (from, until);
    let credit =
        CreditDraft { credit, kind, amount, priority, valid_from, valid_until, project, platform, note };
    let body = super::body(&credit)?;
    let change =
        Change { command: Command::GrantCredit { tenant, credit }, body, resource: path.clone(), path };
    change.run(server, settings, format, |_| says)
}

fn list(tenant: &TenantId, server: &Server, settings: &Resolved, format: Format) -> Result<(), Failure> {
    let rows: Vec<CreditRow> = match server.client()? {
        Some(client) => rows_of(&client, &format!("/v1/tenants/{tenant}/credits"))?,
        None => {
            let (_reader, loaded) = wire::read_ledger(settings, log_progress("reading the ledger"))?;
            credits(tenant_of(&loaded.state, tenant)?).collect()
        }
    };
    answer(format, &rows, |rows| text(rows))
}

fn text(rows: &[CreditRow]) -> String {
    let cells = rows.iter().map(|it| {
        let scope: Vec<&str> =
            [&it.project, &it.platform].into_iter().flatten().map(String::as_str).collect();
        let until = it.valid_until.clone().unwrap_or_else(|| "never".to_owned());
        let state = if it.closed { "closed" } else { "open" };
        let texts = [it.credit.clone(), it.kind.clone(), it.priority.to_string(), scope.join(" ")];
        let amounts = [&it.amount, &it.drawn, &it.expired, &it.remaining].map(Clone::clone);
        let rest = [it.currency.clone(), until, state.to_owned(), it.note.clone()];
        texts.into_iter().chain(amounts).chain(rest).collect()
    });
    let head = [
        "credit", "kind", "priority", "for", "granted", "drawn", "expired", "left", "currency", "expires",
        "state", "note",
    ];
    table(&head, &[2, 4, 5, 6, 7], cells)
}
