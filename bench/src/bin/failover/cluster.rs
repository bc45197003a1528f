//! Three workers with one deployed pipeline.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use sluicegate_bench::plugin_path;
use sluicegate_bench::process::Measured;
use sluicegate_bench::servers::{ServerArgs, Servers};
use sluicegate_bench::topics::Topics;

pub(crate) const NODES: usize = 3;
const NAMES: [&str; NODES] = ["a", "b", "c"];
const PATIENCE: Duration = Duration::from_secs(120);
const PIPELINE: &str = "count";

/// The group's protocol.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Protocol {
    /// The members agree among themselves.
    Classic,
    /// The broker decides (KIP-848).
    Consumer,
}

impl Protocol {
    /// As it is configured here.
    pub(crate) fn session_timeout(self) -> Duration {
        Duration::from_secs(6)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Classic => "classic",
            Self::Consumer => "consumer",
        })
    }
}

/// Servers as such clusters want them: the broker's heartbeat interval for KIP-848 is 1 s.
pub(crate) fn servers() -> Result<Servers> {
    let settings = [
        ("group.consumer.min.heartbeat.interval.ms", "1000"),
        ("group.consumer.heartbeat.interval.ms", "1000"),
        ("group.consumer.min.session.timeout.ms", "6000"),
        ("group.consumer.session.timeout.ms", "6000"),
    ];
    ServerArgs { kafka: None, zookeeper: None }.start_with(&settings)
}

/// A cluster at work.
pub(crate) struct Cluster {
    program: PathBuf,
    folder: tempfile::TempDir,
    nodes: Vec<Option<Measured>>,
    starts: usize,
    pub(crate) source: String,
    pub(crate) sink: String,
}

/// What survivors logged after a node was killed, in seconds since then.
pub(crate) struct Events {
    /// The first thing that they heard from the group.
    pub(crate) noticed: f64,
    /// All partitions of the dead node are assigned.
    pub(crate) assigned: f64,
    /// All of them are restored.
    pub(crate) restored: f64,
    /// The longest time that reading the state of one took.
    pub(crate) restore_took: f64,
}

impl Cluster {
    pub(crate) fn start(
        program: &Path,
        servers: &Servers,
        topics: &Topics,
        protocol: Protocol,
        name: &str,
        partitions: i32,
    ) -> Result<Self> {
        let (source, sink) = (format!("{name}-source"), format!("{name}-sink"));
        topics.create(&source, partitions)?;
        topics.create(&sink, partitions)?;
        let folder = tempfile::tempdir()?;
        let group = match protocol {
            Protocol::Classic => format!("session.timeout.ms = {}\n", protocol.session_timeout().as_millis()),
            Protocol::Consumer => "group.protocol = \"consumer\"\n".to_owned(),
        };
        let cluster = format!(
            "[kafka]\nbootstrap.servers = \"{}\"\n[kafka.consumer]\n{group}[zookeeper]\nconnect = \"{}\"\nnamespace = \"/{name}\"\nsession-timeout = \"4s\"\n\
             [http]\nlisten = \"127.0.0.1:0\"\n[worker]\nthreads = 2\n[limits]\nzookeeper-bytes-per-second = \"1GB\"\n[cache]\npath = \"cache\"\n",
            servers.bootstrap, servers.connect
        );
        fs::write(folder.path().join("sluicegate.toml"), cluster)?;
        let plugin =
            plugin_path("keyed_count").canonicalize().context("find the plugin; `cargo xtask plugins` builds it")?;
        let pipeline = format!(
            "name = \"{PIPELINE}\"\n[[source]]\ntopic = \"{source}\"\n[[transform]]\nname = \"count\"\nplugin = \"{}\"\n[[sink]]\ntopic = \"{sink}\"\n",
            plugin.display()
        );
        fs::write(folder.path().join("pipeline.toml"), pipeline)?;
        let mut cluster = Self { program: program.to_owned(), folder, nodes: Vec::new(), starts: 0, source, sink };
        for node in 0..NODES {
            let process = cluster.spawn(node)?;
            cluster.nodes.push(Some(process));
        }
        // The leader places threads on the nodes that it knows.
        cluster.wait("all nodes", |cluster| {
            let nodes: Value = serde_json::from_str(&cluster.command(&["nodes", "--json"])?)?;
            Ok(nodes.as_array().is_some_and(|nodes| nodes.len() == NODES))
        })?;
        cluster.command(&["deploy", "pipeline.toml", "--wait", "60s"])?;
        cluster.wait_until_running()?;
        Ok(cluster)
    }

    fn spawn(&mut self, node: usize) -> Result<Measured> {
        let mut command = Command::new(&self.program);
        command.args(["worker", "--node-name", NAMES[node]]).current_dir(self.folder.path()).env("NO_COLOR", "1");
        self.starts += 1;
        let log = self.folder.path().join(format!("{}-{}.log", NAMES[node], self.starts));
        Measured::start(NAMES[node], command, log)
    }

    /// What a command prints.
    fn command(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(&self.program).args(arguments).current_dir(self.folder.path()).output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    fn status(&self) -> Result<Value> {
        let status: Value = serde_json::from_str(&self.command(&["status", PIPELINE, "--json"])?)?;
        Ok(status[0].clone())
    }

    fn wait(&mut self, what: &str, mut condition: impl FnMut(&Self) -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self)? {
            for node in self.nodes.iter_mut().flatten() {
                node.expect_running()?;
            }
            if Instant::now() > deadline {
                bail!("still not: {what}: {:#}", self.status()?);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// Waits until all tasks run, some on each of the nodes that are there.
    pub(crate) fn wait_until_running(&mut self) -> Result<()> {
        let here: Vec<usize> = (0..NODES).filter(|node| self.nodes[*node].is_some()).collect();
        self.wait("all tasks run", |cluster| {
            let status = cluster.status()?;
            let listed = status["nodes"].as_object().map_or(0, serde_json::Map::len);
            let mut all = status["state"] == "running" && listed == here.len();
            for node in &here {
                all = all && !cluster.partitions_of(*node)?.is_empty();
            }
            Ok(all)
        })
    }

    /// Waits until everything that is in the source is committed.
    pub(crate) fn wait_until_done(&mut self) -> Result<()> {
        self.wait("everything is committed", |cluster| Ok(cluster.status()?["lag"] == 0))
    }

    /// The partitions whose tasks a node has.
    pub(crate) fn partitions_of(&self, node: usize) -> Result<Vec<i32>> {
        let status = self.status()?;
        let tasks = status["task-status"].as_array().context("tasks")?;
        let of_node = tasks.iter().filter(|task| task["node"] == NAMES[node]);
        Ok(of_node.filter_map(|task| i32::try_from(task["task"].as_i64()?).ok()).collect())
    }

    /// SIGTERM, and waits for the end.
    pub(crate) fn stop(&mut self, node: usize) -> Result<()> {
        self.nodes[node].take().context("it runs")?.stop(true)
    }

    /// SIGKILL. Returns when.
    pub(crate) fn kill(&mut self, node: usize) -> Result<f64> {
        drop(self.nodes[node].take().context("it runs")?);
        Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64())
    }

    /// Starts a node again and waits until all tasks run.
    pub(crate) fn join(&mut self, node: usize) -> Result<()> {
        let process = self.spawn(node)?;
        self.nodes[node] = Some(process);
        self.wait_until_running()
    }

    /// What the survivors logged.
    pub(crate) fn events_since(&self, killed: f64, partitions: &[i32]) -> Result<Events> {
        let mut events = Events { noticed: f64::MAX, assigned: 0.0, restored: 0.0, restore_took: 0.0 };
        for log in self.nodes.iter().flatten().map(Measured::log) {
            for line in log?.lines() {
                let Some(at) = line.split(' ').next().and_then(seconds).filter(|at| *at >= killed) else { continue };
                let after = at - killed;
                if line.contains(" assigned ") || line.contains(" revoked ") {
                    events.noticed = events.noticed.min(after);
                }
                let about = |partition: &&i32| line.contains(&format!("\"{partition}\""));
                if line.contains(" assigned ") && partitions.iter().any(|partition| about(&partition)) {
                    events.assigned = events.assigned.max(after);
                }
                let restored = |partition: &&i32| line.contains(&format!("{PIPELINE}/1/0/{partition} "));
                if line.contains(" restored ") && partitions.iter().any(|partition| restored(&partition)) {
                    events.restored = events.restored.max(after);
                    let took = line.rsplit_once("took=").map_or("", |(_, took)| took.trim());
                    events.restore_took = events.restore_took.max(span(took));
                }
            }
        }
        ensure!(events.restored > 0.0, "no survivor has restored a partition of the dead node");
        Ok(events)
    }
}

/// Seconds since 1970 of a log line's beginning.
fn seconds(text: &str) -> Option<f64> {
    Some(text.parse::<jiff::Timestamp>().ok()?.as_duration().as_secs_f64())
}

/// Seconds of a duration as it is logged: `1.5s`, `3.2ms`, `70µs`.
fn span(text: &str) -> f64 {
    let units = [("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9), ("s", 1.0)];
    let read = |(unit, scale): (&str, f64)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * scale);
    units.into_iter().find_map(read).unwrap_or_default()
}
