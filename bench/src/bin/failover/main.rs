//! How long partitions stand still when nodes of a cluster are restarted one after the other, and when one is killed that has much
//! state. To run it: `cargo xtask bench failover`.
//!
//! Three `sluicegate worker`s run keyed counts over a steady stream into every partition; a `read_committed` reader of the sink
//! notes, for each source partition, the longest time in which nothing of it came, and that counts go on without gap or
//! repetition. Everything shares one machine.

mod cluster;
mod reader;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde_json::json;
use sluicegate_bench::figures::print_machine;
use sluicegate_bench::load;
use sluicegate_bench::report::ReportArgs;
use sluicegate_bench::servers::Servers;
use sluicegate_bench::sluicegate::program;
use sluicegate_bench::topics::Topics;

use self::cluster::{Cluster, NODES, Protocol};
use self::reader::Reader;

const PARTITIONS: i32 = 6;
/// A node that goes is away for so long.
const AWAY: Duration = Duration::from_secs(1);
/// Between two nodes of a rolling restart.
const BETWEEN: Duration = Duration::from_secs(3);
const ROLLING_GOAL: Duration = Duration::from_secs(3);
/// What a takeover may take beyond the time-outs.
const TAKEOVER_GOAL: Duration = Duration::from_secs(3);

/// Measures restarts and crashes of nodes under load
#[derive(Parser)]
struct Arguments {
    /// Records a second, over all partitions
    #[arg(long, default_value_t = 3_000)]
    rate: u64,
    /// Size of the state on the node that is killed
    #[arg(long, value_name = "MB", default_value_t = 100)]
    megabytes: usize,
    /// The sluicegate program
    #[arg(long, value_name = "FILE")]
    sluicegate: Option<PathBuf>,
    #[command(flatten)]
    report: ReportArgs,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let servers = cluster::servers()?;
    let topics = Topics::connect(&servers.bootstrap)?;
    let program =
        arguments.sluicegate.clone().unwrap_or_else(program).canonicalize().context("find the sluicegate program")?;
    print_machine();
    println!("{NODES} workers, {PARTITIONS} partitions, {} records/s, exactly-once", arguments.rate);
    let mut report = Vec::new();
    for protocol in [Protocol::Consumer, Protocol::Classic] {
        let rolling = rolling(&arguments, &servers, &topics, &program, protocol)?;
        let met = rolling <= ROLLING_GOAL;
        println!(
            "rolling restart, {protocol}: no partition stood still longer than {rolling:.1?}; goal: {ROLLING_GOAL:?}: {}",
            if met { "ok" } else { "MISSED" }
        );
        report
            .push(json!({ "scenario": "rolling", "protocol": protocol.to_string(), "stall_s": rolling.as_secs_f64() }));
        report.push(takeover(&arguments, &servers, &topics, &program, protocol)?);
    }
    arguments.report.write(json!({ "scenarios": report }))
}

/// The longest time in which a partition stood still while every node was restarted once.
fn rolling(
    arguments: &Arguments,
    servers: &Servers,
    topics: &Topics,
    program: &Path,
    protocol: Protocol,
) -> Result<Duration> {
    let mut cluster = Cluster::start(program, servers, topics, protocol, &format!("rolling-{protocol}"), PARTITIONS)?;
    let ((), longest) = under_load(&mut cluster, &servers.bootstrap, arguments.rate, |cluster| {
        (0..NODES).try_for_each(|node| {
            cluster.stop(node)?;
            std::thread::sleep(AWAY);
            cluster.join(node)?;
            std::thread::sleep(BETWEEN);
            Ok(())
        })
    })?;
    for (partition, stall) in longest.iter().enumerate() {
        println!("    partition {partition}: {:.2} s", stall.as_secs_f64());
    }
    Ok(longest.into_iter().max().unwrap_or_default())
}

/// Kills the node with the state, and sees how long its partitions stand still.
fn takeover(
    arguments: &Arguments,
    servers: &Servers,
    topics: &Topics,
    program: &Path,
    protocol: Protocol,
) -> Result<serde_json::Value> {
    let mut cluster = Cluster::start(program, servers, topics, protocol, &format!("takeover-{protocol}"), PARTITIONS)?;
    let victim = 0;
    let partitions = cluster.partitions_of(victim)?;
    load::fill(&servers.bootstrap, &cluster.source, &partitions, arguments.megabytes)?;
    cluster.wait_until_done()?;
    let (killed, longest) = under_load(&mut cluster, &servers.bootstrap, arguments.rate, |cluster| {
        let killed = cluster.kill(victim)?;
        cluster.wait_until_running()?;
        std::thread::sleep(BETWEEN);
        Ok(killed)
    })?;
    let longest = longest.into_iter().max().unwrap_or_default();
    let events = cluster.events_since(killed, &partitions)?;
    let timeout = protocol.session_timeout();
    println!(
        "kill -9 of a node with {} MB of state, {protocol}: no partition stood still longer than {longest:.1?} (session time-out {timeout:?}); \
         goal: {TAKEOVER_GOAL:?} beyond it: {}",
        arguments.megabytes,
        if longest <= timeout + TAKEOVER_GOAL { "ok" } else { "MISSED" }
    );
    println!(
        "    noticed by the group after {:.1} s, partitions assigned after {:.1} s, state restored after {:.1} s (reading it took {:.2} s)",
        events.noticed, events.assigned, events.restored, events.restore_took
    );
    Ok(json!({
        "scenario": "takeover", "protocol": protocol.to_string(), "stall_s": longest.as_secs_f64(),
        "noticed_s": events.noticed, "assigned_s": events.assigned, "restored_s": events.restored,
        "restore_took_s": events.restore_took,
    }))
}

/// Does something to a cluster while records flow through it. Returns what came of it, and for each partition the longest time in
/// which nothing came out.
///
/// # Errors
/// What was done failed, or a count is not the one after the one before.
fn under_load<T>(
    cluster: &mut Cluster,
    bootstrap: &str,
    rate: u64,
    what: impl FnOnce(&mut Cluster) -> Result<T>,
) -> Result<(T, Vec<Duration>)> {
    let (done, source) = (AtomicBool::new(false), cluster.source.clone());
    std::thread::scope(|scope| {
        let load = scope.spawn(|| load::steady(bootstrap, &source, PARTITIONS, rate, &done));
        let watched = (|| {
            let mut reader = Reader::new(bootstrap, &cluster.sink, PARTITIONS)?;
            reader.until_all_flow()?;
            let reader = reader.watch(scope);
            anyhow::Ok((what(cluster), reader.finish()?))
        })();
        done.store(true, Ordering::Relaxed);
        load.join().expect("the load does not panic")?;
        let (result, seen) = watched?;
        let result = result?;
        ensure!(seen.wrong == 0, "{} counts were not the one after the one before", seen.wrong);
        Ok((result, seen.longest))
    })
}
