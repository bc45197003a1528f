//! The `log` facade over the host's log. Panic messages need nothing from here: they go to stderr, which the host captures.

use crate::host::{self, Level};
use std::cell::Cell;

thread_local! {
    /// The host's level, once something was logged in this call.
    static LEVEL: Cell<Option<log::LevelFilter>> = const { Cell::new(None) };
}

struct HostLog;

/// A call begins: the host may have changed its level.
#[inline]
pub(crate) fn begin_call() {
    LEVEL.set(None);
}

/// Makes the macros of `log` write to the host. Harmless when done before, or when a test has a logger of its own.
pub(crate) fn install() {
    if log::set_logger(&HostLog).is_ok() {
        log::set_max_level(log::LevelFilter::Trace);
    }
}

impl log::Log for HostLog {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        let level = LEVEL.get().unwrap_or_else(|| {
            let level = filter(host::log_level());
            LEVEL.set(Some(level));
            level
        });
        metadata.level() <= level
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            host::log(host_level(record.level()), record.target(), &record.args().to_string());
        }
    }

    fn flush(&self) {}
}

fn host_level(level: log::Level) -> Level {
    match level {
        log::Level::Error => Level::Error,
        log::Level::Warn => Level::Warn,
        log::Level::Info => Level::Info,
        log::Level::Debug => Level::Debug,
        log::Level::Trace => Level::Trace,
    }
}

fn filter(level: Level) -> log::LevelFilter {
    match level {
        Level::Trace => log::LevelFilter::Trace,
        Level::Debug => log::LevelFilter::Debug,
        Level::Info => log::LevelFilter::Info,
        Level::Warn => log::LevelFilter::Warn,
        #[cfg(target_family = "wasm")]
        Level::Critical => log::LevelFilter::Error,
        Level::Error => log::LevelFilter::Error,
    }
}
