//! Quarantine: what came as usage and could not be used, with its original, and its replay.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hourglass_ledger::core::Position;
use hourglass_ledger::store::{Keyed, Quarantined};
use serde::Serialize;
use utoipa::ToSchema;

use super::app::App;
use super::done::as_replayed;
use super::extract::{Idempotency, Path, Query};
use super::page::{ListPage, PageRequest};
use super::problem::{Problem, ProblemDocument};
use super::tenants::PageQuery;
use crate::usage::quarantine::{Entry, FindError, Held, ReplayError, ReplayReport, find, replay};

/// Something that came as usage and could not be used.
#[derive(Serialize, ToSchema)]
#[schema(as = Quarantined)]
pub(super) struct QuarantinedView {
    /// The log position that holds the original.
    position: u64,
    /// Its number there.
    line: u32,
    /// The place in the batch; absent where the whole message is meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<u32>,
    /// A stable code.
    reason: String,
}

fn quarantined_view(Keyed { key, row }: Keyed<Quarantined>) -> QuarantinedView {
    let Quarantined { record, reason } = row;
    QuarantinedView { position: key.position.number(), line: key.line, record, reason }
}

/// What came as usage and could not be used, in order of the log.
#[utoipa::path(
    get, path = "/v1/quarantine", tag = "usage", params(PageQuery),
    responses((status = 200, description = "A page of it.", body = ListPage<QuarantinedView>))
)]
pub(super) async fn list_quarantine(
    State(app): State<App>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<ListPage<QuarantinedView>>, Problem> {
    let page = PageRequest::new("quarantine".to_owned(), query.page_size, query.page_token.as_deref())?;
    let read = page.of_rows(&app, |reader, page| reader.quarantine(page), quarantined_view);
    Ok(axum::Json(read.await?))
}

/// A record of an accepted batch that broke the contract.
#[derive(Serialize, ToSchema)]
struct QuarantinedRecordView {
    /// The place in the batch, from 0.
    record: u32,
    /// A stable code.
    reason: String,
}

/// A message in quarantine, or the message that quarantined records came in.
#[derive(Serialize, ToSchema)]
#[schema(as = QuarantineEntry)]
pub(super) struct EntryView {
    /// The log position that holds the original.
    position: u64,
    /// When it came, RFC 3339.
    #[schema(format = DateTime)]
    at: String,
    /// Why the whole message is in quarantine, a stable code; absent where only records are.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// The records in quarantine, where the others were accepted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    records: Vec<QuarantinedRecordView>,
    /// What the sender said that it was.
    content_type: String,
    /// Who sent it, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
    /// Its length.
    bytes: usize,
    /// The message as it came, in base64.
    #[schema(format = Byte)]
    original: String,
}

impl From<Entry> for EntryView {
    fn from(entry: Entry) -> Self {
        let Entry { position, at, held, content_type, agent, original } = entry;
        let (reason, records) = match held {
            Held::Message(reason) => (Some(reason), Vec::new()),
            Held::Records(records) => (None, records),
        };
        let record = |(record, reason)| QuarantinedRecordView { record, reason };
        Self {
            position: position.number(),
            at: at.to_string(),
            reason,
            records: records.into_iter().map(record).collect(),
            content_type,
            agent: agent.map(|agent| agent.to_string()),
            bytes: original.len(),
            original: STANDARD.encode(original),
        }
    }
}

/// What is in quarantine at a log position, with the message as it came.
#[utoipa::path(
    get, path = "/v1/quarantine/{position}", tag = "usage", params(("position" = u64, Path)),
    responses((status = 200, description = "The entry.", body = EntryView))
)]
pub(super) async fn get_quarantine(
    State(app): State<App>,
    Path(position): Path<u64>,
) -> Result<axum::Json<EntryView>, Problem> {
    Ok(axum::Json(found(&app, position).await?.into()))
}

async fn found(app: &App, position: u64) -> Result<Entry, Problem> {
    let position = Position::new(position);
    match app.store(move |reader| Ok(find(reader, position))).await? {
        Ok(entry) => Ok(entry),
        Err(FindError::Store(error)) => Err(error.into()),
        Err(error @ FindError::Unknown(_)) => {
            Err(Problem::not_found("quarantine_unknown", error.to_string()))
        }
        Err(error @ FindError::Event(..)) => {
            tracing::error!(%error, "the log cannot be read: run `hourglass verify`");
            Err(Problem::internal())
        }
    }
}

/// `POST …/{position}:replay`. The router knows no suffix of a segment, so it is read here.
pub(super) async fn act_on_quarantine(
    State(app): State<App>,
    Path(named): Path<String>,
    Idempotency(_): Idempotency,
) -> Result<Response, Problem> {
    let Some((position, action)) = named.rsplit_once(':') else {
        let detail = "what is in quarantine is taken in again by POST to its path with :replay behind it";
        return Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail));
    };
    if action != "replay" {
        return Err(Problem::not_found("action_unknown", "what is in quarantine has the action :replay"));
    }
    let position = position.parse().map_err(|_| {
        Problem::bad_request("path_invalid", format!("{position:?} is no log position: give its number"))
    })?;
    replay_quarantine(app, position).await
}

/// Takes a message in again, as after an upgrade that can read it. It stays in quarantine; what was
/// used already adds nothing, and a repeat does nothing, with or without an idempotency key.
#[utoipa::path(
    post, path = "/v1/quarantine/{position}:replay", tag = "usage", params(("position" = u64, Path)),
    responses(
        (status = 200, description = "What was logged of it, and what still cannot be used.", body = ReplayReport),
        (status = 422, description = "Nothing of it can be used. Nothing was written.",
            body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn replay_quarantine(app: App, position: u64) -> Result<Response, Problem> {
    let entry = found(&app, position).await?;
    let report = replay(app.cell(), &entry).await?;
    let replayed = report.replayed;
    let response = axum::Json(report).into_response();
    Ok(if replayed { as_replayed(response) } else { response })
}

impl From<ReplayError> for Problem {
    fn from(error: ReplayError) -> Self {
        let detail = error.to_string();
        match error {
            ReplayError::Unusable { reason, .. } => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, reason, detail)
            }
            ReplayError::Cell(error) => error.into(),
        }
    }
}
