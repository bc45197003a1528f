//! `sluicegate run` as it is measured: its own process, default settings, a pipeline of one transform.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::servers::Servers;
use crate::{plugin_path, target_dir};

/// The program, as `cargo build --release` leaves it.
#[must_use]
pub fn program() -> PathBuf {
    target_dir().join("release/sluicegate")
}

/// One pipeline.
#[derive(Clone, Debug)]
pub struct Pipeline<'a> {
    /// Its name, new for each measurement: group and state go by it.
    pub name: &'a str,
    /// Name of the plugin's file, without its ending.
    pub plugin: &'a str,
    /// Source topic, read from its beginning.
    pub source: &'a str,
    /// Sink topic.
    pub sink: &'a str,
    /// How it delivers.
    pub delivery: Delivery,
    /// `zookeeper-bytes-per-second`, if it is not to be the default.
    pub zookeeper_budget: Option<&'a str>,
}

/// How a contender delivers.
#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    /// In transactions.
    pub exactly_once: bool,
    /// Milliseconds between commits.
    pub commit_interval_ms: u64,
}

impl Delivery {
    /// The guarantee's name in a pipeline file.
    #[must_use]
    pub fn guarantee(self) -> &'static str {
        if self.exactly_once { "exactly-once" } else { "at-least-once" }
    }
}

impl Pipeline<'_> {
    /// The command that runs it. Files go to `folder`; the plugin cache there is shared by all pipelines.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn command(&self, program: &Path, servers: &Servers, folder: &Path) -> Result<Command> {
        let Self { name, plugin, source, sink, delivery, zookeeper_budget } = self;
        let limits = zookeeper_budget.map(|budget| format!("[limits]\nzookeeper-bytes-per-second = \"{budget}\"\n"));
        let pipeline = format!(
            "name = \"{name}\"\n[[source]]\ntopic = \"{source}\"\nstart = \"earliest\"\n[[transform]]\nname = \"work\"\nplugin = \"{}\"\n\
             [[sink]]\ntopic = \"{sink}\"\n[delivery]\nguarantee = \"{}\"\ncommit-interval = \"{}ms\"\n",
            plugin_path(plugin).canonicalize().context("find the plugin; `cargo xtask plugins` builds it")?.display(),
            delivery.guarantee(),
            delivery.commit_interval_ms
        );
        let cluster = format!(
            "[node]\nname = \"bench-{}\"\n[kafka]\nbootstrap.servers = \"{}\"\n[zookeeper]\nconnect = \"{}\"\nnamespace = \"/bench\"\n\
             [http]\nlisten = \"127.0.0.1:0\"\n[cache]\npath = \"{}\"\n{}",
            std::process::id(),
            servers.bootstrap,
            servers.connect,
            folder.join("cache").display(),
            limits.unwrap_or_default()
        );
        let (pipeline_file, cluster_file) = (folder.join(format!("{name}.toml")), folder.join("sluicegate.toml"));
        fs::write(&pipeline_file, pipeline).context("write the pipeline file")?;
        fs::write(&cluster_file, cluster).context("write the cluster file")?;
        let mut command = Command::new(program);
        command.arg("run").arg(pipeline_file).arg("--cluster").arg(cluster_file).current_dir(folder);
        Ok(command)
    }
}
