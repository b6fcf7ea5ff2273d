//! Statements of the book, and the months in which it is kept.

use std::sync::atomic::Ordering;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use hourglass_ledger::core::{Command, Position, State as Ledger};
use hourglass_ledger::store::Reader;
use hourglass_units::{Instant, Month};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::app::App;
use super::done::{Done, done};
use super::extract::{Body, Idempotency, Path, Query};
use super::page::{ListPage, PageRequest, behind};
use super::problem::Problem;
use super::tenants::PageQuery;
use crate::billing::report::AsOf;
use crate::finance::reports::ageing::{
    OpenInvoices, ReceivablesAgeing, TERMS_DAYS, receivables_ageing as draw_ageing,
};
use crate::finance::reports::deferred::{DeferredRevenue, PaidAhead, deferred_revenue as draw_deferred};
use crate::finance::reports::periods::{BookPeriod, book_period, book_periods};
use crate::finance::reports::reconcile::{Claims, Reconciliation, reconcile};
use crate::finance::reports::revenue::{Revenue, RevenueBy, RevenueQuery, revenue as draw_revenue};
use crate::finance::reports::trial::{TrialBalance, When, trial_balance as draw_trial};
use crate::finance::reports::{Book, ReportError, Tabular};
use crate::usage::Name;

impl From<ReportError> for Problem {
    fn from(error: ReportError) -> Self {
        let detail = error.to_string();
        match error {
            ReportError::Store(error) => error.into(),
            ReportError::Overflow => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "amount_overflow", detail),
            ReportError::TooManyRows => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "too_many_rows", detail),
        }
    }
}

/// In which form a report is answered.
#[derive(Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum ReportForm {
    /// All of it.
    #[default]
    Json,
    /// Its table.
    Csv,
}

/// Takes what a report needs from the state, then draws it from the store.
async fn drawn<T, R>(
    app: App,
    form: ReportForm,
    take: impl FnOnce(&Ledger) -> Result<T, Problem> + Send + 'static,
    draw: impl FnOnce(&dyn Reader, T) -> Result<R, ReportError> + Send + 'static,
) -> Result<Response, Problem>
where
    T: Send + 'static,
    R: Tabular + Serialize + Send + 'static,
{
    let taken = app.read(take).await?;
    let report = app.store(move |reader| Ok(draw(reader, taken))).await??;
    let body = match form {
        ReportForm::Json => return Ok(axum::Json(report).into_response()),
        ReportForm::Csv => report.table().to_csv().map_err(|error| {
            tracing::error!(%error, "no CSV");
            Problem::internal()
        })?,
    };
    let mut response = Bytes::from(body).into_response();
    let media_type = HeaderValue::from_static("text/csv; charset=utf-8; header=present");
    response.headers_mut().insert(CONTENT_TYPE, media_type);
    Ok(response)
}

/// Of when.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TrialQuery {
    /// What was booked before this time, RFC 3339; all of it where absent.
    #[param(value_type = Option<String>, format = DateTime)]
    end: Option<Instant>,
    /// What was booked up to this log position, in place of a time.
    position: Option<u64>,
    /// Shows what was booked from this time on apart, RFC 3339.
    #[param(value_type = Option<String>, format = DateTime)]
    start: Option<Instant>,
    /// `json` or `csv`.
    #[param(inline)]
    #[serde(default)]
    format: ReportForm,
}

/// What stands on each account at a time or a log position. Debits and credits of a currency are equal.
#[utoipa::path(
    get, path = "/v1/reports/trial-balance", tag = "reports", params(TrialQuery),
    responses((status = 200, description = "The trial balance.",
        content((TrialBalance = "application/json"), (String = "text/csv"))))
)]
pub(super) async fn trial_balance(
    State(app): State<App>,
    Query(query): Query<TrialQuery>,
) -> Result<Response, Problem> {
    let TrialQuery { end, position, start, format } = query;
    if end.is_some() && position.is_some() {
        return Err(Problem::bad_request("interval_invalid", "give end or position, not both"));
    }
    check_interval(start, end)?;
    let last = app.status().position.load(Ordering::Relaxed);
    if position.is_some_and(|position| position > last) {
        let detail = format!("the log ends at position {last}: name one up to there");
        return Err(Problem::bad_request("position_unknown", detail));
    }
    let when = When { end, position: position.map(Position::new), start };
    drawn(app, format, |state| Ok(Book::of(state)), move |reader, book| draw_trial(reader, &book, when)).await
}

fn check_interval(start: Option<Instant>, end: Option<Instant>) -> Result<(), Problem> {
    match start.zip(end) {
        Some((start, end)) if end <= start => {
            Err(Problem::bad_request("interval_invalid", "the end must be after the start"))
        }
        _ => Ok(()),
    }
}

/// In which form.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ReportQuery {
    /// `json` or `csv`.
    #[param(inline)]
    #[serde(default)]
    format: ReportForm,
}

/// What was paid ahead for reservations, and month by month what was and will be earned of it.
#[utoipa::path(
    get, path = "/v1/reports/deferred-revenue", tag = "reports", params(ReportQuery),
    responses((status = 200, description = "The schedule.",
        content((DeferredRevenue = "application/json"), (String = "text/csv"))))
)]
pub(super) async fn deferred_revenue(
    State(app): State<App>,
    Query(query): Query<ReportQuery>,
) -> Result<Response, Problem> {
    let take = |state: &Ledger| Ok(PaidAhead::of(state, None));
    drawn(app, query.format, take, |reader, paid| draw_deferred(reader, &paid)).await
}

/// By which terms.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AgeingQuery {
    /// Days in which an invoice is to be paid after it was issued: 30 where absent.
    terms_days: Option<u16>,
    /// `json` or `csv`.
    #[param(inline)]
    #[serde(default)]
    format: ReportForm,
}

/// What customers owe on invoices, by how long it is overdue.
#[utoipa::path(
    get, path = "/v1/reports/receivables-ageing", tag = "reports", params(AgeingQuery),
    responses((status = 200, description = "Receivables by age.",
        content((ReceivablesAgeing = "application/json"), (String = "text/csv"))))
)]
pub(super) async fn receivables_ageing(
    State(app): State<App>,
    Query(query): Query<AgeingQuery>,
) -> Result<Response, Problem> {
    let terms_days = query.terms_days.unwrap_or(TERMS_DAYS);
    let take = |state: &Ledger| Ok(OpenInvoices::of(state));
    drawn(app, query.format, take, move |reader, open| draw_ageing(reader, &open, terms_days, None)).await
}

/// Which revenue.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RevenueParams {
    /// What was booked from this time on, RFC 3339.
    #[param(value_type = Option<String>, format = DateTime)]
    start: Option<Instant>,
    /// What was booked before this time, RFC 3339.
    #[param(value_type = Option<String>, format = DateTime)]
    end: Option<Instant>,
    /// What to keep apart, with commas: month, tenant, platform, model; all of them where absent.
    group_by: Option<String>,
    /// `json` or `csv`.
    #[param(inline)]
    #[serde(default)]
    format: ReportForm,
}

/// What was earned, from the income accounts of the book.
#[utoipa::path(
    get, path = "/v1/reports/revenue", tag = "reports", params(RevenueParams),
    responses((status = 200, description = "Revenue by group and currency.",
        content((Revenue = "application/json"), (String = "text/csv"))))
)]
pub(super) async fn revenue(
    State(app): State<App>,
    Query(query): Query<RevenueParams>,
) -> Result<Response, Problem> {
    let RevenueParams { start, end, group_by, format } = query;
    check_interval(start, end)?;
    let by = match group_by {
        None => RevenueBy::ALL.to_vec(),
        Some(names) => {
            let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
            let by: Result<_, _> = names.map(str::parse).collect();
            by.map_err(|error: crate::finance::reports::revenue::UnknownRevenueBy| {
                Problem::bad_request("group_by_invalid", error.to_string())
            })?
        }
    };
    let query = RevenueQuery { by, start, end };
    let take = |state: &Ledger| Ok(state.position());
    drawn(app, format, take, move |reader, head| draw_revenue(reader, head, &query)).await
}

/// Journal, balances and invoices compared, to the last digit.
#[utoipa::path(
    get, path = "/v1/reports/reconciliation", tag = "reports", params(ReportQuery),
    responses((status = 200, description = "The comparison.",
        content((Reconciliation = "application/json"), (String = "text/csv"))))
)]
pub(super) async fn reconciliation(
    State(app): State<App>,
    Query(query): Query<ReportQuery>,
) -> Result<Response, Problem> {
    let take = |state: &Ledger| Ok(Claims::of(state)?);
    drawn(app, query.format, take, |reader, claims| reconcile(reader, &claims)).await
}

/// The months in which something was booked or used, and where each stands.
#[utoipa::path(
    get, path = "/v1/periods", tag = "reports", params(PageQuery),
    responses((status = 200, description = "A page of months.", body = ListPage<BookPeriod>))
)]
pub(super) async fn list_periods(
    State(app): State<App>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<ListPage<BookPeriod>>, Problem> {
    let page = PageRequest::new("periods".to_owned(), query.page_size, query.page_token.as_deref())?;
    let read =
        page.of_state(&app, |state, after, limit| behind(book_periods(state, state.now()), after, limit));
    Ok(axum::Json(read.await?))
}

/// A month, as of a log position.
#[derive(Serialize, ToSchema)]
pub(super) struct BookPeriodAnswer {
    as_of: AsOf,
    #[serde(flatten)]
    period: BookPeriod,
}

/// One month of the book.
#[utoipa::path(
    get, path = "/v1/periods/{period}", tag = "reports", params(("period" = String, Path)),
    responses((status = 200, description = "The month.", body = BookPeriodAnswer))
)]
pub(super) async fn get_period(
    State(app): State<App>,
    Path(month): Path<Month>,
) -> Result<axum::Json<BookPeriodAnswer>, Problem> {
    let read = app.read(move |state| {
        let period = book_period(state, month, state.now());
        Ok(BookPeriodAnswer { as_of: AsOf::of(state), period })
    });
    Ok(axum::Json(read.await?))
}

/// `POST …/{period}:close`. The router knows no suffix of a segment, so it is read here.
pub(super) async fn act_on_period(
    State(app): State<App>,
    Path(named): Path<String>,
    Idempotency(name): Idempotency,
    _body: Body,
) -> Result<Response, Problem> {
    let unknown = || Problem::not_found("action_unknown", "a month has the action :close");
    let (month, action) = named.rsplit_once(':').ok_or_else(unknown)?;
    let month = month.parse().map_err(|error| Problem::bad_request("path_invalid", format!("{error}")))?;
    match action {
        "close" => close_period(app, month, name).await,
        _ => Err(unknown()),
    }
}

/// Closes a month of the book for good: it is over, its grace too, all its invoices are there, and the months before
/// it are closed. Its rows are pinned down with a digest.
#[utoipa::path(
    post, path = "/v1/periods/{period}:close", tag = "reports", params(("period" = String, Path)),
    responses((status = 200, description = "Closed.", body = Done))
)]
pub(super) async fn close_period(app: App, month: Month, name: Option<Name>) -> Result<Response, Problem> {
    let outcome = app.submit(Command::ClosePeriod { month }, name).await?;
    Ok(done(&outcome, false, format!("/v1/periods/{month}")))
}
