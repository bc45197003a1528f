//! `sluicegate state`: what is in it, and what to do where recovery stops rather than guess.

mod drop;
mod format;
mod import;
mod look;
mod uses;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use clap::{Args, Subcommand, ValueEnum};

use super::connection::Recorded;
use super::{CommandError, table};
use crate::checkpoint::head::Head;
use crate::checkpoint::repair;
use crate::checkpoint::resolve::{self, GroupOffsets};
use crate::checkpoint::store::TaskStore;
use crate::cluster::presence::{self, Activity};
use crate::cluster::registry::Registry;
use crate::cluster::savepoints::Offsets;
use crate::config::ClusterArgs;
use crate::digest::{self, Digest};
use crate::engine;
use crate::ids::TaskId;
use crate::manifest::StoreDeclaration;
use crate::meta::layout::TaskPath;
use crate::meta::{MetaError, Version, Write as MetaWrite};
use crate::node::group::Place;

/// The commands.
#[derive(Debug, Subcommand)]
pub(super) enum StateCommand {
    /// List the stores of each task: how many entries, how many bytes
    List(look::ListArgs),
    /// Show the value of a key
    Get(look::GetArgs),
    /// Show entries in the order of their keys
    Scan(look::ScanArgs),
    /// Print all entries, as JSON lines
    Export(look::ExportArgs),
    /// Put entries into the state of a stopped pipeline
    Import(import::ImportArgs),
    /// Delete the entries of a store that no version uses any more
    Drop(drop::DropArgs),
    /// Show what the heads and Kafka say, and decide which side is right
    Accept(AcceptArgs),
    /// Let tasks begin again, without state, from offsets that are named
    Reset(ResetArgs),
}

/// Arguments of `state accept`.
#[derive(Args, Debug)]
#[command(after_help = "\
Without --head or --kafka it shows both sides and changes nothing.

Examples:
  sluicegate state accept orders
  sluicegate state accept orders --task 3 --head
  sluicegate state accept orders --task 3 --kafka")]
pub(super) struct AcceptArgs {
    /// Name of the pipeline
    pipeline: String,
    /// Only this task; all that disagree otherwise
    #[arg(long, value_name = "PARTITION")]
    task: Vec<u32>,
    /// The head is right: go on from the state and the offsets that it has as committed
    #[arg(long, conflicts_with = "kafka")]
    head: bool,
    /// Kafka is right: go on from its offsets, with the state that it names if that is still there
    #[arg(long)]
    kafka: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Arguments of `state reset`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sluicegate state reset orders --task 3 --from earliest
  sluicegate state reset orders --from start --keep-state")]
pub(super) struct ResetArgs {
    /// Name of the pipeline
    pipeline: String,
    /// Only this task; all of them otherwise
    #[arg(long, value_name = "PARTITION")]
    task: Vec<u32>,
    /// From where the tasks go on
    #[arg(long, value_enum)]
    from: From,
    /// Change the offsets only
    #[arg(long)]
    keep_state: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Where a task goes on.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum From {
    /// At the oldest record that there is
    Earliest,
    /// Behind the newest
    Latest,
    /// Where the pipeline file says
    Start,
}

/// Both sides of a task.
struct Sides {
    task: TaskId,
    head: Option<(Head, Version)>,
    kafka: GroupOffsets,
}

pub(super) async fn run(command: StateCommand, out: &mut impl Write) -> Result<(), CommandError> {
    match command {
        StateCommand::List(args) => look::list(args, out).await,
        StateCommand::Get(args) => look::get(args, out).await,
        StateCommand::Scan(args) => look::scan(args, out).await,
        StateCommand::Export(args) => look::export(args, out).await,
        StateCommand::Import(args) => import::import(args, out).await,
        StateCommand::Drop(args) => drop::run(args, out).await,
        StateCommand::Accept(args) => accept(args, out).await,
        StateCommand::Reset(args) => reset(args, out).await,
    }
}

impl Recorded {
    /// Refuses while a node has the pipeline: it would go on from what it has in memory.
    async fn must_be(&self) -> Result<(), CommandError> {
        let nodes = presence::list(&*self.connection.store, &self.name).await?;
        let stands = |activity| matches!(activity, Activity::Failed | Activity::Retrying);
        let running: Vec<String> =
            nodes.into_iter().filter(|(_, presence)| !stands(presence.activity)).map(|(node, _)| node).collect();
        if running.is_empty() {
            return Ok(());
        }
        Err(CommandError::BadInput(format!(
            "pipeline `{0}` runs on {1}: stop it first, with `sluicegate pause {0}` or by ending its process",
            self.name,
            running.join(", ")
        )))
    }

    fn tasks(&self, wanted: &[u32]) -> Result<Vec<u32>, CommandError> {
        let partitions = self.record.specification.partitions;
        if let Some(unknown) = wanted.iter().find(|task| **task >= partitions) {
            let last = partitions.saturating_sub(1);
            return Err(CommandError::BadInput(format!("there is no task {unknown}: they go from 0 to {last}")));
        }
        Ok(if wanted.is_empty() { (0..partitions).collect() } else { wanted.to_vec() })
    }

    fn task(&self, partition: u32) -> TaskId {
        TaskId { pipeline: self.name.to_string(), incarnation: self.record.incarnation, stage: 0, partition }
    }

    /// The stores that a plugin of the registry declares.
    async fn declared_by(&self, plugin: &str) -> Result<Vec<StoreDeclaration>, String> {
        let digest: Digest =
            format!("{}{plugin}", digest::PREFIX).parse().map_err(|_| "its digest is none".to_owned())?;
        let registry = Registry::new(Arc::clone(&self.connection.store));
        let bytes = registry.fetch(&digest).await.map_err(|error| error.to_string())?;
        engine::inspect(&bytes).map(|found| found.manifest.stores).map_err(|error| error.to_string())
    }

    async fn sides(&self, partition: u32) -> Result<Sides, CommandError> {
        let incarnation = self.record.incarnation;
        let task = self.task(partition);
        let head = TaskStore::new(Arc::clone(&self.connection.store), task.clone()).read().await;
        let head = head.map_err(|error| CommandError::Failed(error.to_string()))?;
        let kafka = self.group.committed(incarnation, partition).await.map_err(CommandError::Failed)?;
        Ok(Sides { task, head, kafka })
    }

    async fn write(&self, task: &TaskId, head: &Head, version: Version) -> Result<(), CommandError> {
        let path = TaskPath::new(task).head();
        let set = MetaWrite::Set { path, data: head.encode().into(), version };
        match self.connection.store.multi(vec![set]).await {
            Ok(_) => Ok(()),
            Err(MetaError::BadVersion { .. }) => {
                Err(CommandError::Failed(format!("task {task} has been claimed meanwhile: is the pipeline running?")))
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl Sides {
    fn disagree(&self) -> Option<&'static str> {
        let (head, _) = self.head.as_ref()?;
        resolve::resolve(head, &self.kafka).err().map(|disagreement| disagreement.reason)
    }

    fn row(&self) -> [String; 4] {
        let head = self.head.as_ref().map_or_else(
            || "none".to_owned(),
            |(head, _)| {
                let offsets: Vec<String> = head.committed.offsets.values().map(i64::to_string).collect();
                format!("{} at {}", head.committed.id, offsets.join(", "))
            },
        );
        let of = |group: &resolve::GroupOffset| {
            let id = group.manifest().map_or_else(|| "no manifest".to_owned(), |id| id.to_string());
            group.offset.map_or_else(|| "no offset".to_owned(), |offset| format!("{id} at {offset}"))
        };
        let kafka: Vec<String> = self.kafka.values().map(of).collect();
        let verdict = self.disagree().unwrap_or("they agree");
        [self.task.partition.to_string(), head, kafka.join("; "), verdict.to_owned()]
    }
}

async fn accept(args: AcceptArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let pipeline = Recorded::open(&args.pipeline, &args.cluster).await?;
    let mut all = Vec::new();
    for partition in pipeline.tasks(&args.task)? {
        all.push(pipeline.sides(partition).await?);
    }
    table::print(out, ["TASK", "HEAD", "KAFKA", ""], &all.iter().map(Sides::row).collect::<Vec<_>>())?;
    let disagreeing: Vec<&Sides> = all.iter().filter(|sides| sides.disagree().is_some()).collect();
    if !args.head && !args.kafka {
        if !disagreeing.is_empty() {
            writeln!(out, "\n--head or --kafka says which side is right")?;
        }
        return Ok(());
    }
    pipeline.must_be().await?;
    if disagreeing.is_empty() {
        return Ok(writeln!(out, "\nnothing has to be decided")?);
    }
    writeln!(out)?;
    for sides in disagreeing {
        let Some((head, version)) = &sides.head else { continue };
        let repaired = if args.head {
            repair::accept_head(head, &sides.kafka, rand::random())
        } else {
            let accepted = repair::accept_kafka(head, &sides.kafka, rand::random());
            accepted.map_err(|error| CommandError::BadInput(error.to_string()))?
        };
        pipeline.write(&sides.task, &repaired, *version).await?;
        let offsets: Vec<String> =
            repaired.committed.offsets.iter().map(|(topic, at)| format!("{topic} from offset {at}")).collect();
        let state = match repair::named_by(head, &sides.kafka) {
            Some(manifest) if args.kafka => manifest.id,
            _ => head.committed.id,
        };
        writeln!(out, "task {} goes on with the state of {state}, {}", sides.task.partition, offsets.join(", "))?;
    }
    Ok(writeln!(out, "`sluicegate resume {0}` or `sluicegate run` goes on", pipeline.name)?)
}

async fn reset(args: ResetArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let pipeline = Recorded::open(&args.pipeline, &args.cluster).await?;
    pipeline.must_be().await?;
    let place = match args.from {
        From::Earliest => Place::Earliest,
        From::Latest => Place::Latest,
        From::Start => Place::Start,
    };
    let mut stateless = BTreeMap::new();
    for partition in pipeline.tasks(&args.task)? {
        let sides = pipeline.sides(partition).await?;
        let place = pipeline.group.place(pipeline.record.incarnation, partition, place);
        let offsets = place.await.map_err(CommandError::Failed)?;
        let shown: Vec<String> = offsets.iter().map(|(topic, at)| format!("{topic} from offset {at}")).collect();
        let mut what = "";
        match &sides.head {
            Some((head, version)) => {
                let repaired = if args.keep_state {
                    repair::moved(head, &sides.kafka, rand::random(), offsets)
                } else {
                    what = ", without state";
                    repair::reset(head, &sides.kafka, rand::random(), offsets)
                };
                pipeline.write(&sides.task, &repaired, *version).await?;
            }
            None => drop(stateless.insert(partition, offsets)),
        }
        writeln!(out, "task {partition} goes on with {}{what}", shown.join(", "))?;
    }
    if !stateless.is_empty() {
        let commit = pipeline.group.commit(pipeline.record.incarnation, &stateless);
        commit.await.map_err(CommandError::Failed)?;
    }
    Ok(())
}
