//! The driver of spot units, as a task beside the servers.

use std::sync::Arc;

use hourglass_compute::client::Client;
use hourglass_consumers::compute::{DriverStatus, drive};

use crate::config::compute::ComputeSection;
use crate::failure::Failure;
use crate::serving::Task;

/// Drives through the compute API that a section names, until told to stop.
pub fn task(section: &ComputeSection) -> Result<Task, Failure> {
    let (client, options) = (section.client()?, section.driver()?);
    let url = section.url.clone();
    Ok(Box::new(move |cell, mut stopped| {
        Box::pin(async move {
            // It connects when it is first asked: a cloud that is away keeps no cell from serving.
            let client = Client::new(client).map_err(|error| Failure::Usage(error.to_string()))?;
            tracing::info!(url, "units of spot bids run through this compute API");
            let stop = async move {
                let _told = stopped.changed().await;
            };
            drive(cell, Arc::new(client), options, Arc::new(DriverStatus::default()), stop).await;
            Ok(())
        })
    }))
}
