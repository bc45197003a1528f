//! Traces and logs for an OpenTelemetry collector, by OTLP over HTTP.
//!
//! What is traced are the spans of this crate; what is logged goes there by the same filter as to standard error. Both are sent in
//! batches by threads of their own: a collector that is slow or away costs records, never a commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{ExporterBuildError, LogExporter, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::SdkLoggerProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Level, Metadata, Subscriber, info, warn};
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::layer::{Filter, Layer};
use tracing_subscriber::registry::LookupSpan;

/// Longer than this a collector is not waited for, neither while the program runs nor at its end.
const ANSWER_WAIT: Duration = Duration::from_secs(3);
/// Ours; a service that the environment names goes over it.
const SERVICE: &str = "sluicegate";

/// What collects, and sends the rest of it at the end.
pub(super) struct Telemetry {
    traces: SdkTracerProvider,
    logs: SdkLoggerProvider,
}

impl Telemetry {
    /// For the collector at `endpoint`.
    pub(super) fn new(endpoint: &str) -> Result<Self, ExporterBuildError> {
        let base = endpoint.trim_end_matches('/');
        let is_failing = Arc::new(AtomicBool::new(false));
        let client = || Client { agent: agent(), endpoint: endpoint.to_owned(), is_failing: Arc::clone(&is_failing) };
        let spans = SpanExporter::builder().with_http().with_http_client(client());
        let logs = LogExporter::builder().with_http().with_http_client(client());
        let (spans, logs) =
            (spans.with_endpoint(format!("{base}/v1/traces")), logs.with_endpoint(format!("{base}/v1/logs")));
        let resource = resource();
        Ok(Self {
            traces: SdkTracerProvider::builder()
                .with_resource(resource.clone())
                .with_batch_exporter(spans.build()?)
                .build(),
            logs: SdkLoggerProvider::builder().with_resource(resource).with_batch_exporter(logs.build()?).build(),
        })
    }

    /// What takes this crate's spans, and what `filter` lets through.
    pub(super) fn layers<S, F>(&self, filter: F) -> impl Layer<S> + use<S, F>
    where
        F: Filter<S> + 'static,
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let ours = |metadata: &Metadata<'_>| {
            metadata.is_span() && *metadata.level() <= Level::INFO && metadata.target().starts_with(SERVICE)
        };
        let spans = tracing_opentelemetry::layer()
            .with_tracer(self.traces.tracer(SERVICE))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(ours).with_max_level_hint(LevelFilter::INFO));
        spans.and_then(OpenTelemetryTracingBridge::new(&self.logs).with_filter(filter))
    }

    /// Sends what is left.
    pub(super) fn end(self) {
        // Both at once; what does not get there has been said, by `Client`.
        std::thread::scope(|scope| {
            scope.spawn(|| self.traces.shutdown_with_timeout(ANSWER_WAIT));
            let _ = self.logs.shutdown_with_timeout(ANSWER_WAIT);
        });
    }
}

fn resource() -> Resource {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let attributes = variable("OTEL_RESOURCE_ATTRIBUTES");
    // What the environment says goes over what is said here.
    let is_said = |key: &str| {
        let of_service = key == "service.name" && !variable("OTEL_SERVICE_NAME").is_empty();
        of_service || attributes.split(',').any(|it| it.split_once('=').is_some_and(|(name, _)| name.trim() == key))
    };
    let host = gethostname::gethostname().to_string_lossy().into_owned();
    let own = [
        KeyValue::new("service.name", SERVICE),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("host.name", host),
        KeyValue::new("process.pid", i64::from(std::process::id())),
    ];
    let own = own.into_iter().filter(|attribute| !is_said(attribute.key.as_str()));
    Resource::builder().with_attributes(own).build()
}

fn agent() -> ureq::Agent {
    // A neighbour is not asked for by way of a proxy.
    ureq::Agent::config_builder()
        .proxy(None)
        .http_status_as_error(false)
        .timeout_global(Some(ANSWER_WAIT))
        .build()
        .into()
}

/// Posts to the collector. It is called by the exporters' own threads, which may block.
#[derive(Debug)]
struct Client {
    agent: ureq::Agent,
    endpoint: String,
    /// Of traces and logs together.
    is_failing: Arc<AtomicBool>,
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let sent = self.agent.run(ureq::http::Request::from_parts(parts, Vec::from(body)));
        let answer = sent.map_err(|error| error.to_string()).and_then(|answer| {
            let status = answer.status();
            if status.is_success() { Ok(answer) } else { Err(format!("it answers with {status}")) }
        });
        match answer {
            Ok(mut answer) => {
                if self.is_failing.swap(false, Ordering::Relaxed) {
                    info!(collector = self.endpoint, "traces and logs reach the collector again");
                }
                let body = Bytes::from(answer.body_mut().read_to_vec()?);
                Ok(answer.map(|_| body))
            }
            Err(error) => {
                // Once: what is lost meanwhile is lost, and every batch would say so again.
                if !self.is_failing.swap(true, Ordering::Relaxed) {
                    warn!(collector = self.endpoint, "traces and logs do not reach the collector: {error}");
                }
                Err(error.into())
            }
        }
    }
}
