//! The proof of the commit protocol: the production code of checkpoint, resolver and worker thread under a seeded scheduler, over a
//! modelled Kafka and a modelled ZooKeeper that fail at every point.
//!
//! - [`kernel`]: virtual time, fibers, tasks, events.
//! - [`runtime`]: what a worker thread runs on.
//! - [`zookeeper`], [`kafka`]: the models.
//! - [`faults`]: what goes wrong.
//! - [`oracle`]: what has to be true.
//! - [`breaks`]: the protocol, broken on purpose.
//! - [`scenario`], [`pipeline`], [`world`]: what is run, and one run of it.
//! - [`trace`]: what happened in it.
//! - [`campaign`]: many runs.
//! - [`proof`]: the tests.

mod breaks;
mod campaign;
mod faults;
mod kafka;
mod kernel;
mod oracle;
mod pipeline;
mod proof;
mod runtime;
mod scenario;
mod trace;
mod world;
mod zookeeper;
