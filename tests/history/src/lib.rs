//! Histories of concurrent clients, and whether they are linearizable.
//!
//! A [`Recorder`] notes when each client sent an operation and when it got the answer. [`check`] then
//! looks for one order of the operations that a single-threaded [`Model`] could have answered the same
//! way, and that respects time: what was answered before another operation was sent comes before it.
//! If there is none, the clients saw something that no correct server shows, and the [`Violation`] says
//! where the longest order ends.
//!
//! [`QuotaModel`] is the model of quota. It shares no code with what it judges and knows nothing of logs,
//! rows or threads: it is short enough to be right by reading.
//!
//! ```
//! use hourglass_test_history::{QuotaAnswer, QuotaModel, QuotaOp, Recorder};
//!
//! let model = QuotaModel::default().limit("acme", "gpu", 8).path("training", &["acme", "training"]);
//! let recorder = Recorder::default();
//!
//! // A client, on a thread or task of its own, with a clone of the recorder:
//! let token = recorder.invoke(1, QuotaOp::reserve(1, "training", &[("gpu", 8)]));
//! // … sends the request, and:
//! recorder.complete(token, QuotaAnswer::Granted);
//! // The answer to this one was lost. It may have taken effect, or take effect yet, or never.
//! let token = recorder.invoke(2, QuotaOp::Release { id: 1 });
//! recorder.crash(token);
//! // It must have: else this one could not fit.
//! let token = recorder.invoke(3, QuotaOp::reserve(2, "training", &[("gpu", 5)]));
//! recorder.complete(token, QuotaAnswer::Granted);
//!
//! model.check(&recorder.history()).unwrap();
//! ```
//!
//! # Limits
//!
//! The question is NP-complete, so the search is bounded by [`CONFIGURATIONS_MAX`], and a search that
//! comes to its bound is [`Violation::Undecided`], never a pass. What makes a history hard is the number
//! of operations under way at one time, and above all those of unknown outcome: each stays under way
//! until the end. Two thousand operations of sixteen clients at the edge of their limits, with ten answers
//! lost, take seconds; a dozen lost answers more may end undecided if the history is wrong.
//!
//! Left out are changes of limits, holds that wait, spend caps, reads, the reasons of a denial, and
//! renewals (of a hold that may be renewed, record the [`QuotaOp::Expire`] as possible from the end of its
//! first time on).

#[cfg(test)]
mod cases;
mod quota;
mod recorder;
mod report;
mod search;
#[cfg(test)]
mod simulated;

pub use quota::{Items, QuotaAnswer, QuotaModel, QuotaOp, QuotaState};
pub use recorder::{Call, History, Recorder, Token};
pub use report::{Stuck, Violation};
pub use search::{CONFIGURATIONS_MAX, Model, check, check_within};
