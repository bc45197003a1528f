//! `sluicegate dlq`: the dead letters of a pipeline. What happens to them is written into their topic, behind them: orders to process
//! one again, which the pipeline reads, and notes that one is not needed.

mod letters;
mod rehearsal;

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde::Serialize;

use self::letters::{Fate, Letter, Place};
use super::connection::{self, Connection, Recorded};
use super::{CommandError, table, wait};
use crate::cluster::pipelines::PipelineRecord;
use crate::config::{ClusterArgs, Pipeline};
use crate::kafka::log::{self, Appender, Entry, LogError};
use crate::kafka::settings::KafkaSettings;
use crate::node::group::Group;
use crate::payload::Payload;

/// How often is looked whether orders have been followed.
const LOOK: Duration = Duration::from_millis(500);

/// The commands.
#[derive(Debug, Subcommand)]
pub(super) enum DlqCommand {
    /// List the dead letters of a pipeline that nothing has been done about
    List(ListArgs),
    /// Show a dead letter with everything that is known about it
    Show(ShowArgs),
    /// Let the pipeline process dead letters again, where they failed
    Replay(ReplayArgs),
    /// Note that dead letters are not needed: they are not listed any more
    Discard(DiscardArgs),
}

/// Which letters.
#[derive(Args, Debug)]
struct Choice {
    /// Only those of this transform
    #[arg(long, value_name = "TRANSFORM")]
    transform: Option<String>,
    /// Only those with this error: rejected, trap, deadline, memory, misuse, failed, output-refused
    #[arg(long, value_name = "ERROR")]
    error: Option<String>,
}

/// Arguments of `dlq list`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sluicegate dlq list orders
  sluicegate dlq list orders --error trap --limit 10 --json")]
pub(super) struct ListArgs {
    /// Name of the pipeline
    pipeline: String,
    #[command(flatten)]
    choice: Choice,
    /// Also those that were replayed or discarded
    #[arg(long)]
    all: bool,
    /// Only the newest so many
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Arguments of `dlq show`.
#[derive(Args, Debug)]
pub(super) struct ShowArgs {
    /// Name of the pipeline
    pipeline: String,
    /// Which dead letter, as `dlq list` shows it: 2/17
    letter: Place,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Letters to do something about.
#[derive(Args, Debug)]
struct Selection {
    /// Name of the pipeline
    pipeline: String,
    /// Which dead letters, as `dlq list` shows them: 2/17
    letters: Vec<Place>,
    /// All that nothing has been done about
    #[arg(long, conflicts_with = "letters")]
    all: bool,
    #[command(flatten)]
    choice: Choice,
}

/// Arguments of `dlq replay`.
#[derive(Args, Debug)]
#[command(after_help = "\
A dead letter is processed by the transform that could not process it before, as it runs now, with the state as it is now, and
goes on from there. That happens once, as with every record. One that fails again becomes a dead letter again, with one attempt
more.

With --dry-run the present version tries them here, with a copy of that state, and what would come of each is shown. Nothing is
written, and nothing ordered.

Examples:
  sluicegate dlq replay orders 2/17 --wait
  sluicegate dlq replay orders --all --error trap --dry-run")]
pub(super) struct ReplayArgs {
    #[command(flatten)]
    selection: Selection,
    /// Show what the present version would make of them, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Wait until they are processed, for so long at most, and say how it went
    #[arg(long, value_name = "TIME", value_parser = wait::parse, num_args = 0..=1, default_missing_value = "60s")]
    wait: Option<Duration>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Arguments of `dlq discard`.
#[derive(Args, Debug)]
#[command(after_help = "\
Nothing is deleted: the records stay in the topic as long as its retention says.

Examples:
  sluicegate dlq discard orders 2/17 --yes
  sluicegate dlq discard orders --all --transform parse --yes")]
pub(super) struct DiscardArgs {
    #[command(flatten)]
    selection: Selection,
    /// Do it without another question
    #[arg(long)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

impl From<LogError> for CommandError {
    fn from(error: LogError) -> Self {
        Self::Failed(error.to_string())
    }
}

pub(super) async fn run(command: DlqCommand, out: &mut impl Write) -> Result<(), CommandError> {
    match command {
        DlqCommand::List(args) => list(args, out).await,
        DlqCommand::Show(args) => show(args, out).await,
        DlqCommand::Replay(args) => replay(args, out).await,
        DlqCommand::Discard(args) => discard(args, out).await,
    }
}

/// The topic of a pipeline's dead letters.
struct Topic {
    connection: Connection,
    pipeline: Pipeline,
    record: PipelineRecord,
    group: Group,
    kafka: KafkaSettings,
    topic: String,
    /// Whoever writes takes this over.
    id: String,
}

impl Topic {
    async fn open(name: &str, arguments: &ClusterArgs) -> Result<Self, CommandError> {
        let Recorded { connection, name, record, group } = Recorded::open(name, arguments).await?;
        let kafka = connection::kafka(&connection.cluster)?;
        let origin = format!("revision {} of the pipeline", record.revision);
        let pipeline = Pipeline::parse(std::path::Path::new(&origin), &record.specification.file)?;
        let Some(topic) = pipeline.dead_letter_topic().cloned() else {
            return Err(CommandError::BadInput(format!(
                "pipeline `{name}` has no topic for dead letters: add `dead-letter-topic` under [errors] of its file, and deploy it"
            )));
        };
        let id = format!("{}/dlq", group.name(record.incarnation));
        Ok(Self { connection, pipeline, record, group, kafka, topic, id })
    }

    async fn letters(&self) -> Result<BTreeMap<Place, Letter>, CommandError> {
        let (kafka, topic, pipeline) = (self.kafka.clone(), self.topic.clone(), self.pipeline.name.clone());
        blocking(move || {
            let mut entries = Vec::new();
            log::read(&kafka, &topic, |entry| entries.push(entry))?;
            Ok(letters::letters(entries, pipeline.as_str()))
        })
        .await
    }

    /// Chooses among what there is when nobody else writes any more, makes entries of it, and appends them all or none.
    async fn append(
        &self,
        selection: &Selection,
        make: impl Fn(&Letter) -> Result<Entry, CommandError>,
    ) -> Result<Vec<Letter>, CommandError> {
        let (kafka, topic, id) = (self.kafka.clone(), self.topic.clone(), self.id.clone());
        let appender = blocking(move || Appender::take_over(&kafka, &topic, &id)).await?;
        let chosen = selection.choose(self.letters().await?)?;
        let entries = chosen.iter().map(make).collect::<Result<Vec<Entry>, CommandError>>()?;
        if !entries.is_empty() {
            blocking(move || appender.append(&entries)).await?;
        }
        Ok(chosen)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, CommandError> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|error| CommandError::Failed(error.to_string()))??)
}

impl Choice {
    fn takes(&self, letter: &Letter) -> bool {
        self.transform.as_ref().is_none_or(|wanted| *wanted == letter.transform)
            && self.error.as_ref().is_none_or(|wanted| *wanted == letter.error)
    }
}

impl Selection {
    /// The open letters that are meant.
    fn choose(&self, mut letters: BTreeMap<Place, Letter>) -> Result<Vec<Letter>, CommandError> {
        let Self { pipeline, letters: places, all, choice } = self;
        if !all && places.is_empty() {
            let message =
                format!("which dead letters? `sluicegate dlq list {pipeline}` lists them; --all takes all of them");
            return Err(CommandError::BadInput(message));
        }
        if *all {
            return Ok(letters
                .into_values()
                .filter(|letter| letter.fate == Fate::Open && choice.takes(letter))
                .collect());
        }
        let take = |place: &Place| match letters.remove(place) {
            None => Err(unknown(*place, pipeline)),
            Some(letter) if letter.fate != Fate::Open => {
                Err(CommandError::BadInput(format!("dead letter {place} was {} already", letter.fate)))
            }
            Some(letter) => Ok(letter),
        };
        let chosen: Result<Vec<Letter>, CommandError> = places.iter().map(take).collect();
        Ok(chosen?.into_iter().filter(|letter| choice.takes(letter)).collect())
    }
}

fn unknown(letter: Place, pipeline: &str) -> CommandError {
    CommandError::BadInput(format!(
        "there is no dead letter {letter} of pipeline `{pipeline}`; `sluicegate dlq list {pipeline} --all` lists them"
    ))
}

async fn list(args: ListArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let topic = Topic::open(&args.pipeline, &args.cluster).await?;
    let letters = topic.letters().await?.into_values();
    let mut letters: Vec<Letter> =
        letters.filter(|letter| (args.all || letter.fate == Fate::Open) && args.choice.takes(letter)).collect();
    letters.sort_by_key(|letter| (letter.put_aside_at, letter.letter));
    if let Some(limit) = args.limit {
        letters.drain(..letters.len().saturating_sub(limit));
    }
    if args.json {
        return Ok(table::json(out, &letters)?);
    }
    if letters.is_empty() {
        return Ok(writeln!(out, "no dead letters in topic {}", topic.topic)?);
    }
    print(out, &letters)
}

fn print(out: &mut impl Write, letters: &[Letter]) -> Result<(), CommandError> {
    const REASON_LONGEST: usize = 80;
    let rows: Vec<[String; 8]> = letters
        .iter()
        .map(|letter| {
            let reason: String = letter.headline().chars().take(REASON_LONGEST).collect();
            [
                letter.letter.to_string(),
                table::time(letter.put_aside_at),
                letter.fate.to_string(),
                letter.transform.clone(),
                letter.source(),
                letter.attempt.to_string(),
                letter.error.clone(),
                reason,
            ]
        })
        .collect();
    let headings = ["LETTER", "PUT ASIDE", "FATE", "TRANSFORM", "SOURCE", "ATTEMPT", "ERROR", "REASON"];
    Ok(table::print(out, headings, &rows)?)
}

async fn show(args: ShowArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let topic = Topic::open(&args.pipeline, &args.cluster).await?;
    let Some(letter) = topic.letters().await?.remove(&args.letter) else {
        return Err(unknown(args.letter, &args.pipeline));
    };
    if args.json {
        return Ok(table::json(out, &letter)?);
    }
    let shown = |payload: &Option<Payload>| payload.as_ref().map_or("null".to_owned(), ToString::to_string);
    writeln!(out, "letter     {} of topic {}, {}", letter.letter, topic.topic, letter.fate)?;
    writeln!(out, "put aside  {}, attempt {}", table::time(letter.put_aside_at), letter.attempt)?;
    writeln!(out, "transform  {}", letter.transform)?;
    writeln!(out, "plugin     {}@{} (sha256:{})", letter.plugin, letter.plugin_version, letter.plugin_digest)?;
    writeln!(
        out,
        "source     topic {} partition {} offset {}, timestamp {}",
        letter.topic,
        letters::shown(letter.partition),
        letters::shown(letter.offset),
        letters::shown(letter.timestamp)
    )?;
    writeln!(out, "key        {}", shown(&letter.key))?;
    writeln!(out, "value      {}", shown(&letter.value))?;
    for (name, value) in &letter.headers {
        writeln!(out, "header     {name}: {}", shown(value))?;
    }
    writeln!(out, "error      {}", letter.error)?;
    Ok(writeln!(out, "reason     {}", letter.reason.trim_end().replace('\n', "\n           "))?)
}

/// What `replay` prints for machines.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Replayed {
    letters: Vec<Place>,
    ordered: bool,
    /// Those that became dead letters again: before and after.
    #[serde(skip_serializing_if = "Option::is_none")]
    failed_again: Option<Vec<(Place, Place)>>,
    /// What would come of each, if nothing was ordered.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    would: Vec<rehearsal::Would>,
}

async fn replay(args: ReplayArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let ReplayArgs { selection, dry_run, wait, json, cluster } = args;
    let topic = Topic::open(&selection.pipeline, &cluster).await?;
    if dry_run {
        let chosen = selection.choose(topic.letters().await?)?;
        return rehearsal::rehearse(&topic, &chosen, json, out).await;
    }
    let known = |letter: &Letter| {
        topic.pipeline.transforms.iter().any(|transform| transform.name == letter.transform)
            && topic.pipeline.sources.iter().any(|source| source.topic == letter.topic)
    };
    topic.listens().await?;
    let order = |letter: &Letter| match known(letter) {
        true => letters::order(letter).map_err(CommandError::BadInput),
        false => Err(CommandError::BadInput(format!(
            "dead letter {} is of transform `{}` and source topic {}, which pipeline `{}` does not both have any more; nothing was ordered",
            letter.letter, letter.transform, letter.topic, selection.pipeline
        ))),
    };
    let chosen = topic.append(&selection, order).await?;
    let places: Vec<Place> = chosen.iter().map(|letter| letter.letter).collect();
    if !json {
        let count = places.len();
        let are = if count == 1 { "dead letter is" } else { "dead letters are" };
        writeln!(out, "{count} {are} ordered to be processed again")?;
    }
    let failed_again = match wait {
        Some(wait) if !chosen.is_empty() => {
            let ordered = topic.letters().await?;
            let ordered = places.iter().filter_map(|place| ordered.get(place)?.ordered_at);
            topic.wait(ordered.collect(), wait).await?;
            Some(again(&chosen, topic.letters().await?))
        }
        _ => None,
    };
    let failed = failed_again.clone().unwrap_or_default();
    if json {
        table::json(out, &Replayed { letters: places, ordered: true, failed_again, would: Vec::new() })?;
    } else if failed_again.is_some() {
        writeln!(out, "{} of them went through", chosen.len() - failed.len())?;
        for (before, after) in &failed {
            writeln!(out, "{before} failed again: it is {after} now")?;
        }
    }
    match failed.len() {
        0 => Ok(()),
        count => Err(CommandError::Failed(format!(
            "{count} of {} failed again; `sluicegate dlq show` says why",
            chosen.len()
        ))),
    }
}

/// Letters that became dead letters again.
fn again(chosen: &[Letter], now: BTreeMap<Place, Letter>) -> Vec<(Place, Place)> {
    let mut now: Vec<Letter> = now.into_values().filter(|letter| letter.fate == Fate::Open).collect();
    let mut found = Vec::new();
    for before in chosen {
        let same = |after: &Letter| {
            after.attempt == before.attempt.saturating_add(1)
                && after.source() == before.source()
                && after.entry.timestamp >= before.entry.timestamp
        };
        if let Some(at) = now.iter().position(same) {
            found.push((before.letter, now.swap_remove(at).letter));
        }
    }
    found
}

impl Topic {
    /// Whether the pipeline hears of orders: it has read the topic once, and goes on from there.
    async fn listens(&self) -> Result<(), CommandError> {
        let progress = self.progress().await?;
        if progress.iter().all(Option::is_some) {
            return Ok(());
        }
        Err(CommandError::Failed(format!(
            "pipeline `{}` does not listen to topic {} yet: it has to run with this `dead-letter-topic` first, until `sluicegate status` shows all of its tasks",
            self.pipeline.name, self.topic
        )))
    }

    /// Of the topic: what the group has committed, by partition.
    async fn progress(&self) -> Result<Vec<Option<i64>>, CommandError> {
        let PipelineRecord { incarnation, specification, .. } = &self.record;
        self.group.letters_read(*incarnation, specification.partitions).await.map_err(CommandError::Failed)
    }

    /// Waits until the pipeline has followed these orders.
    async fn wait(&self, mut orders: Vec<Place>, wait: Duration) -> Result<(), CommandError> {
        let until = Instant::now() + wait;
        loop {
            let committed = self.progress().await?;
            let read = |order: &Place| {
                let committed =
                    usize::try_from(order.partition).ok().and_then(|at| committed.get(at).copied().flatten());
                committed > Some(order.offset)
            };
            orders.retain(|order| !read(order));
            if orders.is_empty() {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(CommandError::Failed(format!(
                    "they are ordered, but {} are not processed after {wait:?}: does the pipeline run? `sluicegate status {}` says\nthey will be processed when it does",
                    orders.len(),
                    self.pipeline.name
                )));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

async fn discard(args: DiscardArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let DiscardArgs { selection, yes, json, cluster } = args;
    let topic = Topic::open(&selection.pipeline, &cluster).await?;
    if !yes {
        let chosen = selection.choose(topic.letters().await?)?;
        if std::io::stderr().is_terminal() {
            print(&mut std::io::stderr(), &chosen)?;
        }
        return Err(CommandError::BadInput(format!(
            "this marks {} dead letters of `{}` as not needed: add --yes if that is meant",
            chosen.len(),
            selection.pipeline
        )));
    }
    let name = topic.pipeline.name.to_string();
    let chosen = topic.append(&selection, |letter| Ok(letters::note(letter, &name))).await?;
    let places: Vec<Place> = chosen.iter().map(|letter| letter.letter).collect();
    if json {
        return Ok(table::json(out, &places)?);
    }
    let are = if places.len() == 1 { "dead letter of" } else { "dead letters of" };
    Ok(writeln!(out, "{} {are} `{name}` discarded", places.len())?)
}
