//! NATS beside a production cell: usage comes in, feeds go out.

use std::sync::Arc;

use hourglass_consumers::api::{Exposer, Exposition};
use hourglass_consumers::feed::{self, FeedOptions, FeedStatus};
use hourglass_consumers::nats::{self, NatsOptions};
use hourglass_consumers::usage::jetstream::{ConsumerOptions, ConsumerStatus, consume};
use hourglass_ledger::cell::CellHandle;
use hourglass_proto::subjects::Subjects;
use hourglass_units::Region;
use tokio::sync::watch;

use crate::config::production::NatsSection;
use crate::failure::Failure;

/// What the settings say of NATS, and how its parts do.
pub struct Transport {
    nats: NatsOptions,
    consumer: ConsumerOptions,
    consumer_status: Arc<ConsumerStatus>,
    feed: FeedOptions,
    feed_status: Arc<FeedStatus>,
}

impl Transport {
    /// Reads the settings, secrets included.
    pub fn new(section: &NatsSection, region: &Region, holder: &str) -> Result<Self, Failure> {
        let subjects = Subjects::of_region(region.as_str());
        let mut consumer = ConsumerOptions::new(subjects.clone(), section.partition);
        consumer.stream = section.usage_limits();
        #[cfg(debug_assertions)]
        {
            consumer.planted_fault = hourglass_consumers::usage::jetstream::PlantedFault::from_environment();
        }
        let mut feed = FeedOptions::new(subjects);
        feed.stream = section.feed_limits();
        Ok(Self {
            nats: section.options(&format!("hourglass {region} {holder}"))?,
            consumer,
            consumer_status: Arc::default(),
            feed,
            feed_status: Arc::default(),
        })
    }

    /// Writes the metrics of what runs here.
    pub fn exposer(&self) -> Arc<Exposer> {
        let consumer = Arc::clone(&self.consumer_status);
        let feed = Arc::clone(&self.feed_status);
        Arc::new(move |text| {
            expose_consumer(&consumer, text);
            expose_feed(&feed, text);
        })
    }

    /// Runs until told to stop, whether NATS is there or not.
    pub async fn run(self, cell: CellHandle, stopped: watch::Receiver<bool>) -> Result<(), Failure> {
        let nats = nats::connect(&self.nats).await.map_err(|error| Failure::Usage(error.to_string()))?;
        let until = |mut stopped: watch::Receiver<bool>| async move {
            let _told = stopped.changed().await;
        };
        tokio::join!(
            feed::publish(nats.clone(), cell.clone(), self.feed, self.feed_status, until(stopped.clone())),
            consume(nats, cell, self.consumer, self.consumer_status, until(stopped)),
        );
        Ok(())
    }
}

fn expose_consumer(status: &ConsumerStatus, text: &mut Exposition) {
    text.counter(
        "hourglass_usage_messages_total",
        "Usage messages received, repeats included.",
        &status.messages,
    );
    text.counter(
        "hourglass_usage_messages_redelivered_total",
        "Usage messages that the server had sent before.",
        &status.redelivered,
    );
    text.counter(
        "hourglass_usage_messages_acknowledged_total",
        "Usage messages whose content is committed.",
        &status.acknowledged,
    );
    text.counter(
        "hourglass_usage_messages_given_back_total",
        "Usage messages given back, to come again.",
        &status.given_back,
    );
    text.counter(
        "hourglass_usage_messages_quarantined_total",
        "Usage messages given to quarantine.",
        &status.quarantined,
    );
    text.counter("hourglass_watermarks_total", "Watermarks published to agents.", &status.watermarks);
    text.gauge(
        "hourglass_usage_in_flight_messages",
        "Usage messages that wait for their commit.",
        &status.in_flight,
    );
    text.gauge("hourglass_usage_in_flight_bytes", "Bytes of these.", &status.in_flight_bytes);
    text.gauge(
        "hourglass_usage_lag_messages",
        "Usage messages in the stream that were not delivered yet.",
        &status.pending,
    );
}

fn expose_feed(status: &FeedStatus, text: &mut Exposition) {
    text.counter("hourglass_feed_messages_total", "Messages of the feed published.", &status.published);
    text.counter("hourglass_feed_failures_total", "Attempts to publish that failed.", &status.failures);
    text.gauge("hourglass_feed_cursor_position", "Log position up to which the feed is out.", &status.cursor);
    text.gauge("hourglass_feed_lag_positions", "Log positions that the feed is behind.", &status.lag);
}
