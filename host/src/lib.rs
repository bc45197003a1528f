//! Sluicegate: records from Kafka through WebAssembly transforms and back to Kafka, with keyed state in ZooKeeper.
//!
//! The modules in reading order; `ARCHITECTURE.md` at the root of the repository draws the picture.

pub mod checkpoint;
pub mod config;
pub mod digest;
pub mod engine;
pub mod http;
pub mod ids;
pub mod kafka;
pub mod manifest;
pub mod meta;
pub mod record;
pub mod state;
