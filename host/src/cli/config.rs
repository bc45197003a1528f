//! `sluicegate config`: what the files, the environment and the flags come to.

use std::io::Write;
use std::path::PathBuf;

use clap::{ArgMatches, Args, Subcommand};
use serde::Serialize;

use super::{CommandError, connection, table};
use crate::config::{Cluster, ClusterArgs, Pipeline, Setting};

/// The commands.
#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Show every value and where it comes from; secrets are masked
    Show(ShowArgs),
    /// Say what is wrong with the files, or that nothing is
    Check(CheckArgs),
}

/// Arguments of `config check`.
#[derive(Args, Debug)]
#[command(after_help = "\
Nothing is connected to: `sluicegate doctor` looks whether everything is there, and `sluicegate deploy --dry-run` whether
a pipeline fits its plugins.

Examples:
  sluicegate config check
  sluicegate config check orders.toml --cluster /etc/sluicegate.toml")]
pub(super) struct CheckArgs {
    #[command(flatten)]
    files: FilesArgs,
}

/// Which files.
#[derive(Args, Debug)]
pub(super) struct FilesArgs {
    /// Pipeline file, to be looked at too
    #[arg(value_name = "PIPELINE.toml")]
    pipeline: Option<PathBuf>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Arguments of `config show`.
#[derive(Args, Debug)]
#[command(after_help = "\
A flag goes over its environment variable, that over the file, that over the default.

Examples:
  sluicegate config show
  SLUICEGATE_WORKER_THREADS=8 sluicegate config show orders.toml
  sluicegate config show orders.toml --json")]
pub(super) struct ShowArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    files: FilesArgs,
}

/// What is in effect.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Effective {
    cluster: Vec<Setting>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pipeline: Option<Vec<Setting>>,
}

/// `matches` are those of the command itself, which know what was typed.
pub(super) fn run(command: ConfigCommand, matches: &ArgMatches, out: &mut impl Write) -> Result<(), CommandError> {
    match command {
        ConfigCommand::Show(args) => show(&args, matches, out),
        ConfigCommand::Check(args) => check(&args.files, out),
    }
}

fn load(args: &FilesArgs) -> Result<(Cluster, Option<Pipeline>), CommandError> {
    let pipeline = args.pipeline.as_deref().map(Pipeline::load).transpose();
    connection::both(Cluster::load(&args.cluster), pipeline)
}

fn show(args: &ShowArgs, matches: &ArgMatches, out: &mut impl Write) -> Result<(), CommandError> {
    let (cluster, pipeline) = load(&args.files)?;
    let effective = Effective {
        cluster: cluster.settings(&ClusterArgs::overrides(matches)),
        pipeline: pipeline.map(|pipeline| pipeline.settings()),
    };
    if args.json {
        return Ok(table::json(out, &effective)?);
    }
    print(out, &effective.cluster)?;
    if let Some(pipeline) = &effective.pipeline {
        writeln!(out)?;
        print(out, pipeline)?;
    }
    Ok(())
}

fn print(out: &mut impl Write, settings: &[Setting]) -> Result<(), CommandError> {
    let row = |setting: &Setting| {
        let value = setting.value.clone().unwrap_or_else(|| "-".to_owned());
        [setting.key.clone(), value, setting.from.to_string()]
    };
    Ok(table::print(out, ["KEY", "VALUE", "FROM"], &settings.iter().map(row).collect::<Vec<_>>())?)
}

fn check(args: &FilesArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let (cluster, pipeline) = load(args)?;
    connection::kafka(&cluster)?;
    let cluster = match cluster.file() {
        Some(file) => format!("the cluster file `{}`", file.display()),
        None => "the configuration without a cluster file".to_owned(),
    };
    match pipeline {
        Some(pipeline) => writeln!(out, "{cluster} and the pipeline `{}` are right", pipeline.name)?,
        None => writeln!(out, "{cluster} is right")?,
    }
    Ok(())
}
