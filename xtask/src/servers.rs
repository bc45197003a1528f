//! `cargo xtask servers`: one Kafka and one ZooKeeper for hand use, detached, on fixed ports, with data that stays until it is
//! wiped.
//!
//! Invariant: a process is only signalled when it is the one that was started, which its command line shows: it names the
//! folder. Process ids are used again.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use sluicegate_harness::jars::servers_folder;
use sluicegate_harness::kafka::{Kafka, KafkaOptions, answers};
use sluicegate_harness::process::{Attachment, signal_process};
use sluicegate_harness::zookeeper::{ZooKeeper, ZooKeeperOptions, serves};

const STOP_DEADLINE: Duration = Duration::from_secs(30);
const SIGTERM: i32 = 15;

/// What to do with the servers.
#[derive(Debug, Subcommand)]
pub(crate) enum ServersCommand {
    /// Start them, unless they run, and wait until they serve
    Up(Up),
    /// Stop them
    Down(Down),
    /// Say whether they run
    Status,
}

#[derive(Args, Debug)]
pub(crate) struct Up {
    /// Port of Kafka
    #[arg(long, default_value_t = 9092)]
    kafka_port: u16,
    /// Port of ZooKeeper
    #[arg(long, default_value_t = 2181)]
    zookeeper_port: u16,
    /// Start Kafka alone
    #[arg(long)]
    no_zookeeper: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Down {
    /// Remove their data too
    #[arg(long)]
    wipe: bool,
}

/// Runs the command.
pub(crate) fn run(command: &ServersCommand) -> Result<()> {
    let folder = servers_folder().join("run");
    match command {
        ServersCommand::Up(options) => up(options, &folder),
        ServersCommand::Down(options) => down(options, &folder),
        ServersCommand::Status => {
            status(&folder);
            Ok(())
        }
    }
}

/// A server that was started.
struct Running {
    name: &'static str,
    id: u32,
    address: String,
}

impl Running {
    fn serves(&self) -> bool {
        if self.name == "kafka" { answers(&self.address) } else { serves(&self.address) }
    }
}

fn state_file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.json"))
}

/// The server of that name, if it was started and its process is still there.
fn running(folder: &Path, name: &'static str) -> Option<Running> {
    let state: Value = serde_json::from_slice(&fs::read(state_file(folder, name)).ok()?).ok()?;
    let id = u32::try_from(state.get("id")?.as_u64()?).ok()?;
    let address = state.get("address")?.as_str()?.to_owned();
    let command_line = fs::read(format!("/proc/{id}/cmdline")).ok()?;
    let home = folder.join(name);
    String::from_utf8_lossy(&command_line).contains(home.to_str()?).then_some(Running { name, id, address })
}

fn remember(folder: &Path, name: &'static str, id: Option<u32>, address: &str) -> Result<()> {
    let state = json!({ "id": id, "address": address });
    fs::write(state_file(folder, name), state.to_string()).with_context(|| format!("write the state of {name}"))
}

fn up(options: &Up, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let kafka = match running(folder, "kafka") {
        Some(kafka) => kafka.address,
        None => {
            let kafka = Kafka::start(KafkaOptions {
                heap_mib: 1024,
                full_speed: true,
                port: Some(options.kafka_port),
                folder: Some(folder.join("kafka")),
                attachment: Attachment::Detached,
                ..KafkaOptions::default()
            })?;
            remember(folder, "kafka", kafka.id(), &kafka.bootstrap())?;
            kafka.bootstrap()
        }
    };
    eprintln!("kafka serves on {kafka}; its log is {}", folder.join("kafka/kafka.log").display());
    println!("[kafka]\nbootstrap.servers = \"{kafka}\"");
    if options.no_zookeeper {
        return Ok(());
    }
    let zookeeper = match running(folder, "zookeeper") {
        Some(zookeeper) => zookeeper.address,
        None => {
            let zookeeper = ZooKeeper::start(ZooKeeperOptions {
                heap_mib: 512,
                port: Some(options.zookeeper_port),
                folder: Some(folder.join("zookeeper")),
                attachment: Attachment::Detached,
                ..ZooKeeperOptions::default()
            })?;
            remember(folder, "zookeeper", zookeeper.id(), &zookeeper.connect())?;
            zookeeper.connect()
        }
    };
    eprintln!("zookeeper serves on {zookeeper}; its log is {}", folder.join("zookeeper/zookeeper.log").display());
    println!("\n[zookeeper]\nconnect = \"{zookeeper}\"");
    eprintln!("the lines on standard output are for sluicegate.toml; `cargo xtask servers down` stops the servers");
    Ok(())
}

fn down(options: &Down, folder: &Path) -> Result<()> {
    for name in ["kafka", "zookeeper"] {
        let Some(server) = running(folder, name) else {
            eprintln!("{name} does not run");
            continue;
        };
        signal_process(server.id, SIGTERM)?;
        let deadline = Instant::now() + STOP_DEADLINE;
        while running(folder, name).is_some() {
            if Instant::now() > deadline {
                bail!("{name} (process {}) did not end within {STOP_DEADLINE:?}", server.id);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        fs::remove_file(state_file(folder, name)).with_context(|| format!("remove the state of {name}"))?;
        eprintln!("{name} stopped");
    }
    if options.wipe && folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
        eprintln!("data removed");
    }
    Ok(())
}

fn status(folder: &Path) {
    for name in ["kafka", "zookeeper"] {
        match running(folder, name) {
            Some(server) if server.serves() => println!("{name} serves on {} (process {})", server.address, server.id),
            Some(server) => println!("{name} runs and does not answer on {} (process {})", server.address, server.id),
            None => println!("{name} does not run"),
        }
    }
}
