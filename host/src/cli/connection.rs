//! What commands about a cluster begin with: its configuration and its store.

use std::sync::Arc;

use super::CommandError;
use crate::cluster::pipelines::PipelineRecord;
use crate::config::{Cluster, ClusterArgs, Errors};
use crate::kafka::settings::KafkaSettings;
use crate::meta::MetaStore;
use crate::meta::layout::Segment;
use crate::node;
use crate::node::deploy;
use crate::node::group::Group;

/// A cluster, connected.
pub(super) struct Connection {
    pub(super) cluster: Arc<Cluster>,
    pub(super) store: Arc<dyn MetaStore>,
}

impl Connection {
    pub(super) async fn open(arguments: &ClusterArgs) -> Result<Self, CommandError> {
        let cluster = Arc::new(Cluster::load(arguments)?);
        say_where(&cluster);
        let store = node::open_for_commands(&cluster).await;
        let store = store.map_err(|error| CommandError::Failed(error.to_string()))?;
        Ok(Self { cluster, store })
    }
}

/// A pipeline as it is recorded, with its consumer group.
pub(super) struct Recorded {
    pub(super) connection: Connection,
    pub(super) name: Segment,
    pub(super) record: PipelineRecord,
    pub(super) group: Group,
}

impl Recorded {
    pub(super) async fn open(pipeline: &str, cluster: &ClusterArgs) -> Result<Self, CommandError> {
        let name = name(pipeline)?;
        let connection = Connection::open(cluster).await?;
        let (record, group) = deploy::known(&connection.cluster, &*connection.store, &name).await?;
        Ok(Self { connection, name, record, group })
    }
}

/// What a cluster's Kafka is reached with; librdkafka has looked at it.
pub(super) fn kafka(cluster: &Cluster) -> Result<KafkaSettings, Errors> {
    let kafka = node::kafka_settings(cluster);
    kafka.check().map_err(|error| cluster.kafka_error(error.property(), &error.to_string()))?;
    Ok(kafka)
}

/// Whoever forgets where ZooKeeper is looks into an empty store, and wonders.
pub(super) fn say_where(cluster: &Cluster) {
    if cluster.zookeeper.is_none() {
        eprintln!(
            "note: no ZooKeeper is configured, so this is about the local store {}; --zookeeper-connect or SLUICEGATE_ZOOKEEPER_CONNECT name a cluster's",
            cluster.local_path.display()
        );
    }
}

/// Two configuration files, or everything that is wrong with both.
pub(super) fn both<P>(
    cluster: Result<Cluster, Errors>,
    pipeline: Result<P, Errors>,
) -> Result<(Cluster, P), CommandError> {
    match (cluster, pipeline) {
        (Ok(cluster), Ok(pipeline)) => Ok((cluster, pipeline)),
        (cluster, pipeline) => {
            Err(CommandError::Config([cluster.err(), pipeline.err()].into_iter().flatten().collect()))
        }
    }
}

/// A name as somebody typed it.
pub(super) fn name(text: &str) -> Result<Segment, CommandError> {
    Segment::new(text).map_err(|error| CommandError::BadInput(error.to_string()))
}

impl From<crate::meta::MetaError> for CommandError {
    fn from(error: crate::meta::MetaError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<std::io::Error> for CommandError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::Unread,
            _ => Self::Failed(format!("cannot print: {error}")),
        }
    }
}
