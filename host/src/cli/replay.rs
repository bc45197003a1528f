//! `sluicegate replay`: a candidate over recorded input, compared with what was sent then.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::connection::{self, Recorded};
use super::plugin::{config, source};
use super::{CommandError, comparison, table};
use crate::config::ClusterArgs;
use crate::meta::layout::Segment;
use crate::node::replay::{self, Against, Begin, Change, Replayed, ReplayedTask, Request};

/// Arguments of `replay`.
#[derive(Args, Debug)]
#[command(after_help = "\
Nothing is written, and the pipeline may run meanwhile. Where it has `provenance-headers`, what comes out is compared with what was
really sent, record by record; otherwise with a run of the versions that made the state.

Exit codes: 0 no difference, 1 a difference, or something failed, 64 wrong input.

Examples:
  sluicegate replay orders
  sluicegate replay orders --from before-release --transform mask --plugin mask-json@1.3.0
  sluicegate replay orders --from 2026-01-31T12:00:00Z --records 100000 --transform mask --config mask.toml
  sluicegate replay orders --from 61464 --task 3 --transform mask --plugin target/wasm32-wasip2/release/mask.wasm --json")]
pub(super) struct ReplayArgs {
    /// Name of the pipeline
    pipeline: String,
    /// Where to begin: an offset, a date and time with its zone, or a savepoint. Without it as far back as the heads have state, and
    /// without state --records before what is committed
    #[arg(long, value_name = "OFFSET|TIME|SAVEPOINT")]
    from: Option<From>,
    /// So many records of each source topic for each task at most
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    records: usize,
    /// The transform that is to be another version; without it the pipeline as it is recorded runs
    #[arg(long, value_name = "TRANSFORM")]
    transform: Option<String>,
    /// Its plugin: one of the registry, `name@1.2.3`, `name@1` or `sha256:..`, or a file
    #[arg(long, value_name = "REFERENCE|FILE", requires = "transform")]
    plugin: Option<String>,
    /// Its configuration: TOML or JSON; as recorded without it
    #[arg(long, value_name = "FILE", requires = "transform")]
    config: Option<PathBuf>,
    /// Only this task; all of them otherwise
    #[arg(long, value_name = "PARTITION")]
    task: Vec<u32>,
    /// What to compare with
    #[arg(long, value_enum)]
    against: Option<Versus>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// What to compare with.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Versus {
    /// What was sent: exact, and takes `provenance-headers`
    Emitted,
    /// A run of the versions that ran
    Present,
}

/// Where to begin.
#[derive(Clone, Debug)]
struct From(Begin);

impl FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(offset) = text.parse::<i64>() {
            return match offset >= 0 {
                true => Ok(Self(Begin::Offset(offset))),
                false => Err("offsets begin with 0".to_owned()),
            };
        }
        if let Ok(time) = text.parse::<jiff::Timestamp>() {
            return Ok(Self(Begin::Time(time.as_millisecond())));
        }
        if text.starts_with(|first: char| first.is_ascii_digit()) && text.contains([':', '-']) && text.contains('T') {
            return Err("write a date and time with its zone, as 2026-01-31T12:00:00Z".to_owned());
        }
        Segment::new(text).map(|name| Self(Begin::Savepoint(name))).map_err(|error| error.to_string())
    }
}

/// What is printed for machines.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Report<'a> {
    pipeline: &'a str,
    differs: bool,
    #[serde(flatten)]
    replayed: &'a Replayed,
}

pub(super) async fn run(args: ReplayArgs, out: &mut (impl Write + Send)) -> Result<(), CommandError> {
    let change = match args.transform {
        None => None,
        Some(transform) => {
            let source = args.plugin.as_deref().map(source).transpose()?;
            let config = args.config.as_deref().map(|path: &Path| config(path)).transpose()?;
            if source.is_none() && config.is_none() {
                return Err(CommandError::BadInput(format!(
                    "what is to be another in transform `{transform}`? --plugin names a version, --config a configuration"
                )));
            }
            Some(Change { transform, source, config })
        }
    };
    if args.records == 0 {
        return Err(CommandError::BadInput("--records 0 compares nothing".to_owned()));
    }
    let request = Request {
        change,
        begin: args.from.map_or(Begin::Default, |From(begin)| begin),
        records: args.records,
        tasks: args.task,
        against: args.against.map(|against| match against {
            Versus::Emitted => Against::Emitted,
            Versus::Present => Against::Present,
        }),
    };
    let Recorded { connection, name, record, .. } = Recorded::open(&args.pipeline, &args.cluster).await?;
    connection::kafka(&connection.cluster)?;
    let replayed = replay::replay(&connection.cluster, &connection.store, &name, record, request).await?;
    let differs = replayed.differs();
    if args.json {
        table::json(out, &Report { pipeline: name.as_str(), differs, replayed: &replayed })?;
    } else {
        print(out, &name, &replayed)?;
    }
    match differs {
        false => Ok(()),
        true => {
            Err(CommandError::Failed(format!("the candidate does something else than {}", compared_with(&replayed))))
        }
    }
}

fn compared_with(replayed: &Replayed) -> &'static str {
    match replayed.against {
        Against::Emitted => "what was sent",
        Against::Present => "the versions that ran",
    }
}

fn print(out: &mut impl Write, name: &Segment, replayed: &Replayed) -> std::io::Result<()> {
    writeln!(out, "pipeline `{name}`")?;
    for transform in &replayed.candidate {
        writeln!(out, "  candidate  {transform}")?;
    }
    for ReplayedTask { task, from, to, records, state, brought_up } in &replayed.tasks {
        let place = |(topic, from): (&String, &i64)| format!("{topic} offset {from} to {}", to[topic]);
        let places: Vec<String> = from.iter().map(place).collect();
        let state = state.as_ref().map_or_else(String::new, |state| format!(", state of {state}"));
        let brought = match brought_up {
            0 => String::new(),
            count => format!(" and {count} records behind it"),
        };
        writeln!(out, "  task {task}     {}: {records} records{state}{brought}", places.join(", "))?;
    }
    let names = match replayed.against {
        Against::Emitted => ["pipeline", "candidate"],
        Against::Present => ["before", "candidate"],
    };
    let [first, second] = match replayed.against {
        Against::Emitted => ["the pipeline", "the candidate"],
        Against::Present => ["the versions that ran", "the candidate"],
    };
    let how = match replayed.against {
        Against::Emitted => "what was sent, each record by its `sluicegate-source`",
        Against::Present => "a run of the versions that made the state, and not with what was sent",
    };
    let because = replayed.because.as_ref().map_or_else(String::new, |because| format!(" ({because})"));
    writeln!(out, "compared with {how}{because}")?;
    writeln!(out, "  outputs: {}", replayed.counts.in_words(first, second))?;
    for stopped in &replayed.stopped {
        writeln!(out, "  the candidate would have stopped the pipeline: {}", stopped.replace('\n', "\n    "))?;
    }
    comparison::examples(out, &replayed.examples, "topic", names)?;
    comparison::entries(out, &replayed.stores, names)?;
    for store in replayed.stores.iter().filter(|store| store.differences() == 0) {
        writeln!(out, "  store {}: {} entries the same", store.store, store.same)?;
    }
    for note in &replayed.notes {
        writeln!(out, "note: {note}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_flag() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/commands.md");
        let text = std::fs::read_to_string(page).unwrap();
        let (_, section) = text.split_once("\n## replay\n").unwrap();
        let cluster = ClusterArgs::augment_args(clap::Command::new("cluster"));
        for argument in ReplayArgs::augment_args(clap::Command::new("replay")).get_arguments() {
            let Some(flag) = argument.get_long() else { continue };
            let is_of_cluster = cluster.get_arguments().any(|other| other.get_long() == Some(flag));
            assert!(is_of_cluster || section.contains(&format!("| `--{flag}")), "--{flag} is missing");
        }
    }

    #[test]
    fn a_number_is_an_offset_and_what_reads_as_a_time_is_one_and_the_rest_are_savepoints() {
        let read = |text: &str| text.parse::<From>().map(|From(begin)| begin);
        assert!(matches!(read("61464"), Ok(Begin::Offset(61464))));
        assert!(matches!(read("1970-01-01T00:00:01Z"), Ok(Begin::Time(1000))));
        assert!(matches!(read("before-release"), Ok(Begin::Savepoint(name)) if name.as_str() == "before-release"));
        assert!(read("-1").is_err() && read("a/b").is_err());
        assert!(read("2026-01-31T12:00:00").is_err_and(|error| error.contains("with its zone")));
    }
}
