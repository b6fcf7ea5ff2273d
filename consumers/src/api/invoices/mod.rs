//! Invoices: drafts, the closing of a period, the documents, and what becomes of them.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use hourglass_ledger::core::invoicing::{Invoice, draw};
use hourglass_ledger::core::{Command, Detail, Outcome, Position};
use hourglass_ledger::store::{Keyed, StoreError, StoredInvoice};
use hourglass_units::{Month, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::app::{App, known_tenant};
use super::done::{Done, done};
use super::extract::{Idempotency, Json, Path, Query};
use super::page::{ListPage, PageRequest};
use super::problem::Problem;
use super::schema;
use super::tenants::PageQuery;
use crate::billing::invoices::{InvoiceRow, Standing, standing};
use crate::billing::report::AsOf;
use form::{Form, FormQuery, answer_document, answer_draft};

pub(in crate::api) mod form;
pub(super) mod life;

/// Which period to close.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FinaliseDraft {
    /// `YYYY-MM`.
    #[schema(value_type = String)]
    period: Month,
}

/// Which period to draw, and how.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DraftQuery {
    /// `YYYY-MM`.
    #[param(value_type = String)]
    period: Month,
    /// `json`, `html`, `csv` or `pdf`; what `Accept` asks for where absent.
    #[param(inline)]
    format: Option<Form>,
}

/// A draft, as of a log position.
#[derive(Serialize, ToSchema)]
pub(super) struct InvoiceDraft {
    as_of: AsOf,
    #[schema(value_type = schema::Invoice)]
    invoice: Box<Invoice>,
}

/// An invoice that is not there.
pub(super) fn unknown(tenant: &TenantId, number: u64) -> Problem {
    Problem::not_found("invoice_unknown", format!("{tenant} has no invoice {number}"))
}

/// Where the document is that an outcome numbered.
fn resource_of(outcome: &Outcome, tenant: &TenantId) -> String {
    match outcome.answer().detail {
        Detail::Invoice { number } => format!("/v1/tenants/{tenant}/invoices/{number}"),
        _ => format!("/v1/tenants/{tenant}/invoices"),
    }
}

/// Closes a period and numbers its invoice.
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
    let command = Command::FinaliseInvoice { tenant: tenant.clone(), period: draft.period };
    let outcome = app.submit(command, name).await?;
    Ok(done(&outcome, true, resource_of(&outcome, &tenant)))
}

/// A customer's finalised invoices and credit notes. What became of them (`status`, `paid`, `open`) is as
/// of the request; all else is as of the list's position.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/invoices", tag = "invoices",
    params(("tenant" = String, Path), PageQuery),
    responses((status = 200, description = "A page of invoices.", body = ListPage<InvoiceRow>))
)]
pub(super) async fn list_invoices(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<ListPage<InvoiceRow>>, Problem> {
    let list = format!("invoices {tenant}");
    let page = PageRequest::new(list, query.page_size, query.page_token.as_deref())?;
    let of = tenant.clone();
    app.read(move |state| known_tenant(state, &of)).await?;
    let of = tenant.clone();
    let read = move |Keyed { key, row }: Keyed<StoredInvoice>| {
        let invoice = Invoice::from_document(&row.document).map_err(|error| StoreError(error.to_string()))?;
        Ok(Keyed { key, row: invoice })
    };
    let page = page.of_rows(
        &app,
        move |reader, page| reader.invoices(Some(&of), page)?.into_iter().map(read).collect(),
        |keyed| keyed,
    );
    let page = page.await?;
    // What has a row is in the state: rows are written with it.
    let numbers: Vec<u64> = page.rows.iter().map(|keyed| keyed.row.number).collect();
    let standings = app.read(move |state| {
        let found =
            numbers.into_iter().filter_map(|number| Some((number, standing(state, &tenant, number)?)));
        Ok(found.collect::<BTreeMap<u64, Standing>>())
    });
    let mut standings = standings.await?;
    let rows = page.rows.into_iter().filter_map(|Keyed { key, row }| {
        Some(InvoiceRow::of(&row, standings.remove(&row.number)?, key.position.number()))
    });
    let rows = rows.collect();
    Ok(axum::Json(ListPage { as_of: page.as_of, rows, next_page_token: page.next_page_token }))
}

/// A finalised invoice. As JSON it is exactly the bytes that the log holds; as a page or as CSV it shows
/// the same lines. What became of it since is at its path with `/status` behind it.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/invoices/{number}", tag = "invoices",
    params(("tenant" = String, Path), ("number" = u64, Path), FormQuery),
    responses((status = 200, description = "The document.", content(
        (schema::Invoice = "application/json"), (String = "text/html"), (String = "text/csv"),
        (schema::Binary = "application/pdf"),
    )))
)]
pub(super) async fn get_invoice(
    State(app): State<App>,
    Path((tenant, number)): Path<(TenantId, u64)>,
    Query(query): Query<FormQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let form = query.format.unwrap_or_else(|| Form::accepted(&headers));
    let of = tenant.clone();
    app.read(move |state| known_tenant(state, &of)).await?;
    let of = tenant.clone();
    let Some(stored) = app.store(move |reader| reader.invoice(&of, number)).await? else {
        return Err(unknown(&tenant, number));
    };
    let of = tenant.clone();
    let (name, standing) = app
        .read(move |state| {
            let name = state.tenant(&of).map(|tenant| tenant.display_name.clone());
            Ok((name, standing(state, &of, number)))
        })
        .await?;
    answer_document(form, stored, name.as_deref(), standing)
}

/// What the invoice of a period would say now. Nothing is written.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/invoices/draft", tag = "invoices",
    params(("tenant" = String, Path), DraftQuery),
    responses((status = 200, description = "The draft.", content(
        (InvoiceDraft = "application/json"), (String = "text/html"), (String = "text/csv"),
        (schema::Binary = "application/pdf"),
    )))
)]
pub(super) async fn draft_invoice(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Query(query): Query<DraftQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let form = query.format.unwrap_or_else(|| Form::accepted(&headers));
    // The state does not hold the chain's hash: it is read from the event that the state ends with.
    let unknown_hash = blake3::Hash::from_bytes([0; 32]);
    let (as_of, before, name, mut invoice) = app
        .read(move |state| {
            let invoice = draw(state, &tenant, query.period, 0, state.now(), &unknown_hash)?;
            let before = Position::new(state.position().number().saturating_sub(1));
            let name = state.tenant(&tenant).map(|tenant| tenant.display_name.clone());
            Ok((AsOf::of(state), before, name, invoice))
        })
        .await?;
    let events = app.store(move |reader| reader.events(before, 1)).await?;
    let last = events.into_iter().next().filter(|event| event.position == invoice.provenance.position);
    let last =
        last.ok_or_else(|| StoreError("the log lacks the event that the state ends with".to_owned()))?;
    invoice.provenance.chain_hash = last.hash.to_hex().to_string();
    answer_draft(form, InvoiceDraft { as_of, invoice: Box::new(invoice) }, name.as_deref())
}
