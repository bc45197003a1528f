//! The native loop that `sluicegate run` is measured beside, as a process of its own.

use std::process::Command;

use anyhow::Result;

use crate::servers::Servers;
use crate::sluicegate::Delivery;

/// What the loop does.
pub struct NativeLoop<'a> {
    /// Consumer group.
    pub group: &'a str,
    /// Source topic, read from its beginning.
    pub source: &'a str,
    /// Sink topic.
    pub sink: &'a str,
    /// Partitions of both.
    pub partitions: i32,
    /// `value-length` or `keyed-count`.
    pub work: &'a str,
    /// Threads.
    pub threads: usize,
    /// How it delivers.
    pub delivery: Delivery,
}

impl NativeLoop<'_> {
    /// The command that runs it, from the folder of this program.
    ///
    /// # Errors
    /// The folder is not known.
    pub fn command(&self, servers: &Servers) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe()?.with_file_name("native_loop"));
        command.args(["--bootstrap", &servers.bootstrap, "--group", self.group, "--source", self.source]);
        command.args(["--sink", self.sink, "--partitions", &self.partitions.to_string(), "--work", self.work]);
        command.args(["--threads", &self.threads.to_string()]);
        command.args(["--commit-interval-ms", &self.delivery.commit_interval_ms.to_string()]);
        if self.delivery.exactly_once {
            command.arg("--transactions");
        }
        Ok(command)
    }
}
