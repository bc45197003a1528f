//! `sluicegate run` beside native loops that do the same, on a real Kafka, in interleaved rounds.
//!
//! Every measurement is a process of its own with a group and a sink of its own; all read the same source topic from its
//! beginning. CPU time is that of the process, all of its threads, from its start until the last record is in the sink; wall time runs
//! from the first record in the sink to the last. Broker and clients share the machine, so that CPU time says more. To run it:
//! `cargo xtask bench end-to-end`.

mod contender;
mod report;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use serde_json::json;
use sluicegate_bench::figures::print_machine;
use sluicegate_bench::report::ReportArgs;
use sluicegate_bench::servers::ServerArgs;
use sluicegate_bench::sluicegate::{Delivery, program};
use sluicegate_bench::topics::Topics;

use self::contender::{Contender, Ground, PARTITIONS};

/// What is done to the records.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Work {
    /// The value gets its length appended; no state
    ValueLength,
    /// Each record becomes the number of records with its key; 100,000 keys
    KeyedCount,
}

impl Work {
    fn name(self) -> &'static str {
        match self {
            Self::ValueLength => "value-length",
            Self::KeyedCount => "keyed-count",
        }
    }
}

/// Compares `sluicegate run` with native loops on a real Kafka
#[derive(Parser)]
struct Arguments {
    /// Records of the source topic
    #[arg(long, default_value_t = 5_000_000)]
    records: u64,
    /// Rounds; in each of them every contender is measured once
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// What is done to the records; all of it if not given
    #[arg(long, value_enum)]
    work: Vec<Work>,
    /// Who takes part; everybody if not given
    #[arg(long, value_enum)]
    contender: Vec<Contender>,
    /// With transactions; the loop that people write with rdkafka has none and does not take part
    #[arg(long)]
    exactly_once: bool,
    /// Time between commits
    #[arg(long, default_value_t = 1000)]
    commit_interval_ms: u64,
    /// `zookeeper-bytes-per-second` of `sluicegate run`; its default if not given
    #[arg(long, value_name = "SIZE")]
    zookeeper_budget: Option<String>,
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
    let folder = tempfile::tempdir().context("make a folder")?;
    let source = format!("bench-source-{}", arguments.records);
    topics.create(&source, PARTITIONS)?;
    let there = topics.records(&source, PARTITIONS)?;
    if there < arguments.records {
        eprintln!("writing {} records to {source}", arguments.records);
        topics.fill(&source, arguments.records - there)?;
    }
    let program = arguments.sluicegate.clone().unwrap_or_else(program);
    let program =
        program.canonicalize().with_context(|| format!("{} is missing: `cargo build --release`", program.display()))?;
    let delivery = Delivery { exactly_once: arguments.exactly_once, commit_interval_ms: arguments.commit_interval_ms };
    let ground = Ground {
        servers: &servers,
        topics: &topics,
        folder: folder.path(),
        source: &source,
        program: &program,
        delivery,
        zookeeper_budget: arguments.zookeeper_budget.as_deref(),
    };

    let works = if arguments.work.is_empty() { Work::value_variants() } else { &arguments.work };
    print_machine();
    let mut results = Vec::new();
    for &work in works {
        let wanted = |contender: &Contender| arguments.contender.is_empty() || arguments.contender.contains(contender);
        let mut contenders: Vec<Contender> =
            Contender::value_variants().iter().copied().filter(|one| one.does(work, delivery) && wanted(one)).collect();
        println!(
            "\n{}, {}, commits every {} ms, {} records of 100 bytes with keys of 16, {PARTITIONS} partitions",
            work.name(),
            delivery.guarantee(),
            delivery.commit_interval_ms,
            arguments.records
        );
        report::print_heading();
        if contenders.contains(&Contender::Sluicegate) {
            ground.warm_up(work)?;
        }
        let mut measured = Vec::new();
        for round in 1..=arguments.rounds {
            for &contender in &contenders {
                let measurement = ground.measure(contender, work, arguments.records, round)?;
                report::print_measurement(&measurement);
                measured.push(measurement);
            }
            contenders.reverse();
        }
        report::print_summary(&measured, delivery);
        results.push(
            json!({ "work": work.name(), "records": arguments.records, "measurements": report::json(&measured) }),
        );
    }
    arguments.report.write(json!({ "results": results }))
}
