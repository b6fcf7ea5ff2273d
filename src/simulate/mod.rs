//! A region at speed: customers' jobs become instances, agents report them, time passes, months end.
//!
//! A [`Workload`] says what ran when; the [`driver`] plays it against a cell exactly as a compute
//! service, agents and a clock would, at the workload's own times. [`openb`] reads a workload from a
//! public GPU trace, [`demo`] makes one up, and [`live`] goes on from there by the real clock. A [`scenario`] is a file of
//! steps with the results that they must have.

pub mod demo;
pub mod driver;
pub mod live;
pub mod openb;
pub mod scenario;

use std::path::Path;

use hourglass_ledger::core::Registration;
use hourglass_pricing::{ContractDraft, RateCardDraft};
use hourglass_units::{AgentId, Currency, Instant, Interval, RateCardName, Region, TenantId};
use serde::Deserialize;

use crate::failure::Failure;

/// What is to be played.
pub struct Workload {
    /// The region.
    pub region: Region,
    /// When the region opens.
    pub opens_at: Instant,
    /// Customers, all billed in one currency.
    pub tenants: Vec<TenantId>,
    /// In which they are billed.
    pub currency: Currency,
    /// Prices.
    pub prices: PricesFile,
    /// What ran.
    pub jobs: Vec<Job>,
}

/// One instance, from its start to its stop.
#[derive(Debug, Clone)]
pub struct Job {
    /// What is said of it when it is made known.
    pub instance: Registration,
    /// The agent of its node.
    pub agent: AgentId,
    /// When it ran.
    pub ran: Interval,
}

impl Job {
    /// GPU-milliseconds that it used.
    pub fn gpu_ms(&self) -> i128 {
        i128::from(self.ran.milliseconds()).saturating_mul(i128::from(self.instance.gpus))
    }
}

/// A file of prices: rate cards, and contracts with their tenants.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PricesFile {
    /// Rate cards, in the order in which they are published.
    pub cards: Vec<RateCardDraft>,
    /// Contracts, in the order in which they are signed.
    #[serde(default)]
    pub contracts: Vec<TenantContract>,
}

impl PricesFile {
    /// Reads a file of prices, or one of a single rate card: JSON where its name ends so, else TOML.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let wrong = |error: &dyn std::fmt::Display| Failure::Usage(format!("{}: {error}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
        let one_card = |card: RateCardDraft| Self { cards: vec![card], contracts: Vec::new() };
        // The shape is looked at first, so that a mistake is told of the shape that was meant.
        if path.extension().is_some_and(|extension| extension == "json") {
            let shape: serde_json::Value = serde_json::from_str(&text).map_err(|error| wrong(&error))?;
            match shape.get("cards") {
                Some(_) => serde_json::from_str(&text),
                None => serde_json::from_str(&text).map(one_card),
            }
            .map_err(|error| wrong(&error))
        } else {
            let shape: toml::Table = toml::from_str(&text).map_err(|error| wrong(&error))?;
            match shape.get("cards") {
                Some(_) => toml::from_str(&text),
                None => toml::from_str(&text).map(one_card),
            }
            .map_err(|error| wrong(&error))
        }
    }
}

/// A contract and whose it is.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantContract {
    tenant: TenantId,
    name: RateCardName,
    version: u32,
    effective_from: Instant,
    effective_until: Option<Instant>,
    #[serde(default)]
    prices: Vec<hourglass_pricing::PriceDraft>,
    #[serde(default)]
    terms: hourglass_pricing::terms::Terms,
}

impl TenantContract {
    /// The tenant and the draft.
    pub fn parts(self) -> (TenantId, ContractDraft) {
        let Self { tenant, name, version, effective_from, effective_until, prices, terms } = self;
        (tenant, ContractDraft { name, version, effective_from, effective_until, prices, terms })
    }
}
