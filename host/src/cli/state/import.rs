//! `sluicegate state import`: puts entries into the state of a stopped pipeline.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use clap::Args;
use serde::{Deserialize, Deserializer};

use super::{CommandError, Recorded};
use crate::cluster::imports::{self, Change, ImportError};
use crate::cluster::pipelines::Desired;
use crate::cluster::{inspection, presence};
use crate::config::ClusterArgs;
use crate::ids::TaskId;
use crate::state::{ENTRY_BYTES_MAX, StoreName};

/// Arguments of `state import`.
#[derive(Args, Debug)]
#[command(after_help = "\
The file is what `state export` prints, or lines like those: an entry each, `null` as value to remove one. Entries that
are not in it stay. Each task gets one more commit, with the offsets that it has; an import that was interrupted may be
made again.

Examples:
  sluicegate pause orders
  sluicegate state export orders > orders.jsonl
  sluicegate state import orders orders.jsonl --yes
  sluicegate resume orders")]
pub(in crate::cli) struct ImportArgs {
    /// Name of the pipeline
    pipeline: String,
    /// JSON lines
    #[arg(value_name = "FILE.jsonl")]
    file: PathBuf,
    /// Change the state without another question
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// A line of the file; keys and values in base64.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Line {
    task: u32,
    transform: String,
    store: String,
    key: String,
    /// Has to be there: what was left out is not to be removed.
    #[serde(deserialize_with = "there")]
    value: Option<String>,
}

fn there<'de, D: Deserializer<'de>>(value: D) -> Result<Option<String>, D::Error> {
    Option::deserialize(value)
}

/// What is to be changed, by task, each with the number of its line.
type Changes = BTreeMap<u32, Vec<(usize, Change)>>;

/// Reads the file. The error names the line.
fn parse(file: &Path, text: &str, partitions: u32) -> Result<Changes, CommandError> {
    let mut changes = Changes::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |what: String| CommandError::BadInput(format!("{}:{number}: {what}", file.display()));
        let line: Line = serde_json::from_str(line).map_err(|error| {
            wrong(format!(
                "{error}; write {{\"task\": 0, \"transform\": .., \"store\": .., \"key\": .., \"value\": ..}}"
            ))
        })?;
        if line.task >= partitions {
            return Err(wrong(format!(
                "there is no task {}: they go from 0 to {}",
                line.task,
                partitions.saturating_sub(1)
            )));
        }
        let bytes = |what: &str, text: &str| {
            BASE64_STANDARD.decode(text).map_err(|error| wrong(format!("the {what} is not base64: {error}")))
        };
        let key = bytes("key", &line.key)?;
        let value = line.value.as_ref().map(|value| bytes("value", value)).transpose()?;
        let size = key.len() + value.as_ref().map_or(0, Vec::len);
        if size > ENTRY_BYTES_MAX {
            return Err(wrong(format!("the entry has {size} bytes, and the most is {ENTRY_BYTES_MAX}")));
        }
        let store = StoreName { transform: line.transform, store: line.store };
        changes.entry(line.task).or_default().push((number, Change { store, key, value }));
    }
    Ok(changes)
}

impl From<ImportError> for CommandError {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::InUse { .. } | ImportError::HasCopy { .. } => Self::BadInput(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

pub(super) async fn import(args: ImportArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let unreadable =
        |error: std::io::Error| CommandError::BadInput(format!("cannot read `{}`: {error}", args.file.display()));
    let text = std::fs::read_to_string(&args.file).map_err(unreadable)?;
    let pipeline = Recorded::open(&args.pipeline, &args.cluster).await?;
    let changes = parse(&args.file, &text, pipeline.record.specification.partitions)?;
    let tasks: Vec<TaskId> = changes.keys().map(|task| pipeline.task(*task)).collect();
    for (task, changes) in tasks.iter().zip(changes.values()) {
        has_stores(&pipeline, task, changes, &args.file).await?;
    }
    if !args.yes {
        let entries: usize = changes.values().map(Vec::len).sum();
        return Err(CommandError::BadInput(format!(
            "this changes {entries} entries in {} tasks of pipeline `{}`: add --yes if that is meant",
            changes.len(),
            pipeline.name
        )));
    }
    is_stopped(&pipeline).await?;
    for (task, changes) in tasks.iter().zip(changes.into_values()) {
        let changes: Vec<Change> = changes.into_iter().map(|(_, change)| change).collect();
        let epoch = imports::import(&pipeline.connection.store, &pipeline.group, task, &changes).await?;
        writeln!(out, "task {}: {} entries, epoch {epoch}", task.partition, changes.len())?;
    }
    Ok(())
}

/// Refuses stores that neither a transform declares nor the state has: that is a slip of the pen.
async fn has_stores(
    pipeline: &Recorded,
    task: &TaskId,
    changes: &[(usize, Change)],
    file: &Path,
) -> Result<(), CommandError> {
    let view = inspection::view(&pipeline.connection.store, &pipeline.group, task).await?;
    let view = view.ok_or_else(|| {
        let message = format!("task {} has never had state: let the pipeline run once", task.partition);
        CommandError::BadInput(message)
    })?;
    let declared = view.manifest.transforms.iter().flat_map(|transform| {
        transform.stores.iter().map(|(store, schema)| StoreName::of(&transform.name, store, *schema))
    });
    let known: BTreeSet<StoreName> = declared.chain(view.state.names().iter().cloned()).collect();
    match changes.iter().find(|(_, change)| !known.contains(&change.store)) {
        None => Ok(()),
        Some((number, change)) => {
            let known: Vec<String> = known.iter().map(ToString::to_string).collect();
            let (file, store, known) = (file.display(), &change.store, known.join(", "));
            Err(CommandError::BadInput(format!("{file}:{number}: there is no store {store}: there are {known}")))
        }
    }
}

/// Refuses while a node has the pipeline, or may be told to at any moment.
pub(super) async fn is_stopped(pipeline: &Recorded) -> Result<(), CommandError> {
    let nodes = presence::list(&*pipeline.connection.store, &pipeline.name).await?;
    // A pipeline that the cluster is to run may be started at any moment.
    if nodes.is_empty() && pipeline.record.desired != Desired::Running {
        return Ok(());
    }
    let nodes: Vec<String> = nodes.into_iter().map(|(node, _)| node).collect();
    let place = if nodes.is_empty() { "the cluster".to_owned() } else { nodes.join(", ") };
    Err(CommandError::BadInput(format!(
        "pipeline `{0}` runs on {place}: stop it first, with `sluicegate pause {0}` or by ending its process",
        pipeline.name
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(line: &str) -> String {
        let text =
            format!("{{\"task\":0,\"transform\":\"t\",\"store\":\"s\",\"key\":\"YQ==\",\"value\":null}}\n\n{line}\n");
        match parse(Path::new("a.jsonl"), &text, 3) {
            Err(CommandError::BadInput(message)) => message,
            Err(_) => panic!("another kind of error"),
            Ok(changes) => panic!("accepted: {changes:?}"),
        }
    }

    #[test]
    fn a_line_that_is_wrong_is_named_with_what_to_write() {
        for (line, said) in [
            ("ada", "a.jsonl:3: expected value"),
            (r#"{"task":0,"transform":"t","store":"s","key":"YQ=="}"#, "missing field `value`"),
            (r#"{"task":0,"transform":"t","store":"s","key":"YQ==","value":"","ttl":1}"#, "unknown field `ttl`"),
            (r#"{"task":3,"transform":"t","store":"s","key":"YQ==","value":""}"#, "there is no task 3"),
            (r#"{"task":0,"transform":"t","store":"s","key":"?","value":""}"#, "the key is not base64"),
        ] {
            let found = message(line);
            assert!(found.contains(said) && found.starts_with("a.jsonl:3: "), "{line}: {found}");
        }
        let large = BASE64_STANDARD.encode(vec![0; ENTRY_BYTES_MAX + 1]);
        let line = format!(r#"{{"task":0,"transform":"t","store":"s","key":"","value":"{large}"}}"#);
        assert!(message(&line).contains("and the most is 900000"));
    }

    #[test]
    fn null_removes_and_empty_is_a_value() {
        let text = "{\"task\":1,\"transform\":\"t\",\"store\":\"s\",\"key\":\"YQ==\",\"value\":null}\n\
            {\"task\":1,\"transform\":\"t\",\"store\":\"s\",\"key\":\"Yg==\",\"value\":\"\"}";
        let Ok(changes) = parse(Path::new("a.jsonl"), text, 3) else { panic!("it is right") };
        let of: Vec<_> = changes[&1].iter().map(|(line, it)| (*line, it.key.as_slice(), it.value.clone())).collect();
        assert_eq!(of, [(1, &b"a"[..], None), (2, &b"b"[..], Some(Vec::new()))]);
    }
}
