//! A `read_committed` reader of the sink that sees who stands still.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

/// How long everything may take to flow.
const PATIENCE: Duration = Duration::from_secs(120);

/// Reads on one thread.
pub(crate) struct Reader {
    consumer: BaseConsumer,
    counts: HashMap<String, u64>,
    last: Vec<Option<Instant>>,
    seen: Seen,
}

/// What it saw.
pub(crate) struct Seen {
    /// By source partition.
    pub(crate) longest: Vec<Duration>,
    /// Counts that were not the one after the one before.
    pub(crate) wrong: u64,
}

/// A reader at work.
pub(crate) struct Watching<'scope> {
    stop: Arc<AtomicBool>,
    thread: ScopedJoinHandle<'scope, Result<Seen>>,
}

impl Reader {
    pub(crate) fn new(bootstrap: &str, topic: &str, partitions: i32) -> Result<Self> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("group.id", "bench-failover")
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .create()?;
        let mut assignment = TopicPartitionList::new();
        for partition in 0..partitions {
            assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
        }
        consumer.assign(&assignment)?;
        let sources = usize::try_from(partitions)?;
        let seen = Seen { longest: vec![Duration::ZERO; sources], wrong: 0 };
        Ok(Self { consumer, counts: HashMap::new(), last: vec![None; sources], seen })
    }

    /// Takes one record, if there is one soon. Whether there was.
    fn take(&mut self) -> Result<bool> {
        let Some(message) = self.consumer.poll(Duration::from_millis(50)) else { return Ok(false) };
        let message = message?;
        let key = String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned();
        let count: u64 = String::from_utf8_lossy(message.payload().unwrap_or_default()).parse().context("a count")?;
        let before = self.counts.insert(key.clone(), count);
        if count != before.unwrap_or(0) + 1 {
            self.seen.wrong += 1;
        }
        // Keys of the state that was made beforehand have no partition.
        let partition =
            key.split_once('-').filter(|(_, rest)| rest.len() <= 2).and_then(|(at, _)| at.parse::<usize>().ok());
        if let Some(last) = partition.and_then(|partition| self.last.get_mut(partition)) {
            let now = Instant::now();
            let gap = last.replace(now).map_or(Duration::ZERO, |last| now - last);
            let longest = &mut self.seen.longest[partition.unwrap_or_default()];
            *longest = gap.max(*longest);
        }
        Ok(true)
    }

    /// Reads until records of every partition have come and what was there before is through.
    pub(crate) fn until_all_flow(&mut self) -> Result<()> {
        let begin = Instant::now();
        let recent = |last: &Option<Instant>| last.is_some_and(|last| last.elapsed() < Duration::from_millis(500));
        let mut settled = None;
        while settled.is_none_or(|since: Instant| since.elapsed() < Duration::from_secs(2)) {
            ensure!(begin.elapsed() < PATIENCE, "not every partition flows: {:?}", self.last);
            self.take()?;
            match self.last.iter().all(recent) {
                true => drop(settled.get_or_insert_with(Instant::now)),
                false => settled = None,
            }
        }
        self.seen.longest.fill(Duration::ZERO);
        Ok(())
    }

    /// Goes on on a thread of its own.
    pub(crate) fn watch<'scope>(mut self, scope: &'scope Scope<'scope, '_>) -> Watching<'scope> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = scope.spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                self.take()?;
            }
            Ok(self.seen)
        });
        Watching { stop, thread }
    }
}

impl Watching<'_> {
    pub(crate) fn finish(self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the reader does not panic")
    }
}
