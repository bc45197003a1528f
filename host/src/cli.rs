//! The command line: one command, one file.

mod comparison;
mod completions;
mod config;
mod connection;
mod demo;
mod deploy;
mod dev;
mod dlq;
mod doctor;
mod file;
mod logging;
mod nodes;
mod plugin;
mod replay;
mod run;
mod savepoint;
mod signals;
mod state;
mod status;
mod table;
#[cfg(feature = "otlp")]
mod telemetry;
mod test;
mod version;
mod wait;
mod worker;

use std::sync::Arc;

use clap::error::Error as ClapError;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use self::logging::LogFormat;
use crate::config::{Cluster, ClusterArgs, Errors};
use crate::node::{self, NodeError};

/// Runs WebAssembly transforms between Kafka topics, with their state in ZooKeeper
#[derive(Debug, Parser)]
#[command(name = "sluicegate", version, propagate_version = true, max_term_width = 100)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// What is logged to standard error: a level, or filters such as `info,sluicegate::worker=debug`
    #[arg(long, global = true, value_name = "FILTER", env = "SLUICEGATE_LOG")]
    log: Option<String>,
    /// In which form it is logged
    #[arg(long, global = true, value_name = "FORMAT", env = "SLUICEGATE_LOG_FORMAT", value_enum, default_value_t)]
    log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a pipeline in this process until it is told to stop
    Run(run::RunArgs),
    /// Run what is deployed, as a node of a cluster
    Worker(worker::WorkerArgs),
    /// Let the cluster run a pipeline, or change one that it runs
    Deploy(deploy::DeployArgs),
    /// Take a pipeline off the cluster
    Undeploy(deploy::UndeployArgs),
    /// Let a deployed pipeline commit and stop
    Pause(deploy::NamedArgs),
    /// Let a paused pipeline go on, and one that has failed be tried again
    Resume(deploy::NamedArgs),
    /// List the revisions of a pipeline
    Revisions(deploy::RevisionsArgs),
    /// Show how pipelines are
    Status(status::StatusArgs),
    /// Show the nodes of the cluster
    Nodes(nodes::NodesArgs),
    /// Copies of state and offsets, from which a pipeline may go on
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Savepoint {
        #[command(subcommand)]
        command: savepoint::SavepointCommand,
    },
    /// Look into the state of a pipeline; decide where it goes on when it cannot know
    #[command(subcommand_required = true, arg_required_else_help = true)]
    State {
        #[command(subcommand)]
        command: state::StateCommand,
    },
    /// Run a version over recorded records, and compare with what was sent then
    Replay(replay::ReplayArgs),
    /// Dead letters: records that a pipeline could not process
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Dlq {
        #[command(subcommand)]
        command: dlq::DlqCommand,
    },
    /// Work on a pipeline: run it here, with records that are typed, and build its plugins anew when they change
    Dev(dev::DevArgs),
    /// Look whether everything is there that the cluster and a pipeline need
    Doctor(doctor::DoctorArgs),
    /// Show what the files, the environment and the flags come to
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Config {
        #[command(subcommand)]
        command: config::ConfigCommand,
    },
    /// See two pipelines at work on an embedded broker, with a restart in the middle
    Demo(crate::embedded::DemoArgs),
    /// Run a plugin on records from a file, in the sandbox, without Kafka
    Test(test::TestArgs),
    /// Make, build and check plugins, and keep them in the registry
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Plugin {
        #[command(subcommand)]
        command: plugin::PluginCommand,
    },
    /// Print a script that lets a shell complete commands and flags
    Completions(completions::CompletionsArgs),
    /// Show what this program is made of
    Version(version::VersionArgs),
}

/// How a command ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Exit {
    /// It did what it was asked to.
    Done,
    /// It failed; the same again may work.
    Failed,
    /// What was asked for is wrong.
    BadInput,
}

impl Exit {
    /// The exit code: 0, 1, 64 (`EX_USAGE`).
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::BadInput => 64,
        }
    }
}

/// An error of a command: how it ends, and what is shown.
pub(crate) enum CommandError {
    /// Of each file what is wrong with it.
    Config(Vec<Errors>),
    BadInput(String),
    Failed(String),
    /// Whoever was to read what is printed has gone: then nobody misses the rest.
    Unread,
}

impl From<Errors> for CommandError {
    fn from(errors: Errors) -> Self {
        Self::Config(vec![errors])
    }
}

impl From<NodeError> for CommandError {
    fn from(error: NodeError) -> Self {
        match error {
            NodeError::Config(errors) => errors.into(),
            error if error.is_bad_input() => Self::BadInput(error.to_string()),
            error => Self::Failed(error.to_string()),
        }
    }
}

impl CommandError {
    fn exit(&self) -> Exit {
        match self {
            Self::Config(_) | Self::BadInput(_) => Exit::BadInput,
            Self::Failed(_) => Exit::Failed,
            Self::Unread => Exit::Done,
        }
    }
}

/// Parses the arguments, runs the command and shows its error.
#[must_use]
pub fn main() -> Exit {
    let (arguments, matches) = match parse() {
        Ok(parsed) => parsed,
        Err(error) => {
            let exit = if error.use_stderr() { Exit::BadInput } else { Exit::Done };
            // Nobody reads it: then nobody misses it.
            let _ = error.print();
            return exit;
        }
    };
    let format = arguments.log_format;
    match start(arguments, &matches) {
        Ok(()) => Exit::Done,
        Err(error) => {
            logging::show(&error, format);
            error.exit()
        }
    }
}

/// The arguments, and what clap knows of where each comes from.
fn parse() -> Result<(Arguments, ArgMatches), ClapError> {
    let mut command = Arguments::command();
    let matches = command.try_get_matches_from_mut(std::env::args_os())?;
    let arguments = Arguments::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    Ok((arguments, matches))
}

fn start(arguments: Arguments, matches: &ArgMatches) -> Result<(), CommandError> {
    let default = match arguments.command {
        // They say themselves what is worth saying.
        Command::Demo(_) | Command::Doctor(_) => "error",
        Command::Dev(_) => logging::FILTER_DEV,
        _ => logging::FILTER_DEFAULT,
    };
    let filter = arguments.log.as_deref().unwrap_or(default);
    let endpoint = match &arguments.command {
        Command::Run(args) => args.telemetry.endpoint(),
        Command::Worker(args) => args.telemetry.endpoint(),
        _ => None,
    };
    let _logging = logging::start(filter, arguments.log_format, endpoint)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| CommandError::Failed(format!("cannot start the runtime: {error}")))?;
    let result = runtime.block_on(perform(arguments.command, innermost(matches)));
    // What still waits for something that is away must not hold up the end.
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    result
}

/// The matches of the command that was typed, behind those that it is part of.
fn innermost(matches: &ArgMatches) -> &ArgMatches {
    matches.subcommand().map_or(matches, |(_, inner)| innermost(inner))
}

async fn perform(command: Command, matches: &ArgMatches) -> Result<(), CommandError> {
    let out = &mut std::io::stdout();
    match command {
        Command::Run(args) => run::run(args).await,
        Command::Worker(args) => worker::run(args).await,
        Command::Deploy(args) => deploy::run(args, out).await,
        Command::Undeploy(args) => deploy::undeploy(args, out).await,
        Command::Pause(args) => deploy::pause(args, out).await,
        Command::Resume(args) => deploy::resume(args, out).await,
        Command::Revisions(args) => deploy::revisions(args, out).await,
        Command::Status(args) => status::run(args, out).await,
        Command::Nodes(args) => nodes::run(args, out).await,
        Command::Savepoint { command } => savepoint::run(command, out).await,
        Command::State { command } => state::run(command, out).await,
        Command::Doctor(args) => doctor::run(args, out).await,
        Command::Config { command } => config::run(command, matches, out),
        Command::Replay(args) => replay::run(args, out).await,
        Command::Dlq { command } => dlq::run(command, out).await,
        Command::Dev(args) => dev::run(args).await,
        Command::Demo(args) => demo::run(args).await,
        // A guest runs on a thread that may block, which the runtime's may not.
        Command::Test(args) => tokio::task::block_in_place(|| test::run(&args, out)),
        Command::Plugin { command } => plugins(command).await,
        Command::Completions(args) => completions::run(&args, Arguments::command(), out),
        Command::Version(args) => version::run(&args, out),
    }
}

async fn plugins(command: plugin::PluginCommand) -> Result<(), CommandError> {
    let Some(command) = plugin::run_beside_registry(command, &mut std::io::stdout()).await? else { return Ok(()) };
    let store =
        |cluster: ClusterArgs| -> futures::future::BoxFuture<'_, anyhow::Result<Arc<dyn crate::meta::MetaStore>>> {
            Box::pin(async move {
                let cluster = Cluster::load(&cluster)?;
                connection::say_where(&cluster);
                // Its text says why already: the causes would say it twice.
                node::open_for_commands(&cluster).await.map_err(|error| anyhow::Error::msg(error.to_string()))
            })
        };
    let trusted = |cluster: &ClusterArgs| Ok(Cluster::load(cluster)?.trusted_keys);
    let inspect = |bytes: &[u8]| Ok(crate::engine::inspect(bytes)?.into());
    let users = |store: Arc<dyn crate::meta::MetaStore>| -> futures::future::BoxFuture<'_, _> {
        Box::pin(async move { Ok(node::digests_in_use(&store).await?) })
    };
    let around = plugin::Surroundings { store: &store, trusted: &trusted, inspect: &inspect, users: &users };
    plugin::run(command, around, &mut std::io::stdout()).await.map_err(plugin::command_error)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_of_every_command_are_consistent() {
        Arguments::command().debug_assert();
    }
}
