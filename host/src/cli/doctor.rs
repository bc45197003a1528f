//! `sluicegate doctor`: one line for each thing that has to be there.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::{CommandError, connection, table};
use crate::config::{Cluster, ClusterArgs, Pipeline};

use crate::node::doctor::{self, Finding, Level};

/// Arguments of `doctor`.
#[derive(Args, Debug)]
#[command(after_help = "\
Each line is `ok`, a `warning` or a `problem`; the exit code is 1 if there is a problem. Nothing is changed: what is
written to try it is deleted again, and only Kafka remembers, for a week unless it is told otherwise, that somebody has
asked for transactions.

Examples:
  sluicegate doctor
  sluicegate doctor orders.toml
  sluicegate doctor orders.toml --json")]
pub(super) struct DoctorArgs {
    /// Pipeline file: looks at its topics and its group too
    #[arg(value_name = "PIPELINE.toml")]
    pipeline: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

pub(super) async fn run(args: DoctorArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let pipeline = args.pipeline.as_deref().map(Pipeline::load).transpose();
    let (cluster, pipeline) = connection::both(Cluster::load(&args.cluster), pipeline)?;
    connection::kafka(&cluster)?;
    let findings = doctor::examine(&cluster, pipeline.as_ref()).await;
    if args.json {
        table::json(out, &findings)?;
    } else {
        show(out, &findings)?;
    }
    match findings.iter().filter(|finding| finding.level == Level::Problem).count() {
        0 => Ok(()),
        1 => Err(CommandError::Failed("there is a problem".to_owned())),
        problems => Err(CommandError::Failed(format!("there are {problems} problems"))),
    }
}

fn show(out: &mut impl Write, findings: &[Finding]) -> Result<(), CommandError> {
    let row = |finding: &Finding| {
        let text = match &finding.help {
            Some(help) => format!("{}; {help}", finding.finding),
            None => finding.finding.clone(),
        };
        [finding.level.word().to_owned(), finding.subject.clone(), text]
    };
    Ok(table::print(out, ["", "WHAT", "FOUND"], &findings.iter().map(row).collect::<Vec<_>>())?)
}
