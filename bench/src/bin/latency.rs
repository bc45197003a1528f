//! How long a record takes from a producer to a `read_committed` reader of the sink, at a steady rate well below what the pipeline
//! could do: `sluicegate run` beside a native loop that does the same, at-least-once and exactly-once. To run it:
//! `cargo xtask bench latency`.
//!
//! Each record carries the time at which it was handed to the producer. Producer, pipeline, broker and reader share the machine,
//! and the clock; the reader fetches without waiting for more.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use serde_json::json;
use sluicegate_bench::figures::{median, print_machine};
use sluicegate_bench::native::NativeLoop;
use sluicegate_bench::process::Measured;
use sluicegate_bench::report::ReportArgs;
use sluicegate_bench::servers::{ServerArgs, Servers};
use sluicegate_bench::sluicegate::{Delivery, Pipeline, program};
use sluicegate_bench::topics::Topics;

const PARTITIONS: i32 = 4;
/// Until everything has warmed up, records are not counted.
const WARM_UP: Duration = Duration::from_secs(3);

/// Measures the time from a producer through a pipeline to a reader
#[derive(Parser)]
struct Arguments {
    /// Records a second
    #[arg(long, default_value_t = 10_000)]
    rate: u64,
    /// How long each measurement takes
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// How often; in each round every contender is measured once
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Time between commits
    #[arg(long, default_value_t = 100)]
    commit_interval_ms: u64,
    /// The plugin: value-length or keyed-count
    #[arg(long, default_value = "value-length")]
    work: String,
    /// The sluicegate program
    #[arg(long, value_name = "FILE")]
    sluicegate: Option<PathBuf>,
    #[command(flatten)]
    report: ReportArgs,
    #[command(flatten)]
    servers: ServerArgs,
}

/// One measurement, in milliseconds.
struct Latency {
    p50: f64,
    p99: f64,
    max: f64,
}

fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// Sends at a steady rate, a portion each millisecond, until `done`.
fn load(bootstrap: &str, topic: &str, rate: u64, done: &AtomicBool) -> Result<()> {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", bootstrap).set("linger.ms", "5").create()?;
    let begin = Instant::now();
    let mut sent = 0u64;
    while !done.load(Ordering::Relaxed) {
        let due = u64::try_from(begin.elapsed().as_micros())? * rate / 1_000_000;
        while sent < due {
            let (key, value) = (format!("key-{:012}", sent % 1_000), format!("{:0>100}", now_us()));
            let record = BaseRecord::to(topic).key(&key).payload(&value);
            producer.send(record).map_err(|(error, _)| error)?;
            sent += 1;
        }
        producer.poll(Duration::ZERO);
        std::thread::sleep(Duration::from_millis(1));
    }
    producer.flush(Duration::from_secs(10))?;
    Ok(())
}

/// Reads the sink and returns the latencies of what comes after the warm-up, in microseconds, sorted. The time of sending is the
/// record's timestamp where the value no longer has it.
fn watch(bootstrap: &str, topic: &str, seconds: u64) -> Result<Vec<u64>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "bench-latency")
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("fetch.queue.backoff.ms", "1")
        .create()?;
    let mut assignment = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    let (mut latencies, mut first) = (Vec::new(), None);
    let deadline = Instant::now() + Duration::from_secs(seconds + 60);
    while first.is_none_or(|first: Instant| first.elapsed() < WARM_UP + Duration::from_secs(seconds)) {
        ensure!(Instant::now() < deadline, "nothing comes out");
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let (now, message) = (now_us(), message?);
        if first.get_or_insert_with(Instant::now).elapsed() < WARM_UP {
            continue;
        }
        let value = message.payload().unwrap_or_default();
        let digits = value.get(..100).and_then(|digits| std::str::from_utf8(digits).ok());
        let sent = match digits.and_then(|digits| digits.parse().ok()) {
            Some(sent) => sent,
            None => u64::try_from(message.timestamp().to_millis().context("records have timestamps")?)? * 1_000,
        };
        latencies.push(now.saturating_sub(sent));
    }
    latencies.sort_unstable();
    Ok(latencies)
}

fn measure(
    arguments: &Arguments,
    servers: &Servers,
    topics: &Topics,
    command: Command,
    native: bool,
    name: &str,
    log: PathBuf,
) -> Result<Latency> {
    let (source, sink) = (format!("{name}-source"), format!("{name}-sink"));
    let process = Measured::start(name, command, log)?;
    let done = AtomicBool::new(false);
    let latencies = std::thread::scope(|scope| {
        let load = scope.spawn(|| load(&servers.bootstrap, &source, arguments.rate, &done));
        let latencies = watch(&servers.bootstrap, &sink, arguments.seconds);
        done.store(true, Ordering::Relaxed);
        load.join().expect("the load does not panic")?;
        latencies
    })?;
    process.stop(!native)?;
    topics.delete(&source)?;
    topics.delete(&sink)?;
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize] as f64 / 1_000.0;
    Ok(Latency { p50: at(0.5), p99: at(0.99), max: at(1.0) })
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let servers = arguments.servers.start()?;
    let topics = Topics::connect(&servers.bootstrap)?;
    let folder = tempfile::tempdir().context("make a folder")?;
    let program =
        arguments.sluicegate.clone().unwrap_or_else(program).canonicalize().context("find the sluicegate program")?;
    print_machine();
    println!(
        "{}, {} records/s, commits at most {} ms apart; milliseconds",
        arguments.work, arguments.rate, arguments.commit_interval_ms
    );
    println!("{:<32} {:>8} {:>8} {:>8}", "", "p50", "p99", "longest");
    let mut report = Vec::new();
    let contenders = [(false, false), (false, true), (true, false), (true, true)];
    let mut measured: Vec<Vec<Latency>> = contenders.iter().map(|_| Vec::new()).collect();
    for round in 0..arguments.rounds {
        for (at, &(exactly_once, native)) in contenders.iter().enumerate() {
            let delivery = Delivery { exactly_once, commit_interval_ms: arguments.commit_interval_ms };
            let name = format!("latency-{}-{round}-{at}", std::process::id());
            let (source, sink) = (format!("{name}-source"), format!("{name}-sink"));
            topics.create(&source, PARTITIONS)?;
            topics.create(&sink, PARTITIONS)?;
            let command = if native {
                let (work, partitions) = (arguments.work.as_str(), PARTITIONS);
                NativeLoop { group: &name, source: &source, sink: &sink, partitions, work, threads: 1, delivery }
                    .command(&servers)?
            } else {
                let plugin = arguments.work.replace('-', "_");
                Pipeline {
                    name: &name,
                    plugin: &plugin,
                    source: &source,
                    sink: &sink,
                    delivery,
                    zookeeper_budget: None,
                }
                .command(&program, &servers, folder.path())?
            };
            let log = folder.path().join(format!("{name}.log"));
            measured[at].push(measure(&arguments, &servers, &topics, command, native, &name, log)?);
        }
    }
    for (&(exactly_once, native), rounds) in contenders.iter().zip(&measured) {
        let delivery = Delivery { exactly_once, commit_interval_ms: arguments.commit_interval_ms };
        let name = format!("{}, {}", if native { "native loop" } else { "sluicegate run" }, delivery.guarantee());
        let of = |number: fn(&Latency) -> f64| median(rounds.iter().map(number));
        let (p50, p99, max) = (of(|one| one.p50), of(|one| one.p99), of(|one| one.max));
        println!("{name:<32} {p50:>8.1} {p99:>8.1} {max:>8.1}");
        report.push(json!({ "contender": name, "p50_ms": p50, "p99_ms": p99, "longest_ms": max }));
    }
    arguments.report.write(json!({ "rate": arguments.rate, "latencies": report }))
}
