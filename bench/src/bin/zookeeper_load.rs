//! What a running pipeline asks of ZooKeeper: requests and bytes, a second and for each commit, as the number of partitions grows
//! and as fewer of them are active. To run it: `cargo xtask bench zookeeper`.
//!
//! `sluicegate run` with two worker threads counts keys under exactly-once, at a steady rate that is spread over the active
//! partitions; the others get nothing. Requests are those that the server has counted, pings included.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::json;
use sluicegate_bench::figures::print_machine;
use sluicegate_bench::process::Measured;
use sluicegate_bench::report::ReportArgs;
use sluicegate_bench::servers::{ServerArgs, Servers};
use sluicegate_bench::sluicegate::{Delivery, Pipeline, program};
use sluicegate_bench::topics::Topics;

const THREADS: usize = 2;
/// Partitions, and how many of them get records.
const CASES: [(i32, i32); 6] = [(4, 4), (32, 32), (128, 128), (32, 4), (128, 4), (128, 0)];
const WARM_UP: Duration = Duration::from_secs(5);
const DEADLINE: Duration = Duration::from_secs(120);

/// Measures what a pipeline asks of ZooKeeper
#[derive(Parser)]
struct Arguments {
    /// Records a second, over all active partitions
    #[arg(long, default_value_t = 5_000)]
    rate: u64,
    /// Different keys, over all active partitions
    #[arg(long, default_value_t = 1_000)]
    keys: u64,
    /// Time between commits
    #[arg(long, default_value_t = 100)]
    commit_interval_ms: u64,
    /// How long each case is measured
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// The sluicegate program
    #[arg(long, value_name = "FILE")]
    sluicegate: Option<PathBuf>,
    #[command(flatten)]
    report: ReportArgs,
    #[command(flatten)]
    servers: ServerArgs,
}

/// Counters at one moment.
struct Counts {
    requests: f64,
    commits: f64,
    bytes: f64,
}

fn load(bootstrap: &str, topic: &str, active: i32, arguments: &Arguments, done: &AtomicBool) -> Result<()> {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", bootstrap).set("linger.ms", "5").create()?;
    let (begin, mut sent) = (Instant::now(), 0u64);
    while !done.load(Ordering::Relaxed) && active > 0 {
        let due = u64::try_from(begin.elapsed().as_micros())? * arguments.rate / 1_000_000;
        while sent < due {
            let number = sent % arguments.keys;
            let key = format!("key-{number:012}");
            let partition = i32::try_from(number % active.unsigned_abs() as u64)?;
            let record = BaseRecord::to(topic).partition(partition).key(&key).payload("x");
            producer.send(record).map_err(|(error, _)| error)?;
            sent += 1;
        }
        producer.poll(Duration::ZERO);
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(producer.flush(Duration::from_secs(10))?)
}

/// What the server says of itself to `mntr`.
fn requests(connect: &str) -> Result<f64> {
    let mut stream = TcpStream::connect(connect)?;
    stream.write_all(b"mntr")?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    let line = said.lines().find_map(|line| line.strip_prefix("zk_packets_received"));
    line.context("the server allows `mntr`")?.trim().parse().context("a number of packets")
}

/// The sum of a metric of the process over its labels.
fn metric(page: &str, name: &str) -> f64 {
    let samples = page.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
    samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

fn counts(process: &Measured, connect: &str) -> Result<Counts> {
    let log = process.log()?;
    let address = log.split_once("http endpoint:").and_then(|(_, rest)| rest.split_once("address="));
    let address = address.and_then(|(_, rest)| rest.split_whitespace().next()).context("it says where it listens")?;
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(Counts {
        requests: requests(connect)?,
        commits: metric(&page, "sluicegate_commit_duration_seconds_count"),
        bytes: metric(&page, "sluicegate_checkpoint_bytes_total"),
    })
}

fn measure(
    arguments: &Arguments,
    servers: &Servers,
    topics: &Topics,
    program: &std::path::Path,
    (partitions, active): (i32, i32),
) -> Result<serde_json::Value> {
    let folder = tempfile::tempdir()?;
    let name = format!("load-{partitions}-{active}");
    let (source, sink) = (format!("{name}-source"), format!("{name}-sink"));
    topics.create(&source, partitions)?;
    topics.create(&sink, partitions)?;
    let delivery = Delivery { exactly_once: true, commit_interval_ms: arguments.commit_interval_ms };
    let pipeline =
        Pipeline { name: &name, plugin: "keyed_count", source: &source, sink: &sink, delivery, zookeeper_budget: None };
    let mut command = pipeline.command(program, servers, folder.path())?;
    command.args(["--worker-threads", &THREADS.to_string()]);
    let mut process = Measured::start(&name, command, folder.path().join("log"))?;
    let done = AtomicBool::new(false);
    let (before, after, over) = std::thread::scope(|scope| {
        let load = scope.spawn(|| load(&servers.bootstrap, &source, active, arguments, &done));
        let measured = (|| {
            let begin = Instant::now();
            while process.log()?.matches(" restored ").count() < usize::try_from(partitions)? {
                process.expect_running()?;
                ensure!(begin.elapsed() < DEADLINE, "not all tasks run:\n{}", process.log_tail());
                std::thread::sleep(Duration::from_millis(100));
            }
            std::thread::sleep(WARM_UP);
            let (begin, before) = (Instant::now(), counts(&process, &servers.connect)?);
            std::thread::sleep(Duration::from_secs(arguments.seconds));
            Ok((before, counts(&process, &servers.connect)?, begin.elapsed().as_secs_f64()))
        })();
        done.store(true, Ordering::Relaxed);
        load.join().expect("the load does not panic")?;
        measured
    })?;
    process.stop(true)?;
    topics.delete(&source)?;
    topics.delete(&sink)?;
    let (requests, commits, bytes) =
        (after.requests - before.requests, after.commits - before.commits, after.bytes - before.bytes);
    let each = |total: f64| if commits > 0.0 { total / commits } else { f64::NAN };
    println!(
        "{partitions:>10} {active:>7} {:>10.1} {:>10.1} {:>14.2} {:>10.1} {:>12.2}",
        commits / over,
        requests / over,
        each(requests),
        bytes / over / 1e3,
        each(bytes) / 1e3
    );
    Ok(json!({
        "partitions": partitions, "active": active, "commits_per_s": commits / over,
        "requests_per_s": requests / over, "bytes_per_s": bytes / over,
    }))
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let servers = arguments.servers.start()?;
    let topics = Topics::connect(&servers.bootstrap)?;
    let program =
        arguments.sluicegate.clone().unwrap_or_else(program).canonicalize().context("find the sluicegate program")?;
    print_machine();
    println!(
        "keyed-count, {THREADS} threads, {} records/s over {} keys, commits at most {} ms apart",
        arguments.rate, arguments.keys, arguments.commit_interval_ms
    );
    println!(
        "{:>10} {:>7} {:>10} {:>10} {:>14} {:>10} {:>12}",
        "partitions", "active", "commits/s", "requests/s", "requests/commit", "kB/s", "kB/commit"
    );
    let mut report = Vec::new();
    for case in CASES {
        report.push(measure(&arguments, &servers, &topics, &program, case)?);
    }
    arguments.report.write(json!({ "cases": report }))
}
