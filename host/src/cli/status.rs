//! `sluicegate status`: how pipelines are.

mod shown;

use std::io::{IsTerminal, Write};

use clap::Args;

use super::connection::{self, Connection};
use super::{CommandError, table};
use crate::config::ClusterArgs;
use crate::node::status::{self, RATES_OVER};

/// Clears the screen and goes to its top.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Arguments of `status`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sluicegate status
  sluicegate status orders
  sluicegate status orders --watch
  sluicegate status --rates --json")]
pub(super) struct StatusArgs {
    /// Show the tasks of this pipeline
    pipeline: Option<String>,
    /// Show it again every second, with records a second
    #[arg(long, conflicts_with = "json")]
    watch: bool,
    /// Ask the nodes for records a second, which takes a second
    #[arg(long)]
    rates: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

pub(super) async fn run(args: StatusArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let only = args.pipeline.as_deref().map(connection::name).transpose()?;
    let Connection { cluster, store } = Connection::open(&args.cluster).await?;
    let mut before = None;
    if args.rates && !args.watch {
        before = Some(status::rate(&*store, &mut [], None).await?);
        tokio::time::sleep(RATES_OVER).await;
    }
    loop {
        let mut statuses = status::pipelines(&cluster, &store, only.as_ref()).await?;
        if args.rates || args.watch {
            before = Some(status::rate(&*store, &mut statuses, before.as_ref()).await?);
        }
        for warning in statuses.iter().flat_map(|status| &status.warnings) {
            eprintln!("warning: {warning}");
        }
        if args.json {
            return Ok(table::json(out, &statuses)?);
        }
        if args.watch && std::io::stdout().is_terminal() {
            write!(out, "{CLEAR}")?;
        }
        shown::print(out, &statuses)?;
        if !args.watch {
            return Ok(());
        }
        out.flush()?;
        tokio::time::sleep(RATES_OVER).await;
        if !std::io::stdout().is_terminal() {
            writeln!(out)?;
        }
    }
}
