//! Re-rating: prices of the past change, as a preview and for good.

use axum::extract::State;
use axum::response::Response;
use hourglass_ledger::core::rerating::{self, LineChange, Preview};
use hourglass_ledger::core::{Command, RerateDraft};
use serde::Serialize;
use utoipa::ToSchema;

use super::app::App;
use super::done::{Done, done};
use super::extract::{Caller, Idempotency, Json};
use super::problem::Problem;
use super::schema;
use crate::auth::Denied;
use crate::auth::roles::{Permission, Reach};
use crate::billing::report::AsOf;

/// Most lines that a preview lists.
pub const RERATE_LINES_MAX: usize = 1_000;

/// What a re-rating would change, as of a log position.
#[derive(Serialize, ToSchema)]
pub(super) struct PreviewAnswer {
    as_of: AsOf,
    #[serde(flatten)]
    #[schema(value_type = schema::ReratePreview)]
    preview: Preview,
    /// The lines that would change, at most 1,000 of them.
    lines: Vec<LineView>,
    /// Whether there are more lines than these. `lines_changed` says how many there are.
    more_lines: bool,
}

/// How one line would change.
#[derive(Serialize, ToSchema)]
#[schema(as = RerateLine)]
pub(super) struct LineView {
    /// Whose usage.
    instance: String,
    /// Who pays.
    tenant: String,
    /// How it was sold.
    model: &'static str,
    /// In which UTC hour, RFC 3339.
    #[schema(format = DateTime)]
    hour: String,
    /// At which price per GPU-hour, a decimal.
    price: String,
    /// GPU-hours more at this price, or fewer, an exact decimal.
    quantity: String,
    /// What that comes to, an exact decimal.
    amount: String,
}

fn line_view(line: &LineChange<'_>) -> LineView {
    LineView {
        instance: line.instance.to_string(),
        tenant: line.tenant.to_string(),
        model: line.model.as_str(),
        hour: line.hour.to_string(),
        price: line.price.to_string(),
        quantity: line.quantity.to_string(),
        amount: line.amount.to_string(),
    }
}

/// Says whose bill would change by how much if prices of the past had been others. Nothing is written,
/// and an idempotency key has no effect.
#[utoipa::path(
    post, path = "/v1/rerates:preview", tag = "prices", request_body = schema::RerateDraft,
    responses((status = 200, description = "What would change.", body = PreviewAnswer))
)]
pub(super) async fn preview_rerate(
    State(app): State<App>,
    Json(draft): Json<RerateDraft>,
) -> Result<axum::Json<PreviewAnswer>, Problem> {
    let now = app.cell().now();
    let read = app.read(move |state| {
        let rerating = rerating::check(state, &draft, now.max(state.now()))?;
        let (mut lines, mut more_lines) = (Vec::new(), false);
        let preview = rerating::preview(state, &rerating, |line| {
            if lines.len() < RERATE_LINES_MAX {
                lines.push(line_view(&line));
            } else {
                more_lines = true;
            }
        })?;
        Ok(PreviewAnswer { as_of: AsOf::of(state), preview, lines, more_lines })
    });
    Ok(axum::Json(read.await?))
}

/// Changes prices of the past, and posts the corrections: those of closed periods stand on the next
/// invoice.
#[utoipa::path(
    post, path = "/v1/rerates", tag = "prices", request_body = schema::RerateDraft,
    responses((status = 201, description = "Done.", body = Done))
)]
pub(super) async fn commit_rerate(
    State(app): State<App>,
    Caller(principal): Caller,
    Idempotency(name): Idempotency,
    Json(draft): Json<RerateDraft>,
) -> Result<Response, Problem> {
    if draft.into_closed && principal.reach(Permission::RerateClosed) != Reach::All {
        return Err(Denied::lacks(&principal, Permission::RerateClosed).into());
    }
    let outcome = app.submit(Command::Rerate(draft), name).await?;
    Ok(done(&outcome, true, "/v1/ledger/transfers".to_owned()))
}
