//! What Prometheus scrapes.
//!
//! Each router has a recorder of its own and installs none: two cells in one process, or two tests,
//! do not meet. The cell and the consumers count in atomics of their own, which [`Exposition`] writes
//! out when somebody asks.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::StatusCode;
use hourglass_ledger::cell::{COMMIT_EVENTS, COMMIT_MICROSECONDS, CellStatus};
use metrics::{Unit, counter, describe_counter};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

/// The media type of the answer.
pub(super) const METRICS_MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Writes metrics of its own when Prometheus asks.
pub type Exposer = dyn Fn(&mut Exposition) + Send + Sync;

pub(super) struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            describe_counter!(
                "hourglass_http_requests_total",
                Unit::Count,
                "HTTP requests, by method, route and status."
            );
        });
        Self { recorder, handle }
    }

    pub(super) fn count_request(&self, method: &'static str, route: &str, status: StatusCode) {
        metrics::with_local_recorder(&self.recorder, || {
            let labels = [
                ("method", method.to_owned()),
                ("route", route.to_owned()),
                ("status", status.as_str().to_owned()),
            ];
            counter!("hourglass_http_requests_total", &labels).increment(1);
        });
    }

    /// The exposition text.
    pub(super) fn render(&self, status: &CellStatus, more: &[Arc<Exposer>]) -> String {
        let mut text = Exposition(self.handle.render());
        expose_cell(status, &mut text);
        more.iter().for_each(|more| more(&mut text));
        text.0
    }
}

/// The text format of Prometheus, one family after the other.
pub struct Exposition(String);

impl Exposition {
    /// A number that only grows. The name ends in `_total`.
    pub fn counter(&mut self, name: &str, help: &str, value: &AtomicU64) {
        self.family(name, "counter", help);
        self.line(format_args!("{name} {}", value.load(Ordering::Relaxed)));
    }

    /// A number that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str, value: &AtomicU64) {
        self.family(name, "gauge", help);
        self.line(format_args!("{name} {}", value.load(Ordering::Relaxed)));
    }

    /// How often a number fell below each bound. Bounds and sum are given as they are to be shown.
    fn histogram(&mut self, name: &str, help: &str, bounds: &[String], counts: &[u64], sum: &str) {
        self.family(name, "histogram", help);
        let mut below = 0_u64;
        let bounds = bounds.iter().map(String::as_str).chain(["+Inf"]);
        for (bound, count) in bounds.zip(counts) {
            below = below.saturating_add(*count);
            self.line(format_args!("{name}_bucket{{le=\"{bound}\"}} {below}"));
        }
        self.line(format_args!("{name}_sum {sum}"));
        self.line(format_args!("{name}_count {below}"));
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _written = writeln!(self.0, "{line}");
    }
}

fn expose_cell(status: &CellStatus, text: &mut Exposition) {
    text.counter("hourglass_commits_total", "Commits of events.", &status.commits);
    text.counter("hourglass_commit_failures_total", "Commits that failed.", &status.commit_failures);
    text.counter("hourglass_events_total", "Events committed.", &status.events);
    text.counter("hourglass_event_bytes_total", "Bytes of events committed.", &status.event_bytes);
    text.histogram(
        "hourglass_commit_duration_seconds",
        "How long commits of events took.",
        &COMMIT_MICROSECONDS.map(seconds),
        &status.commit_micros.counts(),
        &seconds(status.commit_micros.sum()),
    );
    text.histogram(
        "hourglass_commit_events",
        "Events that a commit held.",
        &COMMIT_EVENTS.map(|events| events.to_string()),
        &status.commit_events.counts(),
        &status.commit_events.sum().to_string(),
    );
    text.gauge(
        "hourglass_log_position",
        "Last log position that is committed, or followed.",
        &status.position,
    );
    text.gauge("hourglass_writer_epoch", "Epoch of this writer, 0 before its first.", &status.epoch);
    text.gauge("hourglass_writable", "1 while this process writes.", &status.writable);
    text.gauge("hourglass_instances", "Instances that are registered.", &status.instances);
    text.gauge(
        "hourglass_suspense_instances",
        "Instances that nobody registered, whose usage waits.",
        &status.suspense_instances,
    );
    text.counter(
        "hourglass_usage_records_total",
        "Usage records in the log, repeats included.",
        &status.usage_records,
    );
    text.counter(
        "hourglass_quarantined_records_total",
        "Records of accepted batches that broke the contract.",
        &status.quarantined_records,
    );
    text.counter(
        "hourglass_quarantined_messages_total",
        "Messages that could not be read at all.",
        &status.quarantined_messages,
    );
}

/// Microseconds as seconds, exactly.
fn seconds(micros: u64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}
