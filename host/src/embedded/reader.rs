//! Reads a sink, keeps what the demo shows of it and what its summary checks.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::kafka::TopicPartition;
use crate::kafka::consumer::{Consumer, ConsumerEvent, ConsumerOptions};
use crate::kafka::settings::KafkaSettings;

const SAMPLES: usize = 3;

/// A number for each key.
#[derive(Debug, Default)]
pub(super) struct Counts(BTreeMap<String, u64>);

impl Counts {
    pub(super) fn add(&mut self, key: &str) {
        match self.0.get_mut(key) {
            Some(count) => *count += 1,
            None => {
                self.0.insert(key.to_owned(), 1);
            }
        }
    }

    pub(super) fn of(&self, key: &str) -> u64 {
        self.0.get(key).copied().unwrap_or(0)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(key, count)| (key.as_str(), *count))
    }
}

/// Reads a topic from its beginning.
pub(super) struct Reader {
    consumer: Consumer,
    records: u64,
    samples: Vec<(String, String)>,
    /// The largest number each key came with, for sinks whose values are numbers.
    counts: Counts,
    /// The first value that does not end in the length of what stands before it, for sinks of lengths.
    wrong: Option<String>,
}

impl Reader {
    pub(super) fn new(kafka: &KafkaSettings, topic: &str) -> Result<Self> {
        let options = ConsumerOptions {
            group_id: format!("demo-reader-{topic}"),
            client_id: format!("demo-reader-{topic}"),
            topics: vec![topic.to_owned()],
        };
        let consumer = Consumer::new(kafka, &options)?;
        consumer.join()?;
        Ok(Self { consumer, records: 0, samples: Vec::new(), counts: Counts::default(), wrong: None })
    }

    /// Takes what has arrived; returns how many records.
    pub(super) fn read(&mut self) -> Result<usize> {
        let Self { consumer, samples, counts, wrong, .. } = self;
        let taken = consumer.fetch(10_000, 4 << 20, Duration::ZERO, |record| {
            let key = String::from_utf8_lossy(record.key.unwrap_or_default());
            let value = String::from_utf8_lossy(record.value.unwrap_or_default());
            if samples.len() < SAMPLES {
                samples.push((key.to_string(), value.to_string()));
            }
            match value.parse::<u64>() {
                Ok(number) => {
                    let known = counts.0.entry(key.into_owned()).or_default();
                    *known = number.max(*known);
                }
                Err(_) => {
                    let right = value.rsplit_once(',').is_some_and(|(text, length)| length.parse() == Ok(text.len()));
                    if !right && wrong.is_none() {
                        *wrong = Some(value.into_owned());
                    }
                }
            }
        })?;
        self.records += taken.records as u64;
        while let Some(event) = self.consumer.next_event() {
            match event {
                ConsumerEvent::Assigned(partitions) => {
                    self.consumer.accept(&partitions)?;
                    let from: Vec<(TopicPartition, i64)> = partitions.into_iter().map(|at| (at, 0)).collect();
                    self.consumer.start(&from, Duration::from_secs(10))?;
                }
                ConsumerEvent::Revoked { partitions, .. } => self.consumer.release(&partitions)?,
                ConsumerEvent::PartitionFailed { partition, text, .. } => bail!("read {partition}: {text}"),
                _ => {}
            }
        }
        Ok(taken.records)
    }

    pub(super) fn records(&self) -> u64 {
        self.records
    }

    pub(super) fn samples(&self) -> &[(String, String)] {
        &self.samples
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    pub(super) fn wrong(&self) -> Option<&str> {
        self.wrong.as_deref()
    }
}
