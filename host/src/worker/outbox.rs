//! The sinks of a thread: chooses partitions, sends, and lets the input wait while the producer's buffer is full.

use std::time::{Duration, Instant};

use tracing::warn;

use super::plan::Plan;
use crate::kafka::producer::{FlushError, Producer, ProducerEvent, ProducerOptions, SendError, TopicHandle};
use crate::kafka::settings::KafkaSettings;
use crate::kafka::{ClientError, partition};
use crate::record::RecordView;

/// How long to wait for room before looking again whether to go on.
const ROOM_WAIT: Duration = Duration::from_millis(5);
/// A buffer that stays full this long is worth a message.
const FULL_MESSAGE: Duration = Duration::from_secs(10);

/// Sends records to sinks.
pub struct Outbox {
    producer: Producer,
    sinks: Vec<Sink>,
    sent: Vec<u64>,
}

#[derive(Clone, Copy)]
struct Sink {
    topic: TopicHandle,
    partitions: i32,
}

impl Outbox {
    /// A producer for the sinks of `plan`.
    ///
    /// # Errors
    /// Settings that cannot be used.
    pub fn new(settings: &KafkaSettings, plan: &Plan, client_id: String) -> Result<Self, ClientError> {
        let mut producer = Producer::new(settings, &ProducerOptions { client_id })?;
        let mut sinks = Vec::with_capacity(plan.sinks.len());
        for sink in &plan.sinks {
            let partitions = i32::try_from(sink.partitions).unwrap_or(i32::MAX);
            sinks.push(Sink { topic: producer.topic(&sink.topic)?, partitions });
        }
        let sent = vec![0; sinks.len()];
        Ok(Self { producer, sinks, sent })
    }

    /// Sends a record: one with a key to the partition that Kafka's own client would choose, one without to the partition with
    /// the number of its source. While there is no room, calls `meanwhile` every few milliseconds; it says whether to go on.
    ///
    /// # Errors
    /// The record cannot be sent, or `meanwhile` gave up ([`SendError::QueueFull`]).
    #[inline]
    pub fn send(
        &mut self,
        sink: usize,
        record: &RecordView<'_>,
        source_partition: i32,
        mut meanwhile: impl FnMut() -> bool,
    ) -> Result<(), SendError> {
        let Sink { topic, partitions } = self.sinks[sink];
        let target = partition::choose(record.key, source_partition, partitions);
        let mut full_since: Option<Instant> = None;
        loop {
            let headers = record.headers;
            match self.producer.send(topic, target, record.key, record.value, record.timestamp, headers) {
                Ok(()) => {
                    self.sent[sink] += 1;
                    return Ok(());
                }
                Err(SendError::QueueFull) => {
                    let since = *full_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= FULL_MESSAGE {
                        warn!(
                            in_flight = self.producer.in_flight(),
                            "waiting: the brokers do not take records as fast as they come"
                        );
                        full_since = Some(Instant::now());
                    }
                    self.producer.poll(ROOM_WAIT);
                    if !meanwhile() {
                        return Err(SendError::QueueFull);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until everything sent is acknowledged.
    ///
    /// # Errors
    /// It is not; see [`FlushError`].
    pub fn flush(&self, wait: Duration) -> Result<(), FlushError> {
        self.producer.flush(Instant::now() + wait).map(|_| ())
    }

    /// Hears what the producer reports.
    pub fn serve(&self) {
        self.producer.poll(Duration::ZERO);
        while let Some(event) = self.producer.next_event() {
            match event {
                ProducerEvent::Statistics(_) => {}
                ProducerEvent::BrokersDown => warn!("waiting: no kafka broker can be reached to write to"),
                ProducerEvent::Trouble { text } => warn!("kafka producer: {text}"),
            }
        }
    }

    /// Records sent to each sink since it was last asked.
    pub fn take_sent(&mut self) -> impl Iterator<Item = (usize, u64)> {
        self.sent.iter_mut().map(std::mem::take).enumerate()
    }
}
