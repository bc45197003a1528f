//! `sluicegate state list|get|scan|export`: what is in the state of a pipeline.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufWriter, Write};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytesize::ByteSize;
use clap::Args;
use serde::Serialize;

use super::format::Format;
use super::uses::{self, Use};
use super::{CommandError, Recorded, table};
use crate::cluster::inspection::{self, InspectionError, TaskView};
use crate::config::ClusterArgs;
use crate::manifest::StoreDeclaration;
use crate::state::StoreName;

/// Entries that are taken out of a store at a time.
const PAGE_ENTRIES: usize = 1000;

/// Arguments of `state list`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sluicegate state list orders
  sluicegate state list orders --task 3 --json")]
pub(in crate::cli) struct ListArgs {
    /// Name of the pipeline
    pipeline: String,
    /// Only this task; all of them otherwise
    #[arg(long, value_name = "PARTITION")]
    task: Vec<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Which store.
#[derive(Args, Debug)]
pub(super) struct StoreArgs {
    /// Name of the pipeline
    pipeline: String,
    /// Name of the store
    store: String,
    /// Of this transform; has to be given when several have a store of that name
    #[arg(long, value_name = "TRANSFORM")]
    transform: Option<String>,
    /// Only this task; all of them otherwise
    #[arg(long, value_name = "PARTITION")]
    task: Vec<u32>,
    /// Print JSON, with keys and values in base64
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Arguments of `state get`.
#[derive(Args, Debug)]
#[command(after_help = "\
A key is typed as `state scan` shows it: as text, as a number, or as 0x and hexadecimal digits.

Examples:
  sluicegate state get orders counts ada
  sluicegate state get orders counts 0xff00 --task 3 --json")]
pub(in crate::cli) struct GetArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// The key
    #[arg(allow_negative_numbers = true)]
    key: String,
}

/// Arguments of `state scan`.
#[derive(Args, Debug)]
#[command(after_help = "\
Keys come in the order of their bytes, task by task.

Examples:
  sluicegate state scan orders counts
  sluicegate state scan orders counts --prefix customer- --limit 10")]
pub(in crate::cli) struct ScanArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Only keys whose bytes begin with this text, or with 0x and hexadecimal digits
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// Show so many entries at the most
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    limit: usize,
}

/// Arguments of `state export`.
#[derive(Args, Debug)]
#[command(after_help = "\
One JSON object a line: task, transform, store, and key and value in base64. Each task is as of one of its commits.

Examples:
  sluicegate state export orders > orders.jsonl
  sluicegate state export orders --task 3 | jq -r .key")]
pub(in crate::cli) struct ExportArgs {
    /// Name of the pipeline
    pipeline: String,
    /// Only this task; all of them otherwise
    #[arg(long, value_name = "PARTITION")]
    task: Vec<u32>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// A task.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Task {
    task: u32,
    /// The commit that is shown.
    epoch: u64,
    chunks: usize,
    /// Bytes of the chunks in the metadata store.
    stored_bytes: u64,
    stores: Vec<Contents>,
}

/// A store of a task.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Contents {
    transform: String,
    store: String,
    entries: usize,
    /// Of keys and values.
    bytes: u64,
    /// Version of the encoding; none where no transform declares the store any more.
    schema: Option<u32>,
    key_format: String,
    value_format: String,
    #[serde(flatten)]
    used: Use,
}

/// An entry.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Entry<'a> {
    task: u32,
    transform: &'a str,
    store: &'a str,
    key: String,
    value: String,
    /// As text, where it is one or its format can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_text: Option<String>,
}

/// What one entry is taken out of.
struct Place<'a> {
    task: u32,
    name: &'a StoreName,
    formats: &'a StoreDeclaration,
}

impl Place<'_> {
    fn entry(&self, key: &[u8], value: &[u8]) -> Entry<'_> {
        Entry {
            task: self.task,
            transform: &self.name.transform,
            store: &self.name.store,
            key: BASE64_STANDARD.encode(key),
            value: BASE64_STANDARD.encode(value),
            key_text: None,
            value_text: None,
        }
    }

    fn entry_with_text(&self, key: &[u8], value: &[u8]) -> Entry<'_> {
        Entry {
            key_text: Format(&self.formats.key_format).text(key),
            value_text: Format(&self.formats.value_format).text(value),
            ..self.entry(key, value)
        }
    }

    fn row(&self, key: &[u8], value: &[u8]) -> [String; 3] {
        let key = Format(&self.formats.key_format).show(key);
        [self.task.to_string(), key, Format(&self.formats.value_format).show(value)]
    }
}

impl From<InspectionError> for CommandError {
    fn from(error: InspectionError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// A pipeline whose tasks are looked at one after the other.
struct Viewer {
    pipeline: Recorded,
    tasks: Vec<u32>,
    /// What plugins declare, by the digest of the plugin.
    declared: BTreeMap<String, Vec<StoreDeclaration>>,
}

impl Viewer {
    async fn open(name: &str, tasks: &[u32], cluster: &ClusterArgs) -> Result<Self, CommandError> {
        let pipeline = Recorded::open(name, cluster).await?;
        let tasks = pipeline.tasks(tasks)?;
        Ok(Self { pipeline, tasks, declared: BTreeMap::new() })
    }

    /// A task's state, and what is known of its stores.
    async fn view(
        &mut self,
        partition: u32,
    ) -> Result<Option<(TaskView, Vec<(StoreName, StoreDeclaration)>)>, CommandError> {
        let Recorded { connection, group, .. } = &self.pipeline;
        let task = self.pipeline.task(partition);
        let Some(view) = inspection::view(&connection.store, group, &task).await? else { return Ok(None) };
        if let Some(doubt) = &view.doubt {
            eprintln!("warning: task {partition} is shown as its head has it: {doubt}");
        }
        let stores = self.stores(&view).await;
        Ok(Some((view, stores)))
    }

    /// Those that the transforms declare, then those that are there without a transform, each with what its plugin says.
    async fn stores(&mut self, view: &TaskView) -> Vec<(StoreName, StoreDeclaration)> {
        let mut stores = Vec::new();
        for transform in &view.manifest.transforms {
            for (store, schema) in &transform.stores {
                let name = StoreName::of(&transform.name, store, *schema);
                let known =
                    self.declarations(&transform.plugin).await.iter().find(|known| known.name == *store).cloned();
                let declaration = known.unwrap_or_else(|| unknown(store));
                stores.push((name, StoreDeclaration { schema: *schema, ..declaration }));
            }
        }
        for name in view.state.names() {
            if !stores.iter().any(|(known, _)| known == name) {
                stores.push((name.clone(), unknown(&name.store)));
            }
        }
        stores
    }

    async fn declarations(&mut self, plugin: &str) -> &[StoreDeclaration] {
        if !self.declared.contains_key(plugin) {
            let found = self.pipeline.declared_by(plugin).await.unwrap_or_else(|reason| {
                eprintln!("warning: keys and values are shown as they are: plugin {plugin} cannot be read: {reason}");
                Vec::new()
            });
            self.declared.insert(plugin.to_owned(), found);
        }
        self.declared.get(plugin).map_or(&[], Vec::as_slice)
    }
}

/// Of a store that no plugin declares; no schema has the version 0.
fn unknown(store: &str) -> StoreDeclaration {
    StoreDeclaration {
        name: store.to_owned(),
        schema: 0,
        key_format: String::new(),
        value_format: String::new(),
        description: String::new(),
    }
}

pub(super) async fn list(args: ListArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let mut viewer = Viewer::open(&args.pipeline, &args.task, &args.cluster).await?;
    let mut tasks = Vec::new();
    for partition in viewer.tasks.clone() {
        let Some((mut view, stores)) = viewer.view(partition).await? else { continue };
        let contents = stores.into_iter().filter_map(|(name, declared)| {
            let number = view.state.number(&name);
            let store = view.state.store(number);
            let used = Use::of(&view.manifest, &name);
            // What is superseded and has been emptied is nothing to look at.
            (declared.schema > 0 || !store.is_empty()).then(|| Contents {
                transform: name.transform,
                store: name.store,
                entries: store.len(),
                bytes: store.bytes(),
                schema: Some(declared.schema).filter(|schema| *schema > 0),
                used,
                key_format: declared.key_format,
                value_format: declared.value_format,
            })
        });
        tasks.push(Task {
            stores: contents.collect(),
            task: partition,
            epoch: view.manifest.id.epoch.0,
            chunks: view.manifest.chunks.len(),
            stored_bytes: view.stored_bytes,
        });
    }
    if args.json {
        return Ok(table::json(out, &tasks)?);
    }
    let rows: Vec<_> = tasks.iter().flat_map(rows).collect();
    if rows.is_empty() {
        return Ok(writeln!(out, "pipeline `{}` has no state: no task has kept any yet", viewer.pipeline.name)?);
    }
    let headings = ["TASK", "EPOCH", "CHUNKS", "STORED", "TRANSFORM", "STORE", "ENTRIES", "BYTES", "SCHEMA", "USE"];
    table::print(out, headings, &rows)?;
    Ok(write!(out, "{}", uses::about_formers(viewer.pipeline.name.as_str(), &formers(&tasks)))?)
}

/// Stores that stay from before in some task.
fn formers(tasks: &[Task]) -> BTreeSet<StoreName> {
    let stores = tasks.iter().flat_map(|task| &task.stores);
    let formers = stores.filter(|contents| matches!(contents.used, Use::Former { .. }));
    formers.map(|it| StoreName { transform: it.transform.clone(), store: it.store.clone() }).collect()
}

fn rows(task: &Task) -> Vec<[String; 10]> {
    let row = |contents: &Contents| {
        [
            task.task.to_string(),
            task.epoch.to_string(),
            task.chunks.to_string(),
            ByteSize(task.stored_bytes).to_string(),
            contents.transform.clone(),
            contents.store.clone(),
            contents.entries.to_string(),
            ByteSize(contents.bytes).to_string(),
            contents.schema.map_or_else(|| "-".to_owned(), |schema| schema.to_string()),
            contents.used.word().to_owned(),
        ]
    };
    task.stores.iter().map(row).collect()
}

/// The stores that a person may have meant, over all tasks that were looked at.
#[derive(Default)]
struct Search {
    seen: BTreeSet<String>,
    found: bool,
}

impl Search {
    /// The store that was named, of those of one task.
    fn choose(
        &mut self,
        args: &StoreArgs,
        stores: Vec<(StoreName, StoreDeclaration)>,
    ) -> Result<Option<(StoreName, StoreDeclaration)>, CommandError> {
        self.seen.extend(stores.iter().map(|(name, _)| name.to_string()));
        let is_of = |name: &StoreName| args.transform.as_ref().is_none_or(|transform| name.transform == *transform);
        // The plain name is that of the store in use; a copy of another schema version is named with that.
        let is_in_use = |known: &StoreDeclaration| known.schema > 0 && known.name == args.store;
        let is_named = |name: &StoreName| name.store == args.store || format!("{}@1", name.store) == args.store;
        let of: Vec<_> = stores.into_iter().filter(|(name, _)| is_of(name)).collect();
        let any_in_use = of.iter().any(|(_, known)| is_in_use(known));
        let mut meant =
            of.into_iter().filter(|(name, known)| if any_in_use { is_in_use(known) } else { is_named(name) });
        let first = meant.next();
        if let (Some((first, _)), Some((second, _))) = (&first, meant.next()) {
            let message = format!(
                "transforms `{}` and `{}` both have a store `{}`: say which with --transform",
                first.transform, second.transform, args.store
            );
            return Err(CommandError::BadInput(message));
        }
        self.found |= first.is_some();
        Ok(first)
    }

    /// An error if no task had the store.
    fn end(self, args: &StoreArgs) -> Result<(), CommandError> {
        if self.found {
            return Ok(());
        }
        let wanted = args.transform.as_ref().map_or_else(|| args.store.clone(), |it| format!("{it}/{}", args.store));
        let there = match self.seen.is_empty() {
            true => "no task has kept state yet".to_owned(),
            false => format!("there are {}", self.seen.into_iter().collect::<Vec<_>>().join(", ")),
        };
        Err(CommandError::BadInput(format!("pipeline `{}` has no store `{wanted}`: {there}", args.pipeline)))
    }
}

pub(super) async fn get(args: GetArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let GetArgs { store: args, key: typed } = args;
    let mut viewer = Viewer::open(&args.pipeline, &args.task, &args.cluster).await?;
    let mut search = Search::default();
    let mut rows = Vec::new();
    let mut entries = Vec::new();
    for partition in viewer.tasks.clone() {
        let Some((mut view, stores)) = viewer.view(partition).await? else { continue };
        let Some((name, declared)) = search.choose(&args, stores)? else { continue };
        let key = Format(&declared.key_format).read(&typed).map_err(CommandError::BadInput)?;
        let number = view.state.number(&name);
        if let Some(value) = view.state.store(number).get(&key) {
            let place = Place { task: partition, name: &name, formats: &declared };
            rows.push(place.row(&key, value));
            entries.push(json(&place.entry_with_text(&key, value))?);
        }
    }
    search.end(&args)?;
    if args.json {
        table::json(out, &entries)?;
    } else if !rows.is_empty() {
        table::print(out, ["TASK", "KEY", "VALUE"], &rows)?;
    }
    match rows.is_empty() {
        true => Err(CommandError::Failed(format!("no task has the key `{typed}` in the store `{}`", args.store))),
        false => Ok(()),
    }
}

pub(super) async fn scan(args: ScanArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let ScanArgs { store: args, prefix, limit } = args;
    // Of which a prefix is no key in most formats: it is bytes.
    let prefix = Format("").read(prefix.as_deref().unwrap_or_default()).map_err(CommandError::BadInput)?;
    let mut viewer = Viewer::open(&args.pipeline, &args.task, &args.cluster).await?;
    let mut search = Search::default();
    let (mut rows, mut entries, mut more) = (Vec::new(), Vec::new(), false);
    for partition in viewer.tasks.clone() {
        let Some((mut view, stores)) = viewer.view(partition).await? else { continue };
        let Some((name, declared)) = search.choose(&args, stores)? else { continue };
        let number = view.state.number(&name);
        let page = view.state.store_mut(number).scan(&prefix, None, limit - rows.len(), usize::MAX);
        let place = Place { task: partition, name: &name, formats: &declared };
        for (key, value) in page.keys.values().zip(page.values.values()) {
            let (key, value) = (key.unwrap_or_default(), value.unwrap_or_default());
            rows.push(place.row(key, value));
            entries.push(json(&place.entry_with_text(key, value))?);
        }
        more |= page.more;
    }
    search.end(&args)?;
    if args.json {
        table::json(out, &entries)?;
    } else {
        table::print(out, ["TASK", "KEY", "VALUE"], &rows)?;
    }
    if more {
        eprintln!("there are more: --limit shows more than {limit}, --prefix and --task show others");
    }
    Ok(())
}

fn json(entry: &Entry<'_>) -> Result<serde_json::Value, CommandError> {
    serde_json::to_value(entry).map_err(|error| CommandError::Failed(error.to_string()))
}

pub(super) async fn export(args: ExportArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let mut viewer = Viewer::open(&args.pipeline, &args.task, &args.cluster).await?;
    let mut out = BufWriter::new(out);
    for partition in viewer.tasks.clone() {
        let Some((mut view, stores)) = viewer.view(partition).await? else { continue };
        for (name, formats) in &stores {
            let number = view.state.number(name);
            let place = Place { task: partition, name, formats };
            let mut after: Option<Vec<u8>> = None;
            loop {
                let page = view.state.store_mut(number).scan(b"", after.as_deref(), PAGE_ENTRIES, usize::MAX);
                for (key, value) in page.keys.values().zip(page.values.values()) {
                    let (key, value) = (key.unwrap_or_default(), value.unwrap_or_default());
                    serde_json::to_writer(&mut out, &place.entry(key, value)).map_err(std::io::Error::from)?;
                    writeln!(out)?;
                    after = Some(key.to_vec());
                }
                if !page.more {
                    break;
                }
            }
        }
    }
    Ok(out.flush()?)
}
