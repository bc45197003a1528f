//! Keyed state of tasks, held in memory by the host while a task runs.
//!
//! A guest reads and writes it through the engine, the checkpoint makes it durable. Nothing here does I/O, and nothing here
//! knows epochs or chunks: a store remembers which of its entries changed since they were last made durable, what they
//! were before, and for each entry one opaque number that the checkpoint keeps there (its [`Home`]).

mod aside;
mod store;
mod task;

/// Most bytes of one key and its value together: an entry has to fit into one request to the metadata store.
pub const ENTRY_BYTES_MAX: usize = 900_000;

/// Bytes that the host needs for an entry beside its key and value, about.
pub const ENTRY_OVERHEAD_BYTES: u64 = 64;

pub use store::{Home, Page, Slot, Store};
pub use task::{StoreName, TaskState, TransformState};
