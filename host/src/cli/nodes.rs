//! `sluicegate nodes`: which nodes there are, and what they run.

use std::io::Write;

use clap::Args;

use super::connection::Connection;
use super::{CommandError, table};
use crate::config::ClusterArgs;
use crate::node::status::{self, NodeStatus};

/// Arguments of `nodes`.
#[derive(Args, Debug)]
pub(super) struct NodesArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

pub(super) async fn run(args: NodesArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let Connection { store, .. } = Connection::open(&args.cluster).await?;
    let nodes = status::nodes(&*store).await?;
    if args.json {
        return Ok(table::json(out, &nodes)?);
    }
    if nodes.is_empty() {
        return Ok(writeln!(out, "no nodes: `sluicegate worker` starts one")?);
    }
    let row = |status: &NodeStatus| {
        let pipelines: Vec<String> =
            status.pipelines.iter().map(|(pipeline, threads)| format!("{pipeline}:{threads}")).collect();
        let role = match (status.record.threads, status.leads) {
            (None, _) => "by-itself",
            (Some(_), true) => "leader",
            (Some(_), false) => "worker",
        };
        [
            status.node.clone(),
            role.to_owned(),
            status.record.cores.to_string(),
            status.record.threads.map_or_else(|| "-".to_owned(), |threads| threads.to_string()),
            if pipelines.is_empty() { "-".to_owned() } else { pipelines.join(" ") },
            status.record.http.clone().unwrap_or_else(|| "-".to_owned()),
            status.record.version.clone(),
        ]
    };
    let headings = ["NODE", "ROLE", "CORES", "THREADS", "RUNS", "HTTP", "VERSION"];
    Ok(table::print(out, headings, &nodes.iter().map(row).collect::<Vec<_>>())?)
}
