//! What goes to standard error: the log, and the error that a command ends with.
//!
//! In JSON everything is one object a line, the last error too, so that whoever collects the lines need not know two forms.

use std::io::IsTerminal;

use clap::ValueEnum;
use serde_json::json;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use super::CommandError;

/// The client of ZooKeeper tells of every connection, what matters of that is logged where it is handled.
pub(super) const FILTER_DEFAULT: &str = "info,zookeeper_client=error";

/// What plugins say, and what goes wrong; that a change was taken over.
pub(super) const FILTER_DEV: &str = concat!(
    "warn,zookeeper_client=error,sluicegate::engine=info,sluicegate::worker::thread=info,",
    // What fails is shown with what comes out.
    "sluicegate::worker::thread::group=warn,sluicegate::worker::thread::failing=error,sluicegate::worker::thread::sending=off",
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

/// Starts logging.
///
/// # Errors
/// `filter` is none.
pub(super) fn start(filter: &str, format: LogFormat) -> Result<(), ParseError> {
    let filter = EnvFilter::builder().parse(filter)?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(colours()).with_target(false).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
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
