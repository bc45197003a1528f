//! State of a task at an earlier commit, to go on from: of a savepoint, or what its head still keeps. Reads only.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::checkpoint::head::{Head, Manifest};
use crate::cluster::inspection::{self, InspectionError};
use crate::cluster::savepoints::{Part, SavepointError, Savepoints};
use crate::ids::TaskId;
use crate::meta::MetaStore;
use crate::meta::layout::Segment;
use crate::state::TaskState;

/// A task at one of its commits.
pub struct Snapshot {
    /// The next offset of each topic.
    pub offsets: BTreeMap<String, i64>,
    /// Its entries; none without state.
    pub state: TaskState,
    /// What is written down of the commit; `None` without state.
    pub manifest: Option<Manifest>,
    /// Where it was found, for people.
    pub origin: String,
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A head or its chunks.
    #[error(transparent)]
    Inspection(#[from] InspectionError),
    /// A savepoint.
    #[error(transparent)]
    Savepoint(#[from] SavepointError),
}

/// As the task was in a savepoint; `None` if it had never started.
///
/// # Errors
/// There is no such savepoint, or it cannot be read.
pub async fn saved(
    savepoints: &Savepoints<'_>,
    name: &Segment,
    partition: u32,
) -> Result<Option<Snapshot>, SnapshotError> {
    let origin = format!("savepoint `{name}`");
    Ok(match savepoints.part(name, partition).await? {
        None => None,
        Some(Part::Offsets(offsets)) => Some(Snapshot { offsets, state: TaskState::default(), manifest: None, origin }),
        Some(Part::Head(head)) => Some(of_head(savepoints, name, partition, *head, origin).await?),
    })
}

async fn of_head(
    savepoints: &Savepoints<'_>,
    name: &Segment,
    partition: u32,
    head: Head,
    origin: String,
) -> Result<Snapshot, SnapshotError> {
    let state = savepoints.state(name, partition, &head).await?;
    Ok(Snapshot { offsets: head.committed.offsets.clone(), state, manifest: Some(head.committed), origin })
}

/// The newest commit of a task at or before these offsets that is still there, in the head or in a savepoint; without offsets the
/// oldest one of the head. `None` if there is none.
///
/// # Errors
/// The store, or what is in it, cannot be read.
pub async fn before(
    meta: &Arc<dyn MetaStore>,
    savepoints: &Savepoints<'_>,
    task: &TaskId,
    wanted: Option<&BTreeMap<String, i64>>,
) -> Result<Option<Snapshot>, SnapshotError> {
    let choose = |manifests: &[&Manifest]| {
        let offsets: Vec<&BTreeMap<String, i64>> = manifests.iter().map(|manifest| &manifest.offsets).collect();
        match wanted {
            Some(wanted) => newest(&offsets, wanted),
            None => offsets.len().checked_sub(1),
        }
    };
    let kept = inspection::kept(meta, task, &choose).await?;
    let kept = kept.map(|(manifest, state)| Snapshot {
        offsets: manifest.offsets.clone(),
        state,
        origin: format!("commit {} of the head", manifest.id),
        manifest: Some(manifest),
    });
    let Some(wanted) = wanted.filter(|_| kept.is_none()) else { return Ok(kept) };
    let mut found: Vec<(Segment, Head)> = Vec::new();
    for (name, savepoint) in savepoints.list().await? {
        let Ok(name) = Segment::new(&name) else { continue };
        if savepoint.complete
            && let Some(Part::Head(head)) = savepoints.part(&name, task.partition).await?
        {
            found.push((name, *head));
        }
    }
    let offsets: Vec<&BTreeMap<String, i64>> = found.iter().map(|(_, head)| &head.committed.offsets).collect();
    let Some(at) = newest(&offsets, wanted) else { return Ok(None) };
    let (name, head) = found.swap_remove(at);
    let origin = format!("savepoint `{name}`");
    Ok(Some(of_head(savepoints, &name, task.partition, head, origin).await?))
}

/// Which of several commits is the newest that lies at or before what is wanted, in every topic.
fn newest(offsets: &[&BTreeMap<String, i64>], wanted: &BTreeMap<String, i64>) -> Option<usize> {
    let is_before = |of: &BTreeMap<String, i64>| {
        wanted.iter().all(|(topic, wanted)| of.get(topic).is_some_and(|offset| offset <= wanted))
    };
    let progress = |of: &BTreeMap<String, i64>| wanted.keys().filter_map(|topic| of.get(topic)).sum::<i64>();
    let fitting = offsets.iter().enumerate().filter(|(_, of)| is_before(of));
    // Of several that are as far the first, which a head has as the newest.
    fitting.rev().max_by_key(|(_, of)| progress(of)).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(list: &[(&str, i64)]) -> BTreeMap<String, i64> {
        list.iter().map(|(topic, offset)| ((*topic).to_owned(), *offset)).collect()
    }

    #[test]
    fn the_newest_commit_before_what_is_wanted_is_chosen() {
        let commits = [offsets(&[("a", 30)]), offsets(&[("a", 20)]), offsets(&[("a", 10)])];
        let commits: Vec<_> = commits.iter().collect();
        let chosen = |wanted| newest(&commits, &offsets(&[("a", wanted)]));
        assert_eq!(
            [chosen(35), chosen(30), chosen(29), chosen(10), chosen(9)],
            [Some(0), Some(0), Some(1), Some(2), None]
        );
    }

    #[test]
    fn a_commit_that_is_behind_in_one_topic_and_ahead_in_another_is_none_before_it() {
        let commits = [offsets(&[("a", 10), ("b", 30)]), offsets(&[("a", 5), ("b", 20), ("dead", 3)])];
        let commits: Vec<_> = commits.iter().collect();
        assert_eq!(newest(&commits, &offsets(&[("a", 12), ("b", 25)])), Some(1));
        assert_eq!(newest(&commits, &offsets(&[("a", 12), ("c", 25)])), None);
    }
}
