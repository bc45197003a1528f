//! A modelled Kafka, as far as the worker's correctness rests on it.
//!
//! - [`broker`]: topics, transactions and offsets: what is decided where everybody sees it.
//! - [`group`]: the group coordinator: members, generations, who owns what.
//! - [`consumer`], [`producer`]: librdkafka's side, behind a network in which requests take their time.

pub(crate) mod broker;
pub(crate) mod consumer;
pub(crate) mod group;
pub(crate) mod producer;

use sluicegate::kafka::ClientError;
use sluicegate::kafka::clients::Kafka;
use sluicegate::kafka::consumer::ConsumerOptions;
use sluicegate::kafka::producer::ProducerOptions;

use self::broker::Broker;
use self::consumer::Consumer;
use self::producer::Producer;
use crate::kernel::Pid;

/// Kafka, to one process.
#[derive(Clone)]
pub(crate) struct Clients {
    pub(crate) broker: Broker,
    pub(crate) pid: Pid,
}

impl Kafka for Clients {
    type Consumer = Consumer;
    type Producer = Producer;

    fn consumer(&self, options: &ConsumerOptions) -> Result<Consumer, ClientError> {
        Ok(Consumer::new(self.clone(), options))
    }

    fn producer(&self, options: &ProducerOptions) -> Result<Producer, ClientError> {
        Ok(Producer::new(self.clone(), options))
    }
}
