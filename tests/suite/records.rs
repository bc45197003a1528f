//! Records in and out of topics, as a test sees them: written with librdkafka, read whole, in the order of their partitions.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::shared::SOON;

/// A record. Where it lies counts for reading; a partition of `None` lets the key decide, as Java's client does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) partition: Option<i32>,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
    pub(crate) timestamp: Option<i64>,
}

impl Record {
    /// With a key and a value.
    pub(crate) fn of(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        Self { key: Some(key.as_ref().to_vec()), value: Some(value.as_ref().to_vec()), ..Self::default() }
    }

    /// Without a key, in a partition.
    pub(crate) fn keyless(partition: i32, value: impl AsRef<[u8]>) -> Self {
        Self { partition: Some(partition), value: Some(value.as_ref().to_vec()), ..Self::default() }
    }

    pub(crate) fn at(self, timestamp: i64) -> Self {
        Self { timestamp: Some(timestamp), ..self }
    }

    pub(crate) fn in_partition(self, partition: i32) -> Self {
        Self { partition: Some(partition), ..self }
    }

    pub(crate) fn header(mut self, name: &str, value: Option<&str>) -> Self {
        self.headers.push((name.to_owned(), value.map(|value| value.as_bytes().to_vec())));
        self
    }

    /// Key and value as text.
    pub(crate) fn text(&self) -> (String, String) {
        let text = |bytes: &Option<Vec<u8>>| String::from_utf8_lossy(bytes.as_deref().unwrap_or(b"null")).into_owned();
        (text(&self.key), text(&self.value))
    }
}

/// A producer that a test keeps for a while.
pub(crate) fn producer(bootstrap: &str) -> BaseProducer {
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("partitioner", "murmur2_random")
        .set("enable.idempotence", "true")
        .set("linger.ms", "2")
        .create()
        .unwrap()
}

/// Queues records; [`Producer::flush`] makes sure of them.
pub(crate) fn send(producer: &BaseProducer, topic: &str, records: impl IntoIterator<Item = Record>) {
    for record in records {
        let mut message = BaseRecord::<[u8], [u8]>::to(topic);
        message.partition = record.partition;
        message.key = record.key.as_deref();
        message.payload = record.value.as_deref();
        message.timestamp = record.timestamp;
        if !record.headers.is_empty() {
            let add = |headers: OwnedHeaders, (name, value): &(String, Option<Vec<u8>>)| {
                headers.insert(Header { key: name, value: value.as_ref() })
            };
            message.headers = Some(record.headers.iter().fold(OwnedHeaders::new(), add));
        }
        loop {
            match producer.send(message) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    producer.poll(Duration::from_millis(5));
                    message = back;
                }
                Err((error, _)) => panic!("{error}"),
            }
        }
        producer.poll(Duration::ZERO);
    }
}

/// Writes records and waits until the broker has them.
pub(crate) fn produce(bootstrap: &str, topic: &str, records: impl IntoIterator<Item = Record>) {
    let producer = producer(bootstrap);
    send(&producer, topic, records);
    producer.flush(SOON).unwrap();
}

/// A client that reads and asks; `group` for what has been committed in its name.
pub(crate) fn consumer(bootstrap: &str, group: &str) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("fetch.queue.backoff.ms", "1")
        .set("enable.partition.eof", "true")
        .create()
        .unwrap()
}

/// The end of each partition of a topic.
pub(crate) fn ends(consumer: &BaseConsumer, topic: &str) -> Vec<i64> {
    let metadata = consumer.fetch_metadata(Some(topic), SOON).unwrap();
    let partitions = i32::try_from(metadata.topics()[0].partitions().len()).unwrap();
    (0..partitions).map(|partition| consumer.fetch_watermarks(topic, partition, SOON).unwrap().1).collect()
}

/// Everything that is in a topic now and committed: by partition, and in each by offset.
pub(crate) fn read_all(bootstrap: &str, topic: &str) -> Vec<Record> {
    let consumer = consumer(bootstrap, "reader");
    let ends = ends(&consumer, topic);
    let mut assignment = TopicPartitionList::new();
    for (partition, _) in (0..).zip(&ends) {
        assignment.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&assignment).unwrap();
    let mut records: Vec<Vec<Record>> = ends.iter().map(|_| Vec::new()).collect();
    let deadline = Instant::now() + SOON;
    // Not by counting: the ends of transactions take up offsets.
    let mut unread = ends.len();
    while unread > 0 {
        assert!(Instant::now() < deadline, "{topic} cannot be read to its ends {ends:?}");
        let message = match consumer.poll(Duration::from_millis(100)) {
            None => continue,
            Some(Err(KafkaError::PartitionEOF(_))) => {
                unread -= 1;
                continue;
            }
            Some(message) => message.unwrap(),
        };
        let headers = message.headers().map_or_else(Vec::new, |headers| {
            headers.iter().map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect()
        });
        records[message.partition() as usize].push(Record {
            partition: Some(message.partition()),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers,
            timestamp: message.timestamp().to_millis(),
        });
    }
    records.into_iter().flatten().collect()
}
