//! `sluicegate nodes`: which nodes there are, and what they run.

use std::collections::BTreeMap;
use std::io::Write;

use clap::Args;
use serde::Serialize;

use super::connection::Connection;
use super::{CommandError, table};
use crate::cluster::{election, membership, pipelines, presence};
use crate::config::ClusterArgs;

/// Arguments of `nodes`.
#[derive(Args, Debug)]
pub(super) struct NodesArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// A node of the cluster.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct NodeStatus {
    node: String,
    leads: bool,
    /// Of which pipelines it runs threads.
    pipelines: BTreeMap<String, usize>,
    #[serde(flatten)]
    record: membership::NodeRecord,
}

pub(super) async fn run(args: NodesArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let Connection { store, .. } = Connection::open(&args.cluster).await?;
    let leader = election::leader(&*store).await?;
    let mut running: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    for (name, _) in pipelines::list(&*store).await? {
        for (node, presence) in presence::list(&*store, &name).await? {
            running.entry(node).or_default().insert(name.to_string(), presence.threads);
        }
    }
    let status = |(node, record): (String, membership::NodeRecord)| NodeStatus {
        leads: leader.as_ref().is_some_and(|leader| leader.node == node && leader.instance == record.instance),
        pipelines: running.remove(&node).unwrap_or_default(),
        node,
        record,
    };
    let nodes: Vec<NodeStatus> = membership::list(&*store).await?.into_iter().map(status).collect();
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
