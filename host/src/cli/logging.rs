//! What goes to standard error: the log, and the error that a command ends with.
//!
//! In JSON everything is one object a line, the last error too, so that whoever collects the lines need not know two forms.

use std::io::IsTerminal;

use clap::ValueEnum;
use serde_json::json;
use tracing_subscriber::filter::{EnvFilter, FilterExt, LevelFilter, dynamic_filter_fn};
use tracing_subscriber::layer::{Filter, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use super::CommandError;
#[cfg(feature = "otlp")]
use super::telemetry::Telemetry;

/// The client of ZooKeeper tells of every connection, what matters of that is logged where it is handled.
pub(super) const FILTER_DEFAULT: &str = "info,zookeeper_client=error";

/// What plugins say, and what goes wrong.
pub(super) const FILTER_DEV: &str = concat!(
    "warn,zookeeper_client=error,sluicegate::engine=info,",
    // What fails is shown with what comes out, and how the pipeline and its swaps are is told by the command itself.
    "sluicegate::worker::thread::failing=error,sluicegate::worker::thread::sending=off,",
    "sluicegate::worker::thread::switching=error,sluicegate::node::hosted=off,sluicegate::node::trial=off",
);

/// In which form.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(super) enum LogFormat {
    /// For people, coloured on a terminal
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

/// Sends what is left to be sent when it is dropped.
pub(super) struct Logging {
    #[cfg(feature = "otlp")]
    telemetry: Option<Telemetry>,
}

#[cfg(feature = "otlp")]
impl Drop for Logging {
    fn drop(&mut self) {
        if let Some(telemetry) = self.telemetry.take() {
            telemetry.end();
        }
    }
}

/// Starts logging; to the collector at `endpoint` too, if there is one.
pub(super) fn start(filter: &str, format: LogFormat, endpoint: Option<&str>) -> Result<Logging, CommandError> {
    let parse = || {
        EnvFilter::builder().parse(filter).map_err(|error| {
            let help = "write a level (error, warn, info, debug, trace) or `target=level`";
            CommandError::BadInput(format!("`{filter}` is no log filter: {error}\n  {help}"))
        })
    };
    let events = events_of(parse()?);
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let log = match format {
        LogFormat::Text => log.with_ansi(colours()).with_target(false).boxed(),
        LogFormat::Json => log.json().flatten_event(true).boxed(),
    };
    let registry = tracing_subscriber::registry().with(log.with_filter(events));
    #[cfg(feature = "otlp")]
    {
        let telemetry = endpoint.map(Telemetry::new).transpose();
        let telemetry = telemetry.map_err(|error| {
            CommandError::BadInput(format!("no telemetry to {}: {error}", endpoint.unwrap_or_default()))
        })?;
        // No layer at all where there is none to be: an empty one would keep every callsite alive.
        match &telemetry {
            Some(telemetry) => registry.with(telemetry.layers(events_of(parse()?))).init(),
            None => registry.init(),
        }
        Ok(Logging { telemetry })
    }
    #[cfg(not(feature = "otlp"))]
    {
        let _ = endpoint;
        registry.init();
        Ok(Logging {})
    }
}

/// What of `filter` is an event: spans are for traces. It says itself which levels it lets through, so that nothing else is
/// evaluated anywhere, and plugins and librdkafka are not asked for more.
fn events_of<S>(filter: EnvFilter) -> impl Filter<S> {
    let hint = filter.max_level_hint().unwrap_or(LevelFilter::TRACE);
    // Asked anew for each event: somebody who asks what is enabled, and then logs nothing, as rdkafka does, leaves an answer behind
    // that would be taken for that of the next event.
    filter.and(dynamic_filter_fn(|metadata, _| metadata.is_event()).with_max_level_hint(hint))
}

/// Where processes that run for long send what they do.
#[derive(clap::Args, Debug)]
pub(super) struct TelemetryArgs {
    /// Send traces and logs to this OpenTelemetry collector, by OTLP over HTTP
    #[cfg(feature = "otlp")]
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_parser = endpoint)]
    otlp_endpoint: Option<String>,
}

impl TelemetryArgs {
    pub(super) fn endpoint(&self) -> Option<&str> {
        #[cfg(feature = "otlp")]
        return self.otlp_endpoint.as_deref().filter(|endpoint| !endpoint.is_empty());
        #[cfg(not(feature = "otlp"))]
        None
    }
}

/// An address of a collector; empty for none, as variables of OpenTelemetry may be.
#[cfg(feature = "otlp")]
fn endpoint(text: &str) -> Result<String, String> {
    let is_address = |rest: &str| !rest.trim_end_matches('/').is_empty() && text.parse::<axum::http::Uri>().is_ok();
    match text.strip_prefix("http://") {
        Some(rest) if is_address(rest) => Ok(text.to_owned()),
        None if text.is_empty() => Ok(String::new()),
        None if text.starts_with("https://") => {
            Err("TLS to collectors is not spoken: name one on this machine, like http://localhost:4318".to_owned())
        }
        _ => Err("write an address like http://localhost:4318".to_owned()),
    }
}

fn colours() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Shows the error that a command ends with.
pub(super) fn show(error: &CommandError, format: LogFormat) {
    match (error, format) {
        (CommandError::Unread, _) => {}
        (CommandError::Config(errors), LogFormat::Text) => {
            for (index, errors) in errors.iter().enumerate() {
                if index > 0 {
                    eprintln!();
                }
                errors.report();
            }
        }
        (CommandError::BadInput(message) | CommandError::Failed(message), LogFormat::Text) => {
            eprintln!("error: {message}");
        }
        (CommandError::Config(errors), LogFormat::Json) => errors.iter().for_each(|errors| line(&errors.to_string())),
        (CommandError::BadInput(message) | CommandError::Failed(message), LogFormat::Json) => line(message),
    }
}

/// Past the filter: why a process ends is told whatever it logs.
fn line(message: &str) {
    let at = jiff::Timestamp::now().to_string();
    eprintln!("{}", json!({ "timestamp": at, "level": "ERROR", "message": message, "target": "sluicegate" }));
}

#[cfg(test)]
mod tests {
    use tracing::Subscriber;

    use super::*;

    #[test]
    fn what_is_not_logged_is_not_evaluated_anywhere() {
        for (filter, level) in [("warn", LevelFilter::WARN), ("info,sluicegate::worker=debug", LevelFilter::DEBUG)] {
            let filter = events_of(EnvFilter::builder().parse(filter).unwrap());
            let log = tracing_subscriber::fmt::layer().with_filter(filter);
            assert_eq!(tracing_subscriber::registry().with(log).max_level_hint(), Some(level));
        }
    }
}
