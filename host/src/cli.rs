//! The command line: one command, one file.

mod connection;
mod demo;
mod deploy;
mod dev;
mod dlq;
mod file;
mod payload;
mod plugin;
mod run;
mod savepoint;
mod signals;
mod state;
mod status;
mod table;
mod test;
mod worker;

use std::io::IsTerminal;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::config::{Cluster, ClusterArgs, Errors};
use crate::node::{self, NodeError};

/// The client of ZooKeeper tells of every connection, what matters of that is logged where it is handled.
const LOG_DEFAULT: &str = "info,zookeeper_client=error";

/// What plugins say, and what goes wrong; that a change was taken over.
const LOG_DEV: &str = concat!(
    "warn,zookeeper_client=error,sluicegate::engine=info,sluicegate::worker::thread=info,",
    // What fails is shown with what comes out.
    "sluicegate::worker::thread::rebalance=warn,sluicegate::worker::thread::failing=error,sluicegate::worker::thread::sending=off",
);

/// Runs WebAssembly transforms between Kafka topics, with their state in ZooKeeper
#[derive(Debug, Parser)]
#[command(name = "sluicegate", version, propagate_version = true, max_term_width = 100)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// What is logged to standard error: a level, or filters such as `info,sluicegate::worker=debug`
    #[arg(long, global = true, value_name = "FILTER", env = "SLUICEGATE_LOG")]
    log: Option<String>,
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
    Nodes(status::NodesArgs),
    /// Copies of state and offsets, from which a pipeline may go on
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Savepoint {
        #[command(subcommand)]
        command: savepoint::SavepointCommand,
    },
    /// Decide where a pipeline goes on when it cannot know
    #[command(subcommand_required = true, arg_required_else_help = true)]
    State {
        #[command(subcommand)]
        command: state::StateCommand,
    },
    /// Dead letters: records that a pipeline could not process
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Dlq {
        #[command(subcommand)]
        command: dlq::DlqCommand,
    },
    /// Work on a pipeline: run it here, with records that are typed, and build its plugins anew when they change
    Dev(dev::DevArgs),
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
    Config(Errors),
    BadInput(String),
    Failed(String),
    /// Nobody reads what is printed any more.
    Unread,
}

impl From<Errors> for CommandError {
    fn from(errors: Errors) -> Self {
        Self::Config(errors)
    }
}

impl From<NodeError> for CommandError {
    fn from(error: NodeError) -> Self {
        match error {
            NodeError::Config(errors) => Self::Config(errors),
            error if error.is_bad_input() => Self::BadInput(error.to_string()),
            error => Self::Failed(error.to_string()),
        }
    }
}

/// Parses the arguments, runs the command and shows its error.
#[must_use]
pub fn main() -> Exit {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let exit = if error.use_stderr() { Exit::BadInput } else { Exit::Done };
            // Nobody reads it: then nobody misses it.
            let _ = error.print();
            return exit;
        }
    };
    let default = match arguments.command {
        Command::Demo(_) => "error",
        Command::Dev(_) => LOG_DEV,
        _ => LOG_DEFAULT,
    };
    let filter = arguments.log.as_deref().unwrap_or(default);
    if let Err(error) = log_to_stderr(filter) {
        eprintln!(
            "error: `{filter}` is no log filter: {error}\n  write a level (error, warn, info, debug, trace) or `target=level`"
        );
        return Exit::BadInput;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the runtime: {error}");
            return Exit::Failed;
        }
    };
    let result = match arguments.command {
        Command::Run(args) => runtime.block_on(run::run(args)),
        Command::Worker(args) => runtime.block_on(worker::run(args)),
        Command::Deploy(args) => runtime.block_on(deploy::run(args, &mut std::io::stdout())),
        Command::Undeploy(args) => runtime.block_on(deploy::undeploy(args, &mut std::io::stdout())),
        Command::Pause(args) => runtime.block_on(deploy::pause(args, &mut std::io::stdout())),
        Command::Resume(args) => runtime.block_on(deploy::resume(args, &mut std::io::stdout())),
        Command::Revisions(args) => runtime.block_on(deploy::revisions(args, &mut std::io::stdout())),
        Command::Status(args) => runtime.block_on(status::run(args, &mut std::io::stdout())),
        Command::Nodes(args) => runtime.block_on(status::nodes(args, &mut std::io::stdout())),
        Command::Savepoint { command } => runtime.block_on(savepoint::run(command, &mut std::io::stdout())),
        Command::State { command } => runtime.block_on(state::run(command, &mut std::io::stdout())),
        Command::Dlq { command } => runtime.block_on(dlq::run(command, &mut std::io::stdout())),
        Command::Dev(args) => runtime.block_on(dev::run(args)),
        Command::Demo(args) => runtime.block_on(demo::run(args)),
        // A guest runs on a thread that may block, which the runtime's may not.
        Command::Test(args) => test::run(&args, &mut std::io::stdout()),
        Command::Plugin { command } => runtime.block_on(plugins(command)),
    };
    // What still waits for something that is away must not hold up the end.
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    match result {
        Ok(()) | Err(CommandError::Unread) => Exit::Done,
        Err(CommandError::Config(errors)) => {
            errors.report();
            Exit::BadInput
        }
        Err(CommandError::BadInput(message)) => {
            eprintln!("error: {message}");
            Exit::BadInput
        }
        Err(CommandError::Failed(message)) => {
            eprintln!("error: {message}");
            Exit::Failed
        }
    }
}

fn log_to_stderr(filter: &str) -> Result<(), tracing_subscriber::filter::ParseError> {
    let filter = EnvFilter::builder().parse(filter)?;
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .with_target(false)
        .init();
    Ok(())
}

async fn plugins(command: plugin::PluginCommand) -> Result<(), CommandError> {
    let Some(command) = plugin::run_on_files(command, &mut std::io::stdout()).await? else { return Ok(()) };
    let store =
        |cluster: ClusterArgs| -> futures::future::BoxFuture<'_, anyhow::Result<Arc<dyn crate::meta::MetaStore>>> {
            Box::pin(async move {
                let cluster = Cluster::load(&cluster)?;
                // Its text says why already: the causes would say it twice.
                node::open_for_commands(&cluster).await.map_err(|error| anyhow::Error::msg(error.to_string()))
            })
        };
    let inspect = |bytes: &[u8]| Ok(crate::engine::inspect(bytes)?.into());
    let users = |store: Arc<dyn crate::meta::MetaStore>| -> futures::future::BoxFuture<'_, _> {
        Box::pin(async move { Ok(node::digests_in_use(&*store).await?) })
    };
    let around = plugin::Surroundings { store: &store, inspect: &inspect, users: &users };
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
