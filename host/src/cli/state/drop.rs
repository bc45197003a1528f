//! `sluicegate state drop`: deletes what a store holds that no version uses any more.
//!
//! Refuses what the state of a task, the recorded pipeline file or a rollout under way may still want; what a task uses is looked at
//! again, by whoever has claimed it, in [`imports`].

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use bytesize::ByteSize;
use clap::Args;

use super::{CommandError, Recorded, import};
use crate::cluster::{imports, inspection};
use crate::config::{ClusterArgs, Pipeline};
use crate::ids::TaskId;
use crate::state::StoreName;

/// Arguments of `state drop`.
#[derive(Args, Debug)]
#[command(after_help = "\
For what a transform has left behind that is not in the pipeline any more, or a store that its plugin does not declare any
more. A store in use is refused. Nothing can take it back, but a savepoint. What was interrupted may be done again.

Examples:
  sluicegate state list orders
  sluicegate pause orders
  sluicegate state drop orders counts --transform former-count --yes
  sluicegate resume orders")]
pub(in crate::cli) struct DropArgs {
    /// Name of the pipeline
    pipeline: String,
    /// Name of the store, as `state list` shows it: `counts`, `counts@2`
    store: String,
    /// Of this transform; has to be given when several have a store of that name
    #[arg(long, value_name = "TRANSFORM")]
    transform: Option<String>,
    /// Only this task; all of them otherwise
    #[arg(long, value_name = "PARTITION")]
    task: Vec<u32>,
    /// Delete the entries without another question
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// What a task has.
struct Found {
    task: TaskId,
    /// Each store with its entries, their bytes, and whether it is in use.
    stores: Vec<(StoreName, usize, u64, bool)>,
}

/// What is to be deleted of a task.
struct Doomed {
    task: TaskId,
    entries: usize,
    bytes: u64,
}

pub(super) async fn run(args: DropArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let pipeline = Recorded::open(&args.pipeline, &args.cluster).await?;
    let found = look(&pipeline, &args.task).await?;
    let name = choose(&found, &args.store, args.transform.as_deref())?;
    let doomed = unused(&found, &name)?;
    no_rollout_wants(&pipeline, &name)?;
    record_wants_not(&pipeline, &name).await?;
    if doomed.is_empty() {
        return Ok(writeln!(out, "store {name} has no entries")?);
    }
    if !args.yes {
        let each =
            |it: &Doomed| format!("\n  task {}: {} entries, {}", it.task.partition, it.entries, ByteSize(it.bytes));
        return Err(CommandError::BadInput(format!(
            "this deletes {} entries of store {name} in {} tasks of pipeline `{}` for good: add --yes if that is meant{}",
            doomed.iter().map(|it| it.entries).sum::<usize>(),
            doomed.len(),
            pipeline.name,
            doomed.iter().map(each).collect::<String>()
        )));
    }
    import::is_stopped(&pipeline).await?;
    for Doomed { task, .. } in &doomed {
        let dropped = imports::drop_store(&pipeline.connection.store, &pipeline.group, task, &name).await?;
        let (entries, bytes, epoch) = (dropped.entries, ByteSize(dropped.bytes), dropped.epoch);
        writeln!(out, "task {}: {entries} entries, {bytes}, epoch {epoch}", task.partition)?;
    }
    Ok(())
}

/// The stores of each task that has state.
async fn look(pipeline: &Recorded, tasks: &[u32]) -> Result<Vec<Found>, CommandError> {
    let mut found = Vec::new();
    for partition in pipeline.tasks(tasks)? {
        let task = pipeline.task(partition);
        let view = inspection::view(&pipeline.connection.store, &pipeline.group, &task).await?;
        let Some(inspection::TaskView { manifest, mut state, .. }) = view else { continue };
        let declared = manifest.transforms.iter().flat_map(|transform| {
            let stores = transform.stores.iter().chain(&transform.copies);
            stores.map(|(store, schema)| StoreName::of(&transform.name, store, *schema))
        });
        let names: BTreeSet<StoreName> = declared.chain(state.names().iter().cloned()).collect();
        let described = names.into_iter().map(|name| {
            let number = state.number(&name);
            let store = state.store(number);
            let is_used = imports::uses(&manifest, &name);
            (name, store.len(), store.bytes(), is_used)
        });
        found.push(Found { stores: described.collect(), task });
    }
    Ok(found)
}

/// The store that is meant.
fn choose(found: &[Found], store: &str, transform: Option<&str>) -> Result<StoreName, CommandError> {
    let all: BTreeSet<&StoreName> = found.iter().flat_map(|it| &it.stores).map(|(name, ..)| name).collect();
    let is_meant = |name: &StoreName| {
        let is_named = name.store == store || format!("{}@1", name.store) == store;
        is_named && transform.is_none_or(|transform| name.transform == transform)
    };
    let mut meant = all.iter().filter(|name| is_meant(name));
    match (meant.next(), meant.next()) {
        (Some(name), None) => Ok((**name).clone()),
        (Some(first), Some(second)) => Err(CommandError::BadInput(format!(
            "transforms `{}` and `{}` both have a store `{store}`: say which with --transform",
            first.transform, second.transform
        ))),
        (None, _) => {
            let wanted = transform.map_or_else(|| store.to_owned(), |transform| format!("{transform}/{store}"));
            let there = match all.is_empty() {
                true => "no task has kept state yet".to_owned(),
                false => {
                    let names: Vec<String> = all.iter().map(ToString::to_string).collect();
                    format!("there are {}", names.join(", "))
                }
            };
            Err(CommandError::BadInput(format!("there is no store {wanted}: {there}")))
        }
    }
}

/// What the tasks have in the store, if none uses it.
fn unused(found: &[Found], name: &StoreName) -> Result<Vec<Doomed>, CommandError> {
    let mut doomed = Vec::new();
    for Found { task, stores } in found {
        let Some((_, entries, bytes, is_used)) = stores.iter().find(|(known, ..)| known == name) else { continue };
        if *is_used {
            return Err(imports::ImportError::InUse { task: task.clone(), store: name.clone() }.into());
        }
        if *entries > 0 {
            doomed.push(Doomed { task: task.clone(), entries: *entries, bytes: *bytes });
        }
    }
    Ok(doomed)
}

/// A rollout goes over to one version of a transform or back to the other, and converts between their stores.
fn no_rollout_wants(pipeline: &Recorded, name: &StoreName) -> Result<(), CommandError> {
    match pipeline.record.rollout.as_ref().filter(|rollout| rollout.transform == name.transform) {
        None => Ok(()),
        Some(rollout) => Err(CommandError::BadInput(format!(
            "transform `{0}` of pipeline `{1}` is being changed, which may want store {name}: resume it and wait for the end, or call it off with `sluicegate plugin rollback {1} {0}`",
            rollout.transform, pipeline.name
        ))),
    }
}

/// What was deployed since the tasks ran last finds its stores by their names.
async fn record_wants_not(pipeline: &Recorded, name: &StoreName) -> Result<(), CommandError> {
    let specification = &pipeline.record.specification;
    let recorded = Pipeline::parse(Path::new("recorded"), &specification.file)?;
    let mut plugins = recorded.transforms.iter().zip(&specification.plugins);
    let Some((_, plugin)) = plugins.find(|(transform, _)| transform.name == name.transform) else { return Ok(()) };
    let unknown = |reason| {
        CommandError::Failed(format!(
            "whether transform `{}` uses store {name} is not known: plugin {plugin} cannot be read: {reason}",
            name.transform
        ))
    };
    let declared = pipeline.declared_by(plugin).await.map_err(unknown)?;
    match declared.iter().any(|store| StoreName::of(&name.transform, &store.name, store.schema) == *name) {
        false => Ok(()),
        true => Err(CommandError::BadInput(format!(
            "revision {} of pipeline `{}` uses store {name}, though no task has run it yet",
            pipeline.record.revision, pipeline.name
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(partition: u32, stores: &[(&str, &str, usize, bool)]) -> Found {
        let task = TaskId { pipeline: "orders".into(), incarnation: 1, stage: 0, partition };
        let described = |(transform, store, entries, is_used): &(&str, &str, usize, bool)| {
            let name = StoreName { transform: (*transform).to_owned(), store: (*store).to_owned() };
            (name, *entries, 10 * *entries as u64, *is_used)
        };
        Found { task, stores: stores.iter().map(described).collect() }
    }

    fn message<T>(result: Result<T, CommandError>) -> String {
        match result {
            Err(CommandError::BadInput(message)) => message,
            Err(_) => panic!("another kind of error"),
            Ok(_) => panic!("accepted"),
        }
    }

    #[test]
    fn a_store_is_named_as_it_is_listed_and_a_name_that_two_have_is_none() {
        let found = [
            found(0, &[("count", "counts", 1, false), ("count", "counts@2", 1, true)]),
            found(1, &[("former", "totals", 1, false), ("other", "totals", 1, false)]),
        ];
        let shown = |store: &str, transform| choose(&found, store, transform).ok().map(|name| name.to_string());
        assert_eq!(shown("counts", None).as_deref(), Some("count/counts"));
        assert_eq!(shown("counts@1", None).as_deref(), Some("count/counts"));
        assert_eq!(shown("counts@2", None).as_deref(), Some("count/counts@2"));
        assert_eq!(shown("totals", Some("other")).as_deref(), Some("other/totals"));
        assert!(message(choose(&found, "totals", None)).contains("`former` and `other` both have"));
        let unknown = message(choose(&found, "sums", Some("count")));
        assert!(
            unknown.starts_with("there is no store count/sums: there are count/counts, count/counts@2,"),
            "{unknown}"
        );
        assert!(message(choose(&[], "sums", None)).ends_with("no task has kept state yet"));
    }

    #[test]
    fn one_task_that_uses_a_store_keeps_it_everywhere_and_empty_ones_are_left_alone() {
        let name = StoreName { transform: "count".into(), store: "counts".into() };
        let unused_ones = [found(0, &[("count", "counts", 3, false)]), found(1, &[("count", "counts", 0, false)])];
        let doomed = unused(&unused_ones, &name).ok().unwrap();
        let doomed: Vec<_> = doomed.iter().map(|it| (it.task.partition, it.entries, it.bytes)).collect();
        assert_eq!(doomed, [(0, 3, 30)]);
        let used = [found(0, &[("count", "counts", 3, false)]), found(1, &[("count", "counts", 0, true)])];
        assert!(message(unused(&used, &name)).contains("transform `count` uses store count/counts"));
    }
}
