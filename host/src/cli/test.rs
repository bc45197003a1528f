//! `sluicegate test`: a plugin on records from a file, in the sandbox that it runs in, without Kafka.
//!
//! Here is what touches files and the terminal; reading, comparing and running are in files of their own.

mod bench;
mod expected;
mod lines;
mod record;
mod state;
mod trial;

use std::io::{Read, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use tracing::level_filters::LevelFilter;

use self::bench::Figures;
use self::expected::Expected;
use self::record::{Input, Outcome};
use self::state::Entry;
use self::trial::{Failing, Stopped, Trial};
use super::{CommandError, file, table};
use crate::config::TransformLimits;
use crate::engine::{CallError, Engine, EngineOptions, Grants, InstanceOptions, Misuse, OpenError, Plugin};
use crate::manifest::Manifest;
use crate::node::sandbox;

/// Characters of a failing record that an error shows.
const RECORD_SHOWN_MAX: usize = 1000;

/// Arguments of `test`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
A record is a line of JSON; each field may be left out, and bytes that are no text are base64:
  {\"key\": \"ada\", \"value\": \"hello\", \"headers\": [[\"lang\", \"en\"]], \"timestamp\": 1700000000000}
  {\"input\": \"main\", \"key\": null, \"value\": {\"base64\": \"/wA=\"}}
  {\"key\": \"ada\", \"value\": {\"json\": {\"born\": 1815}}}
What comes out are such lines, with \"output\" or \"rejected\"; --expect takes a file of them, and
does not compare a field that no line of it has.

Exit codes: 0 as it should be, 1 another result or a plugin that fails, 64 wrong input.

Examples:
  sluicegate test shout.wasm --in records.jsonl --config '{\"ending\": \"!\"}'
  sluicegate test shout.wasm --in records.jsonl --config @shout.json --expect expected.jsonl
  sluicegate test totals.wasm --in records.jsonl --state before.jsonl --state-out after.jsonl
  sluicegate test shout.wasm --in records.jsonl --bench")]
pub(super) struct TestArgs {
    /// The plugin, as `sluicegate plugin build` makes it
    #[arg(value_name = "PLUGIN.wasm")]
    plugin: PathBuf,
    /// Records, a line of JSON each; `-` is standard input
    #[arg(long = "in", value_name = "FILE")]
    input: PathBuf,
    /// What the plugin is configured with: a JSON object, or @ and the file that holds one
    #[arg(long, value_name = "JSON|@FILE", default_value = "{}")]
    config: String,
    /// State that it finds, an entry a line: {"store": "..", "key": "..", "value": ".."}
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Where to write the state afterwards
    #[arg(long, value_name = "FILE")]
    state_out: Option<PathBuf>,
    /// What should come out; the differences are shown otherwise
    #[arg(long, value_name = "FILE")]
    expect: Option<PathBuf>,
    /// Records of one batch; after each there is a commit
    #[arg(long, value_name = "N", default_value = "1000")]
    batch: NonZeroUsize,
    /// What it may have of the real world: clocks, random, env:NAME
    #[arg(long, value_name = "GRANT")]
    grant: Vec<String>,
    /// An output as a pipeline would bind it, for plugins whose outputs have any name
    #[arg(long, value_name = "NAME")]
    output: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Measure: the same records again and again
    #[arg(long)]
    bench: bool,
}

/// How it went, for machines.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Report<'a> {
    records: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcomes: Option<&'a [Outcome]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'a [Entry]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    as_expected: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    difference: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<Failure<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bench: Option<&'a Figures>,
}

/// What a plugin failed on, and how.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Failure<'a> {
    kind: &'static str,
    first_line: usize,
    last_line: usize,
    message: String,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    backtrace: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    stderr: &'a str,
}

/// What was named on the command line, read.
struct Task<'a> {
    args: &'a TestArgs,
    plugin: &'a Plugin,
    options: InstanceOptions,
    input: Input,
    state: Vec<Entry>,
    expected: Option<Expected>,
}

/// How a run ended.
struct Run {
    outcomes: Vec<Outcome>,
    state: Vec<Entry>,
    failing: Option<Box<Failing>>,
}

pub(super) fn run(args: &TestArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let engine = Engine::new(EngineOptions::default()).map_err(|error| CommandError::Failed(error.to_string()))?;
    let refused =
        |error| CommandError::BadInput(format!("{} is no plugin for this host: {error}", args.plugin.display()));
    let plugin = engine.load(&file::read(&args.plugin)?).map_err(refused)?;
    let mut task = Task::read(args, &plugin)?;
    let run = task.run()?;
    if let Some(path) = &args.state_out {
        file::write(path, lines::write(&run.state).as_bytes())
            .map_err(|error| CommandError::Failed(format!("cannot write {}: {error}", path.display())))?;
    }
    let checked = task.expected.as_ref().filter(|_| run.failing.is_none());
    let difference = checked.and_then(|expected| expected.difference(&run.outcomes));
    let as_expected = checked.is_some() && difference.is_none();
    let figures = match args.bench && run.failing.is_none() && difference.is_none() {
        true => Some(task.measure()?),
        false => None,
    };
    let said = if args.json {
        table::json(out, &task.report(&run, difference.as_deref(), figures.as_ref()))
    } else {
        task.write(&run, figures.as_ref(), as_expected, out)
    };
    said?;
    match (&run.failing, difference) {
        (Some(failing), _) => Err(CommandError::Failed(task.failure(failing))),
        (None, Some(difference)) => {
            Err(CommandError::Failed(format!("what came out is not what was expected\n{}", difference.trim_end())))
        }
        (None, None) => Ok(()),
    }
}

impl<'a> Task<'a> {
    fn read(args: &'a TestArgs, plugin: &'a Plugin) -> Result<Self, CommandError> {
        let manifest = plugin.manifest();
        let options = options(args, manifest)?;
        let wrong = |error: lines::LineError| CommandError::BadInput(error.to_string());
        let records = if args.input == Path::new("-") { standard_input()? } else { file::read(&args.input)? };
        let name = args.input.display().to_string();
        let input = record::input(&name, &records, &options.inputs, args.batch.get()).map_err(wrong)?;
        if args.bench && input.lines.is_empty() {
            return Err(CommandError::BadInput(format!("{name} has no records to measure with")));
        }
        let state = args.state.as_ref().map(|path| {
            let bytes = file::read(path)?;
            state::read(&path.display().to_string(), &bytes, &manifest.stores).map_err(wrong)
        });
        let expected = args.expect.as_ref().map(|path| {
            let bytes = file::read(path)?;
            let main = manifest.outputs.first().map_or("main", |output| output.name.as_str());
            Expected::read(&path.display().to_string(), &bytes, main).map_err(wrong)
        });
        let (state, expected) = (state.transpose()?.unwrap_or_default(), expected.transpose()?);
        Ok(Self { args, plugin, options, input, state, expected })
    }

    fn open(&self) -> Result<Trial<'a>, CommandError> {
        let state = state::fill(&self.state, &self.plugin.manifest().stores);
        Trial::new(self.plugin, self.options.clone(), state).map_err(|error| self.not_open(error))
    }

    fn not_open(&self, error: OpenError) -> CommandError {
        let file = self.args.plugin.display();
        match error {
            OpenError::Config { field, message } => {
                let field =
                    if field.is_empty() { "its configuration".into() } else { format!("`{field}` in --config") };
                CommandError::BadInput(format!("the plugin {file} refuses {field}: {message}"))
            }
            OpenError::Grants { missing } => {
                let flags: Vec<String> = missing.iter().map(|grant| format!("--grant {grant}")).collect();
                CommandError::BadInput(format!("the plugin {file} cannot work without grants: add {}", flags.join(" ")))
            }
            OpenError::Call(CallError::Misuse(Misuse::UnknownOutlet { name })) => CommandError::BadInput(format!(
                "the plugin {file} opens the output `{name}`, which nothing binds: add --output {name}"
            )),
            OpenError::Failed(reason) => CommandError::Failed(format!("the plugin {file} does not start: {reason}")),
            OpenError::Call(error) => CommandError::Failed(format!("the plugin {file} does not start: {error}")),
        }
    }

    fn run(&self) -> Result<Run, CommandError> {
        let mut trial = self.open()?;
        let mut outcomes = Vec::new();
        let mut failing = None;
        for batch in &self.input.batches {
            match trial.process(batch, &mut outcomes) {
                Ok(()) => {}
                Err(Stopped::Open(error)) => return Err(self.not_open(error)),
                Err(Stopped::Failing(found)) => {
                    failing = Some(found);
                    break;
                }
            }
        }
        Ok(Run { outcomes, state: state::entries(&trial.state, &self.plugin.manifest().stores), failing })
    }

    fn measure(&mut self) -> Result<Figures, CommandError> {
        let stores = &self.plugin.manifest().stores;
        let mut state = state::fill(&self.state, stores);
        let mut instance = self.plugin.instantiate(self.options.clone()).map_err(|error| self.not_open(error))?;
        let failed = |error: CallError| CommandError::Failed(format!("the plugin fails when it is measured: {error}"));
        bench::measure(&mut instance, &mut self.input.batches, &mut state).map_err(failed)
    }

    /// For people: outcomes, or figures, or nothing where expectations are met.
    fn write(
        &self,
        run: &Run,
        figures: Option<&Figures>,
        as_expected: bool,
        out: &mut impl Write,
    ) -> std::io::Result<()> {
        match figures {
            Some(figures) => {
                figures.write(out)?;
                if cfg!(debug_assertions) {
                    eprintln!("this program was built without --release: the host's part of the time is too long");
                }
            }
            None if self.expected.is_none() => out.write_all(lines::write(&run.outcomes).as_bytes())?,
            None => {}
        }
        let rejected = run.outcomes.iter().filter(|outcome| outcome.rejected.is_some()).count();
        let (records, sent) = (self.input.lines.len(), run.outcomes.len() - rejected);
        let verdict = if as_expected { ": as expected" } else { "" };
        eprintln!("{records} in, {sent} out, {rejected} rejected{verdict}");
        Ok(())
    }

    fn report<'r>(&'r self, run: &'r Run, difference: Option<&'r str>, figures: Option<&'r Figures>) -> Report<'r> {
        Report {
            records: self.input.lines.len(),
            outcomes: figures.is_none().then_some(run.outcomes.as_slice()),
            state: figures.is_none().then_some(run.state.as_slice()),
            as_expected: self.expected.as_ref().map(|_| difference.is_none() && run.failing.is_none()),
            difference,
            failure: run.failing.as_deref().map(|failing| self.failure_report(failing)),
            bench: figures,
        }
    }

    fn lines(&self, failing: &Failing) -> (usize, usize) {
        let line = |index: usize| self.input.lines.get(index).copied().unwrap_or_default();
        (line(failing.records.start), line(failing.records.end - 1))
    }

    fn failure_report<'f>(&self, failing: &'f Failing) -> Failure<'f> {
        let (first_line, last_line) = self.lines(failing);
        let message = failing.error.to_string().lines().next().unwrap_or_default().to_owned();
        let (backtrace, stderr) = match &failing.error {
            CallError::Trap { backtrace, stderr, .. } => (backtrace.as_slice(), stderr.as_str()),
            _ => (&[][..], ""),
        };
        Failure { kind: failing.error.kind(), first_line, last_line, message, backtrace, stderr }
    }

    /// What happened and where, with what the plugin said, and the record if it is one.
    fn failure(&self, failing: &Failing) -> String {
        let file = self.args.input.display();
        let error = &failing.error;
        let (first, last) = self.lines(failing);
        if failing.batch.len() > 1 {
            let alone = if failing.narrowed { ", and on none of them alone" } else { "" };
            return format!("the plugin fails on the records at {file}:{first} to {last}{alone}: {error}");
        }
        let record = record::shown(&failing.batch);
        let record: String = record.trim_end().chars().take(RECORD_SHOWN_MAX).collect();
        format!("the plugin fails on the record at {file}:{first}: {error}\nthe record:\n  {record}")
    }
}

fn options(args: &TestArgs, manifest: &Manifest) -> Result<InstanceOptions, CommandError> {
    let grants = Grants::parse(args.grant.iter().map(String::as_str));
    if let (Some(name), false) = (args.output.first(), manifest.dynamic_outputs) {
        let outputs: Vec<&str> = manifest.outputs.iter().map(|output| output.name.as_str()).collect();
        return Err(CommandError::BadInput(format!(
            "--output {name} means nothing to this plugin, which names its outputs: {}",
            outputs.join(", ")
        )));
    }
    Ok(InstanceOptions {
        pipeline: "test".into(),
        transform: manifest.name.clone(),
        task: 0,
        inputs: manifest.inputs.iter().map(|input| input.name.clone()).collect(),
        outlets: args.output.clone(),
        config: config(&args.config)?,
        limits: sandbox::limits(&TransformLimits::default()),
        log_level: LevelFilter::current().into_level().unwrap_or(tracing::Level::ERROR),
        grants: grants.map_err(|error| CommandError::BadInput(format!("--grant: {error}")))?,
        now_ms: 0,
    })
}

/// The configuration as JSON text.
fn config(argument: &str) -> Result<String, CommandError> {
    let (name, text) = match argument.strip_prefix('@') {
        Some(file) => (file, String::from_utf8_lossy(&file::read(Path::new(file))?).into_owned()),
        None => ("--config", argument.to_owned()),
    };
    match serde_json::from_str::<serde_json::Value>(&text) {
        Ok(serde_json::Value::Object(_)) => Ok(text),
        Ok(_) => Err(CommandError::BadInput(format!(
            "{name} is no JSON object: write {{\"key\": \"value\"}}, or @ and the file that holds it"
        ))),
        Err(error) => Err(CommandError::BadInput(format!("{name} is no JSON: {error}"))),
    }
}

fn standard_input() -> Result<Vec<u8>, CommandError> {
    let mut bytes = Vec::new();
    match std::io::stdin().read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(CommandError::BadInput(format!("cannot read standard input: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_flag() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/commands.md");
        let text = std::fs::read_to_string(page).unwrap();
        for argument in TestArgs::augment_args(clap::Command::new("test")).get_arguments() {
            let Some(flag) = argument.get_long() else { continue };
            assert!(text.contains(&format!("| `--{flag}")), "--{flag} is missing");
        }
    }
}
