//! Checkpoints: how the state of a task and the offsets of its input become durable together, and how they are found again.
//!
//! `docs/commit-protocol.md` is the specification. The modules in reading order:
//!
//! - [`head`]: the one node of a task, and the manifests in it: what is written down.
//! - [`protocol`]: how a head may change (pure).
//! - [`resolve`]: what a task resumes from, given what Kafka and the head say (pure).
//! - [`chunk`]: the encoding of a piece of state.
//! - [`compaction`]: which chunks the next commit rewrites (pure).
//! - [`ledger`]: which entries of the state live in which chunk.
//! - [`store`]: reads and writes all this in the metadata store.
//!
//! Nothing here knows Kafka or Wasm.

pub mod chunk;
pub mod compaction;
pub mod head;
pub mod ledger;
pub mod protocol;
pub mod repair;
pub mod resolve;
pub mod store;
