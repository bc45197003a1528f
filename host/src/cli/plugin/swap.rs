//! `sluicegate plugin swap`, `promote`, `rollback` and `rollouts`.

mod shown;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use crate::cli::connection::{self, Connection};
use crate::cli::{CommandError, comparison, table, wait};
use crate::cluster::pipelines;
use crate::cluster::presence;
use crate::cluster::rollout::{Ended, Extent, Outcome, Phase, Rollout, Share, Strategy, waiting};
use crate::config::ClusterArgs;
use crate::meta::MetaStore;
use crate::meta::layout::Segment;
use crate::node::status;
use crate::node::swap::{self, Finding, FromCopy, Rehearsal, Rehearsed, Request, Rollback, Since, Source, Swap};

/// What is said of a rollout that is held.
pub(in crate::cli) const DECISION: &str = "a person has to decide";
/// How often is looked how far the nodes are.
const LOOK: Duration = Duration::from_millis(100);
/// When nothing has changed for so long, it is said what is waited for.
const QUIET: Duration = Duration::from_secs(5);
/// How long records are tried on both versions where nothing else is done ..
const REHEARSAL_DRY: Duration = Duration::from_secs(30);
/// .. and where somebody waits for the swap.
const REHEARSAL: Duration = Duration::from_secs(5);

/// How carefully, and what is said of it.
#[derive(Args, Clone, Debug)]
struct HowArgs {
    /// Let so many tasks, or such a share of them, go first, and the others when the probation of these has passed
    #[arg(long, value_name = "1|25%")]
    canary: Option<Share>,
    /// Let the new version see so many records, or the records of so long, in the shadow of the present one first: what comes of
    /// them is compared and thrown away
    #[arg(long, value_name = "RECORDS|TIME")]
    shadow: Option<Extent>,
    /// Go back when more than such a share of the records in the shadow differ; without it differences are only shown
    #[arg(long, value_name = "SHARE", value_parser = parts_per_million, requires = "shadow")]
    max_differences: Option<u32>,
    /// Watch the new version for so long before it is final
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "60s")]
    probation: Duration,
    /// Go back when the new version rejects or fails on more records than this, beyond what the old one does
    #[arg(long, value_name = "SHARE", value_parser = parts_per_million, default_value = "0.1%")]
    max_error_rate: u32,
    /// Go back when the new version takes more than so many times as long for a record
    #[arg(long, value_name = "TIMES", value_parser = clap::value_parser!(u32).range(1..), default_value = "5")]
    max_slowdown: u32,
    /// Wait for the end, for so long at most beyond the probation, and say how it goes
    #[arg(long, value_name = "TIME", value_parser = wait::parse, num_args = 0..=1, default_missing_value = "60s")]
    wait: Option<Duration>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl HowArgs {
    fn strategy(&self) -> Strategy {
        Strategy {
            canary: self.canary,
            probation_ms: u64::try_from(self.probation.as_millis()).unwrap_or(u64::MAX),
            max_errors_ppm: self.max_error_rate,
            max_slowdown: self.max_slowdown,
            shadow: self.shadow,
            max_differences_ppm: self.max_differences,
            no_return: false,
        }
    }
}

/// A share such as `0.1%`, in parts of a million.
fn parts_per_million(text: &str) -> Result<u32, String> {
    let share = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    match share {
        Some(share) if (0.0..=100.0).contains(&share) => Ok((share * 1e4).round() as u32),
        _ => Err("write a share such as 0.1%".to_owned()),
    }
}

/// Arguments of `plugin swap`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Every node loads the new version beside the old one. Each task goes over between two commits, with its state as it is, and says
at which offset. What goes wrong while the new version is watched takes every task back to the old one, by itself.

Before that, the last records of each task go through both versions, from a copy of its state: how what comes out differs is shown,
and a version that fails where the present one does not is refused. Nothing is written for it.

Examples:
  sluicegate plugin swap orders mask mask-json@1.3.0 --wait
  sluicegate plugin swap orders mask mask-json@1 --canary 25% --probation 5m
  sluicegate plugin swap orders mask target/wasm32-wasip2/release/mask.wasm --dry-run --records 10000
  sluicegate plugin swap orders mask mask-json@1.3.0 --config mask.toml
  sluicegate plugin swap orders totals totals@2.0.0 --no-return --canary 1")]
pub(in crate::cli) struct SwapArgs {
    /// Name of the pipeline
    pipeline: String,
    /// Name of the transform
    transform: String,
    /// A plugin of the registry, `name@1.2.3`, `name@1` or `sha256:..`, or a file
    #[arg(value_name = "REFERENCE|FILE")]
    plugin: String,
    /// The configuration from now on: TOML or JSON; the same as before without it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check everything and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Try both versions on the last so many records of each task, for 5s at most, or 30s with --dry-run; 0 tries none
    #[arg(long, value_name = "N", default_value_t = 1000)]
    records: usize,
    /// Take a version that does not convert its state back: what goes wrong holds the rollout for `plugin promote` or
    /// `plugin rollback --from-copy`, which forgets what came since
    #[arg(long)]
    no_return: bool,
    #[command(flatten)]
    how: HowArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// What a swap came to, for machines.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Report<'a> {
    pipeline: &'a str,
    findings: &'a [Finding],
    #[serde(skip_serializing_if = "Option::is_none")]
    rehearsed: Option<&'a Rehearsed>,
    begun: bool,
    rollout: &'a Rollout,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<Outcome>,
}

pub(super) async fn run(args: SwapArgs, out: &mut (impl Write + Send)) -> Result<(), CommandError> {
    let name = connection::name(&args.pipeline)?;
    let source = source(&args.plugin)?;
    let config = args.config.as_deref().map(config).transpose()?;
    let Connection { cluster, store } = Connection::open(&args.cluster).await?;
    connection::kafka(&cluster)?;
    let time = if args.dry_run { REHEARSAL_DRY } else { REHEARSAL };
    let rehearsal = (args.records > 0).then_some(Rehearsal { records: args.records, time });
    let strategy = Strategy { no_return: args.no_return, ..args.how.strategy() };
    let request = Request { transform: args.transform, source, config, strategy, rehearsal };
    let swap = swap::check(&cluster, Arc::clone(&store), &name, request).await?;
    go(&*store, &name, &swap, args.dry_run, &args.how, out).await
}

/// Shows what was found, begins, and waits.
async fn go(
    store: &dyn MetaStore,
    name: &Segment,
    swap: &Swap,
    dry_run: bool,
    &HowArgs { wait, json, .. }: &HowArgs,
    out: &mut (impl Write + Send),
) -> Result<(), CommandError> {
    if !json {
        shown::findings(out, &swap.rollout, &swap.findings)?;
        if let Some(rehearsed) = &swap.rehearsed {
            let names = ["present", "new"];
            comparison::examples(out, &rehearsed.examples, "topic", names)?;
            comparison::entries(out, &rehearsed.stores, names)?;
        }
    }
    let mut ended = None;
    if !dry_run {
        swap.begin().await?;
        if !json {
            writeln!(out, "begun: `sluicegate plugin rollouts {name}` shows how far it is")?;
        }
        if let Some(wait) = wait {
            ended = Some(until_end(store, name, swap.rollout.number, wait + probations(&swap.rollout)).await?);
        }
    }
    if json {
        let (rollout, outcome) =
            ended.as_ref().map_or((&swap.rollout, None), |ended| (&ended.rollout, Some(ended.outcome)));
        let (findings, rehearsed) = (&swap.findings, swap.rehearsed.as_ref());
        let report = Report { pipeline: name.as_str(), findings, rehearsed, begun: !dry_run, rollout, outcome };
        table::json(out, &report)?;
    }
    let Some(ended) = ended else { return Ok(()) };
    if !json {
        shown::shadowed(out, &ended.rollout)?;
    }
    match ended.outcome {
        Outcome::Done if json => Ok(()),
        Outcome::Done => Ok(shown::done(out, &ended)?),
        Outcome::Returned => {
            let reason = ended.rollout.reason.unwrap_or_default();
            Err(CommandError::Failed(format!("pipeline `{name}` is back on what it ran before: {reason}")))
        }
    }
}

/// All the time that the new version is watched.
fn probations(rollout: &Rollout) -> Duration {
    let times = if rollout.strategy.canary.is_some() { 2 } else { 1 };
    let shadow = match rollout.strategy.shadow {
        Some(Extent::Time(time)) => time,
        _ => Duration::ZERO,
    };
    shadow.saturating_add(Duration::from_millis(rollout.strategy.probation_ms.saturating_mul(times)))
}

async fn until_end(store: &dyn MetaStore, name: &Segment, number: u64, wait: Duration) -> Result<Ended, CommandError> {
    let until = Instant::now() + wait;
    let (mut said, mut since) = (String::new(), Instant::now());
    // What was said of what is waited for.
    let mut told = None;
    loop {
        let record = pipelines::read(store, name).await?.map(|known| known.record);
        let waits = match record.and_then(|record| record.rollout.filter(|rollout| rollout.number == number)) {
            Some(rollout) if rollout.awaits_decision().is_some() => {
                return Err(CommandError::Failed(shown::held(name, &rollout)));
            }
            Some(rollout) => {
                let nodes = presence::list(store, name).await?;
                let now = shown::progress(&rollout, &nodes);
                let waits = waiting::in_words(&status::awaited(&rollout, &nodes));
                if now != said {
                    eprintln!("{now}");
                    (said, since, told) = (now, Instant::now(), None);
                }
                if since.elapsed() >= QUIET && waits != told {
                    waits.iter().for_each(|waits| eprintln!("{waits}"));
                    told.clone_from(&waits);
                }
                waits
            }
            None => {
                let ended =
                    pipelines::rollouts(store, name).await?.into_iter().find(|ended| ended.rollout.number == number);
                return ended.ok_or_else(|| {
                    CommandError::Failed(format!("what became of the rollout of pipeline `{name}` is not known"))
                });
            }
        };
        if Instant::now() >= until {
            let waits = waits.map_or_else(String::new, |waits| format!("; it {waits}"));
            return Err(CommandError::Failed(format!(
                "it has not ended after {}: {said}{waits}; it goes on by itself, and `sluicegate plugin rollouts {name}` shows how",
                humantime::format_duration(Duration::from_secs(wait.as_secs()))
            )));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What was typed for a plugin. A file goes first: its name may look like anything.
pub(in crate::cli) fn source(text: &str) -> Result<Source, CommandError> {
    if Path::new(text).is_file() {
        return Ok(Source::File(text.into()));
    }
    let wrong = |error| CommandError::BadInput(format!("there is no file {text}, and {error}"));
    text.parse().map(Source::Registry).map_err(wrong)
}

/// A configuration in TOML or JSON: one table.
pub(in crate::cli) fn config(path: &Path) -> Result<Value, CommandError> {
    let wrong = |problem: String| CommandError::BadInput(format!("the configuration {}: {problem}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let json = serde_json::from_str::<Value>(&text);
    let value = match json {
        Ok(value) => value,
        Err(_) if !text.trim_start().starts_with('{') => {
            toml::from_str::<Value>(&text).map_err(|error| wrong(format!("is no TOML:\n{error}")))?
        }
        Err(error) => return Err(wrong(format!("is no JSON: {error}"))),
    };
    if value.is_object() { Ok(value) } else { Err(wrong("has to be one table or object".to_owned())) }
}

/// Arguments of `plugin rollback`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Takes back code and configuration; the state stays as it is, and so do records that were sent already.

After a swap with --no-return the state cannot stay. With --from-copy the tasks of a paused pipeline go back to what it was when
they went over: what has changed in it since is forgotten, and no record is processed again.

Examples:
  sluicegate plugin rollback orders mask --wait
  sluicegate pause orders
  sluicegate plugin rollback orders totals --from-copy --yes
  sluicegate resume orders")]
pub(in crate::cli) struct RollbackArgs {
    /// Name of the pipeline
    pipeline: String,
    /// Name of the transform
    transform: String,
    /// After a swap with --no-return: go back to the state from before it, and forget what has changed since
    #[arg(long, conflicts_with_all = ["canary", "shadow", "max_differences", "probation", "max_error_rate", "max_slowdown", "wait"])]
    from_copy: bool,
    /// With --from-copy: do it without another question
    #[arg(long, requires = "from_copy")]
    yes: bool,
    #[command(flatten)]
    how: HowArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
}

pub(super) async fn roll_back(args: RollbackArgs, out: &mut (impl Write + Send)) -> Result<(), CommandError> {
    let name = connection::name(&args.pipeline)?;
    let Connection { cluster, store } = Connection::open(&args.cluster).await?;
    connection::kafka(&cluster)?;
    if args.from_copy {
        let back = swap::from_copy(&cluster, store, &name, &args.transform).await?;
        return from_copy(&args, &back, out).await;
    }
    let strategy = args.how.strategy();
    match swap::roll_back(&cluster, Arc::clone(&store), &name, &args.transform, strategy).await? {
        Rollback::Back(swap) => go(&*store, &name, &swap, false, &args.how, out).await,
        Rollback::CalledOff(rollout) => called_off(&*store, &name, &rollout, &args.how, out).await,
    }
}

/// What was taken back, for machines.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct TakenBack<'a> {
    pipeline: &'a str,
    transform: &'a str,
    revision: u64,
    forgotten: &'a [Since],
}

async fn from_copy(args: &RollbackArgs, back: &FromCopy, out: &mut impl Write) -> Result<(), CommandError> {
    let RollbackArgs { pipeline, transform, .. } = args;
    let (to, forgotten) = (back.to(), swap::forgotten(&back.forgotten));
    if !args.yes {
        return Err(CommandError::BadInput(format!(
            "this takes transform `{transform}` of pipeline `{pipeline}` back to {to}, with its state from before; what has changed in it since is forgotten for good, and the records are not processed again: add --yes if that is meant\n{forgotten}"
        )));
    }
    let record = back.take_back().await?;
    if args.how.json {
        let (revision, forgotten) = (record.revision, &back.forgotten[..]);
        return Ok(table::json(out, &TakenBack { pipeline, transform, revision, forgotten })?);
    }
    Ok(writeln!(
        out,
        "taken back: transform `{transform}` is to run {to} with its state from before; revision {}\n{forgotten}\n`sluicegate resume {pipeline}` goes on",
        record.revision
    )?)
}

/// Arguments of `plugin promote`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
A swap with --no-return is held where another one would go back by itself. This decides that the new version stays: the tasks that
have not gone over do so, and then the rollout has ended, whatever the new version does. `plugin rollback --from-copy` decides for
the other side.

Examples:
  sluicegate plugin promote orders totals")]
pub(in crate::cli) struct PromoteArgs {
    /// Name of the pipeline
    pipeline: String,
    /// Name of the transform
    transform: String,
    #[command(flatten)]
    cluster: ClusterArgs,
}

pub(super) async fn promote(args: PromoteArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let name = connection::name(&args.pipeline)?;
    let Connection { store, .. } = Connection::open(&args.cluster).await?;
    let rollout = swap::promote(&*store, &name, &args.transform).await?;
    let [_, to] = rollout.versions();
    Ok(writeln!(out, "goes on: all tasks are to run {to}; `sluicegate plugin rollouts {name}` shows how far it is")?)
}

async fn called_off(
    store: &dyn MetaStore,
    name: &Segment,
    rollout: &Rollout,
    &HowArgs { wait, json, .. }: &HowArgs,
    out: &mut (impl Write + Send),
) -> Result<(), CommandError> {
    let ended = match wait {
        Some(wait) => Some(until_end(store, name, rollout.number, wait).await?),
        None => None,
    };
    match (&ended, json) {
        (Some(ended), true) => table::json(out, ended)?,
        (None, true) => table::json(out, rollout)?,
        (Some(_), false) => writeln!(out, "called off: pipeline `{name}` is back on what it ran before")?,
        (None, false) => writeln!(out, "called off: the tasks go back to what they ran before")?,
    }
    Ok(())
}

/// Arguments of `plugin rollouts`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sluicegate plugin rollouts orders
  sluicegate plugin rollouts orders --json")]
pub(in crate::cli) struct RolloutsArgs {
    /// Name of the pipeline
    pipeline: String,
    /// Print JSON: with the offset at which each task went over, and the pause
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

pub(super) async fn rollouts(args: RolloutsArgs, out: &mut (impl Write + Send)) -> Result<(), CommandError> {
    let name = connection::name(&args.pipeline)?;
    let Connection { store, .. } = Connection::open(&args.cluster).await?;
    let rollouts = status::rollouts(&*store, &name).await?;
    if args.json {
        return Ok(table::json(out, &rollouts)?);
    }
    shown::history(out, &name, &rollouts.ended)?;
    if let Some(rollout) = &rollouts.under_way {
        writeln!(out, "\n{}", shown::progress(rollout, &presence::list(&*store, &name).await?))?;
        if let Some(waits) = waiting::in_words(&rollouts.waits_for) {
            writeln!(out, "{waits}")?;
        }
        if rollout.phase == Phase::Shadow {
            shown::shadowed(out, rollout)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_parts_of_a_million() {
        assert_eq!(parts_per_million("0.1%"), Ok(1000));
        assert_eq!(parts_per_million("100%"), Ok(1_000_000));
        for wrong in ["0.1", "-1%", "101%", "x%", "%"] {
            assert!(parts_per_million(wrong).is_err(), "{wrong}");
        }
    }
}
