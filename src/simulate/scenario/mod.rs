//! Scenarios: a text file that says what happens in an empty cell, step by step, and what must come
//! of it. `docs/scenarios.md` describes the language.
//!
//! [`parse`] reads the whole file before anything runs: each time becomes an instant and each step the
//! one command that it stands for. [`run`] plays the steps against a real cell in virtual time, as a
//! compute service, agents and a clock would. [`report`] says what came of it.

mod check;
mod expect;
mod expect_quota;
#[cfg(test)]
mod exported;
mod lex;
mod market;
pub mod parse;
pub mod quota;
pub mod report;
pub mod run;
#[cfg(test)]
mod same_end;
#[cfg(test)]
mod tests;
mod verbs;

use hourglass_ledger::core::Command;
use hourglass_units::{
    AgentId, Currency, InstanceId, Instant, Interval, Platform, Price, RateCardName, Region,
};

use check::Expectation;

/// Most bytes of a file.
pub const FILE_BYTES_MAX: usize = 1 << 20;
/// Most steps in a file, expectations included.
pub const STEPS_MAX: usize = 10_000;
/// Most mistakes of a file that are told at once.
pub const FAULTS_MAX: usize = 20;
/// Most ticks of the clock while a file runs: eleven years of hours.
pub const TICKS_MAX: u64 = 100_000;
/// Most usage reports that the steps of a file make.
pub const REPORTS_MAX: usize = 100_000;

/// The code of a step that cannot even be read, as HTTP answers it.
pub const UNREADABLE: &str = "body_invalid";

/// A file that was read.
#[derive(Debug)]
pub struct Scenario {
    /// What happens, in order of time.
    pub steps: Vec<Step>,
}

/// One step.
#[derive(Debug, Clone)]
pub struct Step {
    /// Its line, from 1.
    pub line: usize,
    /// When it happens.
    pub at: Instant,
    /// As it is written.
    pub text: String,
    /// What happens.
    pub act: Act,
    /// The line and the code of the refusal that it must meet.
    pub refused: Option<(usize, String)>,
}

/// What happens in a step.
#[derive(Debug, Clone)]
pub enum Act {
    /// A command, as anybody else would give it.
    Command(Box<Command>),
    /// The next version of a rate card, from the short form.
    Prices(ShortCard),
    /// Reports of usage, each sent when its time is over.
    Use(Use),
    /// A command about a hold, a lease, a request or a bid that the file names.
    Named(Box<quota::Named>),
    /// What time brought about is looked for; nothing may be due.
    Review,
    /// The market is cleared; nothing may change.
    Clear,
    /// From now on the clock ticks so often, in milliseconds.
    TickEvery(i64),
    /// From now on invoices that are due are finalised, or only those that the file finalises.
    FinaliseWhenDue(bool),
    /// The step cannot be read, and that is what the file expects.
    Unreadable(Fault),
    /// What must be so.
    Expect(Expectation),
}

impl Act {
    /// Whether the cell may say no.
    fn can_be_refused(&self) -> bool {
        match self {
            Self::Command(_) | Self::Named(_) | Self::Prices(_) | Self::Use(_) | Self::Unreadable(_) => true,
            Self::Review | Self::Clear | Self::TickEvery(_) | Self::FinaliseWhenDue(_) | Self::Expect(_) => {
                false
            }
        }
    }
}

impl From<Command> for Act {
    fn from(command: Command) -> Self {
        Self::Command(Box::new(command))
    }
}

/// Prices of one card, each a line of the file.
#[derive(Debug, Clone)]
pub struct ShortCard {
    name: RateCardName,
    currency: Currency,
    from: Instant,
    region: Region,
    prices: Vec<(Platform, hourglass_pricing::PurchaseModel, Price)>,
}

/// Usage of an instance.
#[derive(Debug, Clone)]
pub struct Use {
    instance: InstanceId,
    agent: AgentId,
    gpus: u32,
    interval: Interval,
    every_ms: i64,
    xid: Option<u32>,
}

/// A mistake in a file, with its place and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {message}")]
pub struct Fault {
    line: usize,
    column: usize,
    message: String,
}

impl Fault {
    fn new(line: usize, column: usize, message: impl Into<String>) -> Self {
        Self { line, column, message: message.into() }
    }
}
