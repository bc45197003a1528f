//! The consumer groups of pipelines, for whoever looks at them from outside.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::load;
use crate::checkpoint::resolve::{GroupOffset, GroupOffsets};
use crate::cluster::leader::Groups;
use crate::cluster::pipelines::PipelineRecord;
use crate::cluster::savepoints::Offsets;
use crate::config::{self, Cluster, Pipeline};
use crate::kafka::groups::{self, GroupClient};
use crate::kafka::offsets::{Committed, End, Start};
use crate::kafka::settings::KafkaSettings;

/// How long the brokers may take to answer.
const WAIT: Duration = Duration::from_secs(10);

/// The group of each incarnation of a pipeline.
pub struct Group {
    cluster: Arc<Cluster>,
    kafka: KafkaSettings,
    pipeline: String,
    /// Behind the sources of the pipeline the topic of its dead letters, if it has one.
    sources: Vec<(String, config::Start)>,
    inputs: usize,
    clients: Mutex<BTreeMap<u64, Arc<Mutex<GroupClient>>>>,
}

/// All groups, to be deleted.
pub struct KafkaGroups {
    cluster: Arc<Cluster>,
    kafka: KafkaSettings,
}

impl KafkaGroups {
    /// Of a cluster.
    #[must_use]
    pub fn new(cluster: &Arc<Cluster>, kafka: KafkaSettings) -> Self {
        Self { cluster: Arc::clone(cluster), kafka }
    }
}

#[async_trait]
impl Groups for KafkaGroups {
    fn name(&self, pipeline: &str, incarnation: u64) -> String {
        load::group(&self.cluster, pipeline, incarnation)
    }

    async fn delete(&self, group: &str) -> Result<(), String> {
        let (kafka, group) = (self.kafka.clone(), group.to_owned());
        let deleted = tokio::task::spawn_blocking(move || groups::delete(&kafka, &group)).await;
        deleted.map_err(|error| error.to_string())?
    }
}

/// Where a task may be set to go on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// At the oldest record.
    Earliest,
    /// Behind the newest.
    Latest,
    /// Where its pipeline says that it starts.
    Start,
}

/// How far a group is with one partition of a topic.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The topic.
    pub topic: String,
    /// What the group has committed.
    pub committed: Option<i64>,
    /// Behind the newest record.
    pub end: i64,
    /// At the oldest record; only where nothing is committed.
    pub beginning: i64,
}

impl Progress {
    /// Records that the group has not committed yet.
    #[must_use]
    pub fn lag(&self) -> u64 {
        (self.end - self.committed.unwrap_or(self.beginning)).max(0).unsigned_abs()
    }
}

impl Group {
    /// Of the pipeline that is recorded.
    ///
    /// # Errors
    /// The recorded pipeline file cannot be read, in words.
    pub fn new(cluster: &Arc<Cluster>, record: &PipelineRecord) -> Result<Self, String> {
        let pipeline = Pipeline::parse(Path::new("recorded"), &record.specification.file);
        let pipeline = pipeline.map_err(|errors| errors.to_string())?;
        Ok(Self {
            cluster: Arc::clone(cluster),
            kafka: load::kafka_settings(cluster),
            pipeline: pipeline.name.as_str().to_owned(),
            sources: pipeline.topics_read(),
            inputs: pipeline.sources.len(),
            clients: Mutex::default(),
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self, incarnation: u64) -> String {
        load::group(&self.cluster, &self.pipeline, incarnation)
    }

    /// Does what takes a client, on a thread that may block.
    async fn with<T: Send + 'static>(
        &self,
        incarnation: u64,
        work: impl FnOnce(&mut GroupClient) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let client = {
            let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
            match clients.get(&incarnation) {
                Some(client) => Arc::clone(client),
                None => {
                    let group = self.name(incarnation);
                    let topics: Vec<String> = self.sources.iter().map(|(topic, _)| topic.clone()).collect();
                    let client = GroupClient::new(&self.kafka, &group, &topics).map_err(|error| error.to_string())?;
                    let client = Arc::new(Mutex::new(client));
                    clients.insert(incarnation, Arc::clone(&client));
                    client
                }
            }
        };
        let work = move || work(&mut client.lock().unwrap_or_else(PoisonError::into_inner));
        tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?
    }

    /// How far it has read the dead letters, by partition number.
    ///
    /// # Errors
    /// The brokers do not answer, or refuse.
    pub async fn letters_read(&self, incarnation: u64, partitions: u32) -> Result<Vec<Option<i64>>, String> {
        let inputs = self.inputs;
        let work = move |client: &mut GroupClient| {
            let numbers: Vec<u32> = (0..partitions).collect();
            let committed = client.committed(&numbers, WAIT).map_err(|error| error.to_string())?;
            Ok(committed.into_iter().map(|of| of.get(inputs).and_then(|committed| committed.offset)).collect())
        };
        self.with(incarnation, work).await
    }

    /// How far it is with the sources of the pipeline, by partition number.
    ///
    /// # Errors
    /// The brokers do not answer, or refuse.
    pub async fn progress(&self, incarnation: u64, partitions: u32) -> Result<Vec<Vec<Progress>>, String> {
        // Of what is written into the dead letters the pipeline itself writes most, and transactions end with a mark: no lag.
        let topics: Vec<String> = self.sources.iter().take(self.inputs).map(|(topic, _)| topic.clone()).collect();
        let work = move |client: &mut GroupClient| {
            let numbers: Vec<u32> = (0..partitions).collect();
            let committed = client.committed(&numbers, WAIT).map_err(|error| error.to_string())?;
            let ends = client.ends(&numbers, End::Newest, WAIT).map_err(|error| error.to_string())?;
            // Only where nothing is committed yet does it matter where a partition begins.
            let is_untouched = |committed: &[Committed]| committed.iter().any(|committed| committed.offset.is_none());
            let untouched: Vec<u32> =
                numbers.iter().copied().filter(|&number| is_untouched(&committed[number as usize])).collect();
            let beginnings = client.ends(&untouched, End::Oldest, WAIT).map_err(|error| error.to_string())?;
            let mut beginnings: BTreeMap<u32, Vec<i64>> = untouched.into_iter().zip(beginnings).collect();
            let mut progress = Vec::with_capacity(committed.len());
            for ((number, committed), ends) in numbers.into_iter().zip(committed).zip(ends) {
                let beginnings = beginnings.remove(&number).unwrap_or_else(|| vec![0; ends.len()]);
                let of = |(((topic, committed), end), beginning): (((&String, Committed), _), _)| Progress {
                    topic: topic.clone(),
                    committed: committed.offset,
                    end,
                    beginning,
                };
                progress.push(topics.iter().zip(committed).zip(ends).zip(beginnings).map(of).collect());
            }
            Ok(progress)
        };
        self.with(incarnation, work).await
    }

    /// The offsets of a place, by topic.
    ///
    /// # Errors
    /// The brokers do not answer, or refuse.
    pub async fn place(&self, incarnation: u64, partition: u32, place: Place) -> Result<BTreeMap<String, i64>, String> {
        let mut offsets = BTreeMap::new();
        let letters = Offsets::committed(self, incarnation, partition).await?;
        for (input, (topic, start)) in self.sources.iter().enumerate() {
            // Orders to process dead letters again have been followed, or have not: that does not change.
            let known = letters.get(topic).and_then(|letters| letters.offset).filter(|_| input >= self.inputs);
            if let Some(known) = known {
                offsets.insert(topic.clone(), known);
                continue;
            }
            let at = match (place, start) {
                (Place::Earliest, _) if input >= self.inputs => Start::Latest,
                (Place::Earliest, _) | (Place::Start, config::Start::Earliest) => Start::Earliest,
                (Place::Latest, _) | (Place::Start, config::Start::Latest) => Start::Latest,
                (Place::Start, config::Start::Timestamp(timestamp)) => Start::Timestamp(*timestamp),
            };
            let work =
                move |client: &mut GroupClient| client.offsets(partition, at, WAIT).map_err(|error| error.to_string());
            let found = self.with(incarnation, work).await?;
            if let Some(offset) = found.get(input) {
                offsets.insert(topic.clone(), *offset);
            }
        }
        Ok(offsets)
    }
}

#[async_trait]
impl Offsets for Group {
    async fn committed(&self, incarnation: u64, partition: u32) -> Result<GroupOffsets, String> {
        let work =
            move |client: &mut GroupClient| client.committed(&[partition], WAIT).map_err(|error| error.to_string());
        let found = self.with(incarnation, work).await?;
        let found = found.into_iter().flatten();
        let of = |((topic, _), found): (&(String, _), Committed)| {
            (topic.clone(), GroupOffset { offset: found.offset, metadata: found.metadata })
        };
        Ok(self.sources.iter().zip(found).map(of).collect())
    }

    async fn members(&self, incarnation: u64) -> Result<usize, String> {
        self.with(incarnation, |client| client.members(WAIT).map_err(|error| error.to_string())).await
    }

    async fn commit(&self, incarnation: u64, offsets: &BTreeMap<u32, BTreeMap<String, i64>>) -> Result<(), String> {
        let in_order = |of: &BTreeMap<String, i64>| {
            self.sources.iter().map(|(topic, _)| of.get(topic).copied()).collect::<Option<Vec<i64>>>()
        };
        let offsets: Option<Vec<(u32, Vec<i64>)>> =
            offsets.iter().map(|(partition, of)| Some((*partition, in_order(of)?))).collect();
        let offsets = offsets.ok_or("the offsets are of other topics than the pipeline reads")?;
        self.with(incarnation, move |client| client.commit(&offsets, WAIT).map_err(|error| error.to_string())).await
    }
}
