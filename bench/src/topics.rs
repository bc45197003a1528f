//! Topics of the measurements: made, filled, watched, removed.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::records::Records;

const WAIT: Duration = Duration::from_secs(30);

/// A connection that makes and watches topics.
pub struct Topics {
    bootstrap: String,
    admin: AdminClient<DefaultClientContext>,
    /// Made anew for each new topic: a client remembers for a while that a topic was missing.
    watcher: RefCell<BaseConsumer>,
}

impl Topics {
    /// Connects.
    ///
    /// # Errors
    /// No client could be made.
    pub fn connect(bootstrap: &str) -> Result<Self> {
        let admin = ClientConfig::new().set("bootstrap.servers", bootstrap).create().context("make an admin client")?;
        Ok(Self { bootstrap: bootstrap.to_owned(), admin, watcher: RefCell::new(watcher(bootstrap)?) })
    }

    /// Makes a topic, unless it is there.
    ///
    /// # Errors
    /// The broker refuses.
    pub fn create(&self, topic: &str, partitions: i32) -> Result<()> {
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        let created = futures::executor::block_on(self.admin.create_topics([&new], &AdminOptions::new()))?;
        for result in created {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, code)) => bail!("create topic {topic}: {code}"),
            }
        }
        let deadline = Instant::now() + WAIT;
        while self.records(topic, partitions).is_err() {
            if Instant::now() > deadline {
                bail!("topic {topic} was made and does not appear");
            }
            std::thread::sleep(Duration::from_millis(20));
            self.watcher.replace(watcher(&self.bootstrap)?);
        }
        Ok(())
    }

    /// Removes a topic.
    ///
    /// # Errors
    /// The broker refuses.
    pub fn delete(&self, topic: &str) -> Result<()> {
        futures::executor::block_on(self.admin.delete_topics(&[topic], &AdminOptions::new()))?;
        Ok(())
    }

    /// How many records have ever been written to a topic.
    ///
    /// # Errors
    /// The broker does not say.
    pub fn records(&self, topic: &str, partitions: i32) -> Result<u64> {
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            // As a timestamp it means the end: one request asks for all partitions.
            list.add_partition_offset(topic, partition, Offset::End)?;
        }
        let ends = self.watcher.borrow().offsets_for_times(list, WAIT)?;
        let mut sum = 0;
        for element in ends.elements() {
            element.error()?;
            match element.offset() {
                Offset::Offset(end) => sum += end.unsigned_abs(),
                Offset::End => {}
                other => bail!("unexpected end {other:?} of {topic}"),
            }
        }
        Ok(sum)
    }

    /// Writes records until the topic has `count`; by key, as Kafka's own client distributes them.
    ///
    /// # Errors
    /// The broker refuses.
    pub fn fill(&self, topic: &str, count: u64) -> Result<()> {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "20")
            .set("batch.size", "1000000")
            .set("queue.buffering.max.kbytes", "262144")
            .set("queue.buffering.max.messages", "1000000")
            .create()
            .context("make a producer")?;
        let mut records = Records::default();
        for number in 0..count {
            let (key, value) = records.make();
            let mut record = BaseRecord::to(topic).key(key).payload(value);
            while let Err((error, again)) = producer.send(record) {
                if !matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)) {
                    return Err(error).context("fill the source topic");
                }
                producer.poll(Duration::from_millis(10));
                record = again;
            }
            if number % 1000 == 0 {
                producer.poll(Duration::ZERO);
            }
        }
        producer.flush(Duration::from_secs(300)).context("fill the source topic")
    }
}

fn watcher(bootstrap: &str) -> Result<BaseConsumer> {
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "bench-watcher")
        .create()
        .context("make a consumer")
}
