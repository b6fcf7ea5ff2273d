//! One invoice, in each of its forms.

use hourglass_consumers::billing::invoices::{Standing, standing};
use hourglass_consumers::finance::invoice::{Sheet, Total};
use hourglass_ledger::core::invoicing::{self, Invoice};
use hourglass_units::{Amount, Currency, Month, TenantId};
use serde_json::Value;

use crate::client::{Client, Server, not_understood};
use crate::commands::tenant_of;
use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{self, Format, log_progress, table};
use crate::wire;

/// The forms of an invoice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// For the terminal
    Text,
    /// A page, to read or to print
    Html,
    /// One row a line
    Csv,
    /// Pages to send and to keep
    Pdf,
    /// The document
    Json,
}

impl Form {
    /// The form, where `--json` does not ask for another.
    pub fn or(self, format: Format) -> Self {
        if format == Format::Json { Self::Json } else { self }
    }
}

/// An invoice, whose it is for people, and what became of it.
struct Found {
    /// As the log has it; of a draft the same form.
    document: Vec<u8>,
    invoice: Invoice,
    name: Option<String>,
    standing: Option<Standing>,
}

/// Shows a finalised invoice.
pub fn finalised(
    server: &Server,
    settings: &Resolved,
    tenant: &TenantId,
    number: u64,
    form: Form,
) -> Result<(), Failure> {
    let found = match server.client()? {
        Some(client) => {
            let path = format!("/v1/tenants/{tenant}/invoices/{number}");
            let document = client.get_bytes(&format!("{path}?format=json"))?;
            let standing = client.get(&format!("{path}/status"))?;
            let standing = serde_json::from_value(standing).map_err(|error| not_understood(&error))?;
            Found { standing: Some(standing), ..there(&client, tenant, document)? }
        }
        None => {
            let (reader, loaded) = wire::read_ledger(settings, log_progress("reading the ledger"))?;
            let name = tenant_of(&loaded.state, tenant)?.display_name.clone();
            let stored = reader.invoice(tenant, number)?;
            let stored =
                stored.ok_or_else(|| Failure::Rejected(format!("{tenant} has no invoice {number}")))?;
            let invoice = super::read(&stored)?;
            let standing = standing(&loaded.state, tenant, number);
            Found { document: stored.document.to_vec(), invoice, name: Some(name), standing }
        }
    };
    show(&found, form)
}

/// Shows what the invoice of a period would say now.
pub fn draft(
    server: &Server,
    settings: &Resolved,
    tenant: &TenantId,
    period: Month,
    form: Form,
) -> Result<(), Failure> {
    let found = match server.client()? {
        Some(client) => {
            let path = format!("/v1/tenants/{tenant}/invoices/draft?period={period}&format=json");
            let invoice = client.get(&path)?.get_mut("invoice").map(Value::take).unwrap_or_default();
            let invoice: Invoice = serde_json::from_value(invoice).map_err(|error| not_understood(&error))?;
            there(&client, tenant, invoice.to_document())?
        }
        None => {
            let (_reader, loaded) = wire::read_ledger(settings, log_progress("reading the ledger"))?;
            let at = loaded.state.now();
            let invoice = invoicing::draw(&loaded.state, tenant, period, 0, at, &loaded.chain_hash)
                .map_err(|rejection| Failure::Rejected(rejection.to_string()))?;
            let name = tenant_of(&loaded.state, tenant)?.display_name.clone();
            Found { document: invoice.to_document(), invoice, name: Some(name), standing: None }
        }
    };
    show(&found, form)
}

/// A document of a running cell, with the name of its customer.
fn there(client: &Client, tenant: &TenantId, document: Vec<u8>) -> Result<Found, Failure> {
    let invoice = Invoice::from_document(&document).map_err(|error| {
        Failure::Unavailable(format!(
            "the cell's invoice is not understood, is it of another release? {error}"
        ))
    })?;
    let account = client.get(&format!("/v1/tenants/{tenant}"))?;
    let name = account.get("display_name").and_then(Value::as_str).map(str::to_owned);
    Ok(Found { document, invoice, name, standing: None })
}

fn show(found: &Found, form: Form) -> Result<(), Failure> {
    let sheet = Sheet::of(&found.invoice, found.name.as_deref(), found.standing.clone());
    match form {
        Form::Text => output::line(&text(&sheet)),
        Form::Html => output::line(&sheet.html()),
        Form::Csv => {
            let csv = sheet.csv().map_err(|error| Failure::Unavailable(error.to_string()))?;
            output::raw(&csv)
        }
        Form::Pdf => output::raw(&sheet.pdf()),
        Form::Json => output::raw(&found.document).and_then(|()| output::line("")),
    }
}

/// An amount in minor units, as the API wrote it.
pub fn minor(amount: &str, currency: &str) -> String {
    match (Amount::parse(amount), currency.parse::<Currency>()) {
        (Ok(amount), Ok(currency)) => amount.to_minor_string(currency),
        _ => amount.to_owned(),
    }
}

fn text(sheet: &Sheet<'_>) -> String {
    let invoice = sheet.invoice;
    let mut text = format!("{} of {} for {}", sheet.title, sheet.customer, invoice.period);
    if let Some(stamp) = sheet.stamp() {
        text.push_str(&format!(" ({stamp})"));
    }
    let rows = sheet.rows().map(|row| {
        [&row.project, &row.what, &row.quantity, &row.price, &row.amount, &row.note].map(Clone::clone).into()
    });
    let lines = table(&["project", "what", "GPU-hours", "price", "amount", ""], &[2, 3, 4], rows);
    text.push_str(&format!("\n{lines}"));
    let width = |text: fn(&Total) -> &String| {
        sheet.totals.iter().map(|total| text(total).chars().count()).max().unwrap_or_default()
    };
    let (labels, amounts) = (width(|total| &total.label), width(|total| &total.amount));
    for Total { label, amount, .. } in &sheet.totals {
        text.push_str(&format!("\n  {label:<labels$}   {amount:>amounts$} {}", invoice.currency));
    }
    for status in &invoice.commitments {
        let (contract, drawn, amount) = (&status.contract, status.drawn, status.amount);
        text.push_str(&format!("\nCommitment of {contract}: {drawn} of {amount} {} drawn", invoice.currency));
    }
    let provenance = &invoice.provenance;
    text.push_str(&format!(
        "\nThe lines come to {} exactly, rounding {}\nFrom {} until {}, issued {} from log position {}, chain {}…\n\
         Prices {}; engine {}",
        invoice.exact_total,
        invoice.rounding,
        invoice.period_start,
        invoice.period_end,
        invoice.issued_at,
        provenance.position,
        provenance.chain_hash.get(..16).unwrap_or_default(),
        provenance.prices.join(", "),
        provenance.engine,
    ));
    text
}
