//! A made-up month of a small region, the same for the same seed.

use hourglass_ledger::core::{Mode, Registration};
use hourglass_units::{AgentId, Currency, IdError, Instant, Interval};

use super::{Job, PricesFile, Workload};

/// Its region.
pub const REGION: &str = "demo";
/// Customers of the demonstration.
const TENANTS: [&str; 5] = ["acme-robotics", "blue-protein", "cobalt-vision", "delta-lm", "ember-games"];
/// Their projects.
const PROJECTS: [&str; 3] = ["training", "inference", "research"];
/// Platforms, with the GPUs of a node.
const PLATFORMS: [(&str, u32); 3] = [("gpu-h100-sxm", 8), ("gpu-h200-sxm", 8), ("gpu-l40s-pcie", 4)];
/// Nodes of each platform.
const NODES: u32 = 12;
/// Instances that each GPU node runs one after another, at the most.
const JOBS_A_NODE_MAX: u32 = 40;

/// Why there is no demonstration.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The built-in prices do not parse: a fault of ours.
    #[error("the built-in prices do not parse: {0}")]
    Prices(#[from] toml::de::Error),
    /// A built-in name is no id: a fault of ours.
    #[error(transparent)]
    Name(#[from] IdError),
    /// A built-in time is none: a fault of ours.
    #[error(transparent)]
    Time(#[from] hourglass_units::TimeError),
}

/// Makes up January 2026: on each node one instance after another, with pauses.
pub fn workload(seed: u64) -> Result<Workload, DemoError> {
    const HOUR_MS: i64 = 3_600_000;
    let prices: PricesFile = toml::from_str(include_str!("../../docs/examples/demo-prices.toml"))?;
    let opens_at: Instant = "2026-01-01T00:00:00Z".parse()?;
    let closes_at: Instant = "2026-02-01T00:00:00Z".parse()?;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut jobs = Vec::new();
    for (platform, gpus) in PLATFORMS {
        for node in 0..NODES {
            let agent = format!("{platform}-{node:02}");
            let mut free_from = opens_at.saturating_add_ms(random.i64(0..24 * HOUR_MS));
            for number in 0..JOBS_A_NODE_MAX {
                let length = random.i64(60_000..60 * HOUR_MS);
                let Some(ran) =
                    Interval::between(free_from, free_from.saturating_add_ms(length).min(closes_at))
                else {
                    break;
                };
                let spot = random.u8(..3) == 0;
                let agent: AgentId = agent.parse()?;
                let instance = Registration {
                    instance: format!("{agent}-{number:02}").parse()?,
                    tenant: random.choice(TENANTS).unwrap_or_default().parse()?,
                    project: random.choice(PROJECTS).unwrap_or_default().parse()?,
                    platform: platform.parse()?,
                    mode: if spot { Mode::SPOT } else { Mode::OnDemand },
                    gpus,
                    agent: Some(agent.clone()),
                    hold: None,
                    fabric: None,
                };
                jobs.push(Job { instance, agent, ran });
                free_from = ran.end().saturating_add_ms(random.i64(0..8 * HOUR_MS));
            }
        }
    }
    let tenants = TENANTS.iter().map(|tenant| tenant.parse()).collect::<Result<_, _>>()?;
    Ok(Workload { region: REGION.parse()?, opens_at, tenants, currency: Currency::USD, prices, jobs })
}
