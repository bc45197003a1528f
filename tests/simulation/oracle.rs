//! What has to be true, at each moment and at the end.
//!
//! Whoever breaks the protocol is found here: by a write that no owner may make, by a commit in Kafka that stands for nothing, or
//! at the end by what readers of the sink and of the state see.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use sluicegate::checkpoint::head::{ChunkDigest, Head, Manifest, TransformIdentity};
use sluicegate::checkpoint::resolve::{self, GroupOffsets};
use sluicegate::checkpoint::store::TaskStore;
use sluicegate::ids::{Epoch, ManifestId};
use sluicegate::meta::Write;
use sluicegate::meta::layout::TaskPath;
use sluicegate::state::{StoreName, TaskState};
use sluicegate::worker::candidate::Candidate;
use sluicegate::worker::plan::Plan;

use crate::kafka::broker::{Input, Offset, Output};
use crate::zookeeper::{Still, Tree};

/// Timestamps of inputs are smaller, those of the clock are larger.
const CLOCK_MS: i64 = 1_000_000_000_000;

/// Looks on.
#[derive(Clone)]
pub(crate) struct Oracle {
    plan: Arc<Plan>,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    violations: Vec<String>,
    /// What each manifest was made as.
    manifests: BTreeMap<(u32, ManifestId), Manifest>,
    /// The epoch that Kafka has committed last, by task.
    epochs: BTreeMap<u32, Epoch>,
    /// The nodes, as of the last write, and the heads in them.
    tree: Tree,
    heads: BTreeMap<u32, Head>,
    commits: u64,
    /// What all tasks run since the last rollout has ended well, while there is no other change.
    ended: Option<TransformIdentity>,
}

impl Oracle {
    pub(crate) fn new(plan: Arc<Plan>) -> Self {
        Self { plan, inner: Arc::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is not as it has to be.
    pub(crate) fn violated(&self, what: String) {
        self.inner().violations.push(what);
    }

    /// Whether something is not as it has to be.
    pub(crate) fn is_violated(&self) -> bool {
        !self.inner().violations.is_empty()
    }

    /// What is not as it has to be.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.inner().violations.clone()
    }

    /// The group takes offsets outside of transactions. Without state that is the commit.
    pub(crate) fn offsets_committed(&self) {
        if !self.plan.is_stateful() {
            self.inner().commits += 1;
        }
    }

    /// Commits seen, of tasks with state in heads or in Kafka, else of threads.
    pub(crate) fn commits(&self) -> u64 {
        self.inner().commits
    }

    fn task_of(&self, head_path: &str) -> Option<u32> {
        (0..self.plan.partitions).find(|number| TaskPath::new(&self.plan.task(*number)).head() == head_path)
    }

    fn head(&self, tree: &Tree, task: u32) -> Option<Head> {
        let node = tree.get(&TaskPath::new(&self.plan.task(task)).head())?;
        match Head::decode(&node.data) {
            Ok(head) => Some(head),
            Err(error) => {
                self.violated(format!("the head of task {task}: {error}"));
                None
            }
        }
    }

    /// Somebody asks for these writes: whether or not they come to be, an identity stands for one thing.
    pub(crate) fn attempted(&self, writes: &[Write]) {
        for write in writes {
            let (Write::Set { path, data, .. } | Write::Create { path, data, .. }) = write else { continue };
            let (Some(task), Ok(head)) = (self.task_of(path), Head::decode(data)) else { continue };
            for manifest in head.manifests() {
                let mut inner = self.inner();
                let known = inner.manifests.entry((task, manifest.id)).or_insert_with(|| manifest.clone());
                if known != manifest {
                    let text = format!("task {task}: two manifests have the id {}", manifest.id);
                    drop(inner);
                    self.violated(text);
                }
            }
        }
    }

    /// These writes were applied, and made the nodes what they are.
    pub(crate) fn wrote(&self, after: &Tree, writes: &[Write]) {
        for task in 0..self.plan.partitions {
            let path = TaskPath::new(&self.plan.task(task));
            if !writes.iter().any(|write| write.path().starts_with(&path.root())) {
                continue;
            }
            let head = path.head();
            let is_new = writes.iter().any(|write| write.path() == head && !matches!(write, Write::Check { .. }));
            let old = self.inner().heads.get(&task).cloned();
            let Some(new) = (if is_new { self.head(after, task) } else { old.clone() }) else { continue };
            for (name, facts) in &new.chunks {
                let Some(node) = after.get(&path.chunk(*name)) else {
                    self.violated(format!("task {task}: the head names chunk {name}, which is not there"));
                    continue;
                };
                let known = old.as_ref().is_some_and(|old| old.chunks.contains_key(name));
                if !known && ChunkDigest::of(&node.data) != facts.digest {
                    self.violated(format!("task {task}: chunk {name} is not what the head says"));
                }
            }
            if let Some(old) = old.filter(|old| *old != new) {
                self.follows(task, &old, &new);
            }
            self.inner().heads.insert(task, new);
        }
        self.inner().tree = after.clone();
    }

    fn follows(&self, task: u32, old: &Head, new: &Head) {
        let wrong = |what: &str| self.violated(format!("task {task}: {what}"));
        let ended = self.inner().ended.clone();
        if let Some(ended) = ended {
            let is_new = |made: &&Manifest| old.manifests().all(|known| known.id != made.id);
            let is_other = |made: &Manifest| made.transforms.iter().all(|made_it| !made_it.is_same_version(&ended));
            if new.manifests().filter(is_new).any(is_other) {
                wrong("a commit is of another version than all tasks have gone over to");
            }
        }
        if new.generation < old.generation {
            wrong("the claim generation goes back");
        }
        if new.generation > old.generation {
            let same = (&new.committed, &new.retained, new.decider, &new.chunks)
                == (&old.committed, &old.retained, old.decider, &old.chunks);
            if new.generation != old.generation.next() || !same {
                wrong("a claim changes more than the generation and the owner");
            }
        }
        if new.committed.id.epoch < old.committed.id.epoch {
            wrong("the epoch goes back");
        }
        if new.committed.id != old.committed.id {
            let ends = |manifest: &Manifest| manifest.offsets.clone();
            if ends(&new.committed).iter().any(|(topic, offset)| ends(&old.committed).get(topic) > Some(offset)) {
                wrong("the offsets of the head go back");
            }
            self.inner().commits += 1;
        }
    }

    /// Kafka commits a transaction with these offsets.
    pub(crate) fn kafka_committed(&self, offsets: &[Offset]) {
        if !self.plan.is_stateful() {
            self.inner().commits += 1;
            return;
        }
        let tasks: BTreeSet<u32> =
            offsets.iter().filter_map(|offset| u32::try_from(offset.at.partition).ok()).collect();
        let tree = self.inner().tree.clone();
        for task in tasks {
            let own: Vec<&Offset> = offsets.iter().filter(|offset| offset.at.partition == task as i32).collect();
            if let Err(what) = self.stands_for(&tree, task, &own) {
                self.violated(format!("kafka commits task {task}, and {what}"));
            }
            self.inner().commits += 1;
        }
    }

    /// Whether offsets stand for a manifest that is durable, with its chunks.
    fn stands_for(&self, tree: &Tree, task: u32, offsets: &[&Offset]) -> Result<(), String> {
        let Some(head) = self.inner().heads.get(&task).cloned() else { return Err("there is no head".to_owned()) };
        let first = offsets.first().map_or("", |offset| &offset.metadata);
        let Ok(id) = first.parse::<ManifestId>() else { return Err(format!("`{first}` names no manifest")) };
        let Some(manifest) = head.manifests().find(|manifest| manifest.id == id) else {
            return Err(format!("no durable head knows manifest {id}"));
        };
        for (topic, offset) in &manifest.offsets {
            let input = self.plan.sources.iter().position(|source| source.topic == *topic);
            let sent = offsets.iter().find(|sent| Some(sent.at.input as usize) == input);
            if sent.is_none_or(|sent| sent.metadata != first || sent.offset != *offset) {
                return Err(format!("the transaction has no offset {offset} of {topic} for manifest {id}"));
            }
        }
        let path = TaskPath::new(&self.plan.task(task));
        if let Some(chunk) = manifest.chunks.iter().find(|chunk| tree.get(&path.chunk(**chunk)).is_none()) {
            return Err(format!("chunk {chunk} of manifest {id} is not there"));
        }
        let before = self.inner().epochs.insert(task, id.epoch);
        if before >= Some(id.epoch) {
            return Err(format!("epoch {} comes after epoch {}", id.epoch, before.unwrap_or_default()));
        }
        Ok(())
    }

    /// A task has told that it has gone over for good: a next owner has to find that, whenever it comes. `offsets` is what Kafka
    /// would tell it.
    pub(crate) fn has_gone_over(&self, task: u32, offsets: &GroupOffsets, candidate: &Candidate) {
        let Some(head) = self.inner().heads.get(&task).cloned() else { return };
        let wanted = &candidate.plan.transforms[candidate.transform].identity;
        match resolve::resolve(&head, offsets) {
            Ok(manifest) if manifest.transforms.iter().any(|made_it| made_it.is_same_version(wanted)) => {}
            Ok(manifest) => self.violated(format!("task {task} has not gone over for good: {}", manifest.id)),
            Err(disagreement) => self.violated(format!("task {task}, which has gone over: {disagreement}")),
        }
    }

    /// All tasks run this, and the rollout has ended; or something else is begun.
    pub(crate) fn has_ended(&self, candidate: Option<&Candidate>) {
        self.inner().ended = candidate.map(|it| it.plan.transforms[it.transform].identity.clone());
    }

    /// At the end: the state that a next owner would restore is what the inputs make of it. `offsets` is what Kafka would tell it,
    /// `inputs` what each task was given.
    pub(crate) fn check_state(&self, tree: &Tree, offsets: &[GroupOffsets], inputs: &[Vec<Input>]) {
        if !self.plan.is_stateful() {
            return;
        }
        for ((task, inputs), offsets) in (0..).zip(inputs).zip(offsets) {
            match self.restored(tree, task, offsets, inputs) {
                Ok(found) => {
                    let counts = counted(inputs);
                    if found != counts {
                        self.violated(format!("task {task}: the state is {found:?}, the input makes {counts:?}"));
                    }
                }
                Err(what) => self.violated(format!("task {task} at the end: {what}")),
            }
        }
    }

    fn restored(
        &self,
        tree: &Tree,
        task: u32,
        offsets: &GroupOffsets,
        inputs: &[Input],
    ) -> Result<BTreeMap<String, u64>, String> {
        let head = self.head(tree, task).ok_or("it has no head")?;
        let manifest = resolve::resolve(&head, offsets).map_err(|disagreement| disagreement.to_string())?;
        let store = TaskStore::new(Arc::new(Still(tree.clone())), self.plan.task(task));
        let mut state = TaskState::default();
        let restored = store.restore(&head, manifest, &mut state).now_or_never();
        restored.expect("a store that answers at once").map_err(|error| error.to_string())?;
        // Other schemas than that of what made the state count only where the manifest says that they are kept.
        let made_it = manifest.transforms.first().ok_or("nothing made it")?;
        let mut counts = |schema: u32| -> Result<BTreeMap<String, u64>, String> {
            let number = state.number(&StoreName::of(&made_it.name, "counts", schema));
            let read = |value: &[u8]| match schema {
                1 => postcard::from_bytes(value),
                _ => postcard::from_bytes(value).map(|(count, _): (u64, u64)| count),
            };
            let entries = state.store(number).iter();
            entries.map(|(key, value)| Ok((text(key), read(value).map_err(|error| error.to_string())?))).collect()
        };
        let found = counts(made_it.stores["counts"])?;
        // What stays is what it was where the task went over. Of two topics that does not say what came before.
        if let (Some(at), [source]) = (made_it.former.get("counts"), &self.plan.sources[..]) {
            let before = at.get(&source.topic).and_then(|&offset| inputs.get(..usize::try_from(offset).ok()?));
            if counts(1)? != counted(before.ok_or("what stays of schema 1 is from nowhere")?) {
                return Err(format!("what stays of schema 1 is not what it was at {at:?}"));
            }
        }
        match made_it.copies.get("counts") {
            Some(&schema) if counts(schema)? != found => Err(format!("the copy of schema {schema} is another one")),
            _ => Ok(found),
        }
    }

    /// At the end: what readers of the sink see is what the inputs make of it. `exactly`: each once; otherwise at least.
    pub(crate) fn check_outputs(&self, inputs: &[Vec<Input>], outputs: &[Vec<Output>], exactly: bool) {
        let mut seen: BTreeMap<&[u8], Vec<&Output>> = BTreeMap::new();
        outputs.iter().flatten().for_each(|output| seen.entry(&output.key).or_default().push(output));
        let mut given: BTreeMap<&[u8], Vec<&Input>> = BTreeMap::new();
        inputs.iter().flatten().for_each(|input| given.entry(&input.key).or_default().push(input));
        for (key, inputs) in &given {
            let outputs = seen.remove(key).unwrap_or_default();
            let name = String::from_utf8_lossy(key);
            // Dead letters have a time of their own.
            let has_letters = outputs.iter().any(|output| output.timestamp >= CLOCK_MS);
            if !has_letters {
                self.check_timestamps(&name, inputs, &outputs, exactly);
            }
            if (exactly || has_letters) && self.plan.is_stateful() {
                let mut counts: Vec<String> =
                    outputs.iter().map(|output| text(&output.value).trim_end_matches(';').to_owned()).collect();
                if !exactly {
                    counts.sort_by_key(|count| count.parse::<u64>().unwrap_or_default());
                    counts.dedup();
                }
                let wanted: Vec<String> = (1..=inputs.len()).map(|count| count.to_string()).collect();
                if counts != wanted {
                    self.violated(format!("key {name}: counted {}", counts.join(" ")));
                }
            }
        }
        if let Some((key, _)) = seen.first_key_value() {
            self.violated(format!("key {} came out and was never given", String::from_utf8_lossy(key)));
        }
    }
}

impl Oracle {
    fn check_timestamps(&self, name: &str, inputs: &[&Input], outputs: &[&Output], exactly: bool) {
        let mut expected: Vec<i64> = inputs.iter().map(|input| input.timestamp).collect();
        let mut found: Vec<i64> = outputs.iter().map(|output| output.timestamp).collect();
        if exactly && self.plan.sources.len() == 1 && expected != found {
            self.violated(format!("key {name}: inputs {expected:?} came out as {found:?}"));
        }
        expected.sort_unstable();
        found.sort_unstable();
        if !exactly {
            found.dedup();
        }
        if expected != found {
            self.violated(format!("key {name}: inputs {expected:?} came out as {found:?}"));
        }
    }
}

/// What the count by key is of these.
fn counted(inputs: &[Input]) -> BTreeMap<String, u64> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    inputs.iter().for_each(|input| *counts.entry(text(&input.key)).or_default() += 1);
    counts
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
