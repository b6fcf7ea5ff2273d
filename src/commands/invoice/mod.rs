//! `hourglass invoice`: list, show, draft, finalise, pay, void, credit, recompute.

use std::sync::Arc;

use hourglass_consumers::billing::invoices::{InvoiceRow, standing};
use hourglass_ledger::core::invoicing::Invoice;
use hourglass_ledger::core::{Command, Position};
use hourglass_ledger::store::{PAGE_ROWS_MAX, Page, Reader, RowKey, StoredInvoice};
use hourglass_units::{Amount, Month, TenantId};
use serde_json::{Value, json};

use super::change::{AFTER_HELP, Change, idempotency_key};
use super::rows_of;
use crate::client::Server;
use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{Format, answer, log_progress, table};
use crate::wire;
use show::Form;

mod recompute;
mod show;

/// Invoices: list, show, draft, finalise, pay, void, credit, recompute.
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
    /// List finalised invoices and credit notes, and what became of them
    List {
        /// Of this tenant only
        #[arg(long)]
        tenant: Option<TenantId>,
    },
    /// Show a finalised invoice; as JSON, the very bytes that the log holds
    Show {
        /// Whose
        tenant: TenantId,
        /// Which
        number: u64,
        /// The form
        #[arg(long, value_enum, default_value_t = Form::Text)]
        format: Form,
    },
    /// Show what a period's invoice would say now
    Draft {
        /// Whose
        tenant: TenantId,
        /// Which period, as YYYY-MM
        period: Month,
        /// The form
        #[arg(long, value_enum, default_value_t = Form::Text)]
        format: Form,
    },
    /// Close a period and number its invoice
    Finalise {
        /// Whose
        tenant: TenantId,
        /// Which period, as YYYY-MM
        period: Month,
    },
    /// Record that an invoice was paid, in part or in full
    Pay(Pay),
    /// Take an invoice back that nobody has paid for; what it charged is open again
    Void {
        /// Whose
        tenant: TenantId,
        /// Which
        number: u64,
        /// Why, for the record
        #[arg(long)]
        reason: String,
    },
    /// Give back at once what closed periods were charged too much, instead of on the next invoice
    CreditNote {
        /// To whom
        tenant: TenantId,
    },
    /// Compute an invoice again from the log, and compare it byte for byte
    Recompute {
        /// Which
        number: u64,
        /// Whose; every tenant's invoice of that number where absent
        #[arg(long)]
        tenant: Option<TenantId>,
    },
}

#[derive(Debug, clap::Args)]
struct Pay {
    /// Whose
    tenant: TenantId,
    /// Which
    number: u64,
    /// How much, in whole minor units
    #[arg(value_parser = Amount::parse)]
    amount: Amount,
    /// As it stands on the bank's statement, for the record
    #[arg(long, default_value = "")]
    reference: String,
    /// Names the payment: a repeat under the same key pays nothing twice
    #[arg(long, value_name = "KEY", value_parser = idempotency_key)]
    idempotency_key: Option<String>,
}

/// Runs the command.
pub fn run(args: Args, settings: &Resolved, format: Format) -> Result<(), Failure> {
    let server = &args.server;
    match args.action {
        Action::List { tenant } => list(server, settings, tenant.as_ref(), format),
        Action::Show { tenant, number, format: form } => {
            show::finalised(server, settings, &tenant, number, form.or(format))
        }
        Action::Draft { tenant, period, format: form } => {
            show::draft(server, settings, &tenant, period, form.or(format))
        }
        Action::Finalise { tenant, period } => {
            let command = Command::FinaliseInvoice { tenant: tenant.clone(), period };
            let path = format!("/v1/tenants/{tenant}/invoices");
            let change = Change { command, body: json!({ "period": period }), resource: path.clone(), path };
            numbered(change, server, settings, &tenant, format)
        }
        Action::Pay(pay) => self::pay(pay, server, settings, format),
        Action::Void { tenant, number, reason } => {
            let path = format!("/v1/tenants/{tenant}/invoices/{number}");
            let says = format!("invoice {number} of {tenant} is void");
            let change = Change {
                body: json!({ "reason": reason }),
                command: Command::VoidInvoice { tenant, number, reason },
                resource: format!("{path}/status"),
                path: format!("{path}:void"),
            };
            change.run(server, settings, format, |_| says)
        }
        Action::CreditNote { tenant } => {
            let change = Change {
                command: Command::IssueCreditNote { tenant: tenant.clone() },
                path: format!("/v1/tenants/{tenant}/credit-notes"),
                body: Value::Null,
                resource: format!("/v1/tenants/{tenant}/invoices"),
            };
            numbered(change, server, settings, &tenant, format)
        }
        Action::Recompute { number, tenant } => {
            recompute::recompute(settings, number, tenant.as_ref(), format)
        }
    }
}

/// Makes a document and shows it.
fn numbered(
    change: Change,
    server: &Server,
    settings: &Resolved,
    tenant: &TenantId,
    format: Format,
) -> Result<(), Failure> {
    match change.submit(server, settings, None)?.number() {
        Some(number) => show::finalised(server, settings, tenant, number, Form::Text.or(format)),
        None => Ok(()),
    }
}

fn pay(pay: Pay, server: &Server, settings: &Resolved, format: Format) -> Result<(), Failure> {
    let Pay { tenant, number, amount, reference, idempotency_key } = pay;
    let path = format!("/v1/tenants/{tenant}/invoices/{number}");
    let says = format!("invoice {number} of {tenant} has a payment of {amount}");
    let change = Change {
        body: json!({ "amount": amount, "reference": reference }),
        command: Command::RecordPayment { tenant, number, amount, reference },
        resource: format!("{path}/status"),
        path: format!("{path}:pay"),
    };
    let done = change.submit(server, settings, idempotency_key.as_deref())?;
    answer(format, &done, |done| format!("{says} (position {})", done.position))
}

/// Every finalised invoice, of one tenant or of all.
fn stored(reader: &Arc<dyn Reader>, tenant: Option<&TenantId>) -> Result<Vec<StoredInvoice>, Failure> {
    let mut invoices = Vec::new();
    let mut page = Page { after: RowKey::default(), until: Position::new(u64::MAX), limit: PAGE_ROWS_MAX };
    loop {
        let rows = reader.invoices(tenant, page)?;
        let Some(last) = rows.last() else { return Ok(invoices) };
        page.after = last.key;
        invoices.extend(rows.into_iter().map(|keyed| keyed.row));
    }
}

fn read(invoice: &StoredInvoice) -> Result<Invoice, Failure> {
    Invoice::from_document(&invoice.document).map_err(|error| {
        Failure::Unsound(format!(
            "invoice {} of {}: {error}; run `hourglass verify`",
            invoice.number, invoice.tenant
        ))
    })
}

fn list(
    server: &Server,
    settings: &Resolved,
    tenant: Option<&TenantId>,
    format: Format,
) -> Result<(), Failure> {
    let mut rows: Vec<InvoiceRow> = Vec::new();
    if let Some(client) = server.client()? {
        let tenants: Vec<String> = match tenant {
            Some(tenant) => vec![tenant.to_string()],
            None => {
                let name = |row: &Value| Some(row.get("tenant")?.as_str()?.to_owned());
                client.list("/v1/tenants")?.iter().filter_map(name).collect()
            }
        };
        for tenant in tenants {
            rows.extend(rows_of::<InvoiceRow>(&client, &format!("/v1/tenants/{tenant}/invoices"))?);
        }
    } else {
        let (reader, loaded) = wire::read_ledger(settings, log_progress("reading the ledger"))?;
        for stored in stored(&reader, tenant)? {
            let standing = standing(&loaded.state, &stored.tenant, stored.number);
            // What was finalised since the log was read is for the next look.
            rows.extend(match standing {
                Some(standing) => Some(InvoiceRow::of(&read(&stored)?, standing, stored.position.number())),
                None => None,
            });
        }
    }
    answer(format, &rows, |rows| text(rows))
}

fn text(rows: &[InvoiceRow]) -> String {
    let cells = rows.iter().map(|it| {
        let minor = |amount: &str| show::minor(amount, &it.currency);
        let texts = [it.tenant.clone(), it.number.to_string(), it.kind.clone(), it.period.clone()];
        let amounts = [minor(&it.total), minor(&it.due), minor(&it.standing.paid), minor(&it.standing.open)];
        let rest = [it.currency.clone(), it.standing.status.clone(), it.position.to_string()];
        texts.into_iter().chain(amounts).chain(rest).collect()
    });
    let head = [
        "tenant", "number", "kind", "period", "total", "due", "paid", "open", "currency", "status",
        "position",
    ];
    table(&head, &[1, 4, 5, 6, 7, 10], cells)
}
