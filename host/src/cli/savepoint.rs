//! `sluicegate savepoint`.

use std::io::{IsTerminal, Write};
use std::sync::Arc;

use bytesize::ByteSize;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::connection::{self, Connection, Recorded};
use super::{CommandError, table};
use crate::cluster::savepoints::{Savepoint, SavepointError, Savepoints};
use crate::config::ClusterArgs;
use crate::node::deploy;

/// The commands.
#[derive(Debug, Subcommand)]
pub(super) enum SavepointCommand {
    /// Copy the state and the offsets of a pipeline, while it runs or not
    Create(SavepointArgs),
    /// List the savepoints of a pipeline
    List(ListArgs),
    /// Let a stopped pipeline go on from a savepoint; its present state is deleted
    Restore(RestoreArgs),
    /// Delete a savepoint
    Delete(SavepointArgs),
}

/// Which savepoint.
#[derive(Args, Debug)]
pub(super) struct SavepointArgs {
    /// Name of the pipeline
    pipeline: String,
    /// Name of the savepoint
    name: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Arguments of `savepoint list`.
#[derive(Args, Debug)]
pub(super) struct ListArgs {
    /// Name of the pipeline
    pipeline: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Arguments of `savepoint restore`.
#[derive(Args, Debug)]
#[command(after_help = "\
Records behind the savepoint are processed again: what they have put into the sinks already comes a second time.

Examples:
  sluicegate pause orders
  sluicegate savepoint restore orders before-release --yes
  sluicegate resume orders")]
pub(super) struct RestoreArgs {
    #[command(flatten)]
    savepoint: SavepointArgs,
    /// Delete the present state without another question
    #[arg(long)]
    yes: bool,
}

#[derive(Serialize)]
struct Named {
    name: String,
    #[serde(flatten)]
    savepoint: Savepoint,
}

impl From<SavepointError> for CommandError {
    fn from(error: SavepointError) -> Self {
        let text = error.to_string();
        match error {
            SavepointError::Unknown { .. }
            | SavepointError::UnknownPipeline { .. }
            | SavepointError::Exists { .. }
            | SavepointError::Incomplete { .. }
            | SavepointError::GoingOver { .. }
            | SavepointError::Running { .. } => Self::BadInput(text),
            _ => Self::Failed(text),
        }
    }
}

pub(super) async fn run(command: SavepointCommand, out: &mut impl Write) -> Result<(), CommandError> {
    match command {
        SavepointCommand::Create(args) => create(args, out).await,
        SavepointCommand::List(args) => list(args, out).await,
        SavepointCommand::Restore(args) => restore(args, out).await,
        SavepointCommand::Delete(args) => delete(args, out).await,
    }
}

/// Tasks that are done, on a terminal.
fn progress(what: &'static str) -> impl Fn(u32, u32) {
    let bar = std::io::stderr().is_terminal().then(|| {
        let style = ProgressStyle::with_template("{msg} {bar:30} {pos}/{len} tasks").expect("a valid template");
        ProgressBar::new(0).with_style(style).with_message(what)
    });
    move |done, of| {
        if let Some(bar) = &bar {
            bar.set_length(u64::from(of));
            bar.set_position(u64::from(done));
            if done == of {
                bar.finish_and_clear();
            }
        }
    }
}

async fn create(args: SavepointArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let name = connection::name(&args.name)?;
    let Recorded { connection, name: pipeline, group, .. } = Recorded::open(&args.pipeline, &args.cluster).await?;
    let savepoint =
        Savepoints::new(connection.store, &group, pipeline.clone()).create(&name, progress("copying")).await?;
    if args.json {
        return Ok(table::json(out, &Named { name: name.to_string(), savepoint })?);
    }
    let Savepoint { tasks, bytes, revision, .. } = savepoint;
    let bytes = ByteSize(bytes);
    Ok(writeln!(out, "savepoint `{name}` of `{pipeline}` at revision {revision}: {tasks} tasks, {bytes} of state")?)
}

async fn list(args: ListArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let Recorded { connection, name: pipeline, group, .. } = Recorded::open(&args.pipeline, &args.cluster).await?;
    let savepoints = Savepoints::new(connection.store, &group, pipeline.clone()).list().await?;
    if args.json {
        let named = savepoints.into_iter().map(|(name, savepoint)| Named { name, savepoint });
        return Ok(table::json(out, &named.collect::<Vec<_>>())?);
    }
    if savepoints.is_empty() {
        return Ok(writeln!(out, "no savepoints: `sluicegate savepoint create {pipeline} NAME` makes one")?);
    }
    let row = |(name, savepoint): &(String, Savepoint)| {
        [
            name.clone(),
            table::time(savepoint.created_at),
            savepoint.revision.to_string(),
            savepoint.tasks.to_string(),
            ByteSize(savepoint.bytes).to_string(),
            if savepoint.complete { "complete" } else { "incomplete" }.to_owned(),
        ]
    };
    let headings = ["NAME", "CREATED", "REVISION", "TASKS", "STATE", ""];
    Ok(table::print(out, headings, &savepoints.iter().map(row).collect::<Vec<_>>())?)
}

async fn restore(args: RestoreArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let RestoreArgs { savepoint: args, yes } = args;
    let name = connection::name(&args.name)?;
    let Recorded { connection, name: pipeline, group, .. } = Recorded::open(&args.pipeline, &args.cluster).await?;
    if !yes {
        return Err(CommandError::BadInput(format!(
            "this deletes the present state of `{pipeline}`, and records behind the savepoint are processed again: add --yes if that is meant"
        )));
    }
    let Connection { cluster, store } = connection;
    let savepoints = Savepoints::new(Arc::clone(&store), &group, pipeline.clone());
    let record = savepoints.restore(&name, progress("restoring")).await?;
    deploy::clean_without_leader(&cluster, &*store, &pipeline).await?;
    if args.json {
        return Ok(table::json(out, &record)?);
    }
    Ok(writeln!(
        out,
        "pipeline `{pipeline}` goes on from savepoint `{name}` when it runs (incarnation {})",
        record.incarnation
    )?)
}

async fn delete(args: SavepointArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let name = connection::name(&args.name)?;
    let Recorded { connection, name: pipeline, group, .. } = Recorded::open(&args.pipeline, &args.cluster).await?;
    let savepoint = Savepoints::new(connection.store, &group, pipeline.clone()).delete(&name).await?;
    if args.json {
        return Ok(table::json(out, &Named { name: name.to_string(), savepoint })?);
    }
    Ok(writeln!(out, "deleted savepoint `{name}` of `{pipeline}`")?)
}
