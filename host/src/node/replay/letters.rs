//! What the present version would do with dead letters: each where it failed, with the state as it is now. Writes nothing.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use tokio::runtime::Handle;

use super::plan;
use crate::checkpoint::head::Manifest;
use crate::cluster::inspection;
use crate::cluster::pipelines::PipelineRecord;
use crate::comparison::RecordOutcome;
use crate::config::Cluster;
use crate::kafka::log;
use crate::meta::MetaStore;
use crate::node::NodeError;
use crate::node::group::Group;
use crate::node::load::Loader;
use crate::node::offline::Run;
use crate::node::offline::snapshot::SnapshotError;
use crate::record::Batch;
use crate::state::TaskState;
use crate::worker::dead_letter::{self, Order};
use crate::worker::plan::Plan;
use crate::worker::runtime::Runtime;

/// What would become of a letter.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Fate {
    /// It would be processed, and this would come of it.
    Processed(RecordOutcome),
    /// The pipeline would stop there; why.
    Stops(String),
    /// The pipeline would have stopped at one before.
    NotReached,
    /// Its transform or its source is not there any more, or its headers are damaged.
    Unknown,
}

/// The plan of what is recorded, and what becomes of these orders by it, in their order. The pipeline sees the time of today.
///
/// # Errors
/// A plugin wants something of the real world; the state or Kafka cannot be read.
pub async fn try_again(
    cluster: &Arc<Cluster>,
    store: &Arc<dyn MetaStore>,
    record: &PipelineRecord,
    orders: Vec<log::Entry>,
) -> Result<(Arc<Plan>, Vec<Fate>), NodeError> {
    let loader = Loader::of_command(cluster, store)?;
    let plan = plan(&loader, record, &record.specification).await?;
    let group = Group::new(cluster, record).map_err(NodeError::Kafka)?;
    let mut states: BTreeMap<u32, (TaskState, Manifest)> = BTreeMap::new();
    for task in orders.iter().filter_map(|order| u32::try_from(order.partition).ok()) {
        if plan.is_stateful() && !states.contains_key(&task) {
            let viewed = inspection::view(store, &group, &plan.task(task)).await.map_err(SnapshotError::from)?;
            states.extend(viewed.map(|view| (task, (view.state, view.manifest))));
        }
    }
    let (now_ms, by) = (Runtime::now_ms(&Handle::current()), Arc::clone(&plan));
    let fates = tokio::task::spawn_blocking(move || fates(&by, &states, &orders, now_ms)).await;
    Ok((plan, fates.map_err(|error| NodeError::Kafka(error.to_string()))??))
}

fn fates(
    plan: &Arc<Plan>,
    states: &BTreeMap<u32, (TaskState, Manifest)>,
    orders: &[log::Entry],
    now_ms: i64,
) -> Result<Vec<Fate>, NodeError> {
    // Of each task: none any more when it has stopped.
    let mut runs: BTreeMap<u32, Option<Run>> = BTreeMap::new();
    let empty = TaskState::default();
    let mut fates = Vec::with_capacity(orders.len());
    for entry in orders {
        let (Ok(task), Some(Order { transform, batch, .. })) = (u32::try_from(entry.partition), order(plan, entry))
        else {
            fates.push(Fate::Unknown);
            continue;
        };
        let slot = match runs.entry(task) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let known = states.get(&task);
                let state = known.map_or((&empty, None, None), |(state, manifest)| (state, Some(manifest), None));
                new.insert(Some(Run::new(plan, task, state, now_ms, None)?))
            }
        };
        let fate = match slot {
            None => Fate::NotReached,
            Some(run) => match run.process_from(transform, &batch) {
                Ok(outcomes) => Fate::Processed(outcomes.into_values().next().unwrap_or_default()),
                Err(stopped) => {
                    *slot = None;
                    Fate::Stops(stopped.reason)
                }
            },
        };
        fates.push(fate);
    }
    Ok(fates)
}

/// The order as the pipeline reads it.
fn order(plan: &Plan, log::Entry { partition, offset, timestamp, key, value, headers }: &log::Entry) -> Option<Order> {
    let mut batch = Batch::default();
    let headers = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_deref()));
    batch.push((0, *partition, *offset), *timestamp, key.as_deref(), value.as_deref(), headers);
    dead_letter::order(plan, &batch.records().next()?)
}
