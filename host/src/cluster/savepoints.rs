//! Savepoints: copies of a pipeline's state and offsets, from which it may go on later.
//!
//! A task's part is what Kafka and its head agree on at one moment: state and offsets that belong together. Tasks share nothing, so
//! that their parts need not be of the same moment. The chunks are copied: a savepoint stays whatever happens to the pipeline, and
//! nobody who runs it has to do anything for it. To go on from one begins a new incarnation, whose first heads are the
//! savepoint's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::contents::{decode, encode};
use super::leader::delete_tree;
use super::pipelines::{self, Desired, PipelineRecord, Specification};
use super::presence;
use crate::checkpoint::head::Head;
use crate::checkpoint::repair;
use crate::checkpoint::resolve::{Disagreement, GroupOffsets, resolve};
use crate::checkpoint::store::{StateError, TaskStore};
use crate::ids::{ChunkName, ManifestId, TaskId};
use crate::meta::layout::{self, Segment, TaskPath};
use crate::meta::{MetaError, MetaStore, Version, Write};
use crate::state::TaskState;

/// A pipeline that runs commits while its state is copied: so often is looked again.
const ATTEMPTS_MAX: usize = 50;
/// Pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// The version of a node that has just been made.
const MADE: Version = Version(0);

/// What is written down of a savepoint.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Savepoint {
    /// When it was begun.
    pub created_at: jiff::Timestamp,
    /// Who made it.
    pub created_by: String,
    /// The revision that the pipeline had.
    pub revision: u64,
    /// The specification that the pipeline had.
    pub specification: Specification,
    /// Whether the tasks have state.
    pub stateful: bool,
    /// Tasks that it has; those that had never started are not in it.
    pub tasks: u32,
    /// Bytes of state.
    pub bytes: u64,
    /// Whether it has everything: one that was interrupted is of no use.
    pub complete: bool,
}

/// A task's part of a savepoint.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// State and offsets.
    Head(Box<Head>),
    /// Offsets, by topic.
    Offsets(BTreeMap<String, i64>),
}

/// What is needed of Kafka by whoever copies, looks at or changes state from outside.
#[async_trait]
pub trait Offsets: Send + Sync {
    /// What the group of an incarnation has committed for the inputs of a task.
    async fn committed(&self, incarnation: u64, partition: u32) -> Result<GroupOffsets, String>;

    /// How many members the group of an incarnation has.
    async fn members(&self, incarnation: u64) -> Result<usize, String>;

    /// Commits offsets, by partition number and topic, for the group of an incarnation that has no members.
    async fn commit(&self, incarnation: u64, offsets: &BTreeMap<u32, BTreeMap<String, i64>>) -> Result<(), String>;
}

/// Why there is no savepoint, or it cannot be gone on from.
#[derive(Debug, Error)]
pub enum SavepointError {
    /// There is no such pipeline.
    #[error("there is no pipeline `{pipeline}`; `sluicegate status` shows what there is")]
    UnknownPipeline {
        /// Its name.
        pipeline: String,
    },
    /// There is no such savepoint.
    #[error(
        "pipeline `{pipeline}` has no savepoint `{name}`; `sluicegate savepoint list {pipeline}` shows what there is"
    )]
    Unknown {
        /// Its name.
        pipeline: String,
        /// Of the savepoint.
        name: String,
    },
    /// There is one of that name.
    #[error("pipeline `{pipeline}` has a savepoint `{name}` already: savepoints do not change, choose another name")]
    Exists {
        /// Its name.
        pipeline: String,
        /// Of the savepoint.
        name: String,
    },
    /// Some of the state may be of one version, and some of another that does not convert it back.
    #[error(
        "transform `{transform}` of pipeline `{pipeline}` is being changed without a way back, and a savepoint is of one version: wait for the end, which `sluicegate plugin rollouts {pipeline}` shows"
    )]
    GoingOver {
        /// Its name.
        pipeline: String,
        /// Which transform.
        transform: String,
    },
    /// It was interrupted while it was made.
    #[error(
        "savepoint `{name}` is not complete: making it was interrupted; delete it with `sluicegate savepoint delete {pipeline} {name}`"
    )]
    Incomplete {
        /// Its name.
        pipeline: String,
        /// Of the savepoint.
        name: String,
    },
    /// The pipeline runs.
    #[error(
        "pipeline `{pipeline}` runs on {nodes}: stop it first, with `sluicegate pause {pipeline}` or by ending its process"
    )]
    Running {
        /// Its name.
        pipeline: String,
        /// Where.
        nodes: String,
    },
    /// Kafka and the head contradict each other.
    #[error("task {task}: {disagreement}\n`sluicegate state accept` decides who is right")]
    Disagreement {
        /// Which task.
        task: TaskId,
        /// Both sides.
        disagreement: Disagreement,
    },
    /// It changes faster than it can be copied.
    #[error("task {task} changes faster than it can be copied: pause the pipeline for the savepoint")]
    Changing {
        /// Which task.
        task: TaskId,
    },
    /// State.
    #[error(transparent)]
    State(#[from] StateError),
    /// The store.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// Kafka.
    #[error("kafka: {0}")]
    Kafka(String),
}

/// The savepoints of a pipeline.
pub struct Savepoints<'a> {
    store: Arc<dyn MetaStore>,
    offsets: &'a dyn Offsets,
    pipeline: Segment,
}

impl<'a> Savepoints<'a> {
    /// Of `pipeline`.
    #[must_use]
    pub fn new(store: Arc<dyn MetaStore>, offsets: &'a dyn Offsets, pipeline: Segment) -> Self {
        Self { store, offsets, pipeline }
    }

    /// All of them, by name.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn list(&self) -> Result<Vec<(String, Savepoint)>, SavepointError> {
        let mut savepoints = Vec::new();
        for name in self.store.children(&layout::savepoints(&self.pipeline)).await? {
            let Ok(segment) = Segment::new(&name) else { continue };
            if let Some(savepoint) = self.read(&segment).await? {
                savepoints.push((name, savepoint));
            }
        }
        Ok(savepoints)
    }

    async fn read(&self, name: &Segment) -> Result<Option<Savepoint>, SavepointError> {
        let path = layout::savepoint(&self.pipeline, name);
        let node = self.store.get(&path).await?;
        Ok(node.map(|node| decode(&path, &node.data)).transpose()?)
    }

    async fn record(&self) -> Result<PipelineRecord, SavepointError> {
        let unknown = || SavepointError::UnknownPipeline { pipeline: self.pipeline.to_string() };
        Ok(pipelines::read(&*self.store, &self.pipeline).await?.ok_or_else(unknown)?.record)
    }

    /// Makes one, while the pipeline runs or not. `progress` hears how many tasks are done, and of how many.
    ///
    /// # Errors
    /// See [`SavepointError`]. What was copied by then stays as a savepoint that is not complete.
    pub async fn create(&self, name: &Segment, progress: impl Fn(u32, u32)) -> Result<Savepoint, SavepointError> {
        let record = self.record().await?;
        if let Some(rollout) = record.rollout.as_ref().filter(|rollout| !rollout.can_be_called_off()) {
            let transform = rollout.transform.clone();
            return Err(SavepointError::GoingOver { pipeline: self.pipeline.to_string(), transform });
        }
        let root = layout::savepoint(&self.pipeline, name);
        let mut savepoint = Savepoint {
            created_at: jiff::Timestamp::now(),
            created_by: pipelines::whoever(),
            revision: record.revision,
            specification: record.specification.clone(),
            stateful: false,
            tasks: 0,
            bytes: 0,
            complete: false,
        };
        self.store.ensure(&layout::savepoints(&self.pipeline)).await?;
        let create = Write::Create { path: root.clone(), data: encode(&savepoint), ephemeral: false };
        match self.store.multi(vec![create]).await {
            Err(MetaError::Exists { .. }) => {
                return Err(SavepointError::Exists { pipeline: self.pipeline.to_string(), name: name.to_string() });
            }
            made => drop(made?),
        }
        let partitions = record.specification.partitions;
        for partition in 0..partitions {
            let path = format!("{root}/{partition}");
            let create = Write::Create { path: path.clone(), data: Bytes::new(), ephemeral: false };
            self.store.multi(vec![create]).await?;
            if let Some((part, bytes)) = self.copy(&record, partition, &path).await? {
                savepoint.stateful |= matches!(part, Part::Head(_));
                savepoint.tasks += 1;
                savepoint.bytes += bytes;
                self.store.multi(vec![Write::Set { path, data: encode(&part), version: MADE }]).await?;
            }
            progress(partition + 1, partitions);
        }
        savepoint.complete = true;
        self.store.multi(vec![Write::Set { path: root, data: encode(&savepoint), version: MADE }]).await?;
        Ok(savepoint)
    }

    /// Copies a task's chunks below `path`. `None` for a task that has never started.
    async fn copy(
        &self,
        record: &PipelineRecord,
        partition: u32,
        path: &str,
    ) -> Result<Option<(Part, u64)>, SavepointError> {
        let task = task_id(&self.pipeline, record.incarnation, partition);
        let source = TaskStore::new(Arc::clone(&self.store), task.clone());
        let mut copied: BTreeSet<ChunkName> = BTreeSet::new();
        let mut disagreement = None;
        for attempt in 0..ATTEMPTS_MAX {
            if attempt > 0 {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            let head = source.read().await?;
            let kafka = self.offsets.committed(record.incarnation, partition).await.map_err(SavepointError::Kafka)?;
            let Some((head, _)) = head else {
                let offsets: BTreeMap<String, i64> =
                    kafka.into_iter().filter_map(|(topic, group)| Some((topic, group.offset?))).collect();
                return Ok((!offsets.is_empty()).then_some((Part::Offsets(offsets), 0)));
            };
            // The owner may have committed between the two looks: then Kafka names what the head did not know yet.
            let manifest = match resolve(&head, &kafka) {
                Ok(manifest) => manifest,
                Err(found) => {
                    disagreement = Some(found);
                    continue;
                }
            };
            disagreement = None;
            let alone = repair::alone(&head, manifest);
            if self.copy_chunks(&task, &alone, path, &mut copied).await? {
                for surplus in copied.iter().filter(|chunk| !alone.chunks.contains_key(chunk)) {
                    self.store.multi(vec![Write::Delete { path: format!("{path}/{surplus}"), version: None }]).await?;
                }
                let bytes = alone.chunks.values().map(|facts| u64::from(facts.bytes)).sum();
                return Ok(Some((Part::Head(Box::new(alone)), bytes)));
            }
        }
        Err(match disagreement {
            Some(disagreement) => SavepointError::Disagreement { task, disagreement },
            None => SavepointError::Changing { task },
        })
    }

    /// Whether all chunks of `head` are copied; its owner may have deleted one meanwhile.
    async fn copy_chunks(
        &self,
        task: &TaskId,
        head: &Head,
        path: &str,
        copied: &mut BTreeSet<ChunkName>,
    ) -> Result<bool, MetaError> {
        let from = TaskPath::new(task);
        for chunk in head.chunks.keys().filter(|chunk| !copied.contains(chunk)).copied().collect::<Vec<_>>() {
            let Some(node) = self.store.get(&from.chunk(chunk)).await? else { return Ok(false) };
            let create = Write::Create { path: format!("{path}/{chunk}"), data: node.data, ephemeral: false };
            self.store.multi(vec![create]).await?;
            copied.insert(chunk);
        }
        Ok(true)
    }

    /// Lets the pipeline go on from a savepoint when it runs the next time. Its present state is deleted by the leader.
    ///
    /// # Errors
    /// See [`SavepointError`]; nothing has changed for the pipeline then.
    pub async fn restore(&self, name: &Segment, progress: impl Fn(u32, u32)) -> Result<PipelineRecord, SavepointError> {
        let savepoint = self.known(name).await?;
        if !savepoint.complete {
            return Err(SavepointError::Incomplete { pipeline: self.pipeline.to_string(), name: name.to_string() });
        }
        self.must_not_run().await?;
        // The number is taken first: what a restore that was interrupted has left behind is nobody's then.
        let reserve = |known: Option<&PipelineRecord>| {
            Ok::<_, SavepointError>(
                known.map(|known| PipelineRecord { last_incarnation: known.last_incarnation + 1, ..known.clone() }),
            )
        };
        let reserved = pipelines::change(&*self.store, &self.pipeline, reserve).await?;
        let reserved =
            reserved.ok_or_else(|| SavepointError::UnknownPipeline { pipeline: self.pipeline.to_string() })?;
        let incarnation = reserved.last_incarnation;
        let mut offsets = BTreeMap::new();
        let partitions = savepoint.specification.partitions;
        for partition in 0..partitions {
            let path = format!("{}/{partition}", layout::savepoint(&self.pipeline, name));
            let node = self.store.get(&path).await?.filter(|node| !node.data.is_empty());
            let task = task_id(&self.pipeline, incarnation, partition);
            match node.map(|node| decode::<Part>(&path, &node.data)).transpose()? {
                None => {}
                Some(Part::Offsets(of_task)) => {
                    self.store.ensure(&TaskPath::new(&task).started()).await?;
                    offsets.insert(partition, of_task);
                }
                Some(Part::Head(head)) => self.write_task(&task, *head, &path).await?,
            }
            progress(partition + 1, partitions);
        }
        if !offsets.is_empty() {
            self.offsets.commit(incarnation, &offsets).await.map_err(SavepointError::Kafka)?;
        }
        self.must_not_run().await?;
        let adopt = |known: Option<&PipelineRecord>| {
            let known = known.filter(|known| known.last_incarnation == incarnation);
            let adopted = known.map(|known| {
                let desired = if known.desired == Desired::Gone { Desired::StateKept } else { known.desired };
                PipelineRecord { incarnation, desired, ..known.clone() }
            });
            Ok::<_, SavepointError>(adopted)
        };
        let adopted = pipelines::change(&*self.store, &self.pipeline, adopt).await?;
        adopted.filter(|record| record.incarnation == incarnation).ok_or_else(|| {
            let reason = "somebody else has deployed it or restored a savepoint meanwhile".to_owned();
            MetaError::Failed { path: layout::pipeline(&self.pipeline), reason }.into()
        })
    }

    async fn write_task(&self, task: &TaskId, head: Head, from: &str) -> Result<(), SavepointError> {
        let to = TaskPath::new(task);
        self.store.ensure(&to.chunks()).await?;
        for chunk in head.chunks.keys() {
            let node = self.store.get(&format!("{from}/{chunk}")).await?;
            let node = node.ok_or_else(|| MetaError::Missing { path: format!("{from}/{chunk}") })?;
            let create = Write::Create { path: to.chunk(*chunk), data: node.data, ephemeral: false };
            self.store.multi(vec![create]).await?;
        }
        // Another manifest than the one it was copied from, though it says the same.
        let mut head = head;
        head.committed.id = ManifestId { nonce: rand::random(), ..head.committed.id };
        Ok(TaskStore::new(Arc::clone(&self.store), task.clone()).genesis(&head).await?)
    }

    async fn known(&self, name: &Segment) -> Result<Savepoint, SavepointError> {
        let unknown = || SavepointError::Unknown { pipeline: self.pipeline.to_string(), name: name.to_string() };
        self.read(name).await?.ok_or_else(unknown)
    }

    async fn must_not_run(&self) -> Result<(), SavepointError> {
        let nodes = presence::list(&*self.store, &self.pipeline).await?;
        // A pipeline that the cluster is to run may be started at any moment.
        let will_run = self.record().await?.desired == Desired::Running;
        if nodes.is_empty() && !will_run {
            return Ok(());
        }
        let names: Vec<String> = nodes.into_iter().map(|(node, _)| node).collect();
        let nodes = if names.is_empty() { "the cluster".to_owned() } else { names.join(", ") };
        Err(SavepointError::Running { pipeline: self.pipeline.to_string(), nodes })
    }

    /// A task's part of a savepoint that is complete; `None` for a task that had never started.
    ///
    /// # Errors
    /// See [`SavepointError`].
    pub async fn part(&self, name: &Segment, partition: u32) -> Result<Option<Part>, SavepointError> {
        if !self.known(name).await?.complete {
            return Err(SavepointError::Incomplete { pipeline: self.pipeline.to_string(), name: name.to_string() });
        }
        let path = self.part_path(name, partition);
        let node = self.store.get(&path).await?.filter(|node| !node.data.is_empty());
        Ok(node.map(|node| decode(&path, &node.data)).transpose()?)
    }

    /// The state of a part.
    ///
    /// # Errors
    /// See [`SavepointError`].
    pub async fn state(&self, name: &Segment, partition: u32, head: &Head) -> Result<TaskState, SavepointError> {
        let (path, mut state) = (self.part_path(name, partition), TaskState::default());
        // Whose it was counts for messages only.
        let task = TaskStore::new(Arc::clone(&self.store), task_id(&self.pipeline, 0, partition));
        let chunk = |chunk| format!("{path}/{chunk}");
        task.restore_from(&chunk, head, &head.committed, &mut state).await?;
        Ok(state)
    }

    fn part_path(&self, name: &Segment, partition: u32) -> String {
        format!("{}/{partition}", layout::savepoint(&self.pipeline, name))
    }

    /// Deletes one.
    ///
    /// # Errors
    /// There is none of that name; those of the store.
    pub async fn delete(&self, name: &Segment) -> Result<Savepoint, SavepointError> {
        let savepoint = self.known(name).await?;
        delete_tree(&*self.store, &layout::savepoint(&self.pipeline, name)).await?;
        Ok(savepoint)
    }
}

/// The plugins that a savepoint names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SavedPlugins {
    /// Name of the pipeline.
    pub pipeline: String,
    /// Of the savepoint.
    pub savepoint: String,
    /// SHA-256 of each, in hexadecimal: those of its pipeline, and those that made its state.
    pub plugins: BTreeSet<String>,
}

/// What the savepoints of all pipelines name, also those that are not complete: one may be on its way.
///
/// # Errors
/// Those of the store, and what is damaged.
pub async fn plugins(store: &dyn MetaStore) -> Result<Vec<SavedPlugins>, MetaError> {
    let mut saved = Vec::new();
    for pipeline in store.children(layout::SAVEPOINTS).await? {
        let Ok(segment) = Segment::new(&pipeline) else { continue };
        for savepoint in store.children(&layout::savepoints(&segment)).await? {
            let Ok(name) = Segment::new(&savepoint) else { continue };
            let root = layout::savepoint(&segment, &name);
            let Some(node) = store.get(&root).await? else { continue };
            let found: Savepoint = decode(&root, &node.data)?;
            let mut plugins: BTreeSet<String> = found.specification.plugins.into_iter().collect();
            for partition in store.children(&root).await? {
                let path = format!("{root}/{partition}");
                let Some(node) = store.get(&path).await?.filter(|node| !node.data.is_empty()) else { continue };
                if let Part::Head(head) = decode(&path, &node.data)? {
                    let transforms = head.manifests().flat_map(|manifest| &manifest.transforms);
                    plugins.extend(transforms.map(|transform| transform.plugin.clone()));
                }
            }
            saved.push(SavedPlugins { pipeline: pipeline.clone(), savepoint, plugins });
        }
    }
    Ok(saved)
}

fn task_id(pipeline: &Segment, incarnation: u64, partition: u32) -> TaskId {
    TaskId { pipeline: pipeline.to_string(), incarnation, stage: 0, partition }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::checkpoint::head::{Decider, Manifest};
    use crate::checkpoint::ledger::Ledger;
    use crate::checkpoint::protocol;
    use crate::checkpoint::resolve::GroupOffset;
    use crate::checkpoint::store::{Claim, settle};
    use crate::meta::local::LocalStore;
    use crate::state::StoreName;

    /// A group that has what the heads say, or what it is told.
    #[derive(Default)]
    struct Kafka {
        committed: Mutex<BTreeMap<(u64, u32), BTreeMap<String, i64>>>,
    }

    #[async_trait]
    impl Offsets for Kafka {
        async fn committed(&self, incarnation: u64, partition: u32) -> Result<GroupOffsets, String> {
            let committed = self.committed.lock().unwrap();
            let known = committed.get(&(incarnation, partition)).cloned().unwrap_or_default();
            let of = |(topic, offset)| (topic, GroupOffset { offset: Some(offset), metadata: String::new() });
            Ok(known.into_iter().map(of).collect())
        }

        async fn members(&self, _: u64) -> Result<usize, String> {
            Ok(0)
        }

        async fn commit(&self, incarnation: u64, offsets: &BTreeMap<u32, BTreeMap<String, i64>>) -> Result<(), String> {
            let mut committed = self.committed.lock().unwrap();
            committed.extend(offsets.iter().map(|(partition, of)| ((incarnation, *partition), of.clone())));
            Ok(())
        }
    }

    struct Bench {
        _dir: tempfile::TempDir,
        store: Arc<LocalStore>,
        kafka: Kafka,
        pipeline: Segment,
    }

    impl Bench {
        async fn new(desired: Desired) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = Arc::new(LocalStore::open(dir.path()).await.unwrap());
            let pipeline = Segment::new("orders").unwrap();
            let specification = Specification { partitions: 2, ..Specification::default() };
            let first = |_: Option<&PipelineRecord>| {
                Ok::<_, MetaError>(Some(PipelineRecord::first(specification.clone(), desired)))
            };
            pipelines::change(&*store, &pipeline, first).await.unwrap();
            Self { _dir: dir, store, kafka: Kafka::default(), pipeline }
        }

        fn savepoints(&self) -> Savepoints<'_> {
            Savepoints::new(self.store.clone(), &self.kafka, self.pipeline.clone())
        }

        async fn claim(&self, incarnation: u64) -> Claim {
            let task = TaskStore::new(self.store.clone(), task_id(&self.pipeline, incarnation, 0));
            task.genesis(&protocol::tests::genesis()).await.unwrap();
            task.claim("node-1", tokio::time::sleep).await.unwrap()
        }

        async fn state(&self, incarnation: u64) -> (Head, TaskState) {
            let task = TaskStore::new(self.store.clone(), task_id(&self.pipeline, incarnation, 0));
            let (head, _) = task.read().await.unwrap().unwrap();
            let mut state = stores();
            task.restore(&head, &head.committed, &mut state).await.unwrap();
            (head, state)
        }
    }

    fn stores() -> TaskState {
        TaskState::new([vec![StoreName::of("count", "counts", 1)]])
    }

    async fn commit(
        bench: &Bench,
        claim: &mut Claim,
        ledger: &mut Ledger,
        state: &mut TaskState,
        value: &[u8],
        offset: i64,
    ) {
        state.store_mut(0).put(b"key", Some(value));
        let mut pending = vec![claim.commit(Decider::Head, ledger, state, |epoch, chunks| Manifest {
            id: ManifestId { epoch, nonce: rand::random() },
            chunks,
            offsets: [("orders".to_owned(), offset)].into(),
            watermark: None,
            transforms: Vec::new(),
        })];
        settle(&*bench.store, &mut pending).await.unwrap();
        claim.settled(pending.pop().unwrap(), ledger, state);
    }

    #[tokio::test]
    async fn a_pipeline_goes_on_from_what_was_saved_whatever_came_after() {
        let bench = Bench::new(Desired::Paused).await;
        let (mut ledger, mut state) = (Ledger::default(), stores());
        let mut claim = bench.claim(1).await;
        commit(&bench, &mut claim, &mut ledger, &mut state, b"before", 110).await;
        let name = Segment::new("s").unwrap();
        let made = bench.savepoints().create(&name, |_, _| {}).await.unwrap();
        assert!(made.complete && made.stateful && made.tasks == 1, "{made:?}");
        commit(&bench, &mut claim, &mut ledger, &mut state, b"after", 120).await;

        let record = bench.savepoints().restore(&name, |_, _| {}).await.unwrap();
        assert_eq!((record.incarnation, record.last_incarnation), (2, 2));
        let (head, restored) = bench.state(2).await;
        assert_eq!((head.committed.offsets["orders"], restored.store(0).get(b"key")), (110, Some(&b"before"[..])));
        // Its next owner's chunks get names that none of these has.
        let claim = TaskStore::new(bench.store.clone(), task_id(&bench.pipeline, 2, 0))
            .claim("node-2", tokio::time::sleep)
            .await
            .unwrap();
        assert!(head.chunks.keys().all(|chunk| chunk.generation < claim.head().generation));
        assert_eq!(bench.savepoints().list().await.unwrap(), [("s".to_owned(), made)]);
    }

    #[tokio::test]
    async fn without_state_it_is_the_offsets() {
        let bench = Bench::new(Desired::StateKept).await;
        let offsets = BTreeMap::from([(1, BTreeMap::from([("orders".to_owned(), 7)]))]);
        bench.kafka.commit(1, &offsets).await.unwrap();
        let name = Segment::new("s").unwrap();
        let made = bench.savepoints().create(&name, |_, _| {}).await.unwrap();
        assert!(made.complete && !made.stateful && made.tasks == 1, "{made:?}");
        bench.savepoints().restore(&name, |_, _| {}).await.unwrap();
        assert_eq!(bench.kafka.committed.lock().unwrap()[&(2, 1)]["orders"], 7);
        let started = TaskPath::new(&task_id(&bench.pipeline, 2, 1)).started();
        assert!(bench.store.get(&started).await.unwrap().is_some(), "`start` is never applied again");
    }

    #[tokio::test]
    async fn one_that_runs_is_not_gone_back_with_and_names_are_given_once() {
        let bench = Bench::new(Desired::Running).await;
        bench.claim(1).await;
        let name = Segment::new("s").unwrap();
        bench.savepoints().create(&name, |_, _| {}).await.unwrap();
        let twice = bench.savepoints().create(&name, |_, _| {}).await.unwrap_err().to_string();
        assert!(twice.contains("`s` already"), "{twice}");
        let running = bench.savepoints().restore(&name, |_, _| {}).await.unwrap_err().to_string();
        assert!(running.contains("sluicegate pause orders"), "{running}");
        bench.savepoints().delete(&name).await.unwrap();
        let gone = bench.savepoints().restore(&name, |_, _| {}).await.unwrap_err().to_string();
        assert!(gone.contains("no savepoint `s`"), "{gone}");
    }

    #[tokio::test]
    async fn one_that_was_interrupted_is_of_no_use() {
        let bench = Bench::new(Desired::Paused).await;
        let mut claim = bench.claim(1).await;
        commit(&bench, &mut claim, &mut Ledger::default(), &mut stores(), b"value", 110).await;
        let name = Segment::new("s").unwrap();
        bench.savepoints().create(&name, |_, _| {}).await.unwrap();
        let path = layout::savepoint(&bench.pipeline, &name);
        let node = bench.store.get(&path).await.unwrap().unwrap();
        let cut = Savepoint { complete: false, ..decode(&path, &node.data).unwrap() };
        bench.store.multi(vec![Write::Set { path, data: encode(&cut), version: node.version }]).await.unwrap();
        let refused = bench.savepoints().restore(&name, |_, _| {}).await.unwrap_err().to_string();
        assert!(refused.contains("not complete"), "{refused}");
    }
}
