//! The last records of a pipeline through both versions of a transform, before anything is touched.
//!
//! Each task's state as it is now has seen these records already: so the two versions are compared with each other, from the same
//! copy of that state, and not with what was sent. Nothing is written, and no group is joined. What cannot be had in the time
//! given is said, and is no reason to refuse a version; that it fails where the present one does not, is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::runtime::Handle;
use utoipa::ToSchema;

use super::gate::{Finding, Level, finding};
use crate::checkpoint::head::Manifest;
use crate::cluster::inspection;
use crate::cluster::pipelines::PipelineRecord;
use crate::cluster::savepoints::Offsets;
use crate::comparison::{Comparison, Counts, Example, Kind, Naming, Side, StoreDifference};
use crate::meta::MetaStore;
use crate::node::group::Group;
use crate::node::load::Loader;
use crate::node::offline::run::{NotRun, Spent, without_world};
use crate::node::offline::tape::{Recording, Tape};
use crate::node::offline::{Run, states};
use crate::state::{StoreName, TaskState};
use crate::worker::plan::Plan;

/// Bytes of each input of a task that are read at most.
const BYTES_MAX: usize = 32 << 20;

/// How much is tried.
#[derive(Clone, Copy, Debug)]
pub struct Rehearsal {
    /// So many records of each source topic, for each task.
    pub records: usize,
    /// For so long at most.
    pub time: Duration,
}

/// How both versions did.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Rehearsed {
    /// Tasks whose records were tried.
    pub tasks: u32,
    /// Tasks that the pipeline has.
    pub of_tasks: u32,
    /// How the outputs compare: the present version is the first.
    pub counts: Counts,
    /// A few records of which something else comes.
    pub examples: Vec<Example>,
    /// Entries that the tasks tried already have in stores which only the new version reads.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub found: BTreeMap<String, usize>,
    /// How the states compare that they leave.
    pub stores: Vec<StoreDifference>,
    /// Time for a record in the transform, of the present version, in nanoseconds. None where it processed nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ns_per_record_before: Option<u64>,
    /// The same of the new one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ns_per_record_after: Option<u64>,
    /// What the comparison does not say.
    pub notes: Vec<String>,
    /// Where the present version would have stopped the pipeline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped_before: Option<String>,
    /// Where the new one would have, and the present one would not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped_after: Option<String>,
}

/// Runs the last records through both plans, which differ in the transform of index `at`.
///
/// # Errors
/// Why it cannot be done, in words.
pub(super) async fn rehearse(
    loader: &Loader,
    known: &PipelineRecord,
    plans: [Arc<Plan>; 2],
    at: usize,
    rehearsal: Rehearsal,
) -> Result<Rehearsed, String> {
    let until = Instant::now() + rehearsal.time;
    let [before, after] = plans.map(|plan| without_world(&plan).map_err(|error| error.to_string()));
    let (before, after) = (before?, after?);
    let (handle, store) = (Handle::current(), Arc::clone(&loader.store));
    let group = Group::new(&loader.cluster, known)?;
    let tape = Tape::open(&loader.kafka, &before).map_err(|error| error.to_string())?;
    let incarnation = known.incarnation;
    let stage = Stage { handle, store, group, tape, incarnation, before, after, at, rehearsal, until };
    let rehearsed = tokio::task::spawn_blocking(move || stage.rehearse()).await;
    rehearsed.map_err(|error| error.to_string())?
}

/// Everything that a rehearsal takes; on a thread that may block.
struct Stage {
    handle: Handle,
    store: Arc<dyn MetaStore>,
    group: Group,
    tape: Tape,
    incarnation: u64,
    before: Arc<Plan>,
    after: Arc<Plan>,
    at: usize,
    rehearsal: Rehearsal,
    until: Instant,
}

/// A task as it is now.
struct Snapshot {
    state: TaskState,
    manifest: Option<Manifest>,
    /// The next offset of each input.
    next: Vec<i64>,
}

impl Stage {
    fn rehearse(self) -> Result<Rehearsed, String> {
        let sinks = self.before.sinks.iter().map(|sink| sink.topic.clone()).collect();
        let naming = Naming { sources: self.tape.topics(), sinks, ..Naming::default() };
        let mut comparison = Comparison::new(naming);
        let (mut spent, mut stores) = ([Spent::default(); 2], Vec::new());
        let (mut cold, mut turn): (Option<[Spent; 2]>, usize) = (None, 0);
        let (mut stopped, mut tasks, mut notes) = ([None, None], 0, Vec::new());
        if self.before.inputs > 1 {
            notes.push("the records of several inputs were merged by their timestamps; the pipeline may see them in another order".to_owned());
        }
        let (mut is_out_of_time, mut found) = (false, BTreeMap::new());
        let (old, new) = (self.declared(&self.before), self.declared(&self.after));
        let added: Vec<&StoreName> =
            new.iter().filter(|new| !old.iter().any(|old| old.declared() == new.declared())).collect();
        for task in 0..self.before.partitions {
            let left = self.until.saturating_duration_since(Instant::now());
            let looked = self.handle.block_on(async { tokio::time::timeout(left, self.look(task)).await });
            let Ok(looked) = looked else {
                is_out_of_time = true;
                break;
            };
            let Some(snapshot) = looked? else { continue };
            for (name, store) in snapshot.state.names().iter().zip(snapshot.state.stores()) {
                if added.contains(&name) && !store.is_empty() {
                    *found.entry(name.to_string()).or_default() += store.len();
                }
            }
            let recording = self.read(task, &snapshot.next)?;
            is_out_of_time |= recording.is_cut && Instant::now() >= self.until;
            if recording.is_cut && !is_out_of_time {
                notes.push(format!("of task {task}, {} records were tried: more are too large", recording.records()));
            }
            let Some(now_ms) = (!recording.batches.is_empty()).then(|| recording.begins_ms()) else { continue };
            let state = (&snapshot.state, snapshot.manifest.as_ref(), Some(&self.before));
            let open = |plan| Run::new(plan, task, state, now_ms, Some(self.until));
            let first = open(&self.before).map_err(|error| error.to_string())?;
            let mut runs = match open(&self.after) {
                Ok(second) => [first, second],
                Err(error @ NotRun::State(_)) => {
                    stopped[1] = Some(error.to_string());
                    break;
                }
                Err(error @ NotRun::OutOfTime { .. }) => {
                    is_out_of_time = true;
                    notes.push(error.to_string());
                    break;
                }
                Err(error) => return Err(error.to_string()),
            };
            tasks += 1;
            let mut halted = [None, None];
            for batch in &recording.batches {
                if Instant::now() >= self.until {
                    is_out_of_time = true;
                    break;
                }
                // By turns: who comes second finds the records in the processor's caches.
                let outcomes = match turn % 2 {
                    0 => runs.each_mut().map(|run| run.process(batch)),
                    _ => {
                        let second = runs[1].process(batch);
                        [runs[0].process(batch), second]
                    }
                };
                turn += 1;
                match outcomes {
                    [Ok(first), Ok(second)] => {
                        comparison.add(&first, &second);
                        cold.get_or_insert_with(|| runs.each_ref().map(|run| run.spent(self.at)));
                    }
                    failed => {
                        halted = failed.map(|outcome| outcome.err().map(|stopped| stopped.reason));
                        break;
                    }
                }
            }
            for (total, run) in spent.iter_mut().zip(&runs) {
                let Spent { records, time } = run.spent(self.at);
                (total.records, total.time) = (total.records + records, total.time + time);
            }
            // What is known by now is enough to refuse it.
            let fails = comparison.counts.failed_by_second_only > 0 || matches!(halted, [None, Some(_)]);
            match halted {
                [None, None] => states(&mut stores, task, &runs[0], &runs[1]),
                halted => stopped = halted,
            }
            if is_out_of_time || fails {
                break;
            }
        }
        if is_out_of_time {
            let time = humantime::format_duration(self.rehearsal.time);
            notes.insert(0, format!("after {time} the time was over"));
        }
        let [stopped_before, stopped_after] = stopped;
        // What comes first takes longer, whatever it is.
        for (total, cold) in spent.iter_mut().zip(cold.unwrap_or_default()) {
            if total.records > cold.records {
                (total.records, total.time) = (total.records - cold.records, total.time.saturating_sub(cold.time));
            }
        }
        let each = |spent: Spent| {
            let count = u128::try_from(spent.records).ok().filter(|count| *count > 0)?;
            u64::try_from(spent.time.as_nanos() / count).ok()
        };
        let [ns_per_record_before, ns_per_record_after] = spent.map(each);
        Ok(Rehearsed {
            tasks,
            of_tasks: self.before.partitions,
            counts: comparison.counts,
            examples: comparison.examples(),
            found,
            stores,
            ns_per_record_before,
            ns_per_record_after,
            notes,
            stopped_after: stopped_after.filter(|_| stopped_before.is_none()),
            stopped_before,
        })
    }

    /// The stores of the transform that is swapped.
    fn declared(&self, plan: &Plan) -> Vec<StoreName> {
        plan.stores().nth(self.at).unwrap_or_default()
    }

    /// A task as it is now; `None` for one that has never started.
    async fn look(&self, task: u32) -> Result<Option<Snapshot>, String> {
        let in_order = |of: &dyn Fn(&str) -> Option<i64>| -> Option<Vec<i64>> {
            self.tape.topics().iter().map(|topic| of(topic)).collect()
        };
        if self.before.is_stateful() {
            let viewed = inspection::view(&self.store, &self.group, &self.before.task(task)).await;
            let Some(view) = viewed.map_err(|error| error.to_string())? else { return Ok(None) };
            let next = in_order(&|topic| view.manifest.offsets.get(topic).copied());
            return Ok(next.map(|next| Snapshot { state: view.state, manifest: Some(view.manifest), next }));
        }
        let committed = self.group.committed(self.incarnation, task).await?;
        let next = in_order(&|topic| committed.get(topic).and_then(|of| of.offset));
        Ok(next.map(|next| Snapshot { state: TaskState::default(), manifest: None, next }))
    }

    /// The last records before these offsets.
    fn read(&self, task: u32, next: &[i64]) -> Result<Recording, String> {
        let partition = i32::try_from(task).unwrap_or(i32::MAX);
        let records = i64::try_from(self.rehearsal.records).unwrap_or(i64::MAX);
        let mut ranges = Vec::with_capacity(next.len());
        for (input, &next) in self.tape.inputs().iter().zip(next) {
            let oldest = input.bounds(partition).map_err(|error| error.to_string())?.start;
            ranges.push(next.saturating_sub(records).max(oldest)..next);
        }
        self.tape.read(task, &ranges, BYTES_MAX, Some(self.until)).map_err(|error| error.to_string())
    }
}

/// What is to be said of it.
pub(super) fn findings(rehearsed: &Result<Rehearsed, String>, transform: &str) -> Vec<Finding> {
    const SUBJECT: &str = "records";
    let rehearsed = match rehearsed {
        Ok(rehearsed) => rehearsed,
        Err(reason) => return vec![finding(Level::Warning, SUBJECT, format!("not tried: {reason}"))],
    };
    let Rehearsed { tasks, of_tasks, counts, notes, stopped_before, stopped_after, .. } = rehearsed;
    if let Some(reason) = stopped_after {
        let what = format!("the new version would stop the pipeline where the present one does not: {reason}");
        return vec![finding(Level::Refused, SUBJECT, what)];
    }
    if let Some(example) = rehearsed.examples.iter().find(|example| example.kind == Kind::FailedBySecondOnly) {
        return vec![finding(Level::Refused, SUBJECT, fails(example, counts.failed_by_second_only))];
    }
    let notes: String = notes.iter().map(|note| format!("; {note}")).collect();
    if counts.records == 0 {
        return vec![finding(Level::Warning, SUBJECT, format!("none to try the new version on{notes}"))];
    }
    let entries: u64 = rehearsed.stores.iter().map(StoreDifference::differences).sum();
    let state = if entries > 0 { format!("; {entries} entries of state differ afterwards") } else { String::new() };
    let stopped = stopped_before
        .as_ref()
        .map_or_else(String::new, |reason| format!("; then the present version would stop the pipeline: {reason}"));
    let level = if counts.differences() + entries > 0 || !stopped.is_empty() { Level::Warning } else { Level::Ok };
    let words = counts.in_words("the present version", "the new one");
    let what = format!(
        "the last {} of {tasks} of {of_tasks} tasks through both versions: {words}{state}{stopped}{notes}",
        counts.records
    );
    let mut findings = vec![finding(level, SUBJECT, what)];
    for (store, entries) in &rehearsed.found {
        let what = format!(
            "{entries} entries of an earlier version, or of one that was taken back, are found in it as they are: `sluicegate state drop` empties it"
        );
        findings.push(finding(Level::Warning, format!("store {store}"), what));
    }
    if let (Some(before), Some(after)) = (rehearsed.ns_per_record_before, rehearsed.ns_per_record_after) {
        let what = format!("{before} ns -> {after} ns in transform `{transform}`");
        findings.push(finding(Level::Ok, "time a record", what));
    }
    findings
}

fn fails(Example { topic, partition, offset, second, .. }: &Example, count: u64) -> String {
    let how = match second {
        Some(Side::PutAside { transform, kind, reason }) => format!("transform `{transform}`: {kind}: {reason}"),
        _ => String::new(),
    };
    let records = if count == 1 { "1 record".to_owned() } else { format!("{count} records") };
    format!(
        "the new version fails on {records} that the present one processes, the first at topic {topic} partition {partition} offset {offset}: {how}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rehearsed(counts: Counts, stopped: [Option<&str>; 2]) -> Rehearsed {
        let [before, after] = stopped.map(|reason| reason.map(str::to_owned));
        let second = Some(Side::PutAside { transform: "t".into(), kind: "trap".into(), reason: "boom".into() });
        let (kind, topic) = (Kind::FailedBySecondOnly, "in".to_owned());
        let example = Example { kind, topic, partition: 1, offset: 5, sink: None, first: None, second };
        Rehearsed {
            tasks: 2,
            of_tasks: 4,
            counts,
            examples: (counts.failed_by_second_only > 0).then_some(example).into_iter().collect(),
            found: BTreeMap::new(),
            stores: Vec::new(),
            ns_per_record_before: Some(10),
            ns_per_record_after: Some(20),
            notes: vec!["after 3s the time was over".to_owned()],
            stopped_before: before,
            stopped_after: after,
        }
    }

    fn said(rehearsed: Result<Rehearsed, String>) -> (Level, String) {
        let findings = findings(&rehearsed, "mask");
        let text = findings.iter().map(|it| format!("{}: {}\n", it.subject, it.finding)).collect();
        (findings[0].level, text)
    }

    #[test]
    fn differences_are_a_warning_and_what_is_the_same_is_fine() {
        let same = Counts { records: 9, same: 9, ..Counts::default() };
        let (level, text) = said(Ok(rehearsed(same, [None, None])));
        assert_eq!(level, Level::Ok, "{text}");
        assert!(text.contains("the last 9 of 2 of 4 tasks") && text.contains("the time was over"), "{text}");
        assert!(text.contains("time a record: 10 ns -> 20 ns in transform `mask`"), "{text}");
        let (level, text) = said(Ok(rehearsed(Counts { different: 2, ..same }, [None, None])));
        assert!(level == Level::Warning && text.contains("9 the same, 2 different"), "{text}");
    }

    #[test]
    fn what_a_new_store_holds_already_is_said() {
        let same = Counts { records: 9, same: 9, ..Counts::default() };
        let found = BTreeMap::from([("count/seen".to_owned(), 7)]);
        let (_, text) = said(Ok(Rehearsed { found, ..rehearsed(same, [None, None]) }));
        assert!(text.contains("store count/seen: 7 entries of an earlier version"), "{text}");
    }

    #[test]
    fn only_failures_of_the_new_version_alone_are_refused() {
        let some = Counts { records: 9, same: 9, ..Counts::default() };
        let fails = Counts { failed_by_second_only: 3, ..some };
        let (level, text) = said(Ok(rehearsed(fails, [None, None])));
        assert!(level == Level::Refused && text.contains("partition 1 offset 5: transform `t`: trap: boom"), "{text}");
        assert_eq!(said(Ok(rehearsed(some, [None, Some("gives up")]))).0, Level::Refused);
        assert_eq!(said(Ok(rehearsed(some, [Some("gives up"), None]))).0, Level::Warning);
        let worse = Counts { rejected_by_second_only: 3, failed_by_first_only: 1, ..some };
        assert_eq!(said(Ok(rehearsed(worse, [None, None]))).0, Level::Warning);
        assert_eq!(
            said(Err("kafka is away".to_owned())),
            (Level::Warning, "records: not tried: kafka is away\n".to_owned())
        );
        assert_eq!(said(Ok(rehearsed(Counts::default(), [None, None]))).0, Level::Warning);
    }
}
