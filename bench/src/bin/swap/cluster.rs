//! One worker with one deployed pipeline. The commands have a plugin cache of their own: they may be given on another machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde_json::Value;
use sluicegate_bench::process::Measured;
use sluicegate_bench::servers::Servers;
use sluicegate_bench::topics::Topics;

pub(crate) const PARTITIONS: i32 = 8;
pub(crate) const THREADS: usize = 2;
const PIPELINE: &str = "swapped";
const TRANSFORM: &str = "work";
const PATIENCE: Duration = Duration::from_secs(120);
/// Each commit, each switch, and nothing else more than is usual.
const LOG: &str = "info,zookeeper_client=error,sluicegate::worker::thread=debug";

/// A cluster at work.
pub(crate) struct Cluster {
    program: PathBuf,
    folder: tempfile::TempDir,
    node: Measured,
    pub(crate) source: String,
}

impl Cluster {
    /// Runs a pipeline of the plugin in these bytes.
    pub(crate) fn start(program: &Path, servers: &Servers, topics: &Topics, name: &str, plugin: &[u8]) -> Result<Self> {
        let (source, sink) = (format!("{name}-source"), format!("{name}-sink"));
        topics.create(&source, PARTITIONS)?;
        topics.create(&sink, PARTITIONS)?;
        let folder = tempfile::tempdir()?;
        let file = |file: &str| folder.path().join(file);
        let cluster = |cache: &str| {
            format!(
                "[kafka]\nbootstrap.servers = \"{}\"\n[zookeeper]\nconnect = \"{}\"\nnamespace = \"/{name}\"\n\
                 [http]\nlisten = \"127.0.0.1:0\"\n[worker]\nthreads = {THREADS}\n[limits]\nzookeeper-bytes-per-second = \"1GB\"\n\
                 [cache]\npath = \"{cache}\"\n",
                servers.bootstrap, servers.connect
            )
        };
        fs::write(file("node.toml"), cluster("cache-of-node"))?;
        fs::write(file("sluicegate.toml"), cluster("cache-of-commands"))?;
        fs::write(file("first.wasm"), plugin)?;
        // A probation is half a second longer than a call may take.
        let pipeline = format!(
            "name = \"{PIPELINE}\"\n[[source]]\ntopic = \"{source}\"\n[[transform]]\nname = \"{TRANSFORM}\"\nplugin = \"./first.wasm\"\n\
             [[sink]]\ntopic = \"{sink}\"\n[limits]\ntime-per-batch = \"500ms\"\n"
        );
        fs::write(file("pipeline.toml"), pipeline)?;
        let mut command = Command::new(program);
        command.args(["worker", "--node-name", "a", "--cluster", "node.toml", "--log-format", "json"]);
        command.current_dir(folder.path()).env("SLUICEGATE_LOG", LOG);
        let node = Measured::start("a worker", command, file("node.log"))?;
        let mut cluster = Self { program: program.to_owned(), folder, node, source };
        cluster.wait("the node is there", |cluster| {
            let nodes: Vec<Value> = serde_json::from_str(&cluster.command(&["nodes", "--json"])?)?;
            Ok(nodes.len() == 1)
        })?;
        cluster.command(&["deploy", "pipeline.toml", "--wait", "60s"])?;
        cluster.wait("all tasks run", |cluster| Ok(cluster.status()?["state"] == "running"))?;
        Ok(cluster)
    }

    /// What a command prints.
    fn command(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(&self.program).args(arguments).current_dir(self.folder.path()).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{arguments:?}: {said}\n{}", self.node.log_tail());
        Ok(String::from_utf8(output.stdout)?)
    }

    fn status(&self) -> Result<Value> {
        let status: Value = serde_json::from_str(&self.command(&["status", PIPELINE, "--json"])?)?;
        Ok(status[0].clone())
    }

    fn wait(&mut self, what: &str, mut condition: impl FnMut(&Self) -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self)? {
            self.node.expect_running()?;
            if Instant::now() > deadline {
                bail!("still not: {what}: {:#}\n{}", self.status()?, self.node.log_tail());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// Waits until everything that is in the source is committed.
    pub(crate) fn wait_until_done(&mut self) -> Result<()> {
        self.wait("everything is committed", |cluster| Ok(cluster.status()?["lag"] == 0))
    }

    /// Writes a version of the plugin, for [`Cluster::swap`].
    pub(crate) fn write(&self, name: &str, plugin: &[u8]) -> Result<()> {
        Ok(fs::write(self.folder.path().join(format!("{name}.wasm")), plugin)?)
    }

    /// Goes over to a version, to the end of the probation.
    ///
    /// # Errors
    /// It went back.
    pub(crate) fn swap(&self, version: &str) -> Result<()> {
        self.swap_with(version, &["--probation", "1s", "--wait", "600s"])
    }

    /// Lets the commands compile a version, and nobody else.
    pub(crate) fn check(&self, version: &str) -> Result<()> {
        self.swap_with(version, &["--dry-run"])
    }

    fn swap_with(&self, version: &str, more: &[&str]) -> Result<()> {
        let file = format!("{version}.wasm");
        // The machine also runs the servers and the load: slow is not what this is about.
        let swap = ["plugin", "swap", PIPELINE, TRANSFORM, &file, "--max-slowdown", "1000000"];
        self.command(&[&swap[..], more].concat()).map(drop)
    }

    /// What the node logged.
    pub(crate) fn log(&self) -> Result<String> {
        self.node.log()
    }

    /// Ends it well.
    pub(crate) fn stop(self) -> Result<()> {
        self.node.stop(true)
    }
}
