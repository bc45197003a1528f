//! Real servers for tests, benchmarks and hand use: Kafka 4.1 and ZooKeeper 3.9 on free ports, from Maven's jars.
//!
//! Needs `java` (17 or later) and, the first time, `mvn`; no container engine. A server that a test starts never outlives
//! it: dropping kills and reaps it, and so does the death of the test process, whatever kills that. What this crate does not
//! do: share servers between processes, or hide that starting a Kafka takes seconds (share one within a test binary).
//!
//! Reading order: [`jars`] (where the programs come from), [`ports`], [`process`] (a Java server as a child process),
//! [`kafka`], [`zookeeper`], [`ensemble`], [`identity`] (of servers that speak TLS).

pub mod ensemble;
pub mod identity;
pub mod jars;
pub mod kafka;
pub mod ports;
pub mod process;
pub mod zookeeper;
