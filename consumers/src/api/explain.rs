//! "How was this computed?": a charge and an invoice line, down to what they rest on.

use axum::extract::State;
use hourglass_ledger::core::invoicing::Invoice;
use hourglass_ledger::core::{Position, Rejection, explain};
use hourglass_ledger::store::StoreError;
use hourglass_units::{InstanceId, Instant, TenantId};
use serde::Serialize;
use utoipa::ToSchema;

use super::app::{App, known_tenant};
use super::extract::Path;
use super::instances::of_tenant;
use super::invoices::unknown;
use super::problem::Problem;
use super::schema;
use super::usage::whole_hours;
use crate::billing::explain::{
    ChargeExplained, InvoiceLineExplained, charge as explain_charge_rows, invoice_line, period_of,
};
use crate::billing::report::AsOf;

/// The charges of an instance within an hour, as of a log position.
#[derive(Serialize, ToSchema)]
pub(super) struct ChargeExplanation {
    as_of: AsOf,
    #[serde(flatten)]
    #[schema(value_type = schema::ChargeExplained)]
    charge: ChargeExplained,
}

/// A line of an invoice, as of a log position.
#[derive(Serialize, ToSchema)]
pub(super) struct InvoiceLineExplanation {
    as_of: AsOf,
    #[serde(flatten)]
    #[schema(value_type = schema::InvoiceLineExplained)]
    line: InvoiceLineExplained,
}

/// How what an instance cost within a UTC hour was computed: its coverage, how it was sold, prices and
/// where they come from, and the reports, rows and transfers behind them.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/instances/{instance}/charges/{hour}", tag = "instances",
    params(
        ("tenant" = String, Path), ("instance" = String, Path),
        ("hour" = String, Path, format = DateTime, description = "The start of a full UTC hour, RFC 3339."),
    ),
    responses((status = 200, description = "How it was computed.", body = ChargeExplanation))
)]
pub(super) async fn explain_charge(
    State(app): State<App>,
    Path((tenant, id, at)): Path<(TenantId, InstanceId, Instant)>,
) -> Result<axum::Json<ChargeExplanation>, Problem> {
    let (hour, _) = whole_hours(Some(at), None)?;
    let hour = hour.ok_or_else(Problem::internal)?;
    let read = app.read(move |state| {
        of_tenant(state, &tenant, &id)?;
        let found = explain::hour(state, id.as_str(), hour).zip(state.cell());
        let unknown = || Rejection::InstanceUnknown { instance: id.clone() };
        let (explained, cell) = found.ok_or_else(unknown)?;
        Ok((AsOf::of(state), explained, cell.policy))
    });
    let (as_of, hour, policy) = read.await?;
    let until = Position::new(as_of.position);
    let charge = app.store(move |reader| explain_charge_rows(reader, hour, policy, until)).await?;
    Ok(axum::Json(ChargeExplanation { as_of, charge }))
}

/// How a line of an invoice was computed. Lines are counted from 1, in the order of the document.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/invoices/{number}/lines/{line}", tag = "invoices",
    params(("tenant" = String, Path), ("number" = u64, Path), ("line" = usize, Path)),
    responses((status = 200, description = "How it was computed.", body = InvoiceLineExplanation))
)]
pub(super) async fn explain_invoice_line(
    State(app): State<App>,
    Path((tenant, number, line)): Path<(TenantId, u64, usize)>,
) -> Result<axum::Json<InvoiceLineExplanation>, Problem> {
    let of = tenant.clone();
    app.read(move |state| known_tenant(state, &of)).await?;
    let of = tenant.clone();
    let stored = app.store(move |reader| reader.invoice(&of, number)).await?;
    let stored = stored.ok_or_else(|| unknown(&tenant, number))?;
    let invoice = Invoice::from_document(&stored.document).map_err(|error| StoreError(error.to_string()))?;
    let no_line = || {
        let detail = format!("invoice {number} of {tenant} has no line {line}: they are counted from 1");
        Problem::not_found("invoice_line_unknown", detail)
    };
    let period = period_of(&invoice, line).ok_or_else(no_line)?;
    let of = tenant.clone();
    let read = app.read(move |state| Ok((AsOf::of(state), state.period_interval(&of, period))));
    let (as_of, period) = read.await?;
    let explained =
        app.store(move |reader| invoice_line(reader, &invoice, stored.position, line, period)).await?;
    Ok(axum::Json(InvoiceLineExplanation { as_of, line: explained.ok_or_else(no_line)? }))
}
