//! The interface's types as wasmtime lifts and lowers them.
//!
//! What goes to the guest lies behind an `Arc`, so that a host function can return it without copying and the buffer
//! comes back after the call; what comes from the guest is read in place in its memory. Columns of a guest are checked
//! where they are copied ([`super::emission`], `host::state`), not here.

use std::sync::Arc;

use wasmtime::component::{ComponentType, Lift, Lower, WasmList};

use crate::record::{Column, Run};

/// A column on its way to the guest.
#[derive(ComponentType, Lower, Debug, Default)]
#[component(record)]
pub(super) struct ColumnOut {
    pub(super) bytes: Vec<u8>,
    pub(super) lengths: Vec<i32>,
}

impl ColumnOut {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.lengths.clear();
    }

    /// Swaps contents with a column: buffers change places, nothing is copied.
    pub(super) fn swap(&mut self, column: &mut Column) {
        std::mem::swap(&mut self.bytes, &mut column.bytes);
        std::mem::swap(&mut self.lengths, &mut column.lengths);
    }
}

impl From<Column> for ColumnOut {
    fn from(column: Column) -> Self {
        Self { bytes: column.bytes, lengths: column.lengths }
    }
}

/// Headers on their way to the guest.
#[derive(ComponentType, Lower, Debug, Default)]
#[component(record)]
pub(super) struct HeadersOut {
    pub(super) counts: Vec<i32>,
    pub(super) names: ColumnOut,
    pub(super) values: ColumnOut,
}

/// A page of a scan on its way to the guest.
#[derive(ComponentType, Lower)]
#[component(record)]
pub(super) struct PageOut {
    pub(super) keys: ColumnOut,
    pub(super) values: ColumnOut,
    pub(super) more: bool,
}

/// `input.run`.
#[derive(ComponentType, Lower, Clone, Copy)]
#[component(record)]
pub(super) struct RunOut {
    input: u32,
    partition: i32,
    count: u32,
}

impl From<Run> for RunOut {
    fn from(run: Run) -> Self {
        Self { input: run.input, partition: run.partition, count: run.count }
    }
}

/// A column in the guest's memory.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct ColumnIn {
    pub(super) bytes: WasmList<u8>,
    pub(super) lengths: WasmList<i32>,
}

/// Headers in the guest's memory.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct HeadersIn {
    pub(super) counts: WasmList<i32>,
    pub(super) names: ColumnIn,
    pub(super) values: ColumnIn,
}

/// `output.records` in the guest's memory.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct RecordsIn {
    pub(super) causes: Option<WasmList<u32>>,
    pub(super) keys: Option<ColumnIn>,
    pub(super) values: Option<ColumnIn>,
    pub(super) headers: Option<HeadersIn>,
    pub(super) timestamps: Option<WasmList<i64>>,
}

/// `types.failure`.
#[derive(ComponentType, Lift)]
#[component(variant)]
pub(super) enum Failure {
    #[component(name = "input")]
    Input(String),
    #[component(name = "transient")]
    Transient(String),
    #[component(name = "fatal")]
    Fatal(String),
}

/// `processor.config-error`.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct ConfigError {
    pub(super) field: String,
    pub(super) message: String,
}

/// `processor.unfit`.
#[derive(ComponentType, Lift)]
#[component(variant)]
pub(super) enum Unfit {
    #[component(name = "config")]
    Config(ConfigError),
    #[component(name = "failed")]
    Failed(String),
}

/// `wasi:logging/logging.level`.
#[derive(ComponentType, Lift, Lower, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[component(enum)]
#[repr(u8)]
pub(super) enum Level {
    #[component(name = "trace")]
    Trace,
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
    #[component(name = "critical")]
    #[expect(dead_code, reason = "made by lifting what a guest sends")]
    Critical,
}

/// The buffer behind a shared column, emptied; a new one if somebody still holds it.
pub(super) fn reuse(shared: &mut Arc<ColumnOut>) -> &mut ColumnOut {
    if Arc::get_mut(shared).is_none() {
        *shared = Arc::default();
    }
    let column = Arc::get_mut(shared).expect("nobody else holds what was made or checked above");
    column.clear();
    column
}
