//! `hourglass invoice`: list, show, draft, finalise, recompute.

use std::sync::Arc;

use hourglass_ledger::core::invoicing::{self, Invoice, LineKind};
use hourglass_ledger::core::{Command, Detail, Position, State};
use hourglass_ledger::load::load_until;
use hourglass_ledger::store::{PAGE_ROWS_MAX, Page, Reader, RowKey, StoredInvoice};
use hourglass_units::{Month, TenantId};
use serde::Serialize;
use serde_json::json;

use crate::client::{Client, Server};
use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{self, Format, answer, log_progress, table};
use crate::wire;

/// Invoices: list, show, draft, finalise, recompute.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List finalised invoices
    List {
        /// Of this tenant only
        #[arg(long)]
        tenant: Option<TenantId>,
    },
    /// Show a finalised invoice; with --json, the very bytes that the log holds
    Show {
        /// Whose
        tenant: TenantId,
        /// Which
        number: u64,
    },
    /// Show what a month's invoice would say now
    Draft {
        /// Whose
        tenant: TenantId,
        /// Which month, as YYYY-MM
        period: Month,
    },
    /// Close a month and number its invoice
    Finalise {
        /// Whose
        tenant: TenantId,
        /// Which month, as YYYY-MM
        period: Month,
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

/// Runs the command.
pub fn run(args: Args, settings: &Resolved, format: Format) -> Result<(), Failure> {
    match args.action {
        Action::List { tenant } => list(settings, tenant.as_ref(), format),
        Action::Show { tenant, number } => show(settings, &tenant, number, format),
        Action::Draft { tenant, period } => {
            let (_reader, loaded) = wire::read_ledger(settings, log_progress("reading the ledger"))?;
            let at = loaded.state.now();
            let draft = invoicing::draw(&loaded.state, &tenant, period, 0, at, &loaded.chain_hash)
                .map_err(|rejection| Failure::Rejected(rejection.to_string()))?;
            answer(format, &draft, text)
        }
        Action::Finalise { tenant, period } => {
            if let Some(client) = args.server.client()? {
                return finalise_there(&client, &tenant, period, format);
            }
            let cell = wire::writing_cell(settings, log_progress("recovering the ledger"))?;
            let outcome =
                cell.handle().submit_blocking(Command::FinaliseInvoice { tenant: tenant.clone(), period });
            cell.close();
            match outcome?.answer().detail {
                Detail::Invoice { number } => show(settings, &tenant, number, format),
                _ => Ok(()),
            }
        }
        Action::Recompute { number, tenant } => recompute(settings, number, tenant.as_ref(), format),
    }
}

/// Asks a running cell, and shows what it answers.
fn finalise_there(client: &Client, tenant: &TenantId, period: Month, format: Format) -> Result<(), Failure> {
    let done = client.post(&format!("/v1/tenants/{tenant}/invoices"), &json!({ "period": period }))?;
    let resource = done.get("resource").and_then(serde_json::Value::as_str).unwrap_or_default();
    let invoice = client.get(resource)?;
    answer(format, &invoice, |invoice| format!("{resource}\n{invoice:#}"))
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

fn list(settings: &Resolved, tenant: Option<&TenantId>, format: Format) -> Result<(), Failure> {
    let (reader, _loaded) = wire::read_ledger(settings, log_progress("reading the ledger"))?;
    let invoices = stored(&reader, tenant)?.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    answer(format, &invoices, |invoices| {
        let rows = invoices.iter().map(|it| {
            let total = it.total.to_minor_string(it.currency);
            let texts = [it.tenant.to_string(), it.number.to_string(), it.period.to_string(), total];
            texts.into_iter().chain([it.currency.to_string(), it.provenance.position.to_string()]).collect()
        });
        table(&["tenant", "number", "period", "total", "currency", "position"], &[1, 3, 5], rows)
    })
}

fn show(settings: &Resolved, tenant: &TenantId, number: u64, format: Format) -> Result<(), Failure> {
    let (reader, _loaded) = wire::read_ledger(settings, log_progress("reading the ledger"))?;
    let found = reader.invoice(tenant, number)?;
    let found = found.ok_or_else(|| Failure::Rejected(format!("{tenant} has no invoice {number}")))?;
    match format {
        Format::Json => output::raw(&found.document).and_then(|()| output::line("")),
        Format::People => output::line(&text(&read(&found)?)),
    }
}

/// One invoice and what its recomputation gave.
#[derive(Debug, Serialize)]
struct Recomputed {
    tenant: TenantId,
    number: u64,
    equal: bool,
    /// Stored and recomputed, where they differ, field by field.
    differences: Vec<String>,
}

fn recompute(
    settings: &Resolved,
    number: u64,
    tenant: Option<&TenantId>,
    format: Format,
) -> Result<(), Failure> {
    let reader: Arc<dyn Reader> = wire::open_reader(settings)?;
    let wanted: Vec<_> = stored(&reader, tenant)?.into_iter().filter(|it| it.number == number).collect();
    if wanted.is_empty() {
        let whose = tenant.map_or_else(|| "no tenant".to_owned(), |tenant| format!("{tenant} not"));
        return Err(Failure::Rejected(format!("there is no invoice {number} ({whose} has one)")));
    }
    let mut results = Vec::new();
    let bar = output::progress("recomputing");
    bar.set_length(wanted.len() as u64);
    for stored in wanted {
        let before = Position::new(stored.position.number().saturating_sub(1));
        let loaded = load_until(reader.as_ref(), before)?;
        results.push(compare(&stored, &loaded.state, &loaded.chain_hash)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    answer(format, &results, |results| {
        let line = |it: &Recomputed| {
            let Recomputed { tenant, number, equal, differences } = it;
            let verdict = if *equal {
                "equal, byte for byte".to_owned()
            } else {
                format!("DIFFERENT\n  {}", differences.join("\n  "))
            };
            format!("invoice {number} of {tenant}: {verdict}")
        };
        results.iter().map(line).collect::<Vec<_>>().join("\n")
    })?;
    if results.iter().all(|result| result.equal) {
        Ok(())
    } else {
        Err(Failure::Unsound(
            "an invoice comes out differently from the log; run `hourglass verify`".to_owned(),
        ))
    }
}

fn compare(stored: &StoredInvoice, before: &State, chain_hash: &blake3::Hash) -> Result<Recomputed, Failure> {
    let StoredInvoice { tenant, number, period, .. } = stored;
    // The document says when it was issued; everything else is computed.
    let issued_at = read(stored).map_or(before.now(), |invoice| invoice.issued_at);
    let again = invoicing::draw(before, tenant, *period, *number, issued_at, chain_hash)
        .map_err(|rejection| Failure::Unsound(format!("invoice {number} of {tenant}: {rejection}")))?;
    let document = again.to_document();
    let equal = document == stored.document;
    let mut differences = Vec::new();
    if !equal {
        let fields = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap_or_default();
        differences_between("", &fields(&stored.document), &fields(&document), &mut differences);
    }
    Ok(Recomputed { tenant: tenant.clone(), number: *number, equal, differences })
}

/// The leaves in which two JSON values differ.
fn differences_between(
    at: &str,
    stored: &serde_json::Value,
    again: &serde_json::Value,
    found: &mut Vec<String>,
) {
    use serde_json::Value;
    match (stored, again) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let value = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                differences_between(&format!("{at}.{key}"), &value(a), &value(b), found);
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            for index in 0..a.len().max(b.len()) {
                let value = |list: &[Value]| list.get(index).cloned().unwrap_or_default();
                differences_between(&format!("{at}[{index}]"), &value(a), &value(b), found);
            }
        }
        (a, b) if a == b => {}
        (a, b) => found.push(format!("{}: stored {a}, recomputed {b}", at.trim_start_matches('.'))),
    }
}

fn text(invoice: &Invoice) -> String {
    let Invoice {
        tenant,
        number,
        period,
        currency,
        issued_at,
        lines,
        total,
        exact_total,
        rounding,
        provenance,
        ..
    } = invoice;
    let name = if *number == 0 { "Draft invoice".to_owned() } else { format!("Invoice {number}") };
    let rows = lines.iter().map(|line| {
        let or_empty = |text: Option<String>| text.unwrap_or_default();
        let words = [
            (line.kind != LineKind::Usage).then(|| line.kind.as_str().to_owned()),
            line.platform.as_ref().map(ToString::to_string),
            line.model.map(|model| model.to_string()),
            line.reservation.as_ref().map(ToString::to_string),
            line.credit.as_ref().map(ToString::to_string),
        ];
        let what = words.into_iter().flatten().collect::<Vec<_>>().join(" ");
        let correction = line.correction.then(|| format!("correction of {}", line.period));
        let note = [correction, line.rule.clone()].into_iter().flatten().collect::<Vec<_>>().join("; ");
        let numbers = [
            or_empty(line.quantity.map(|quantity| quantity.to_string())),
            or_empty(line.price.map(|price| price.to_string())),
            line.amount.to_minor_string(*currency),
        ];
        [or_empty(line.project.as_ref().map(ToString::to_string)), what]
            .into_iter()
            .chain(numbers)
            .chain([note])
            .collect()
    });
    let table = table(&["project", "what", "GPU-hours", "price", "amount", ""], &[2, 3, 4], rows);
    format!(
        "{name} of {tenant} for {period}\n{table}\nTotal {} {currency}   (exactly {exact_total}, rounding {rounding})\n\
         Issued {issued_at} from log position {}, chain {}…\nPrices {}; engine {}",
        total.to_minor_string(*currency),
        provenance.position,
        provenance.chain_hash.get(..16).unwrap_or_default(),
        provenance.prices.join(", "),
        provenance.engine,
    )
}
