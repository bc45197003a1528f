//! What flows into the pipelines of a cluster while it is measured, and what fills their state beforehand.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

/// Bytes of a key of the state that is made beforehand.
const LARGE_KEY: usize = 1_000;

/// Sends into every partition in turn until `done`: how many records. Keys are `PARTITION-NUMBER`, a hundred for each partition.
///
/// # Errors
/// Kafka does not take them.
pub fn steady(bootstrap: &str, topic: &str, partitions: i32, rate: u64, done: &AtomicBool) -> Result<u64> {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", bootstrap).set("linger.ms", "5").create()?;
    let (begin, mut sent) = (Instant::now(), 0u64);
    while !done.load(Ordering::Relaxed) {
        let due = u64::try_from(begin.elapsed().as_micros())? * rate / 1_000_000;
        while sent < due {
            let partition = i32::try_from(sent % u64::from(partitions.unsigned_abs()))?;
            let key = format!("{partition}-{}", sent / u64::from(partitions.unsigned_abs()) % 100);
            let record = BaseRecord::to(topic).partition(partition).key(&key).payload("x");
            producer.send(record).map_err(|(error, _)| error)?;
            sent += 1;
        }
        // Not once and then asleep: acknowledgements come faster than one for each turn, and fill the queue.
        producer.poll(Duration::from_millis(2));
    }
    producer.flush(Duration::from_secs(30))?;
    Ok(sent)
}

/// Fills the state of some partitions with keys that do not compress well: how many.
///
/// # Errors
/// Kafka does not take them.
pub fn fill(bootstrap: &str, topic: &str, partitions: &[i32], megabytes: usize) -> Result<u64> {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", bootstrap).set("linger.ms", "20").create()?;
    let count = megabytes * 1_000_000 / LARGE_KEY;
    for number in 0..count {
        // A generator of pseudo-random numbers, each key from a seed of its own.
        let mut seed = number as u64;
        let digits = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b'!' + u8::try_from((seed >> 33) % 90).expect("below 90"))
        });
        let key: String = format!("{number:010}").chars().chain(digits).take(LARGE_KEY).collect();
        let mut record = BaseRecord::to(topic).partition(partitions[number % partitions.len()]).key(&key).payload("x");
        while let Err((_, again)) = producer.send(record) {
            producer.poll(Duration::from_millis(10));
            record = again;
        }
    }
    producer.flush(Duration::from_secs(120))?;
    Ok(count as u64)
}
