//! Who is compared, and one measurement of one of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::ValueEnum;
use sluicegate_bench::figures::load;
use sluicegate_bench::native::NativeLoop;
use sluicegate_bench::process::Measured;
use sluicegate_bench::servers::Servers;
use sluicegate_bench::sluicegate::{Delivery, Pipeline};
use sluicegate_bench::topics::Topics;

use super::Work;

/// Partitions of source and sinks.
pub(crate) const PARTITIONS: i32 = 4;
/// How often the end of the sink is asked for: one request each time.
const LOOK: Duration = Duration::from_millis(20);
/// Without a new record for this long something is wrong.
const STALLED: Duration = Duration::from_secs(60);
/// What the slow loop has to do: enough for a rate, without waiting for minutes.
const RECORDS_OF_SLOW: u64 = 1_000_000;

/// Who is measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Contender {
    /// `sluicegate run`
    Sluicegate,
    /// The tightest native loop on librdkafka, one thread
    Native,
    /// The same with two threads
    Native2,
    /// The loop that people write with rdkafka
    Rdkafka,
}

impl Contender {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sluicegate => "sluicegate run",
            Self::Native => "native, 1 thread",
            Self::Native2 => "native, 2 threads",
            Self::Rdkafka => "rdkafka streams",
        }
    }

    pub(crate) fn does(self, work: Work, delivery: Delivery) -> bool {
        match self {
            Self::Sluicegate | Self::Native | Self::Native2 => true,
            Self::Rdkafka => work == Work::ValueLength && !delivery.exactly_once,
        }
    }
}

/// One measurement.
pub(crate) struct Measurement {
    pub(crate) contender: Contender,
    pub(crate) round: usize,
    /// Records that were in the sink at the end.
    pub(crate) records: u64,
    /// From the first record in the sink to the last.
    pub(crate) wall_s: f64,
    /// CPU time of the process until the last record was in the sink.
    pub(crate) cpu_s: f64,
    /// The part of it before the first record was there: start, loading, joining the group.
    pub(crate) cpu_first_s: f64,
    /// CPU time by thread, of the threads that were alive at the end.
    pub(crate) threads: BTreeMap<String, f64>,
    /// The part of the worker threads' time from the first record on in which commits held them up; not known of loops.
    pub(crate) held_up: Option<f64>,
    /// Bytes a second that it wrote to ZooKeeper.
    pub(crate) written_per_s: Option<f64>,
    /// Load of the machine when it ended.
    pub(crate) load: f64,
}

impl Measurement {
    pub(crate) fn records_per_second(&self) -> f64 {
        self.records as f64 / self.wall_s
    }

    pub(crate) fn cpu_per_million(&self) -> f64 {
        self.cpu_s / self.records as f64 * 1e6
    }
}

/// What all measurements have in common.
pub(crate) struct Ground<'a> {
    pub(crate) servers: &'a Servers,
    pub(crate) topics: &'a Topics,
    pub(crate) folder: &'a Path,
    pub(crate) source: &'a str,
    pub(crate) program: &'a Path,
    pub(crate) delivery: Delivery,
    pub(crate) zookeeper_budget: Option<&'a str>,
}

/// What `sluicegate run` has counted.
#[derive(Clone, Copy)]
struct Counted {
    held_up_s: f64,
    written: f64,
}

impl Counted {
    fn by(process: &Measured) -> Result<Self> {
        Ok(Self {
            held_up_s: process.metric("sluicegate_commit_held_up_seconds_total")?,
            written: process.metric("sluicegate_checkpoint_bytes_total")?,
        })
    }
}

impl Ground<'_> {
    /// Lets `sluicegate run` start once, so that its plugin is compiled when it is measured.
    pub(crate) fn warm_up(&self, work: Work) -> Result<()> {
        let name = format!("{}-warm-up-{}", work.name(), std::process::id());
        let sink = format!("bench-sink-{name}");
        self.topics.create(&sink, PARTITIONS)?;
        let command = self.command(Contender::Sluicegate, work, &name, &sink)?;
        let process = Measured::start("warm-up", command, self.folder.join(format!("{name}.log")))?;
        let warm = self.watch(process, Contender::Sluicegate, 0, &sink, 1);
        self.topics.delete(&sink)?;
        warm.map(drop)
    }

    /// Runs one contender until everything is in the sink.
    pub(crate) fn measure(&self, contender: Contender, work: Work, records: u64, round: usize) -> Result<Measurement> {
        let name = format!("{}-{contender:?}-{}-{round}", work.name(), std::process::id()).to_lowercase();
        let sink = format!("bench-sink-{name}");
        self.topics.create(&sink, PARTITIONS)?;
        let command = self.command(contender, work, &name, &sink)?;
        let process = Measured::start(contender.name(), command, self.folder.join(format!("{name}.log")))?;
        let count = if contender == Contender::Rdkafka { records.min(RECORDS_OF_SLOW) } else { records };
        let measurement = self.watch(process, contender, round, &sink, count);
        self.topics.delete(&sink)?;
        measurement
    }

    fn command(&self, contender: Contender, work: Work, name: &str, sink: &str) -> Result<Command> {
        let (source, delivery) = (self.source, self.delivery);
        let threads = match contender {
            Contender::Sluicegate => {
                let plugin = work.name().replace('-', "_");
                let zookeeper_budget = self.zookeeper_budget;
                let pipeline = Pipeline { name, plugin: &plugin, source, sink, delivery, zookeeper_budget };
                return pipeline.command(self.program, self.servers, self.folder);
            }
            Contender::Rdkafka => {
                let mut command = Command::new(std::env::current_exe()?.with_file_name("rdkafka_loop"));
                command.args(["--bootstrap", &self.servers.bootstrap, "--group", name]);
                command.args(["--source", source, "--sink", sink]);
                return Ok(command);
            }
            Contender::Native => 1,
            Contender::Native2 => 2,
        };
        let work = work.name();
        NativeLoop { group: name, source, sink, partitions: PARTITIONS, work, threads, delivery }.command(self.servers)
    }

    fn watch(
        &self,
        mut process: Measured,
        contender: Contender,
        round: usize,
        sink: &str,
        count: u64,
    ) -> Result<Measurement> {
        let ours = contender == Contender::Sluicegate;
        let counted = |process: &Measured| ours.then(|| Counted::by(process)).transpose();
        let threads = std::thread::available_parallelism()?.get() as f64;
        let mut first: Option<(Instant, u64, f64, Option<Counted>)> = None;
        let mut seen = (Instant::now(), 0);
        loop {
            let records = self.topics.records(sink, PARTITIONS)?;
            let now = Instant::now();
            if records > seen.1 {
                seen = (now, records);
            } else if seen.0.elapsed() > STALLED {
                bail!("{} stands still at {records} records:\n{}", contender.name(), process.log_tail());
            }
            if first.is_none() && records > 0 {
                first = Some((now, records, process.cpu_seconds()?, counted(&process)?));
            }
            if let Some((begin, before, cpu_first_s, counted_first)) = first.filter(|_| records >= count) {
                let flowed_s = (now - begin).as_secs_f64();
                let counted = counted_first.zip(counted(&process)?);
                let measurement = Measurement {
                    contender,
                    round,
                    records,
                    // What was there at the first look is not counted as done since.
                    wall_s: (now - begin).as_secs_f64() * records as f64 / (records - before).max(1) as f64,
                    cpu_s: process.cpu_seconds()?,
                    cpu_first_s,
                    threads: process.cpu_by_thread(),
                    held_up: counted.map(|(first, last)| (last.held_up_s - first.held_up_s) / threads / flowed_s),
                    written_per_s: counted.map(|(first, last)| (last.written - first.written) / flowed_s),
                    load: load(),
                };
                process.stop(ours)?;
                return Ok(measurement);
            }
            process.expect_running()?;
            std::thread::sleep(LOOK);
        }
    }
}
