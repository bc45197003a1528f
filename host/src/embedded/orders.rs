//! Generates orders and counts what it sent.

use anyhow::{Result, bail};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::reader::Counts;
use crate::kafka::partition;
use crate::kafka::producer::{Producer, ProducerOptions, SendError, TopicHandle};
use crate::kafka::settings::KafkaSettings;

const CUSTOMERS: u64 = 1_000;
const GOODS: [&str; 8] = ["tea", "coffee", "bread", "rice", "olives", "salt", "oranges", "honey"];

/// Key and value of an order: of a sequence that looks random and is the same every time.
pub(crate) fn order(number: u64) -> (String, String) {
    let dice = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let goods = GOODS[(dice / CUSTOMERS) as usize % GOODS.len()];
    let value = format!(r#"{{"order":{number},"goods":"{goods}","pieces":{}}}"#, dice % 9 + 1);
    (format!("customer-{}", dice % CUSTOMERS), value)
}

/// A source of orders.
pub(super) struct Orders {
    producer: Producer,
    topic: TopicHandle,
    partitions: i32,
    total: u64,
    sent: Counts,
}

impl Orders {
    pub(super) fn new(kafka: &KafkaSettings, topic: &str, partitions: i32) -> Result<Self> {
        let mut producer = Producer::new(kafka, &ProducerOptions { client_id: "orders".into(), transactions: None })?;
        let topic = producer.topic(topic)?;
        Ok(Self { producer, topic, partitions, total: 0, sent: Counts::default() })
    }

    /// Orders sent.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Orders sent, by customer.
    pub(super) fn sent(&self) -> &Counts {
        &self.sent
    }

    /// Sends `count` orders.
    pub(super) fn send(&mut self, count: u64) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
        for _ in 0..count {
            let (key, value) = order(self.total);
            let target = partition::choose(Some(key.as_bytes()), 0, self.partitions);
            loop {
                let sent = self.producer.send(
                    self.topic,
                    target,
                    Some(key.as_bytes()),
                    Some(value.as_bytes()),
                    now,
                    std::iter::empty(),
                );
                match sent {
                    Ok(()) => break,
                    Err(SendError::QueueFull) => self.producer.poll(Duration::from_millis(1)),
                    Err(error) => bail!("send an order: {error}"),
                }
            }
            self.sent.add(&key);
            self.total += 1;
        }
        self.producer.poll(Duration::ZERO);
        Ok(())
    }
}
