//! Invoices: drafts, the closing of a month, and the documents.

use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_TYPE, ETAG};
use axum::response::{IntoResponse, Response};
use hourglass_ledger::core::invoicing::{Invoice, draw};
use hourglass_ledger::core::{Command, Detail, Position};
use hourglass_ledger::store::{Keyed, StoreError, StoredInvoice};
use hourglass_units::{Month, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::app::{App, known_tenant};
use super::done::{Done, done};
use super::extract::{Idempotency, Json, Path, Query};
use super::page::{ListPage, PageRequest};
use super::problem::Problem;
use super::tenants::PageQuery;
use crate::billing::report::AsOf;

/// Which month to close.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FinaliseDraft {
    /// `YYYY-MM`.
    #[schema(value_type = String)]
    period: Month,
}

/// Which month to draw.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DraftQuery {
    /// `YYYY-MM`.
    #[param(value_type = String)]
    period: Month,
}

/// An invoice in a list.
#[derive(Serialize, ToSchema)]
pub(super) struct InvoiceSummary {
    /// Gapless per customer, from 1.
    number: u64,
    /// The month that it closes, `YYYY-MM`.
    period: String,
    /// ISO 4217.
    currency: &'static str,
    /// What is to be paid, a decimal.
    total: String,
    /// When it was finalised, RFC 3339.
    #[schema(format = DateTime)]
    issued_at: String,
    /// Where in the log it was finalised.
    position: u64,
    /// Where the document is.
    resource: String,
}

/// An invoice. The finalised one is exactly the bytes that the log holds.
#[derive(Serialize, ToSchema)]
#[schema(as = Invoice)]
pub(super) struct InvoiceDocument {
    tenant: String,
    /// Gapless per customer, from 1; 0 in a draft.
    number: u64,
    /// The month that it closes, `YYYY-MM`.
    period: String,
    /// ISO 4217.
    currency: &'static str,
    /// When it was drawn, RFC 3339.
    #[schema(format = DateTime)]
    issued_at: String,
    /// Usage of the month, then corrections of earlier months.
    lines: Vec<InvoiceLineDocument>,
    /// Σ of the lines' exact amounts, a decimal.
    exact_total: String,
    /// Total less exact total, a decimal.
    rounding: String,
    /// What is to be paid, a decimal.
    total: String,
    /// From what it was computed (I-2).
    provenance: ProvenanceDocument,
}

/// One line of an invoice.
#[derive(Serialize, ToSchema)]
#[schema(as = InvoiceLine)]
pub(super) struct InvoiceLineDocument {
    /// `usage`, or `correction` of an earlier month.
    kind: &'static str,
    /// The month of the usage, `YYYY-MM`.
    period: String,
    project: String,
    platform: String,
    region: String,
    /// How it was sold.
    model: &'static str,
    /// Per GPU-hour, a decimal.
    price: String,
    /// GPU-hours, an exact decimal.
    quantity: String,
    /// Price × quantity, an exact decimal.
    exact_amount: String,
    /// In minor units, a decimal.
    amount: String,
}

/// From what an invoice was computed.
#[derive(Serialize, ToSchema)]
#[schema(as = Provenance)]
pub(super) struct ProvenanceDocument {
    /// The log up to here.
    position: u64,
    /// The hash of the chain there.
    chain_hash: String,
    /// Versions of rate cards and contracts.
    prices: Vec<String>,
    /// Version of the arithmetic.
    engine: String,
}

/// A draft, as of a log position.
#[derive(Serialize, ToSchema)]
pub(super) struct InvoiceDraft {
    as_of: AsOf,
    #[schema(value_type = InvoiceDocument)]
    invoice: Box<Invoice>,
}

/// Closes a month and numbers its invoice.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/invoices", tag = "invoices", params(("tenant" = String, Path)),
    request_body = FinaliseDraft, responses((status = 201, description = "Finalised.", body = Done))
)]
pub(super) async fn finalise_invoice(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Idempotency(name): Idempotency,
    Json(draft): Json<FinaliseDraft>,
) -> Result<Response, Problem> {
    let invoices = format!("/v1/tenants/{tenant}/invoices");
    let outcome = app.submit(Command::FinaliseInvoice { tenant, period: draft.period }, name).await?;
    let resource = match outcome.answer().detail {
        Detail::Invoice { number } => format!("{invoices}/{number}"),
        Detail::Done | Detail::Usage { .. } | Detail::Key { .. } => invoices,
    };
    Ok(done(&outcome, true, resource))
}

/// A customer's finalised invoices.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/invoices", tag = "invoices",
    params(("tenant" = String, Path), PageQuery),
    responses((status = 200, description = "A page of invoices.", body = ListPage<InvoiceSummary>))
)]
pub(super) async fn list_invoices(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<ListPage<InvoiceSummary>>, Problem> {
    let list = format!("invoices {tenant}");
    let page = PageRequest::new(list, query.page_size, query.page_token.as_deref())?;
    let of = tenant.clone();
    app.read(move |state| known_tenant(state, &of)).await?;
    let read = page.of_rows(
        &app,
        move |reader, page| {
            let stored = reader.invoices(Some(&tenant), page)?;
            let read = |Keyed { key, row }: Keyed<StoredInvoice>| {
                let invoice =
                    Invoice::from_document(&row.document).map_err(|error| StoreError(error.to_string()))?;
                Ok(Keyed { key, row: invoice })
            };
            stored.into_iter().map(read).collect()
        },
        |Keyed { key, row }| InvoiceSummary {
            number: row.number,
            period: row.period.to_string(),
            currency: row.currency.code(),
            total: row.total.to_string(),
            issued_at: row.issued_at.to_string(),
            position: key.position.number(),
            resource: format!("/v1/tenants/{}/invoices/{}", row.tenant, row.number),
        },
    );
    Ok(axum::Json(read.await?))
}

/// A finalised invoice: exactly the bytes that the log holds.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/invoices/{number}", tag = "invoices",
    params(("tenant" = String, Path), ("number" = u64, Path)),
    responses((status = 200, description = "The document.", body = InvoiceDocument))
)]
pub(super) async fn get_invoice(
    State(app): State<App>,
    Path((tenant, number)): Path<(TenantId, u64)>,
) -> Result<Response, Problem> {
    let of = tenant.clone();
    app.read(move |state| known_tenant(state, &of)).await?;
    let of = tenant.clone();
    let Some(invoice) = app.store(move |reader| reader.invoice(&of, number)).await? else {
        let detail = format!("{tenant} has no invoice {number}");
        return Err(Problem::not_found("invoice_unknown", detail));
    };
    let etag = format!("\"{}\"", blake3::hash(&invoice.document).to_hex());
    let mut response = invoice.document.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        headers.insert(ETAG, etag);
    }
    Ok(response)
}

/// What the invoice of a month would say now. Nothing is written.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/invoices/draft", tag = "invoices",
    params(("tenant" = String, Path), DraftQuery),
    responses((status = 200, description = "The draft.", body = InvoiceDraft))
)]
pub(super) async fn draft_invoice(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Query(query): Query<DraftQuery>,
) -> Result<axum::Json<InvoiceDraft>, Problem> {
    // The state does not hold the chain's hash: it is read from the event that the state ends with.
    let unknown_hash = blake3::Hash::from_bytes([0; 32]);
    let (as_of, before, mut invoice) = app
        .read(move |state| {
            let invoice = draw(state, &tenant, query.period, 0, state.now(), &unknown_hash)?;
            let before = Position::new(state.position().number().saturating_sub(1));
            Ok((AsOf::of(state), before, invoice))
        })
        .await?;
    let events = app.store(move |reader| reader.events(before, 1)).await?;
    let last = events.into_iter().next().filter(|event| event.position == invoice.provenance.position);
    let last =
        last.ok_or_else(|| StoreError("the log lacks the event that the state ends with".to_owned()))?;
    invoice.provenance.chain_hash = last.hash.to_hex().to_string();
    Ok(axum::Json(InvoiceDraft { as_of, invoice: Box::new(invoice) }))
}
