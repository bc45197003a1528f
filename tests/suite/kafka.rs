//! The Kafka edge against a real broker: what the rest of the host relies on.
#![allow(clippy::unwrap_used)]

mod group;
mod outage;
mod records;
mod topics;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use sluicegate::kafka::TopicPartition;
use sluicegate::kafka::consumer::{Consumer, ConsumerEvent, ConsumerOptions};
use sluicegate::kafka::producer::{Producer, ProducerOptions, SendError};
use sluicegate::kafka::settings::KafkaSettings;

use crate::shared::{SOON, eventually, unique};

/// A record, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    from: TopicPartition,
    offset: i64,
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Record {
    fn number(&self) -> u64 {
        std::str::from_utf8(self.value.as_ref().unwrap()).unwrap().parse().unwrap()
    }
}

fn at(input: u32, partition: i32) -> TopicPartition {
    TopicPartition { input, partition }
}

fn settings(bootstrap: &str) -> KafkaSettings {
    let mut settings = KafkaSettings::default();
    settings.common.insert("bootstrap.servers".to_owned(), bootstrap.to_owned());
    settings
}

fn member(settings: &KafkaSettings, group: &str, topics: &[&str]) -> Member {
    let options = ConsumerOptions {
        group_id: group.to_owned(),
        client_id: unique("member"),
        topics: topics.iter().map(|&topic| topic.to_owned()).collect(),
    };
    let consumer = Consumer::new(settings, &options).unwrap();
    consumer.join().unwrap();
    Member { consumer, records: Vec::new(), events: VecDeque::new() }
}

/// A consumer and what it has brought so far.
struct Member {
    consumer: Consumer,
    records: Vec<Record>,
    events: VecDeque<ConsumerEvent>,
}

impl Member {
    fn fetch(&mut self, wait: Duration) {
        let records = &mut self.records;
        self.consumer
            .fetch(500, 1 << 20, wait, |record| {
                records.push(Record {
                    from: at(record.input, record.partition),
                    offset: record.offset,
                    timestamp: record.timestamp,
                    key: record.key.map(<[u8]>::to_vec),
                    value: record.value.map(<[u8]>::to_vec),
                    headers: record.headers.map(|(name, value)| (name.to_vec(), value.map(<[u8]>::to_vec))).collect(),
                });
            })
            .unwrap();
        while let Some(event) = self.consumer.next_event() {
            self.events.push_back(event);
        }
    }

    /// The first assignment, accepted and not started.
    fn join(&mut self) -> Vec<TopicPartition> {
        let partitions = eventually("an assignment", || {
            self.fetch(Duration::from_millis(20));
            self.events.drain(..).find_map(|event| match event {
                ConsumerEvent::Assigned(partitions) if !partitions.is_empty() => Some(Ok(partitions)),
                ConsumerEvent::Assigned(partitions) => Some(Err(partitions)),
                _ => None,
            })
        });
        match partitions {
            Ok(partitions) => {
                self.consumer.accept(&partitions).unwrap();
                partitions
            }
            Err(none) => {
                self.consumer.accept(&none).unwrap();
                self.join()
            }
        }
    }

    /// Joins and starts every partition at 0.
    fn join_from_start(&mut self) -> Vec<TopicPartition> {
        let partitions = self.join();
        let offsets: Vec<_> = partitions.iter().map(|&partition| (partition, 0)).collect();
        self.consumer.start(&offsets, SOON).unwrap();
        partitions
    }

    fn fetch_until(&mut self, count: usize) {
        eventually(&format!("{count} records"), || {
            self.fetch(Duration::from_millis(20));
            (self.records.len() >= count).then_some(())
        });
    }

    /// Fetches for a while, to see what should not come.
    fn linger(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            self.fetch(Duration::from_millis(20));
        }
    }

    fn offsets(&self, partition: TopicPartition) -> Vec<i64> {
        self.records.iter().filter(|record| record.from == partition).map(|record| record.offset).collect()
    }
}

fn producer(settings: &KafkaSettings) -> Producer {
    Producer::new(settings, &ProducerOptions { client_id: unique("producer"), transactions: None }).unwrap()
}

/// Sends records whose values are the numbers of `range`, the `n`th to partition `n % partitions`, and flushes.
fn produce(settings: &KafkaSettings, topic: &str, partitions: i32, range: std::ops::Range<u64>) {
    let mut producer = producer(settings);
    let topic = producer.topic(topic).unwrap();
    for number in range {
        let partition = i32::try_from(number % partitions.unsigned_abs() as u64).unwrap();
        let value = number.to_string();
        eventually("room in the queue", || {
            match producer.send(topic, partition, None, Some(value.as_bytes()), 1_000, std::iter::empty()) {
                Ok(()) => Some(()),
                Err(SendError::QueueFull) => {
                    producer.poll(Duration::from_millis(1));
                    None
                }
                Err(error) => panic!("{error}"),
            }
        });
    }
    producer.flush(Instant::now() + SOON).unwrap();
}
