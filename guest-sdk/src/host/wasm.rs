//! The generated imports, under the names that the rest of the SDK uses.

use crate::bindings::sluicegate::transform;
use crate::bindings::wasi::logging::logging;

pub(crate) use transform::context::{inputs, log_level, now, task};
pub(crate) use transform::input::Batch;
pub(crate) use transform::output::{Outlet, Records, reject};
pub(crate) use transform::state::{Page, Store};
pub(crate) use transform::types::{Column, Headers};

/// How important a message is.
pub(crate) use logging::Level;

/// Writes a message to the host's log.
pub(crate) fn log(level: Level, context: &str, message: &str) {
    logging::log(level, context, message);
}

impl Default for Column {
    fn default() -> Self {
        Self { bytes: Vec::new(), lengths: Vec::new() }
    }
}
