//! Reports on usage and balances, as pure functions: HTTP and the command line give the same ones.

pub mod explain;
pub mod report;
