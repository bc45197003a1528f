//! `sluicegate dev`: see [`crate::dev`].

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::plugin::{command_error, components_of};
use super::{CommandError, signals};
use crate::config::{ClusterArgs, Http, Pipeline};
use crate::dev::project::must_be_by_path;
use crate::dev::{self, Feed, Options, Place};
use crate::worker::control::Control;

/// Arguments of `dev`.
#[derive(Args, Debug)]
#[command(after_help = "\
Plugins that the pipeline names by the path of a file in a `target` folder are built from the project beside it, at the start
and whenever its sources change. The pipeline goes over to the new ones as by `plugin swap`: with the state it has, after a
gate, and back by itself when they go wrong while they are watched. Another change of the pipeline file is a deployment. What
cannot be built or used leaves what ran before at work.

What is typed becomes records: a line a record. What comes out is printed to standard output, all else to standard error.

Examples:
  sluicegate dev
  sluicegate dev orders.toml --key-separator :
  sluicegate dev orders.toml --generate 10
  sluicegate dev orders.toml --in orders.txt --once
  sluicegate dev orders.toml --kafka localhost:9092")]
pub(super) struct DevArgs {
    /// Pipeline file
    #[arg(value_name = "PIPELINE.toml", default_value = "pipeline.toml")]
    pipeline: PathBuf,
    /// Take records from a file, a line a record, instead of standard input
    #[arg(long = "in", value_name = "FILE", conflicts_with = "generate")]
    input: Option<PathBuf>,
    /// Make up orders, so many a second
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    generate: Option<u32>,
    /// What stands between key and value in a line; without it lines are values
    #[arg(long, value_name = "TEXT")]
    key_separator: Option<String>,
    /// End when the input has ended and everything is through
    #[arg(long, conflicts_with = "generate")]
    once: bool,
    /// Do not build plugins: take the files as they are, and again when they change
    #[arg(long)]
    no_build: bool,
    /// Watch a changed plugin for so long before it is final; at least as long as one call may take
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "2s")]
    probation: Duration,
    /// Print records as JSON, one a line
    #[arg(long)]
    json: bool,
    /// Partitions of the embedded broker's topics
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=100))]
    partitions: i32,
    /// Keep the state in this folder for the next time; the embedded broker forgets the records that it belongs to
    #[arg(long, value_name = "FOLDER", requires = "kafka")]
    state: Option<PathBuf>,
    /// Use this Kafka instead of an embedded broker: host:port, with commas between
    #[arg(long, value_name = "SERVERS")]
    kafka: Option<String>,
    /// Address of the HTTP endpoint
    #[arg(long, value_name = "ADDRESS")]
    http_listen: Option<String>,
}

pub(super) async fn run(args: DevArgs) -> Result<(), CommandError> {
    // Wrong files are shown as everywhere.
    let pipeline = Pipeline::load(&args.pipeline)?;
    must_be_by_path(&pipeline)?;
    let http = match args.http_listen.as_deref().map(str::parse::<std::net::SocketAddr>) {
        None => Http::Off,
        Some(Ok(address)) => Http::Listen(address),
        Some(Err(error)) => {
            return Err(CommandError::BadInput(format!(
                "--http-listen: {error}: write an address like 127.0.0.1:8080"
            )));
        }
    };
    let arguments = ClusterArgs {
        node_name: Some("dev".to_owned()),
        http_listen: Some(http),
        worker_threads: Some(1),
        local_path: args.state.clone(),
        kafka_bootstrap_servers: args.kafka,
        ..ClusterArgs::default()
    };
    let place = Place::new(&arguments, args.partitions).map_err(command_error)?;
    let feed = match (args.input, args.generate) {
        (Some(file), _) => Feed::File { file, separator: args.key_separator },
        (None, Some(per_second)) => Feed::Generated { per_second },
        (None, None) => {
            if std::io::stdin().is_terminal() {
                let form = args
                    .key_separator
                    .as_ref()
                    .map_or("a value".to_owned(), |separator| format!("key{separator}value"));
                eprintln!("type records into pipeline `{}`, {form} a line", pipeline.name);
            }
            Feed::Typed { separator: args.key_separator }
        }
    };
    let options = Options {
        pipeline: args.pipeline,
        feed,
        once: args.once,
        build: (!args.no_build).then_some(build),
        json: args.json,
        state: args.state,
        probation: args.probation,
    };
    let control = Arc::new(Control::default());
    signals::drain_on_signal(Arc::clone(&control), place.cluster.limits.drain_deadline)?;
    dev::run(options, place, control).await.map_err(command_error)
}

fn build(folder: &Path) -> anyhow::Result<()> {
    match components_of(folder) {
        Ok(_) => Ok(()),
        Err(CommandError::BadInput(message) | CommandError::Failed(message)) => Err(anyhow::Error::msg(message)),
        Err(CommandError::Config(errors)) => {
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            Err(anyhow::Error::msg(errors.join("\n")))
        }
        Err(CommandError::Unread) => Ok(()),
    }
}
