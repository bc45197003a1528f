//! What a guest may use, and the limiter that holds it to memory and tables.

use std::time::Duration;

use wasmtime::ResourceLimiter;

/// Bounds of one instance. Everything that a guest can make grow has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of linear memory, all memories together.
    pub memory_bytes: u64,
    /// How long one call may run.
    pub time_per_call: Duration,
    /// Bytes that one call may put out, what records inherit included.
    pub output_bytes: u64,
    /// Bytes of keys and values that the transform may keep in one task.
    pub state_bytes: u64,
    /// Bytes of log messages that one call may write; the rest is counted and dropped.
    pub log_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 64 * 1024 * 1024,
            time_per_call: Duration::from_secs(1),
            output_bytes: 256 * 1024 * 1024,
            state_bytes: 1024 * 1024 * 1024,
            log_bytes: 16 * 1024,
        }
    }
}

/// Elements of all tables together; a large program has some thousands of functions in one.
const TABLE_ELEMENTS_MAX: usize = 1_000_000;
/// Core modules in one component; a Rust plugin has 4, a Python one about 10.
const INSTANCES_MAX: usize = 100;
/// Memories in one component.
const MEMORIES_MAX: usize = 100;
/// Tables in one component.
const TABLES_MAX: usize = 100;
/// Live handles of resources: outlets, stores, streams, pollables.
pub(super) const HANDLES_MAX: usize = 10_000;

/// Counts memory and tables of one store.
#[derive(Debug)]
pub(super) struct Limiter {
    memory_bytes_max: u64,
    memory_bytes: u64,
    table_elements: usize,
    /// A growth was refused since this was last cleared.
    pub(super) memory_refused: bool,
}

impl Limiter {
    pub(super) fn new(memory_bytes_max: u64) -> Self {
        Self { memory_bytes_max, memory_bytes: 0, table_elements: 0, memory_refused: false }
    }

    /// Linear memory in use.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let grown = self.memory_bytes.saturating_add(desired.saturating_sub(current) as u64);
        if grown > self.memory_bytes_max {
            self.memory_refused = true;
            return Ok(false);
        }
        self.memory_bytes = grown;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let grown = self.table_elements.saturating_add(desired.saturating_sub(current));
        if grown > TABLE_ELEMENTS_MAX {
            return Ok(false);
        }
        self.table_elements = grown;
        Ok(true)
    }

    fn instances(&self) -> usize {
        INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        TABLES_MAX
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX
    }
}
