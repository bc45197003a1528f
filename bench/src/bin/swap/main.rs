//! What a hot swap costs: how long records wait while tasks go over, and how long it takes from the command until the last task has.
//! To run it: `cargo xtask bench swap`.
//!
//! One `sluicegate worker` with two threads and eight tasks, under a steady load, under exactly-once; a plugin is swapped for one with
//! other bytes that does the same, again and again. A switch is that of a thread, whose tasks go over in one go. It is measured
//! beside the ordinary commits of the same thread shortly before it: see `commits`.

mod cluster;
mod commits;
mod plugins;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use serde_json::{Value, json};
use sluicegate_bench::figures::{median, print_machine};
use sluicegate_bench::load;
use sluicegate_bench::report::ReportArgs;
use sluicegate_bench::servers::{ServerArgs, Servers};
use sluicegate_bench::sluicegate::program;
use sluicegate_bench::topics::Topics;

use self::cluster::{Cluster, PARTITIONS, THREADS};
use self::commits::Log;

/// Swaps before those that count: each version is compiled, and in the cache.
const WARM_UP: usize = 2;
/// Before the first swap.
const SETTLE: Duration = Duration::from_secs(5);
/// Code that is added to a plugin to make a large one.
const LARGE_BYTES: usize = 5_000_000;

/// What is swapped.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Case {
    /// value-length: small, and without state
    Stateless,
    /// keyed-count, with much state in its tasks
    State,
    /// The same, for a version with state of another schema, and back: all of it is converted beside what runs
    Migration,
    /// value-length with 5 MB of code
    Large,
}

impl Case {
    fn plugin(self) -> Result<Vec<u8>> {
        match self {
            Self::Stateless => Ok(sluicegate_bench::plugin("value_length")),
            Self::State | Self::Migration => Ok(sluicegate_bench::plugin("keyed_count")),
            Self::Large => plugins::with_code(&sluicegate_bench::plugin("value_length"), LARGE_BYTES),
        }
    }

    /// The two versions that are swapped for each other.
    fn versions(self, plugin: &[u8]) -> [Vec<u8>; 2] {
        let other = match self {
            Self::Migration => sluicegate_bench::plugin("guest_tally"),
            _ => plugins::version(plugin, "1"),
        };
        [plugins::version(plugin, "0"), other]
    }

    fn has_state(self) -> bool {
        matches!(self, Self::State | Self::Migration)
    }

    fn describe(self, megabytes: usize) -> String {
        match self {
            Self::Stateless => "value-length, without state".to_owned(),
            Self::State => format!("keyed-count, {megabytes} MB of state"),
            Self::Migration => format!("keyed-count, {megabytes} MB of state that is converted"),
            Self::Large => "value-length with 5 MB of code".to_owned(),
        }
    }
}

/// Measures hot swaps
#[derive(Parser)]
struct Arguments {
    /// What is swapped; all of it if not given
    #[arg(long, value_enum)]
    case: Vec<Case>,
    /// Swaps that count; each has as many switches as there are threads
    #[arg(long, default_value_t = 100)]
    swaps: usize,
    /// Swaps to versions that the node has never compiled
    #[arg(long, default_value_t = 10)]
    cold: usize,
    /// Records a second
    #[arg(long, default_value_t = 10_000)]
    rate: u64,
    /// State in the tasks of the case that has some
    #[arg(long, value_name = "MB", default_value_t = 100)]
    megabytes: usize,
    /// The sluicegate program
    #[arg(long, value_name = "FILE")]
    sluicegate: Option<PathBuf>,
    #[command(flatten)]
    report: ReportArgs,
    #[command(flatten)]
    servers: ServerArgs,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let servers = arguments.servers.start()?;
    let topics = Topics::connect(&servers.bootstrap)?;
    let program =
        arguments.sluicegate.clone().unwrap_or_else(program).canonicalize().context("find the sluicegate program")?;
    print_machine();
    let cases = if arguments.case.is_empty() { Case::value_variants() } else { &arguments.case };
    let mut report = Vec::new();
    for &case in cases {
        report.push(measure(&arguments, &servers, &topics, &program, case)?);
    }
    arguments.report.write(json!({ "cases": report }))
}

/// The moments of a command: when it was given, and when it ended, in seconds since 1970.
type Moments = (f64, f64);

fn measure(arguments: &Arguments, servers: &Servers, topics: &Topics, program: &Path, case: Case) -> Result<Value> {
    let plugin = case.plugin()?;
    let name = format!("swap-{case:?}-{}", std::process::id()).to_lowercase();
    let versions = case.versions(&plugin);
    let mut cluster = Cluster::start(program, servers, topics, &name, &versions[0])?;
    if case.has_state() {
        let all: Vec<i32> = (0..PARTITIONS).collect();
        load::fill(&servers.bootstrap, &cluster.source, &all, arguments.megabytes)?;
        cluster.wait_until_done()?;
    }
    let done = AtomicBool::new(false);
    let source = cluster.source.clone();
    let (warm, cold, rate) = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let began = std::time::Instant::now();
            let sent = load::steady(&servers.bootstrap, &source, PARTITIONS, arguments.rate, &done)?;
            anyhow::Ok(sent as f64 / began.elapsed().as_secs_f64())
        });
        let swapped = swap_often(&cluster, &plugin, &versions, arguments);
        done.store(true, Ordering::Relaxed);
        let rate = load.join().expect("the load does not panic")?;
        let (warm, cold) = swapped?;
        anyhow::Ok((warm, cold, rate))
    })?;
    let log = Log::read(&cluster.log()?);
    cluster.stop()?;
    let took = |moments: &[Moments]| -> Result<Vec<f64>> {
        let one = |&(from, to): &Moments| Ok(log.last_switch(from, to).context("a swap without a switch")? - from);
        moments.iter().map(one).collect()
    };
    let (warm, cold) = (took(&warm)?, took(&cold)?);
    let pauses = log.pauses(WARM_UP);
    println!(
        "\n{}, plugin of {} kB: {} switches in {THREADS} threads with {PARTITIONS} tasks, {rate:.0} records/s",
        case.describe(arguments.megabytes),
        plugin.len() / 1000,
        pauses.switching.len()
    );
    println!("{:<46} {:>8} {:>8} {:>8} {:>8}", "milliseconds", "count", "p50", "p99", "longest");
    let rows = [
        ("ordinary commits: the thread stands still", pauses.ordinary),
        ("switching commits: the thread stands still", pauses.switching),
        ("longer than the median of 20 before: switching", pauses.added),
        ("  the same of ordinary ones, which is chance", pauses.chance),
        ("what a switch adds: the exchange of instances", pauses.exchange),
        ("the commit after a switch", pauses.next),
        ("command to last task, plugin cache warm", warm.iter().map(|seconds| seconds * 1000.0).collect()),
        ("command to last task, node's cache cold", cold.iter().map(|seconds| seconds * 1000.0).collect()),
    ];
    let figures: Vec<Value> = rows.into_iter().map(|(what, values)| print_row(what, values)).collect();
    Ok(
        json!({ "case": format!("{case:?}").to_lowercase(), "plugin_bytes": plugin.len(), "records_per_s": rate, "ms": figures }),
    )
}

/// Swaps whose versions the node has in its cache, and swaps whose versions it has never seen. Commands have all in theirs.
fn swap_often(
    cluster: &Cluster,
    plugin: &[u8],
    versions: &[Vec<u8>; 2],
    arguments: &Arguments,
) -> Result<(Vec<Moments>, Vec<Moments>)> {
    std::thread::sleep(SETTLE);
    for (name, version) in ["0", "1"].into_iter().zip(versions) {
        cluster.write(name, version)?;
    }
    let mut warm = Vec::new();
    for number in 1..=WARM_UP + arguments.swaps {
        let moments = swap(cluster, ["0", "1"][number % 2])?;
        warm.extend((number > WARM_UP).then_some(moments));
    }
    let mut cold = Vec::new();
    for number in 0..arguments.cold {
        let version = format!("cold-{number}");
        cluster.write(&version, &plugins::version(plugin, &version))?;
        cluster.check(&version)?;
        cold.push(swap(cluster, &version)?);
    }
    Ok((warm, cold))
}

fn swap(cluster: &Cluster, version: &str) -> Result<Moments> {
    let now = || anyhow::Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64());
    let began = now()?;
    cluster.swap(version)?;
    Ok((began, now()?))
}

fn print_row(what: &str, mut values: Vec<f64>) -> Value {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let last = values.len().saturating_sub(1) as f64;
        values.get((last * share).round() as usize).copied().unwrap_or(f64::NAN)
    };
    let (p50, p99, longest) = (median(values.iter().copied()), at(0.99), at(1.0));
    println!("{what:<46} {:>8} {p50:>8.2} {p99:>8.2} {longest:>8.2}", values.len());
    json!({ "what": what.trim(), "count": values.len(), "p50": p50, "p99": p99, "longest": longest })
}
