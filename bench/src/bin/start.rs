//! How fast `sluicegate run` starts, and what it costs when it has nothing to do.
//!
//! From the start of the process to the first record in the sink, with a plugin that has been compiled before; then the memory and
//! the CPU time of the process while its source is silent. To run it: `cargo xtask bench start`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde_json::json;
use sluicegate_bench::figures::{median, print_machine};
use sluicegate_bench::process::Measured;
use sluicegate_bench::report::ReportArgs;
use sluicegate_bench::servers::ServerArgs;
use sluicegate_bench::sluicegate::{Delivery, Pipeline, program};
use sluicegate_bench::topics::Topics;

const PARTITIONS: i32 = 4;
const RECORDS: u64 = 100;
const DEADLINE: Duration = Duration::from_secs(60);
/// How long the process is left alone before its memory is looked at, and how long its idleness is measured.
const IDLE: Duration = Duration::from_secs(5);
const START_GOAL_S: f64 = 1.0;
const MEMORY_GOAL_MIB: f64 = 100.0;

/// Measures the start of `sluicegate run` and what it costs when idle
#[derive(Parser)]
struct Arguments {
    /// How often
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// The sluicegate program
    #[arg(long, value_name = "FILE")]
    sluicegate: Option<PathBuf>,
    #[command(flatten)]
    report: ReportArgs,
    #[command(flatten)]
    servers: ServerArgs,
}

/// One start.
struct Start {
    first_s: f64,
    rss_mib: f64,
    peak_mib: f64,
    idle_cpu: f64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let servers = arguments.servers.start()?;
    let topics = Topics::connect(&servers.bootstrap)?;
    let folder = tempfile::tempdir().context("make a folder")?;
    let source = "bench-start";
    topics.create(source, PARTITIONS)?;
    topics.fill(source, RECORDS)?;
    let program =
        arguments.sluicegate.clone().unwrap_or_else(program).canonicalize().context("find the sluicegate program")?;
    print_machine();
    let mut starts = Vec::new();
    // The first one fills the plugin cache.
    for round in 0..=arguments.rounds {
        let name = format!("start-{}-{round}", std::process::id());
        let sink = format!("bench-{name}");
        topics.create(&sink, PARTITIONS)?;
        let delivery = Delivery { exactly_once: true, commit_interval_ms: 100 };
        let command =
            Pipeline { name: &name, plugin: "value_length", source, sink: &sink, delivery, zookeeper_budget: None }
                .command(&program, &servers, folder.path())?;
        let mut process = Measured::start("sluicegate run", command, folder.path().join(format!("{name}.log")))?;
        while topics.records(&sink, PARTITIONS)? == 0 {
            process.expect_running()?;
            ensure!(process.started().elapsed() < DEADLINE, "no record came out:\n{}", process.log_tail());
            std::thread::sleep(Duration::from_millis(5));
        }
        let first_s = process.started().elapsed().as_secs_f64();
        if round == 0 {
            println!("with an empty plugin cache the first record is out after {first_s:.2} s");
            process.stop(true)?;
            continue;
        }
        std::thread::sleep(IDLE);
        let (begin, cpu) = (Instant::now(), process.cpu_seconds()?);
        std::thread::sleep(IDLE);
        let idle_cpu = (process.cpu_seconds()? - cpu) / begin.elapsed().as_secs_f64();
        starts.push(Start {
            first_s,
            rss_mib: process.memory_mib("VmRSS"),
            peak_mib: process.memory_mib("VmHWM"),
            idle_cpu,
        });
        process.stop(true)?;
    }
    let goal = |met: bool| if met { "ok" } else { "MISSED" };
    let of = |number: fn(&Start) -> f64| median(starts.iter().map(number));
    let (first_s, rss_mib) = (of(|start| start.first_s), of(|start| start.rss_mib));
    println!(
        "start of the process to the first record in the sink, warm plugin cache: {first_s:.2} s (median of {}); goal: under {START_GOAL_S} s: {}",
        starts.len(),
        goal(first_s < START_GOAL_S)
    );
    println!(
        "memory of an idle run: {rss_mib:.0} MiB (highest since its start {:.0} MiB); goal: under {MEMORY_GOAL_MIB} MiB: {}",
        of(|start| start.peak_mib),
        goal(rss_mib < MEMORY_GOAL_MIB)
    );
    println!("CPU of an idle run: {:.2} % of a core", of(|start| start.idle_cpu) * 100.0);
    let one = |start: &Start| json!({ "first_record_s": start.first_s, "rss_mib": start.rss_mib, "peak_mib": start.peak_mib, "idle_cores": start.idle_cpu });
    arguments.report.write(json!({ "starts": starts.iter().map(one).collect::<Vec<_>>() }))
}
