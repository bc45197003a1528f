//! Sluicegate: records from Kafka through WebAssembly transforms and back to Kafka, with keyed state in ZooKeeper.
//!
//! The modules in reading order, from what is started to what everything stands on; `ARCHITECTURE.md` at the root of the
//! repository draws the picture.

pub mod cli;
pub mod dev;
pub mod embedded;
pub mod node;

pub mod cluster;
pub mod http;
pub mod worker;

pub mod candidate;
pub mod checkpoint;
pub mod comparison;
pub mod lineage;

pub mod engine;
pub mod kafka;
pub mod meta;

pub mod config;
pub mod digest;
pub mod ids;
pub mod manifest;
pub mod metrics;
pub mod payload;
pub mod provenance;
pub mod record;
pub mod signing;
pub mod state;
pub mod tls;
