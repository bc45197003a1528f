//! The pipelines that are known: specification, revision, incarnation, and what is wanted of them.
//!
//! A pipeline's record is one node, changed under its version. Each change of the specification is a revision, and what it was is
//! kept beside the record. An incarnation is a life of the state: a deployment that does not keep state, and a savepoint that is
//! restored, begin a new one, and its number is never given again.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tracing::warn;
use utoipa::ToSchema;

use super::contents::{decode, encode};
use super::rollout::{Ended, Outcome, Rollout};
use crate::meta::layout::{self, Segment};
use crate::meta::{MetaError, MetaStore, Version, Write};

/// Revisions that are kept of a pipeline.
const REVISIONS_MAX: u64 = 100;

/// What is wanted of a pipeline.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Desired {
    /// Processes that were started with it run it.
    ByItself,
    /// The cluster runs it.
    Running,
    /// The cluster keeps it, and does not run it.
    Paused,
    /// It is gone; what it had as state stays for a later deployment.
    StateKept,
    /// It is gone, and its state goes too.
    Gone,
}

impl Desired {
    /// Whether the cluster is to have it, running or not.
    #[must_use]
    pub fn is_deployed(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }
}

/// A specification, as it is written down.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[cfg_attr(test, derive(Default))]
#[serde(rename_all = "kebab-case")]
pub struct Specification {
    /// The pipeline file.
    pub file: String,
    /// The same as canonical JSON: defaults filled in, plugins by digest.
    pub canonical: String,
    /// SHA-256 of `canonical`, in hexadecimal.
    pub digest: String,
    /// SHA-256 of each transform's plugin, in hexadecimal.
    pub plugins: Vec<String>,
    /// Partitions that every source topic has.
    pub partitions: u32,
}

/// What is written down of a pipeline.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PipelineRecord {
    /// What is wanted of it.
    pub desired: Desired,
    /// Counts the changes of the specification, from 1.
    pub revision: u64,
    /// The life of its state, from 1.
    pub incarnation: u64,
    /// The highest incarnation that was ever given out.
    pub last_incarnation: u64,
    /// Counts the times that somebody asked for it to be tried again after a failure.
    pub attempt: u64,
    /// The specification.
    pub specification: Specification,
    /// What is being rolled out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// Counts the rollouts that were begun.
    #[serde(default)]
    pub rollouts: u64,
    /// When it was changed last.
    pub changed_at: jiff::Timestamp,
    /// Who changed it last: user and host.
    pub changed_by: String,
}

/// A revision as it is kept.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Revision {
    /// Its number.
    pub revision: u64,
    /// The specification.
    pub specification: Specification,
    /// When it was recorded.
    pub recorded_at: jiff::Timestamp,
    /// Who recorded it: user and host.
    pub recorded_by: String,
}

impl PipelineRecord {
    /// The first record of a pipeline.
    #[must_use]
    pub fn first(specification: Specification, desired: Desired) -> Self {
        Self {
            desired,
            revision: 1,
            incarnation: 1,
            last_incarnation: 1,
            attempt: 1,
            specification,
            rollout: None,
            rollouts: 0,
            changed_at: jiff::Timestamp::now(),
            changed_by: whoever(),
        }
    }

    /// The same pipeline with another specification; the same revision if it is none.
    #[must_use]
    pub fn respecified(&self, specification: Specification) -> Self {
        let changed = specification.digest != self.specification.digest;
        Self { revision: self.revision + u64::from(changed), specification, ..self.clone() }
    }

    /// With state that is new, or comes from a savepoint.
    #[must_use]
    pub fn in_new_incarnation(&self) -> Self {
        let next = self.last_incarnation + 1;
        Self { incarnation: next, last_incarnation: next, ..self.clone() }
    }
}

/// A record with its version.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Known {
    /// The record.
    pub record: PipelineRecord,
    /// Its version.
    pub version: Version,
}

/// Reads a pipeline's record.
///
/// # Errors
/// Those of the store.
pub async fn read(store: &dyn MetaStore, name: &Segment) -> Result<Option<Known>, MetaError> {
    let path = layout::pipeline(name);
    let Some(node) = store.get(&path).await? else { return Ok(None) };
    Ok(Some(Known { record: decode(&path, &node.data)?, version: node.version }))
}

/// Changes a pipeline's record: `change` gets what there is, and says what there is to be, or that nothing changes; it is asked
/// again when somebody else was faster. Returns what there is then.
///
/// # Errors
/// Those of `change` and of the store.
pub async fn change<E: From<MetaError>>(
    store: &dyn MetaStore,
    name: &Segment,
    change: impl FnMut(Option<&PipelineRecord>) -> Result<Option<PipelineRecord>, E>,
) -> Result<Option<PipelineRecord>, E> {
    change_and(store, name, change, |_| Vec::new()).await
}

/// As [`change`], with `more` to be written together with the record that is written.
async fn change_and<E: From<MetaError>>(
    store: &dyn MetaStore,
    name: &Segment,
    mut change: impl FnMut(Option<&PipelineRecord>) -> Result<Option<PipelineRecord>, E>,
    more: impl Fn(&PipelineRecord) -> Vec<Write>,
) -> Result<Option<PipelineRecord>, E> {
    let path = layout::pipeline(name);
    loop {
        let known = read(store, name).await?;
        let before = known.as_ref().map(|known| &known.record);
        let wanted = change(before)?.filter(|wanted| before != Some(wanted));
        let Some(wanted) = wanted else { return Ok(known.map(|known| known.record)) };
        let wanted = PipelineRecord { changed_at: jiff::Timestamp::now(), changed_by: whoever(), ..wanted };
        let data = encode(&wanted);
        let mut writes = vec![match &known {
            Some(known) => Write::Set { path: path.clone(), data, version: known.version },
            None => {
                store.ensure(layout::PIPELINES).await?;
                Write::Create { path: path.clone(), data, ephemeral: false }
            }
        }];
        if known.is_none() {
            for path in [layout::revisions(name), layout::pipeline_nodes(name)] {
                writes.push(Write::Create { path, data: Bytes::new(), ephemeral: false });
            }
        }
        if before.is_none_or(|before| before.revision != wanted.revision) {
            let path = layout::revision(name, wanted.revision);
            writes.push(Write::Create { path, data: encode(&kept(&wanted)), ephemeral: false });
        }
        writes.extend(more(&wanted));
        match store.multi(writes).await {
            Ok(_) => {
                forget_old_revisions(store, name, wanted.revision).await;
                return Ok(Some(wanted));
            }
            // Somebody else was faster, or an answer was lost: the next look tells.
            Err(MetaError::Exists { .. } | MetaError::BadVersion { .. } | MetaError::AnswerLost { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Moves a rollout on: `next` takes the place of `now`, unless somebody else has moved it meanwhile. What there is then.
///
/// # Errors
/// Those of the store.
pub async fn move_rollout(
    store: &dyn MetaStore,
    name: &Segment,
    now: &Rollout,
    next: &Rollout,
) -> Result<Option<PipelineRecord>, MetaError> {
    let moved = |known: Option<&PipelineRecord>| {
        let known = known.filter(|known| known.rollout.as_ref() == Some(now));
        Ok(known.map(|known| PipelineRecord { rollout: Some(next.clone()), ..known.clone() }))
    };
    change(store, name, moved).await
}

/// Calls a rollout off, however far it has got, if [it can be](Rollout::can_be_called_off). What it is then; `None` when it has ended.
///
/// # Errors
/// Those of the store.
pub async fn call_off(
    store: &dyn MetaStore,
    name: &Segment,
    number: u64,
    reason: &str,
) -> Result<Option<Rollout>, MetaError> {
    let off = |known: Option<&PipelineRecord>| {
        Ok::<_, MetaError>(known.and_then(|known| {
            let rollout = known.rollout.as_ref().filter(|rollout| rollout.number == number)?;
            let off = rollout.can_be_called_off().then(|| rollout.called_off(reason))?;
            Some(PipelineRecord { rollout: Some(off), ..known.clone() })
        }))
    };
    let record = change(store, name, off).await?;
    Ok(record.and_then(|record| record.rollout).filter(|rollout| rollout.number == number))
}

/// Lets a rollout go on that is held. What it is then; `None` when it has ended.
///
/// # Errors
/// Those of the store.
pub async fn promote(store: &dyn MetaStore, name: &Segment, number: u64) -> Result<Option<Rollout>, MetaError> {
    let on = |known: Option<&PipelineRecord>| {
        Ok::<_, MetaError>(known.and_then(|known| {
            let rollout = known.rollout.as_ref().filter(|rollout| rollout.number == number)?;
            Some(PipelineRecord { rollout: Some(rollout.promoted(whoever())?), ..known.clone() })
        }))
    };
    let record = change(store, name, on).await?;
    Ok(record.and_then(|record| record.rollout).filter(|rollout| rollout.number == number))
}

/// Ends a rollout, unless somebody else has moved it meanwhile: the candidate is the pipeline's next revision, or is not, and
/// what became of it is kept.
///
/// # Errors
/// Those of the store.
pub async fn end_rollout(
    store: &dyn MetaStore,
    name: &Segment,
    now: &Rollout,
    ended: &Rollout,
    outcome: Outcome,
) -> Result<Option<PipelineRecord>, MetaError> {
    let end = |known: Option<&PipelineRecord>| {
        let known = known.filter(|known| known.rollout.as_ref() == Some(now));
        Ok(known.map(|known| {
            let known = PipelineRecord { rollout: None, ..known.clone() };
            match outcome {
                Outcome::Done => known.respecified(ended.candidate.clone()),
                Outcome::Returned => known,
            }
        }))
    };
    keep_ended(store, name, end, ended, outcome).await
}

/// What tasks were taken back to stands in the record `was` now: the specification that it has to have, and the rollout, which may
/// be under way in it, is kept with what became of it. Nothing if somebody has changed the record meanwhile.
///
/// # Errors
/// Those of the store.
pub async fn taken_back(
    store: &dyn MetaStore,
    name: &Segment,
    was: &PipelineRecord,
    specification: &Specification,
    ended: &Rollout,
    outcome: Outcome,
) -> Result<Option<PipelineRecord>, MetaError> {
    let rollouts = was.rollouts.max(ended.number);
    let back = PipelineRecord { rollout: None, rollouts, ..was.respecified(specification.clone()) };
    // Asked again, it may have been an answer that was lost.
    let is_back = |known: &PipelineRecord| {
        PipelineRecord { changed_at: back.changed_at, changed_by: back.changed_by.clone(), ..known.clone() } == back
    };
    let change = |known: Option<&PipelineRecord>| Ok(known.filter(|known| *known == was).map(|_| back.clone()));
    let record = keep_ended(store, name, change, ended, outcome).await?;
    Ok(record.filter(is_back))
}

/// Changes a record together with what is kept of a rollout.
async fn keep_ended(
    store: &dyn MetaStore,
    name: &Segment,
    end: impl FnMut(Option<&PipelineRecord>) -> Result<Option<PipelineRecord>, MetaError>,
    ended: &Rollout,
    outcome: Outcome,
) -> Result<Option<PipelineRecord>, MetaError> {
    store.ensure(&layout::rollouts(name)).await?;
    let history = |record: &PipelineRecord| {
        let path = layout::rollout(name, ended.number);
        let mut rollout = ended.clone();
        // It has the file; and a request has its bounds.
        rollout.candidate.canonical.clear();
        let ended = Ended { rollout, outcome, ended_at: record.changed_at };
        vec![Write::Create { path, data: encode(&ended), ephemeral: false }]
    };
    let record = change_and(store, name, end, history).await?;
    if let Some(old) = ended.number.checked_sub(REVISIONS_MAX).filter(|old| *old > 0) {
        // Best effort, as for revisions.
        let _ = store.multi(vec![Write::Delete { path: layout::rollout(name, old), version: None }]).await;
    }
    Ok(record)
}

/// The rollouts that have ended and are kept, the oldest first, without those that cannot be read.
///
/// # Errors
/// Those of the store.
pub async fn rollouts(store: &dyn MetaStore, name: &Segment) -> Result<Vec<Ended>, MetaError> {
    let mut rollouts = Vec::new();
    for number in numbers(store, &layout::rollouts(name)).await? {
        let path = layout::rollout(name, number);
        match store.get(&path).await?.map(|node| decode(&path, &node.data)) {
            Some(Ok(ended)) => rollouts.push(ended),
            Some(Err(error)) => warn!("left out: {error}"),
            None => {}
        }
    }
    Ok(rollouts)
}

fn kept(record: &PipelineRecord) -> Revision {
    Revision {
        revision: record.revision,
        specification: record.specification.clone(),
        recorded_at: record.changed_at,
        recorded_by: record.changed_by.clone(),
    }
}

/// Best effort: one that stays is deleted with a later change.
async fn forget_old_revisions(store: &dyn MetaStore, name: &Segment, now: u64) {
    let Ok(names) = store.children(&layout::revisions(name)).await else { return };
    for old in names.iter().filter_map(|name| name.parse::<u64>().ok()).filter(|old| old + REVISIONS_MAX <= now) {
        let _ = store.multi(vec![Write::Delete { path: layout::revision(name, old), version: None }]).await;
    }
}

/// The revisions that are kept, the oldest first.
///
/// # Errors
/// Those of the store.
pub async fn revisions(store: &dyn MetaStore, name: &Segment) -> Result<Vec<Revision>, MetaError> {
    let mut revisions = Vec::new();
    for number in numbers(store, &layout::revisions(name)).await? {
        let path = layout::revision(name, number);
        if let Some(node) = store.get(&path).await? {
            revisions.push(decode(&path, &node.data)?);
        }
    }
    Ok(revisions)
}

/// The children that are numbers, the lowest first.
async fn numbers(store: &dyn MetaStore, parent: &str) -> Result<Vec<u64>, MetaError> {
    let names = store.children(parent).await?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| name.parse().ok()).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// All pipelines, by name.
///
/// # Errors
/// Those of the store.
pub async fn list(store: &dyn MetaStore) -> Result<Vec<(Segment, PipelineRecord)>, MetaError> {
    let mut pipelines = Vec::new();
    for name in store.children(layout::PIPELINES).await? {
        let Ok(name) = Segment::new(&name) else { continue };
        if let Some(known) = read(store, &name).await? {
            pipelines.push((name, known.record));
        }
    }
    Ok(pipelines)
}

/// Who does it: user and host.
pub(crate) fn whoever() -> String {
    let user = ["USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    let host = gethostname::gethostname();
    format!("{}@{}", user.as_deref().unwrap_or("unknown"), host.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::local::LocalStore;

    async fn store() -> (tempfile::TempDir, LocalStore, Segment) {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::open(dir.path()).await.unwrap();
        (dir, store, Segment::new("orders").unwrap())
    }

    fn specification(text: &str) -> Specification {
        Specification {
            file: text.to_owned(),
            canonical: text.to_owned(),
            digest: text.to_owned(),
            plugins: vec!["d".repeat(64)],
            partitions: 4,
        }
    }

    async fn specify(store: &LocalStore, name: &Segment, text: &str) -> PipelineRecord {
        let specified = change(store, name, |known| {
            let specification = specification(text);
            Ok::<_, MetaError>(Some(match known {
                Some(known) => known.respecified(specification),
                None => PipelineRecord::first(specification, Desired::Running),
            }))
        });
        specified.await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn a_changed_specification_is_a_new_revision_and_the_same_one_is_not() {
        let (_dir, store, name) = store().await;
        let first = specify(&store, &name, "a").await;
        assert_eq!((first.revision, first.incarnation), (1, 1));
        assert_eq!(specify(&store, &name, "a").await, first);
        let second = specify(&store, &name, "b").await;
        assert_eq!((second.revision, second.incarnation), (2, 1));
        assert_eq!(list(&store).await.unwrap(), [(name.clone(), second)]);
        let kept = revisions(&store, &name).await.unwrap();
        let kept: Vec<_> = kept.iter().map(|kept| (kept.revision, kept.specification.file.as_str())).collect();
        assert_eq!(kept, [(1, "a"), (2, "b")]);
    }

    #[tokio::test]
    async fn an_incarnation_is_never_given_again() {
        let (_dir, store, name) = store().await;
        let first = specify(&store, &name, "a").await;
        let reserved = PipelineRecord { last_incarnation: 5, ..first };
        assert_eq!(reserved.in_new_incarnation().incarnation, 6);
        assert_eq!(reserved.in_new_incarnation().in_new_incarnation().last_incarnation, 7);
    }

    #[tokio::test]
    async fn old_revisions_are_forgotten() {
        let (_dir, store, name) = store().await;
        for at in 0..REVISIONS_MAX + 3 {
            specify(&store, &name, &at.to_string()).await;
        }
        let kept = revisions(&store, &name).await.unwrap();
        assert_eq!((kept.len() as u64, kept[0].revision), (REVISIONS_MAX, 4));
    }

    #[tokio::test]
    async fn a_change_that_is_refused_changes_nothing() {
        let (_dir, store, name) = store().await;
        let first = specify(&store, &name, "a").await;
        let refused = MetaError::Failed { path: "/".into(), reason: "no".into() };
        let result = change(&store, &name, |_| Err::<Option<PipelineRecord>, _>(refused.clone())).await;
        assert_eq!(result, Err(refused));
        assert_eq!(read(&store, &name).await.unwrap().unwrap().record, first);
    }
}
