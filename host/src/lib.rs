//! Sluicegate: records from Kafka through WebAssembly transforms and back to Kafka, with keyed state in ZooKeeper.
//!
//! The modules in reading order; `ARCHITECTURE.md` at the root of the repository draws the picture.

pub mod checkpoint;
pub mod cli;
pub mod cluster;
pub mod digest;
pub mod http;
pub mod ids;
pub mod manifest;
pub mod meta;
pub mod record;
pub mod state;
