//! Who needs which plugin: what `plugin remove` asks before it removes one.
//!
//! A plugin is needed by what runs or may run: the record of a pipeline, a rollout, what a rollback would take. And by state, which
//! names the plugins that made it: the heads of tasks, with the manifests that they retain, and savepoints. State that an
//! undeployed pipeline has kept is state like any other, because the pipeline may be deployed again and go on from it. Nothing
//! is guessed: a head or a savepoint that cannot be read may name any plugin, and is an error.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use super::NodeError;
use super::load::of_record;
use crate::checkpoint::head::Manifest;
use crate::checkpoint::protocol::RETAINED_MANIFESTS;
use crate::checkpoint::store::TaskStore;
use crate::cluster::leader::is_left_over;
use crate::cluster::pipelines::{self, Desired, PipelineRecord};
use crate::cluster::rollout::{Outcome, Rollout};
use crate::cluster::savepoints::{self, SavedPlugins};
use crate::digest::Digest;
use crate::ids::TaskId;
use crate::meta::layout::{self, Segment};
use crate::meta::{MetaError, MetaStore};

/// Heads that are read at the same time.
const READS_IN_FLIGHT: usize = 16;

/// Who uses a digest, and what ends that; of several, the one that is found first.
type Users = BTreeMap<Digest, String>;

/// The digests that are in use, each with who uses it and what ends that: their plugins may not be removed.
///
/// # Errors
/// Those of the store, and what is damaged.
pub async fn digests_in_use(store: &Arc<dyn MetaStore>) -> Result<BTreeMap<Digest, String>, NodeError> {
    let mut users = Users::new();
    let known = pipelines::list(&**store).await?;
    for (name, record) in known.iter().filter(|(_, record)| record.desired != Desired::Gone) {
        what_may_run(&**store, name, record, &mut users).await?;
    }
    for (name, record) in &known {
        of_state(store, name, record, &mut users).await?;
    }
    for SavedPlugins { pipeline, savepoint, plugins } in savepoints::plugins(&**store).await? {
        for hex in plugins {
            users.entry(of_record(&hex)?).or_insert_with(|| {
                format!(
                    "savepoint `{savepoint}` of pipeline `{pipeline}`: `sluicegate savepoint delete {pipeline} {savepoint}` deletes that"
                )
            });
        }
    }
    Ok(users)
}

/// Those that the record of a pipeline names, and what it may be rolled back to.
async fn what_may_run(
    store: &dyn MetaStore,
    name: &Segment,
    record: &PipelineRecord,
    users: &mut Users,
) -> Result<(), MetaError> {
    for hex in &record.specification.plugins {
        let end = match record.desired {
            Desired::StateKept => {
                format!(", undeployed with its state kept: `sluicegate undeploy {name}` deletes the state too")
            }
            _ => ": let it run another version first, or undeploy it".to_owned(),
        };
        users.insert(of_record(hex)?, format!("pipeline `{name}`, revision {}{end}", record.revision));
    }
    if let Some(rollout) = &record.rollout {
        let transform = &rollout.transform;
        let user = format!(
            "a rollout of pipeline `{name}`: wait for its end, or call it off with `sluicegate plugin rollback {name} {transform}`"
        );
        users.entry(of_record(&rollout.to.plugin)?).or_insert(user);
    }
    let ended = pipelines::rollouts(store, name).await?;
    let last: BTreeMap<&str, &Rollout> = ended
        .iter()
        .filter(|ended| ended.outcome == Outcome::Done)
        .map(|ended| (ended.rollout.transform.as_str(), &ended.rollout))
        .collect();
    for (transform, rollout) in last {
        let user = format!(
            "pipeline `{name}`, whose transform `{transform}` may be rolled back to it: another swap of that transform ends that"
        );
        users.entry(of_record(&rollout.from.plugin)?).or_insert(user);
    }
    Ok(())
}

/// Those that have made the state of a pipeline.
async fn of_state(
    store: &Arc<dyn MetaStore>,
    name: &Segment,
    record: &PipelineRecord,
    users: &mut Users,
) -> Result<(), NodeError> {
    let tasks = tasks(&**store, name, record).await?;
    let heads = stream::iter(tasks).map(|task| async {
        let head = TaskStore::new(Arc::clone(store), task.clone()).read().await?;
        Ok::<_, NodeError>((task, head))
    });
    let mut heads = heads.buffered(READS_IN_FLIGHT);
    while let Some((task, head)) = heads.try_next().await? {
        let Some((head, _)) = head else { continue };
        let current = std::iter::once(&head.committed).chain(&head.prepared).map(|manifest| (manifest, true));
        for (manifest, is_current) in current.chain(head.retained.iter().map(|manifest| (manifest, false))) {
            note(&task, record, manifest, is_current, users)?;
        }
    }
    Ok(())
}

/// The tasks that have state, in incarnations that somebody may go on from: the leader deletes the others.
async fn tasks(store: &dyn MetaStore, name: &Segment, record: &PipelineRecord) -> Result<Vec<TaskId>, MetaError> {
    let mut tasks = Vec::new();
    for incarnation in numbers(store, &layout::pipeline_state(name)).await? {
        if is_left_over(record, incarnation) {
            continue;
        }
        let root = format!("{}/{incarnation}", layout::pipeline_state(name));
        for stage in numbers(store, &root).await? {
            for partition in numbers(store, &format!("{root}/{stage}")).await? {
                tasks.push(TaskId { pipeline: name.to_string(), incarnation, stage, partition });
            }
        }
    }
    Ok(tasks)
}

/// The children that have a number for a name.
async fn numbers<N: std::str::FromStr>(store: &dyn MetaStore, path: &str) -> Result<Vec<N>, MetaError> {
    Ok(store.children(path).await?.iter().filter_map(|name| name.parse().ok()).collect())
}

fn note(
    task: &TaskId,
    record: &PipelineRecord,
    manifest: &Manifest,
    is_current: bool,
    users: &mut Users,
) -> Result<(), MetaError> {
    let TaskId { pipeline, partition, .. } = task;
    for transform in &manifest.transforms {
        let named = match is_current {
            true => "has made its state",
            false => "has made one of the last states that it retains",
        };
        let end = match record.desired {
            Desired::StateKept => format!("`sluicegate undeploy {pipeline}` deletes that state"),
            _ => format!("{RETAINED_MANIFESTS} commits with another version end that"),
        };
        let user = format!(
            "task {partition} of pipeline `{pipeline}`, of which it {named}, as transform `{}`: {end}",
            transform.name
        );
        users.entry(of_record(&transform.plugin)?).or_insert(user);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::checkpoint::head::{Head, TransformIdentity};
    use crate::checkpoint::protocol;
    use crate::cluster::pipelines::Specification;
    use crate::cluster::savepoints::{Part, Savepoint};
    use crate::meta::Write;
    use crate::meta::local::LocalStore;

    struct Bench {
        _dir: tempfile::TempDir,
        store: Arc<dyn MetaStore>,
        name: Segment,
    }

    fn plugin(name: &str) -> Digest {
        Digest::of(name.as_bytes())
    }

    fn specification(name: &str) -> Specification {
        let (digest, plugins) = (name.to_owned(), vec![plugin(name).hex()]);
        Specification { digest, plugins, partitions: 1, ..Specification::default() }
    }

    fn manifest(name: &str) -> Manifest {
        let transform = TransformIdentity {
            name: "count".to_owned(),
            plugin: plugin(name).hex(),
            config: String::new(),
            stores: BTreeMap::new(),
            copies: BTreeMap::new(),
            former: Default::default(),
            since: BTreeMap::new(),
        };
        protocol::genesis(1, BTreeMap::new(), BTreeMap::new(), vec![transform]).committed
    }

    fn head(committed: &str, retained: &[&str]) -> Head {
        Head {
            committed: manifest(committed),
            retained: retained.iter().map(|name| manifest(name)).collect(),
            ..protocol::genesis(1, BTreeMap::new(), BTreeMap::new(), Vec::new())
        }
    }

    impl Bench {
        /// A pipeline that runs `new`.
        async fn new(desired: Desired) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store: Arc<dyn MetaStore> = Arc::new(LocalStore::open(dir.path()).await.unwrap());
            let bench = Self { _dir: dir, store, name: Segment::new("orders").unwrap() };
            let first = |_: Option<&PipelineRecord>| {
                Ok::<_, MetaError>(Some(PipelineRecord::first(specification("new"), desired)))
            };
            pipelines::change(&*bench.store, &bench.name, first).await.unwrap();
            bench
        }

        async fn head(&self, incarnation: u64, partition: u32, head: &Head) {
            let task = TaskId { pipeline: self.name.to_string(), incarnation, stage: 0, partition };
            TaskStore::new(Arc::clone(&self.store), task).genesis(head).await.unwrap();
        }

        async fn create(&self, path: &str, data: impl Into<Bytes>) {
            self.store.ensure(path.rsplit_once('/').unwrap().0).await.unwrap();
            let create = Write::Create { path: path.to_owned(), data: data.into(), ephemeral: false };
            self.store.multi(vec![create]).await.unwrap();
        }

        async fn user(&self, name: &str) -> Option<String> {
            digests_in_use(&self.store).await.unwrap().remove(&plugin(name))
        }
    }

    #[tokio::test]
    async fn a_plugin_that_a_head_or_a_retained_manifest_names_is_in_use() {
        let bench = Bench::new(Desired::Running).await;
        assert!(bench.user("new").await.unwrap().starts_with("pipeline `orders`, revision 1: "));
        assert_eq!(bench.user("old").await, None);
        bench.head(1, 0, &head("new", &["new", "older"])).await;
        // One that has not gone over yet, in a partition that was added since.
        bench.head(1, 7, &head("old", &[])).await;
        let old = bench.user("old").await.unwrap();
        assert!(old.contains("task 7 of pipeline `orders`") && old.contains("transform `count`"), "{old}");
        let older = bench.user("older").await.unwrap();
        assert!(older.contains("task 0 of pipeline `orders`") && older.contains("retains"), "{older}");
        assert!(older.contains("3 commits with another version"), "{older}");
    }

    #[tokio::test]
    async fn what_only_the_kept_state_of_an_undeployed_pipeline_names_is_in_use_until_the_state_goes() {
        let bench = Bench::new(Desired::StateKept).await;
        bench.head(1, 0, &head("old", &[])).await;
        for name in ["new", "old"] {
            let user = bench.user(name).await.unwrap();
            assert!(user.contains("`sluicegate undeploy orders` deletes"), "{user}");
        }
        let gone = |known: Option<&PipelineRecord>| {
            Ok::<_, MetaError>(known.map(|known| PipelineRecord { desired: Desired::Gone, ..known.clone() }))
        };
        pipelines::change(&*bench.store, &bench.name, gone).await.unwrap();
        assert_eq!((bench.user("new").await, bench.user("old").await), (None, None), "the leader deletes it");
    }

    #[tokio::test]
    async fn state_that_nobody_goes_on_from_names_nothing() {
        let bench = Bench::new(Desired::Running).await;
        let third = |known: Option<&PipelineRecord>| {
            let next = |known: &PipelineRecord| PipelineRecord { incarnation: 2, last_incarnation: 3, ..known.clone() };
            Ok::<_, MetaError>(known.map(next))
        };
        pipelines::change(&*bench.store, &bench.name, third).await.unwrap();
        for (incarnation, name) in [(1, "left"), (2, "current"), (3, "prepared")] {
            bench.head(incarnation, 0, &head(name, &[])).await;
        }
        assert_eq!(bench.user("left").await, None);
        assert!(bench.user("current").await.is_some());
        assert!(bench.user("prepared").await.is_some(), "a savepoint is being restored");
    }

    #[tokio::test]
    async fn a_plugin_that_a_savepoint_names_is_in_use_though_its_pipeline_is_gone() {
        let bench = Bench::new(Desired::Gone).await;
        let savepoint = Savepoint {
            created_at: jiff::Timestamp::UNIX_EPOCH,
            created_by: String::new(),
            revision: 1,
            specification: specification("saved"),
            stateful: true,
            tasks: 2,
            bytes: 0,
            complete: true,
        };
        let root = layout::savepoint(&bench.name, &Segment::new("friday").unwrap());
        bench.create(&root, serde_json::to_vec(&savepoint).unwrap()).await;
        let part = Part::Head(Box::new(head("of-a-part", &[])));
        bench.create(&format!("{root}/0"), serde_json::to_vec(&part).unwrap()).await;
        bench.create(&format!("{root}/1"), Bytes::new()).await;
        for name in ["saved", "of-a-part"] {
            let user = bench.user(name).await.unwrap();
            assert!(user.starts_with("savepoint `friday` of pipeline `orders`: "), "{user}");
            assert!(user.contains("sluicegate savepoint delete orders friday"), "{user}");
        }
        assert_eq!(bench.user("new").await, None);
    }

    #[tokio::test]
    async fn a_head_that_cannot_be_read_may_name_any_plugin() {
        let bench = Bench::new(Desired::Running).await;
        bench.create("/state/orders/1/0/0/head", &b"\xff"[..]).await;
        let error = digests_in_use(&bench.store).await.unwrap_err().to_string();
        assert!(error.contains("task orders/1/0/0") && error.contains("damaged"), "{error}");
    }
}
