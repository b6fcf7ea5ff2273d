//! What Prometheus scrapes.
//!
//! Each router has a recorder of its own and installs none: two cells in one process, or two tests,
//! do not meet.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::http::StatusCode;
use hourglass_ledger::cell::CellStatus;
use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

/// The media type of the answer.
pub(super) const METRICS_MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

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
            describe_counter!("hourglass_commits_total", Unit::Count, "Commits done.");
            describe_counter!("hourglass_commit_failures_total", Unit::Count, "Commits that failed.");
            describe_counter!("hourglass_events_total", Unit::Count, "Events committed.");
            describe_counter!("hourglass_event_bytes_total", Unit::Bytes, "Bytes of events committed.");
            describe_gauge!("hourglass_log_position", "Last committed log position.");
            describe_gauge!("hourglass_writer_epoch", "Epoch of this writer.");
            describe_gauge!("hourglass_writable", "1 while the cell can write.");
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
    pub(super) fn render(&self, status: &CellStatus) -> String {
        let commits = status.commits.load(Ordering::Relaxed);
        metrics::with_local_recorder(&self.recorder, || {
            counter!("hourglass_commits_total").absolute(commits);
            counter!("hourglass_commit_failures_total")
                .absolute(status.commit_failures.load(Ordering::Relaxed));
            counter!("hourglass_events_total").absolute(status.events.load(Ordering::Relaxed));
            counter!("hourglass_event_bytes_total").absolute(status.event_bytes.load(Ordering::Relaxed));
            gauge!("hourglass_log_position").set(shown(status.position.load(Ordering::Relaxed)));
            gauge!("hourglass_writer_epoch").set(shown(status.epoch.load(Ordering::Relaxed)));
            gauge!("hourglass_writable").set(shown(status.writable.load(Ordering::Relaxed)));
        });
        // A sum of seconds without its buckets: the recorder has no such kind, so it is written here.
        let micros = status.commit_micros.load(Ordering::Relaxed);
        let seconds = Duration::from_micros(micros);
        format!(
            "{}# HELP hourglass_commit_duration_seconds Time spent committing.\n\
             # TYPE hourglass_commit_duration_seconds summary\n\
             hourglass_commit_duration_seconds_sum {}.{:06}\n\
             hourglass_commit_duration_seconds_count {commits}\n",
            self.handle.render(),
            seconds.as_secs(),
            seconds.subsec_micros(),
        )
    }
}

/// Gauges are floats in Prometheus: exact up to 2^53.
#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge is read by people and alerts, never added to an amount"
)]
fn shown(number: u64) -> f64 {
    number as f64
}
