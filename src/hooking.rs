//! Delivery of webhooks beside the cell, and what is told of it.

use std::sync::Arc;

use hourglass_consumers::api::{ApiConfig, Exposition};
use hourglass_consumers::hooks::{HookStatus, Hooks, deliver};

use crate::serving::Task;

/// Delivers until told to stop. What it does is among the metrics.
pub fn task(hooks: Hooks, api: &mut ApiConfig) -> Task {
    let hooks = Arc::new(hooks);
    api.webhooks = Some(Arc::clone(&hooks));
    let shown = Arc::clone(&hooks);
    api.exposers.push(Arc::new(move |text| expose(&shown.status, text)));
    Box::new(move |cell, mut stopped| {
        Box::pin(async move {
            let stop = async move {
                let _told = stopped.changed().await;
            };
            deliver(cell, hooks, stop).await;
            Ok(())
        })
    })
}

fn expose(status: &HookStatus, text: &mut Exposition) {
    text.counter(
        "hourglass_webhook_attempts_total",
        "Attempts to deliver a message by webhook.",
        &status.attempts,
    );
    text.counter(
        "hourglass_webhook_delivered_total",
        "Of them, those in which it was taken.",
        &status.delivered,
    );
    text.counter("hourglass_webhook_failed_total", "Of them, those in which it was not.", &status.failed);
    text.counter(
        "hourglass_webhook_given_up_total",
        "Messages that are not tried any more.",
        &status.given_up,
    );
    text.gauge("hourglass_webhook_endpoints", "Endpoints that are told.", &status.endpoints);
    text.gauge("hourglass_webhook_waiting", "Messages that wait for an attempt.", &status.waiting);
}
