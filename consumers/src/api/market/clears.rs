//! Clearings and their receipts.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use crate::api::app::App;
use crate::api::extract::{Path, Query};
use crate::api::page::{ListPage, PageRequest};
use crate::api::problem::Problem;
use crate::api::tenants::PageQuery;
use crate::billing::market::{ClearRow, ReceiptDocument, clearing, clearings_before};

/// Clearings, newest first. A clearing that would have changed nothing left none.
#[utoipa::path(
    get, path = "/v1/clears", tag = "market", params(PageQuery),
    responses((status = 200, description = "A page of clearings.", body = ListPage<ClearRow>))
)]
pub(in crate::api) async fn list_clears(
    State(app): State<App>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<ListPage<ClearRow>>, Problem> {
    let page = PageRequest::new("clears".to_owned(), query.page_size, query.page_token.as_deref())?;
    let page = page.backwards(&app, |reader, before, limit| {
        let found = clearings_before(reader, before).take(limit);
        let rows = found.map(|logged| {
            let row = ClearRow::from(&logged.map_err(Problem::from)?);
            Ok((row.clear, row))
        });
        rows.collect()
    });
    Ok(axum::Json(page.await?))
}

/// The receipt of a clearing: the book, what quotas and budgets refused, and the outcome. Bids go by number.
/// Who clears the book again must get the same: `hourglass market replay` does so.
#[utoipa::path(
    get, path = "/v1/clears/{clear}", tag = "market", params(("clear" = u64, Path)),
    responses((status = 200, description = "The receipt.", body = ReceiptDocument))
)]
pub(in crate::api) async fn get_clear(
    State(app): State<App>,
    Path(clear): Path<u64>,
) -> Result<Response, Problem> {
    // It can be long: it is written where it holds up nobody.
    let read = app.store(move |reader| {
        Ok(clearing(reader, clear).map(|found| {
            // Numbers, names and prices have no value that JSON lacks.
            found.map(|logged| serde_json::to_vec(&ReceiptDocument::from(logged)).unwrap_or_default())
        }))
    });
    let none =
        || Problem::not_found("clear_unknown", "there is no clearing at this position: see /v1/clears");
    let document = read.await??.ok_or_else(none)?;
    Ok(([(CONTENT_TYPE, "application/json")], document).into_response())
}
