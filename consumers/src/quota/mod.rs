//! Quota, over gRPC.
//!
//! * `QuotaService` serves `hourglass.v1.QuotaService`: a compute service asks what may run, holds it
//!   and gives it back; checkers far away lease a share. A [session](REQUESTS_UNDER_WAY_MAX) has many
//!   requests under way on one stream.
//! * `Allowances` and `Operations` serve `nebius.quotas.v1.QuotaAllowanceService` and
//!   `nebius.common.v1.OperationService`, so that a stock client of the Nebius API lists and sets quotas.
//!
//! # What it guarantees
//!
//! * Nothing here decides. A check is the decision of the core about the same reservation, not carried
//!   out; everything else is one command.
//! * What is refused for want of quota or money names the node, the resource and all amounts, the
//!   same in a single call and in a session.
//! * To whom one tenant alone is open, what others have is as unknown as what is not there.

mod allowances;
mod operations;
mod service;
mod session;
#[cfg(test)]
mod tests;
pub(crate) mod wire;

pub(crate) use allowances::{Allowances, check_region};
pub(crate) use operations::Operations;
pub(crate) use service::QuotaService;
pub use session::REQUESTS_UNDER_WAY_MAX;
