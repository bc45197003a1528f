//! Where a pipeline is developed: an embedded broker or a Kafka that is there, and the cluster of one node that works
//! with it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Result;
use toml::{Table, Value};

use super::project;
use crate::config::{Cluster, ClusterArgs, Pipeline};
use crate::kafka::embedded::EmbeddedBroker;
use crate::kafka::settings::KafkaSettings;
use crate::node::kafka_settings;

/// A cluster of one node.
pub struct Place {
    broker: Option<EmbeddedBroker>,
    /// As the node and what changes its pipeline see it.
    pub cluster: Cluster,
    /// The partitions of topics that the embedded broker gets.
    partitions: i32,
    /// Those that it has.
    topics: BTreeSet<String>,
}

impl Place {
    /// With the Kafka that `arguments` name, or else with an embedded broker whose topics get so many partitions.
    ///
    /// # Errors
    /// The arguments are wrong, or no port could be opened.
    pub fn new(arguments: &ClusterArgs, partitions: i32) -> Result<Self> {
        let broker = match &arguments.kafka_bootstrap_servers {
            Some(_) => None,
            None => Some(EmbeddedBroker::start()?),
        };
        let file = broker.as_ref().map(|broker| cluster_file(&broker.settings())).unwrap_or_default();
        let cluster = Cluster::parse(Path::new("dev"), &file, arguments)?;
        Ok(Self { broker, cluster, partitions, topics: BTreeSet::new() })
    }

    pub(super) fn kafka(&self) -> KafkaSettings {
        kafka_settings(&self.cluster)
    }

    pub(super) fn is_embedded(&self) -> bool {
        self.broker.is_some()
    }

    /// A pipeline as it is run here, with its topics: the embedded broker has no transactions, and shows what is
    /// rejected.
    pub(super) fn adapt(&mut self, pipeline: Pipeline, file: &Path) -> Result<Pipeline> {
        let Some(broker) = &self.broker else { return Ok(pipeline) };
        let text = project::for_embedded_broker(&pipeline)?;
        let pipeline = Pipeline::parse(file, &text)?;
        let read = pipeline.topics_read().into_iter().map(|(topic, _)| topic);
        for topic in read.chain(pipeline.sinks.iter().map(|sink| sink.topic.clone())) {
            if self.topics.insert(topic.clone()) {
                broker.create_topic(&topic, self.partitions)?;
            }
        }
        Ok(pipeline)
    }

    pub(super) fn say(&self, pipeline: &Pipeline) {
        let source = &pipeline.sources[0].topic;
        match &self.broker {
            Some(broker) => eprintln!(
                "pipeline `{}` on an embedded broker at {} (in memory, at-least-once; --kafka takes a real one); records go into topic {source}",
                pipeline.name,
                broker.bootstrap()
            ),
            None => eprintln!("pipeline `{}`; records go into topic {source}", pipeline.name),
        }
    }
}

/// What a cluster file says of this Kafka.
fn cluster_file(kafka: &KafkaSettings) -> String {
    let table = |properties: &BTreeMap<String, String>| -> Table {
        properties.iter().map(|(name, value)| (name.clone(), Value::from(value.clone()))).collect()
    };
    let mut section = table(&kafka.common);
    section.insert("consumer".to_owned(), table(&kafka.consumer).into());
    section.insert("producer".to_owned(), table(&kafka.producer).into());
    Table::from_iter([("kafka".to_owned(), Value::from(section))]).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_has_what_the_broker_needs() {
        let mut kafka = KafkaSettings::default();
        kafka.common.insert("bootstrap.servers".to_owned(), "127.0.0.1:1234".to_owned());
        kafka.consumer.insert("group.protocol".to_owned(), "consumer".to_owned());
        let cluster = Cluster::parse(Path::new("dev"), &cluster_file(&kafka), &ClusterArgs::default()).unwrap();
        let found = kafka_settings(&cluster);
        assert_eq!(found.common["bootstrap.servers"], "127.0.0.1:1234");
        assert_eq!(found.consumer["group.protocol"], "consumer");
    }
}
