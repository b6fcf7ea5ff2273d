//! Where units of spot bids run, and the driver that runs them there, as a task beside the servers.

mod simulator;

use std::sync::Arc;

use hourglass_compute::client::Client;
use hourglass_consumers::api::{ApiConfig, Exposition};
use hourglass_consumers::compute::{DriverStatus, drive};

pub use simulator::Simulator;

use crate::config::compute::ComputeSection;
use crate::failure::Failure;
use crate::serving::Task;

/// The word that stands for a simulated cloud in place of a URL.
const SIMULATOR: &str = "simulator";

/// Where units of spot bids run.
#[derive(Debug, clap::Args)]
pub struct ComputeArgs {
    /// The compute API that runs the units of spot bids: its URL, or `simulator` for a simulated cloud that lives as
    /// long as this process [default: that of `[compute]` in the settings file; where there is none `demo` has a
    /// simulator, and nothing is driven elsewhere]
    #[arg(long, value_name = "URL", env = "HOURGLASS_COMPUTE")]
    compute: Option<String>,
}

/// What is driven.
#[derive(Debug)]
pub enum Cloud {
    /// A simulator of our own.
    Simulator,
    /// The compute API of a section.
    At(Box<ComputeSection>),
}

impl ComputeArgs {
    /// The flag lies over the section. `None` where nothing is driven.
    pub fn cloud(self, section: Option<&ComputeSection>) -> Option<Cloud> {
        let section = match self.compute {
            Some(url) => section.cloned().unwrap_or_default().at(url),
            None => section.cloned()?,
        };
        Some(if section.url == SIMULATOR { Cloud::Simulator } else { Cloud::At(Box::new(section)) })
    }
}

/// Drives through the compute API that a section names, until told to stop. What it does is among the metrics.
pub fn task(section: &ComputeSection, api: &mut ApiConfig) -> Result<Task, Failure> {
    let (client, options) = (section.client()?, section.driver()?);
    let status = Arc::new(DriverStatus::default());
    let shown = Arc::clone(&status);
    api.exposers.push(Arc::new(move |text| expose(&shown, text)));
    let url = section.url.clone();
    Ok(Box::new(move |cell, mut stopped| {
        Box::pin(async move {
            // It connects when it is first asked: a cloud that is away keeps no cell from serving.
            let client = Client::new(client).map_err(|error| Failure::Usage(error.to_string()))?;
            tracing::info!(url, "units of spot bids run through this compute API");
            let stop = async move {
                let _told = stopped.changed().await;
            };
            drive(cell, Arc::new(client), options, status, stop).await;
            Ok(())
        })
    }))
}

fn expose(status: &DriverStatus, text: &mut Exposition) {
    text.counter(
        "hourglass_compute_calls_total",
        "Calls to the compute API that were to change something.",
        &status.calls,
    );
    text.counter("hourglass_compute_refused_total", "Of them, those that it refused.", &status.refused);
    text.counter(
        "hourglass_compute_unanswered_total",
        "Calls and questions without an answer that makes sense.",
        &status.unanswered,
    );
    text.counter("hourglass_compute_listings_total", "Complete listings of instances.", &status.listings);
    text.counter(
        "hourglass_compute_strays_total",
        "Instances under names of units that were none, told to stop or to go.",
        &status.strays,
    );
    text.gauge(
        "hourglass_compute_capacity_read_timestamp_seconds",
        "When it last said of all pools that ask it what they have; 0 for never.",
        &status.capacity_read_at,
    );
}
