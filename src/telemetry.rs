//! Logs on stderr, and traces by OpenTelemetry where somebody collects them.
//!
//! Traces leave as OTLP over HTTP when `OTEL_EXPORTER_OTLP_ENDPOINT` (or its `…_TRACES_…` form) names a
//! collector, as the OpenTelemetry specification has it; its other variables hold too. Without it
//! nothing is made and nothing is sent.

use std::io::IsTerminal;
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// What the specification names to switch traces on.
const ENDPOINT_VARIABLES: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];
/// How long a collector may take.
const COLLECTOR_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest answer of a collector that is read.
const COLLECTOR_ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Ends the export of traces in good order when it is dropped.
pub struct Telemetry(Option<SdkTracerProvider>);

/// Starts logging, warnings and worse unless `HOURGLASS_LOG` says otherwise, and traces where wanted.
pub fn start() -> Telemetry {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::WARN.into())
        .with_env_var("HOURGLASS_LOG")
        .from_env_lossy();
    // Colours are for people, and for those who want them (no-color.org).
    let plain = std::env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty());
    let colours = !plain && std::io::stderr().is_terminal();
    let logs =
        tracing_subscriber::fmt::layer().with_ansi(colours).with_writer(std::io::stderr).with_filter(filter);
    let wanted = ENDPOINT_VARIABLES
        .iter()
        .any(|variable| std::env::var_os(variable).is_some_and(|endpoint| !endpoint.is_empty()));
    let provider = if wanted { traces() } else { Ok(None) };
    // Our own spans only: those of the exporter's connection would beget more.
    let ours = || Targets::new().with_target("hourglass", LevelFilter::INFO);
    let spans = provider.as_ref().ok().and_then(Option::as_ref).map(|provider| {
        let tracer = provider.tracer("hourglass");
        tracing_opentelemetry::layer().with_tracer(tracer).with_filter(ours())
    });
    tracing_subscriber::registry().with(logs).with(spans).init();
    Telemetry(provider.unwrap_or_else(|error| {
        tracing::warn!(error, "no traces are sent: look at the OTEL_… variables");
        None
    }))
}

fn traces() -> Result<Option<SdkTracerProvider>, String> {
    let exporter = SpanExporter::builder().with_http().with_http_client(Collector::new()).build();
    let exporter = exporter.map_err(|error| error.to_string())?;
    let resource = Resource::builder().with_service_name("hourglass").build();
    Ok(Some(SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build()))
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(provider) = &self.0 {
            let _last_spans_are_sent = provider.shutdown();
        }
    }
}

/// Posts spans. It blocks: the exporter has a thread of its own.
#[derive(Debug)]
struct Collector(ureq::Agent);

impl Collector {
    fn new() -> Self {
        let config = ureq::Agent::config_builder();
        Self(config.timeout_global(Some(COLLECTOR_TIMEOUT)).http_status_as_error(false).build().new_agent())
    }
}

#[async_trait::async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let answer = self.0.run(Request::from_parts(parts, body.to_vec()))?;
        let (parts, mut body) = answer.into_parts();
        let body = body.with_config().limit(COLLECTOR_ANSWER_BYTES_MAX).read_to_vec()?;
        Ok(Response::from_parts(parts, body.into()))
    }
}
