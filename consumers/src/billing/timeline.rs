//! Steps in the lives of instances, as HTTP and the command line show them.

use hourglass_ledger::core::rows::TimelineRow;
use hourglass_ledger::store::Keyed;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A step in the life of an instance.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = TimelineStep, example = json!({
    "position": 4711, "line": 0, "instance": "spot-12-0", "step": "told_to_stop", "at": "2026-01-05T10:00:00Z",
    "cause": "outbid", "detail": "bid number 19 pays more", "deadline": "2026-01-05T10:02:00Z"
}))]
pub struct StepRow {
    /// The log position of the event that says so.
    pub position: u64,
    /// Its number there.
    pub line: u32,
    /// Which instance.
    pub instance: String,
    /// `registered`, `started`, `sold_differently`, `told_to_stop`, `stopped`, `failed` or `usage_voided`.
    pub step: String,
    /// When it was so, RFC 3339: not always when it was learnt.
    #[schema(format = DateTime)]
    pub at: String,
    /// Why, as a stable code. Of `registered` and `sold_differently` how it is sold; of all that was told to
    /// stop, stopped or failed: `outbid`, `supply_reclaimed`, `reserve_raised`, `provider`, `budget`, `quota`,
    /// `suspension`, `maintenance`, `owner`, `owner_stopped`, `not_enough_resources`, `cloud_quota`,
    /// `cloud_error`, `timed_out`, or `requested` where the compute service said that it stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// More of it, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Until when what was told to stop may run; of voided usage its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub deadline: Option<String>,
}

impl From<Keyed<TimelineRow>> for StepRow {
    fn from(Keyed { key, row }: Keyed<TimelineRow>) -> Self {
        let TimelineRow { tenant: _, instance, step, at, cause, detail, deadline } = row;
        Self {
            position: key.position.number(),
            line: key.line,
            instance: instance.to_string(),
            step: step.as_str().to_owned(),
            at: at.to_string(),
            cause,
            detail,
            deadline: deadline.map(|at| at.to_string()),
        }
    }
}
