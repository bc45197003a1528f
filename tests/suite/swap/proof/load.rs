//! A steady load: the records of each partition are numbered 0, 1, 2 .., which are their offsets too; their key is the
//! partition's number, so that what came of a partition stays together and in order.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::shared::SOON;

/// What was sent.
pub(super) struct Load {
    /// Records of each partition.
    pub(super) sent: Vec<u64>,
    over: Duration,
    /// Records of each second.
    seconds: Vec<u64>,
}

impl Load {
    /// Records a second.
    pub(super) fn rate(&self) -> f64 {
        self.total() as f64 / self.over.as_secs_f64()
    }

    fn total(&self) -> u64 {
        self.sent.iter().sum()
    }

    pub(super) fn print(&self) {
        let (total, over, rate) = (self.total(), self.over.as_secs_f64(), self.rate());
        let slowest = self.seconds.iter().min().copied().unwrap_or_default();
        println!("  {total} records sent in {over:.1} s: {rate:.0} records/s, {slowest} in the slowest second");
    }
}

/// Sends `rate` records a second, the partitions in turn, until `done`; fewer where Kafka does not take them as fast.
pub(super) fn send(bootstrap: &str, topic: &str, partitions: usize, rate: u64, done: &AtomicBool) -> Load {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("enable.idempotence", "true")
        .set("linger.ms", "10")
        .create()
        .unwrap();
    let keys: Vec<String> = (0..partitions).map(|partition| partition.to_string()).collect();
    let mut load = Load { sent: vec![0; partitions], over: Duration::ZERO, seconds: Vec::new() };
    let (began, mut total, mut before) = (Instant::now(), 0_u64, 0);
    let mut value = Vec::new();
    while !done.load(Ordering::Relaxed) {
        let elapsed = began.elapsed();
        if elapsed.as_secs() > load.seconds.len() as u64 {
            load.seconds.push(total - before);
            before = total;
        }
        let due = u64::try_from(elapsed.as_micros()).unwrap() * rate / 1_000_000;
        // What is behind is not sent in one go, so that an end is seen.
        let until = due.min(total + rate / 10 + 1);
        while total < until {
            let partition = (total % partitions as u64) as usize;
            value.clear();
            write!(value, "{}", load.sent[partition]).unwrap();
            let record = BaseRecord::to(topic).partition(partition as i32).key(&keys[partition]).payload(&value);
            queue(&producer, record);
            load.sent[partition] += 1;
            total += 1;
        }
        producer.poll(Duration::ZERO);
        std::thread::sleep(Duration::from_millis(1));
    }
    producer.flush(SOON).unwrap();
    load.over = began.elapsed();
    load
}

fn queue(producer: &BaseProducer, mut record: BaseRecord<'_, String, Vec<u8>>) {
    loop {
        match producer.send(record) {
            Ok(()) => return,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                producer.poll(Duration::from_millis(5));
                record = back;
            }
            Err((error, _)) => panic!("{error}"),
        }
    }
}
