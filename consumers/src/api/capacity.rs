//! Capacity planning: series, unmet demand, forecasts, what-if and advice ([`crate::planning`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use hourglass_ledger::core::State as Ledger;
use hourglass_ledger::store::Reader;
use hourglass_units::{Fabric, Instant, Platform, Price};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::app::App;
use super::extract::{Json, Path, Query};
use super::market::pools::named;
use super::problem::Problem;
use crate::planning::advice::{AdviceDraft, AdviceQuestion, AdviceReport, advise};
use crate::planning::forecast::{
    Demand, ForecastDraft, ForecastQuestion, ForecastReport, HORIZON_DAYS_DEFAULT, forecast,
};
use crate::planning::series::{SeriesReport, take};
use crate::planning::unmet::{UnmetQuestion, UnmetReport, unmet};
use crate::planning::what_if::{WhatIf, WhatIfDraft, WhatIfReport, what_if};
use crate::planning::{PlanError, Pools, Range, Step};

/// How to answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Form {
    /// The document.
    #[default]
    Json,
    /// One row a step, pool and price.
    Csv,
}

/// Of which time, and in which steps.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct SeriesQuery {
    /// From then on, RFC 3339.
    #[param(value_type = String, format = DateTime)]
    start: Instant,
    /// Until then, RFC 3339; what has not passed is left out.
    #[param(value_type = String, format = DateTime)]
    end: Instant,
    /// How long a step is; an hour where absent. At most 2,304 of them are answered.
    #[param(inline)]
    step: Option<Step>,
    /// `json` or `csv`; `json` where absent.
    #[param(inline)]
    format: Option<Form>,
}

/// The same of several pools.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AllSeriesQuery {
    /// From then on, RFC 3339.
    #[param(value_type = String, format = DateTime)]
    start: Instant,
    /// Until then, RFC 3339; what has not passed is left out.
    #[param(value_type = String, format = DateTime)]
    end: Instant,
    /// How long a step is; an hour where absent. At most 2,304 of them are answered.
    #[param(inline)]
    step: Option<Step>,
    /// `json` or `csv`; `json` where absent.
    #[param(inline)]
    format: Option<Form>,
    /// Of the pools of this platform; of all where absent.
    #[param(value_type = Option<String>)]
    platform: Option<Platform>,
}

/// Of which time, and by which prices.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct UnmetQuery {
    /// From then on, RFC 3339.
    #[param(value_type = String, format = DateTime)]
    start: Instant,
    /// Until then, RFC 3339; what has not passed is left out.
    #[param(value_type = String, format = DateTime)]
    end: Instant,
    /// How long a step is; all of the time is one where absent.
    #[param(inline)]
    step: Option<Step>,
    /// How wide a price level is, a decimal; `0.1` where absent.
    #[param(value_type = Option<String>)]
    level: Option<Price>,
    /// `json` or `csv`; `json` where absent.
    #[param(inline)]
    format: Option<Form>,
}

/// The same of several pools.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AllUnmetQuery {
    /// From then on, RFC 3339.
    #[param(value_type = String, format = DateTime)]
    start: Instant,
    /// Until then, RFC 3339; what has not passed is left out.
    #[param(value_type = String, format = DateTime)]
    end: Instant,
    /// How long a step is; all of the time is one where absent.
    #[param(inline)]
    step: Option<Step>,
    /// How wide a price level is, a decimal; `0.1` where absent.
    #[param(value_type = Option<String>)]
    level: Option<Price>,
    /// `json` or `csv`; `json` where absent.
    #[param(inline)]
    format: Option<Form>,
    /// Of the pools of this platform; of all where absent.
    #[param(value_type = Option<String>)]
    platform: Option<Platform>,
}

/// How far ahead, and what.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ForecastQuery {
    /// Days ahead: 1 to 90, 30 where absent.
    days: Option<u32>,
    /// `1h` or `1d`; whichever fits the days and the history where absent.
    #[param(inline)]
    step: Option<Step>,
    /// `all` demand, or what is `firm`: reserved and on demand. `all` where absent.
    #[param(inline)]
    of: Option<Demand>,
    /// `json` or `csv`; `json` where absent.
    #[param(inline)]
    format: Option<Form>,
}

/// The same of several pools.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AllForecastQuery {
    /// Days ahead: 1 to 90, 30 where absent.
    days: Option<u32>,
    /// `1h` or `1d`; whichever fits the days and the history where absent.
    #[param(inline)]
    step: Option<Step>,
    /// `all` demand, or what is `firm`: reserved and on demand. `all` where absent.
    #[param(inline)]
    of: Option<Demand>,
    /// `json` or `csv`; `json` where absent.
    #[param(inline)]
    format: Option<Form>,
    /// Of the pools of this platform; of all where absent.
    #[param(value_type = Option<String>)]
    platform: Option<Platform>,
}

/// Which pools a path means.
enum Asked {
    Some(Option<Platform>),
    One(Platform, Fabric),
}

impl Asked {
    fn pools(self, state: &Ledger) -> Result<Pools, Problem> {
        match self {
            Self::Some(None) => Ok(Pools::All),
            Self::Some(Some(platform)) => Ok(Pools::Of(platform)),
            Self::One(platform, fabric) => named(state, platform, fabric).map(Pools::One),
        }
    }
}

/// Where the GPU-time of a pool went, step by step: reserved (used, idle, lent), on demand, spot, free, down. In
/// every step the parts sum to what the pool had. An instance counts while it ran, whether or not it was reported.
#[utoipa::path(
    get, path = "/v1/capacity/{platform}/{fabric}/series", tag = "capacity",
    params(("platform" = String, Path), ("fabric" = String, Path), SeriesQuery),
    responses((status = 200, description = "The series.",
        content((SeriesReport = "application/json"), (String = "text/csv"))))
)]
pub(super) async fn get_series(
    State(app): State<App>,
    Path((platform, fabric)): Path<(Platform, Fabric)>,
    Query(SeriesQuery { start, end, step, format }): Query<SeriesQuery>,
) -> Result<Response, Problem> {
    series(app, Asked::One(platform, fabric), (start, end, step), format).await
}

/// Where the GPU-time of all pools, or of those of a platform, went together, step by step.
#[utoipa::path(
    get, path = "/v1/capacity/series", tag = "capacity", params(AllSeriesQuery),
    responses((status = 200, description = "The series.",
        content((SeriesReport = "application/json"), (String = "text/csv"))))
)]
pub(super) async fn get_all_series(
    State(app): State<App>,
    Query(AllSeriesQuery { start, end, step, format, platform }): Query<AllSeriesQuery>,
) -> Result<Response, Problem> {
    series(app, Asked::Some(platform), (start, end, step), format).await
}

async fn series(
    app: App,
    asked: Asked,
    (start, end, step): (Instant, Instant, Option<Step>),
    format: Option<Form>,
) -> Result<Response, Problem> {
    let taken = app.read(move |state| {
        let pools = asked.pools(state)?;
        let range = Range::new(start, end, step.unwrap_or(Step::Hour), state.now())?;
        Ok(take(state, &pools, range)?)
    });
    let taken = taken.await?;
    let report = planned(&app, move |_, _| Ok(taken.report())).await?;
    Ok(formed(format, &report, SeriesReport::to_csv))
}

/// What bids wanted of a pool and did not get, by price and reason, weighted with time. Instances that were refused
/// for want of quota or room leave no trace and are not in it; those that wait now are.
#[utoipa::path(
    get, path = "/v1/capacity/{platform}/{fabric}/unmet", tag = "capacity",
    params(("platform" = String, Path), ("fabric" = String, Path), UnmetQuery),
    responses((status = 200, description = "Unmet demand.",
        content((UnmetReport = "application/json"), (String = "text/csv"))))
)]
pub(super) async fn get_unmet(
    State(app): State<App>,
    Path((platform, fabric)): Path<(Platform, Fabric)>,
    Query(UnmetQuery { start, end, step, level, format }): Query<UnmetQuery>,
) -> Result<Response, Problem> {
    unserved(app, Asked::One(platform, fabric), (start, end, step), level, format).await
}

/// What bids wanted of all pools, or of those of a platform, and did not get. Over all pools each GPU counts once.
#[utoipa::path(
    get, path = "/v1/capacity/unmet", tag = "capacity", params(AllUnmetQuery),
    responses((status = 200, description = "Unmet demand.",
        content((UnmetReport = "application/json"), (String = "text/csv"))))
)]
pub(super) async fn get_all_unmet(
    State(app): State<App>,
    Query(AllUnmetQuery { start, end, step, level, format, platform }): Query<AllUnmetQuery>,
) -> Result<Response, Problem> {
    unserved(app, Asked::Some(platform), (start, end, step), level, format).await
}

async fn unserved(
    app: App,
    asked: Asked,
    (start, end, step): (Instant, Instant, Option<Step>),
    level: Option<Price>,
    format: Option<Form>,
) -> Result<Response, Problem> {
    let question = app.read(move |state| {
        let pools = asked.pools(state)?;
        let range = UnmetQuestion::range(start, end, step, state.now())?;
        Ok(UnmetQuestion::new(state, pools, range, step.is_some(), level)?)
    });
    let question = question.await?;
    let report = planned(&app, move |reader, _| unmet(reader, question)).await?;
    Ok(formed(format, &report, UnmetReport::to_csv))
}

/// What will be wanted of a pool, with 80 % and 95 % intervals and their error in the past; when it is full, and how
/// probable that is. A history that is too short is answered with `history_too_short`.
#[utoipa::path(
    get, path = "/v1/capacity/{platform}/{fabric}/forecast", tag = "capacity",
    params(("platform" = String, Path), ("fabric" = String, Path), ForecastQuery),
    responses((status = 200, description = "The forecast.",
        content((ForecastReport = "application/json"), (String = "text/csv"))))
)]
pub(super) async fn get_forecast(
    State(app): State<App>,
    Path((platform, fabric)): Path<(Platform, Fabric)>,
    Query(ForecastQuery { days, step, of, format }): Query<ForecastQuery>,
) -> Result<Response, Problem> {
    forecasted(app, Asked::One(platform, fabric), (days, step, of), format).await
}

/// What will be wanted of all pools, or of those of a platform, together.
#[utoipa::path(
    get, path = "/v1/capacity/forecast", tag = "capacity", params(AllForecastQuery),
    responses((status = 200, description = "The forecast.",
        content((ForecastReport = "application/json"), (String = "text/csv"))))
)]
pub(super) async fn get_all_forecast(
    State(app): State<App>,
    Query(AllForecastQuery { days, step, of, format, platform }): Query<AllForecastQuery>,
) -> Result<Response, Problem> {
    forecasted(app, Asked::Some(platform), (days, step, of), format).await
}

async fn forecasted(
    app: App,
    asked: Asked,
    (days, step, of): (Option<u32>, Option<Step>, Option<Demand>),
    format: Option<Form>,
) -> Result<Response, Problem> {
    let draft =
        ForecastDraft { days: days.unwrap_or(HORIZON_DAYS_DEFAULT), step, of: of.unwrap_or_default() };
    let question = app.read(move |state| Ok(ForecastQuestion::new(state, asked.pools(state)?, draft)?));
    let question = question.await?;
    let report = planned(&app, move |reader, _| forecast(reader, &question)).await?;
    Ok(formed(format, &report, ForecastReport::to_csv))
}

/// Runs the clearings of a time again with other GPUs, another reserve price or a reservation sold, beside the same
/// without changes, which comes out as it was logged. Changes nothing. The answer says what no replay can know.
#[utoipa::path(
    post, path = "/v1/capacity:what-if", tag = "capacity", request_body = WhatIfDraft,
    responses((status = 200, description = "What would have been.", body = WhatIfReport))
)]
pub(super) async fn ask_what_if(
    State(app): State<App>,
    Json(draft): Json<WhatIfDraft>,
) -> Result<axum::Json<WhatIfReport>, Problem> {
    let question = app.read(move |state| Ok(WhatIf::new(state, draft)?)).await?;
    let report =
        planned(&app, move |reader, asked| what_if(reader, &question, |_| asked.load(Ordering::Relaxed)));
    Ok(axum::Json(report.await?))
}

/// Whether a reservation should be sold: does it fit, what does it displace, at which price does it pay, how sure is
/// it that there is room. Changes nothing, and keeps nothing free.
#[utoipa::path(
    post, path = "/v1/capacity:advise", tag = "capacity", request_body = AdviceDraft,
    responses((status = 200, description = "The advice.", body = AdviceReport))
)]
pub(super) async fn ask_advice(
    State(app): State<App>,
    Json(draft): Json<AdviceDraft>,
) -> Result<axum::Json<AdviceReport>, Problem> {
    let question = app.read(move |state| Ok(AdviceQuestion::new(state, draft)?)).await?;
    let report =
        planned(&app, move |reader, asked| advise(reader, &question, |_| asked.load(Ordering::Relaxed)));
    Ok(axum::Json(report.await?))
}

/// Tells the computation that nobody waits any more.
struct Asking(Arc<AtomicBool>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Computes where it holds up nobody; so few at a time that the cell has a processor left. Who goes away before the
/// end ends it.
async fn planned<T: Send + 'static>(
    app: &App,
    compute: impl FnOnce(&dyn Reader, &AtomicBool) -> Result<T, PlanError> + Send + 'static,
) -> Result<T, Problem> {
    let permit = Arc::clone(app.plans()).acquire_owned().await.map_err(|_| Problem::internal())?;
    let asking = Asking(Arc::new(AtomicBool::new(true)));
    let asked = Arc::clone(&asking.0);
    let done = app.store(move |reader| {
        let _permit = permit;
        Ok(compute(reader, &asked))
    });
    let done = done.await?;
    drop(asking);
    Ok(done?)
}

fn formed<T: Serialize>(format: Option<Form>, report: &T, csv: impl FnOnce(&T) -> Vec<u8>) -> Response {
    match format.unwrap_or_default() {
        Form::Json => axum::Json(report).into_response(),
        Form::Csv => ([(CONTENT_TYPE, "text/csv; charset=utf-8")], csv(report)).into_response(),
    }
}

impl From<PlanError> for Problem {
    fn from(error: PlanError) -> Self {
        let (detail, code) = (error.to_string(), error.code());
        match error {
            PlanError::Clear(error) => error.into(),
            PlanError::Store(error) => error.into(),
            PlanError::GivenUp => Self::internal(),
            PlanError::PoolUnknown { pool } => super::market::pools::unknown(pool),
            PlanError::PlatformUnknown { .. } => Self::not_found(code, detail),
            PlanError::HistoryTooShort { .. } => Self::new(StatusCode::CONFLICT, code, detail),
            _ => Self::bad_request(code, detail),
        }
    }
}
