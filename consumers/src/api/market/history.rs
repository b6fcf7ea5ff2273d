//! The past of a pool: its prices as logged, by steps and as candles, its demand, and how often it interrupts.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, LINK, VARY};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use axum::response::{IntoResponse, Response};
use hourglass_capacity::pool::PoolName;
use hourglass_ledger::core::State as Ledger;
use hourglass_units::{Currency, Fabric, INSTANT_MAX, INSTANT_MIN, Instant, Interval, Platform};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::pools::{named, unknown};
use crate::api::app::App;
use crate::api::extract::{Path, Query};
use crate::api::invoices::form::Form;
use crate::api::page::{ListPage, PAGE_SIZE_DEFAULT, PageRequest, invalid};
use crate::api::problem::Problem;
use crate::billing::market::{
    CandleRow, DepthRow, InterruptionsRow, PriceRow, candle_rows, depth_row, interruptions_row, prices,
    step_rows, with_sold,
};
use crate::billing::report::AsOf;
use crate::prices::{CATCH_UP_CLEARINGS_MAX, History, Step};

/// The longest time of which one page tells steps: the state is looked through for it.
const PAGE_MS_MAX: i64 = 100 * 86_400_000;
/// As of which log position rows hold that are no document.
const AS_OF: HeaderName = HeaderName::from_static("as-of");

/// Of which time, in which steps, and which page.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct PriceQuery {
    /// From then on, RFC 3339; from the first clearing on where absent.
    #[param(value_type = Option<String>, format = DateTime)]
    start: Option<Instant>,
    /// Until then, RFC 3339; until now where absent.
    #[param(value_type = Option<String>, format = DateTime)]
    end: Option<Instant>,
    /// A row for each step of time: `1m`, `5m`, `1h`, `1d` or whatever else divides a UTC day. As they were logged where
    /// absent.
    #[param(example = "1h")]
    step: Option<String>,
    /// Rows of a page: 1 to 1,000, 100 where absent. Of steps a page tells at most 100 days.
    page_size: Option<usize>,
    /// `next_page_token` of the page before.
    page_token: Option<String>,
}

/// Of which time, and which page.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct CandleQuery {
    /// From then on, RFC 3339; from the first clearing on where absent.
    #[param(value_type = Option<String>, format = DateTime)]
    start: Option<Instant>,
    /// Until then, RFC 3339; until now where absent.
    #[param(value_type = Option<String>, format = DateTime)]
    end: Option<Instant>,
    /// `1h` where absent; `1m`, `5m`, `1d` or whatever else divides a UTC day.
    #[param(example = "1h")]
    step: Option<String>,
    /// Rows of a page: 1 to 1,000, 100 where absent. A page tells at most 100 days.
    page_size: Option<usize>,
    /// `next_page_token` of the page before.
    page_token: Option<String>,
}

/// The demand for a pool, as of a log position.
#[derive(Serialize, ToSchema)]
#[schema(as = PoolDepthAnswer)]
pub(in crate::api) struct DepthAnswer {
    as_of: AsOf,
    /// Of the prices, ISO 4217.
    #[schema(value_type = String)]
    currency: Currency,
    #[serde(flatten)]
    depth: DepthRow,
}

/// How likely a unit is interrupted, as of a log position.
#[derive(Serialize, ToSchema)]
#[schema(as = PoolInterruptionsAnswer)]
pub(in crate::api) struct InterruptionsAnswer {
    as_of: AsOf,
    #[serde(flatten)]
    interruptions: InterruptionsRow,
}

fn between(start: Option<Instant>, end: Option<Instant>) -> Result<Interval, Problem> {
    let within = Interval::between(start.unwrap_or(INSTANT_MIN), end.unwrap_or(INSTANT_MAX));
    within.ok_or_else(|| Problem::bad_request("query_invalid", "end must be after start"))
}

fn stepped(text: &str) -> Result<Step, Problem> {
    let invalid = "step is a length of time that divides a UTC day, from 1m to 1d, such as 5m, 1h or 6h";
    Step::parse(text).ok_or_else(|| Problem::bad_request("query_invalid", invalid))
}

/// Rows of a page of steps: what was asked for, as far as the time of a page reaches.
fn page_of_steps(page_size: Option<usize>, step: Step) -> usize {
    let most = usize::try_from(PAGE_MS_MAX / step.ms()).unwrap_or(usize::MAX);
    page_size.unwrap_or(PAGE_SIZE_DEFAULT).min(most)
}

/// A pool of the state that was asked for.
fn known(state: &Ledger, platform: Platform, fabric: Fabric) -> Result<PoolName, Problem> {
    let name = named(state, platform, fabric)?;
    if state.market().pool(&name).is_some() { Ok(name) } else { Err(unknown(name)) }
}

/// The part of a time that lies behind the row of a page token, and before now: of steps nothing is told of the future.
fn rest(within: Interval, after: Option<&str>, now: Instant) -> Result<Option<Interval>, Problem> {
    let from = match after {
        None => within.start(),
        Some(after) => after.parse::<Instant>().map_err(|_| invalid())?.max(within.start()),
    };
    Ok(Interval::between(from, within.end().min(now)))
}

/// What a pool cost, as it was logged or by steps. Before its first clearing it costs what the rate card says.
///
/// Of a step the last price is told, and the mean over its time. With `Accept: text/csv` the rows come as CSV, and the
/// next page is a `Link`.
#[utoipa::path(
    get, path = "/v1/pools/{platform}/{fabric}/prices", tag = "market",
    params(("platform" = String, Path), ("fabric" = String, Path), PriceQuery),
    responses((status = 200, description = "A page of prices.", content(
        (ListPage<PriceRow> = "application/json"), (String = "text/csv"),
    )))
)]
pub(in crate::api) async fn list_prices(
    State(app): State<App>,
    Path((platform, fabric)): Path<(Platform, Fabric)>,
    Query(query): Query<PriceQuery>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let PriceQuery { start, end, step, page_size, page_token } = query;
    let within = between(start, end)?;
    let list = format!("prices {platform} {fabric} {start:?} {end:?} {step:?}");
    let step = step.as_deref().map(stepped).transpose()?;
    // The last event may be a while ago, and its price holds on.
    let now = app.cell().now();
    let page_size = step.map_or(page_size, |step| Some(page_of_steps(page_size, step)));
    let page = PageRequest::new(list, page_size, page_token.as_deref())?;
    let page = page.of_state(&app, move |state, after, limit| {
        let name = known(state, platform, fabric)?;
        let rows: Vec<(String, PriceRow)> = match step {
            None => {
                let after = after.map(|after| after.parse::<Instant>().map_err(|_| invalid())).transpose()?;
                let rows = prices(state, &name, within).into_iter();
                let rows = rows.filter(|(from, _)| after.is_none_or(|after| *from > after)).take(limit);
                rows.map(|(from, row)| (from.to_string(), row)).collect()
            }
            Some(step) => {
                let Some(rest) = rest(within, after, now.max(state.now()))? else { return Ok(Vec::new()) };
                let rows = step_rows(state, &name, rest, step).take(limit);
                rows.map(|(_, row)| (row.until.clone().unwrap_or_default(), row)).collect()
            }
        };
        Ok(rows)
    });
    let head = ["from", "until", "price", "mean"];
    in_form(&headers, &uri, page.await?, head, |row| {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        [row.from.clone(), text(&row.until), row.price.clone(), text(&row.mean)]
    })
}

/// What a pool cost hour by hour: first, highest, lowest and last price, the mean, and GPU-hours sold.
///
/// Sold is what clearings gave to bids, whether or not a unit came up. With `Accept: text/csv` the rows come as CSV, and
/// the next page is a `Link`.
#[utoipa::path(
    get, path = "/v1/pools/{platform}/{fabric}/prices/ohlc", tag = "market",
    params(("platform" = String, Path), ("fabric" = String, Path), CandleQuery),
    responses((status = 200, description = "A page of candles.", content(
        (ListPage<CandleRow> = "application/json"), (String = "text/csv"),
    )))
)]
pub(in crate::api) async fn list_candles(
    State(app): State<App>,
    Path((platform, fabric)): Path<(Platform, Fabric)>,
    Query(query): Query<CandleQuery>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let CandleQuery { start, end, step, page_size, page_token } = query;
    let within = between(start, end)?;
    let list = format!("candles {platform} {fabric} {start:?} {end:?} {step:?}");
    let step = step.as_deref().map_or(Ok(Step::HOUR), stepped)?;
    let page = PageRequest::new(list, Some(page_of_steps(page_size, step)), page_token.as_deref())?;
    let history = history(&app).await?;
    let (of, now) = ((platform.clone(), fabric.clone()), app.cell().now());
    let page = page.of_state(&app, move |state, after, limit| {
        let name = known(state, platform, fabric)?;
        let Some(rest) = rest(within, after, now.max(state.now()))? else { return Ok(Vec::new()) };
        let rows = candle_rows(state, &name, rest, step).take(limit);
        Ok(rows.map(|row| (row.1.until.clone(), row)).collect())
    });
    let ListPage { as_of, rows, next_page_token } = page.await?;
    let name = app.read(move |state| named(state, of.0, of.1)).await?;
    let page = ListPage { as_of, rows: with_sold(rows, &name, &history), next_page_token };
    let head = ["from", "until", "open", "high", "low", "close", "mean", "sold_gpu_hours"];
    in_form(&headers, &uri, page, head, |row| {
        let CandleRow { from, until, open, high, low, close, mean, sold_gpu_hours } = row.clone();
        [from, until, open, high, low, close, mean, sold_gpu_hours.unwrap_or_default()]
    })
}

/// What is wanted of a pool, by what bids offer for it at most, as the last clearing saw it. No bid is told apart.
#[utoipa::path(
    get, path = "/v1/pools/{platform}/{fabric}/depth", tag = "market",
    params(("platform" = String, Path), ("fabric" = String, Path)),
    responses((status = 200, description = "The demand.", body = DepthAnswer))
)]
pub(in crate::api) async fn get_depth(
    State(app): State<App>,
    Path((platform, fabric)): Path<(Platform, Fabric)>,
) -> Result<axum::Json<DepthAnswer>, Problem> {
    let read = app.read(move |state| {
        let name = known(state, platform, fabric)?;
        let currency = state.market().pool(&name).map(|pool| pool.terms.currency);
        Ok((AsOf::of(state), name, currency))
    });
    let (as_of, name, currency) = read.await?;
    let before = as_of.position.saturating_add(1);
    let found = app.store(move |reader| Ok(depth_row(reader, &name, before))).await??;
    let none = || Problem::not_found("clear_unknown", "this pool was not cleared yet");
    let (currency, depth) = currency.zip(found).ok_or_else(none)?;
    Ok(axum::Json(DepthAnswer { as_of, currency, depth }))
}

/// How likely a unit of a pool is interrupted within an hour and within a day, by its bid's limit as a multiple of
/// the price, from what happened to units so far; and how good such predictions were (Brier score).
///
/// What clearings took counts: for a higher bid, for less supply, for a higher reserve price. What the bid's owner ended, or
/// its own quota and budget, does not.
#[utoipa::path(
    get, path = "/v1/pools/{platform}/{fabric}/interruptions", tag = "market",
    params(("platform" = String, Path), ("fabric" = String, Path)),
    responses((status = 200, description = "The chances.", body = InterruptionsAnswer))
)]
pub(in crate::api) async fn get_interruptions(
    State(app): State<App>,
    Path((platform, fabric)): Path<(Platform, Fabric)>,
) -> Result<axum::Json<InterruptionsAnswer>, Problem> {
    let history = history(&app).await?;
    let read = app.read(move |state| Ok((AsOf::of(state), known(state, platform, fabric)?, state.now())));
    let (as_of, name, last) = read.await?;
    let now = app.cell().now().max(last);
    let counted = tokio::task::spawn_blocking(move || interruptions_row(&history, &name, now)).await;
    let interruptions = counted.map_err(|_| Problem::internal())?;
    Ok(axum::Json(InterruptionsAnswer { as_of, interruptions }))
}

/// The past of all pools up to the last clearing.
async fn history(app: &App) -> Result<Arc<History>, Problem> {
    let history = Arc::clone(app.prices().history());
    let read = Arc::clone(&history);
    let done = app.store(move |reader| Ok(read.catch_up(reader, CATCH_UP_CLEARINGS_MAX))).await??;
    if done {
        return Ok(history);
    }
    let detail = "the past of the market is being read from the log: come back in a moment";
    Err(Problem::unavailable("history_loading", detail))
}

/// A page as the caller likes it: the document, or its rows as CSV.
fn in_form<T: Serialize, const COLUMNS: usize>(
    headers: &HeaderMap,
    uri: &Uri,
    page: ListPage<T>,
    head: [&str; COLUMNS],
    cells: impl Fn(&T) -> [String; COLUMNS],
) -> Result<Response, Problem> {
    let is_csv = Form::accepted(headers) == Form::Csv;
    let mut response =
        if is_csv { as_csv(uri, &page, head, cells)? } else { axum::Json(page).into_response() };
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

fn as_csv<T, const COLUMNS: usize>(
    uri: &Uri,
    page: &ListPage<T>,
    head: [&str; COLUMNS],
    cells: impl Fn(&T) -> [String; COLUMNS],
) -> Result<Response, Problem> {
    let failed = |error: &dyn std::fmt::Display| {
        tracing::error!(%error, "no CSV");
        Problem::internal()
    };
    let mut csv = csv::Writer::from_writer(Vec::new());
    csv.write_record(head).map_err(|error| failed(&error))?;
    for row in &page.rows {
        csv.write_record(cells(row)).map_err(|error| failed(&error))?;
    }
    let body = csv.into_inner().map_err(|error| failed(&error))?;
    let mut response = body.into_response();
    let mut put = |name: HeaderName, text: String| {
        if let Ok(value) = HeaderValue::from_str(&text) {
            response.headers_mut().insert(name, value);
        }
    };
    put(CONTENT_TYPE, "text/csv; charset=utf-8; header=present".to_owned());
    put(AS_OF, format!("{}; time={}", page.as_of.position, page.as_of.time));
    if let Some(token) = &page.next_page_token {
        let filters = uri.query().unwrap_or_default().split('&');
        let kept: Vec<&str> = filters.filter(|it| !it.is_empty() && !it.starts_with("page_token=")).collect();
        let query = kept.into_iter().map(|it| format!("{it}&")).collect::<String>();
        put(LINK, format!("<{}?{query}page_token={token}>; rel=\"next\"", uri.path()));
    }
    Ok(response)
}
