//! How pipelines are, as people read it. Pure, but for the printing.

use std::io::Write;

use crate::candidate::Shadowed;
use crate::cli::{CommandError, table};
use crate::cluster::presence::Incident;
use crate::cluster::rollout::{Phase, Version, waiting};
use crate::digest;
use crate::node::status::{PipelineStatus, PluginStatus, RolloutStatus, SourceStatus, TaskStatus};

/// An error that is over is shown for so long.
const LAST_ERROR_SHOWN: jiff::SignedDuration = jiff::SignedDuration::from_hours(1);
const PIPELINES: [&str; 10] =
    ["PIPELINE", "STATE", "REVISION", "TASKS", "THREADS", "LAG", "IN/S", "OUT/S", "STORED", "NODES"];
const PLUGINS: [&str; 3] = ["TRANSFORM", "PLUGIN", "DIGEST"];
const TASKS: [&str; 7] = ["TASK", "NODE", "THREAD", "EPOCH", "STATE", "OFFSET", "LAG"];

pub(super) fn print(out: &mut impl Write, statuses: &[PipelineStatus]) -> Result<(), CommandError> {
    if statuses.is_empty() {
        return Ok(writeln!(out, "no pipelines: `sluicegate deploy FILE` deploys one")?);
    }
    let row = |status: &PipelineStatus| {
        let nodes: Vec<String> =
            status.nodes.iter().map(|(node, presence)| format!("{node}:{}", presence.threads)).collect();
        [
            status.pipeline.clone(),
            status.state.to_owned(),
            status.revision.to_string(),
            format!("{}/{}", status.running, status.tasks),
            status.threads.to_string(),
            status.lag.map_or_else(|| "?".to_owned(), |lag| lag.to_string()),
            status.rates.map_or_else(|| "-".to_owned(), |rates| format!("{:.0}", rates.taken)),
            status.rates.map_or_else(|| "-".to_owned(), |rates| format!("{:.0}", rates.sent)),
            status.state_bytes.map_or_else(|| "?".to_owned(), |bytes| bytesize::ByteSize(bytes).to_string()),
            if nodes.is_empty() { "-".to_owned() } else { nodes.join(" ") },
        ]
    };
    table::print(out, PIPELINES, &statuses.iter().map(row).collect::<Vec<_>>())?;
    for status in statuses {
        if let Some(rollout) = &status.rollout {
            writeln!(out, "{}", rollout_line(&status.pipeline, rollout))?;
        }
    }
    for status in statuses {
        if let Some(tasks) = &status.task_status {
            let plugin = |it: &PluginStatus| {
                let digest = digest::short(&it.digest).to_owned();
                [it.transform.clone(), it.plugin.clone(), digest]
            };
            writeln!(out)?;
            table::print(out, PLUGINS, &status.plugins.iter().map(plugin).collect::<Vec<_>>())?;
            writeln!(out)?;
            let rows: Vec<_> = tasks.iter().flat_map(task_rows).collect();
            table::print(out, TASKS, &rows)?;
        }
    }
    for (status, (node, problem)) in statuses.iter().flat_map(|it| it.problems.iter().map(move |problem| (it, problem)))
    {
        writeln!(out, "\n{} on {node}: {problem}", status.pipeline)?;
    }
    for status in statuses {
        // What stands above is not said twice, and what is long over not at all; `--json` has it.
        let is_news = |incident: &Incident| jiff::Timestamp::now().duration_since(incident.at) < LAST_ERROR_SHOWN;
        let over = status
            .last_errors
            .iter()
            .filter(|(node, incident)| !status.problems.contains_key(*node) && is_news(incident));
        for (node, Incident { at, error }) in over {
            writeln!(out, "\n{} on {node}, until it was tried again, {}: {error}", status.pipeline, table::time(*at))?;
        }
    }
    Ok(())
}

/// How far a rollout is, below the pipelines.
fn rollout_line(pipeline: &str, rollout: &RolloutStatus) -> String {
    let RolloutStatus { number, transform, gone_over, tasks, .. } = rollout;
    let [from, to] = Version::both(&rollout.from, &rollout.to);
    // As `plugin swap --wait` calls it.
    let phase = match (rollout.phase, rollout.watched_since) {
        _ if rollout.held.is_some() => "held",
        (Phase::Prepare, _) => "prepare",
        (Phase::Shadow, _) => "shadow",
        (Phase::Canary, _) => "canary",
        (Phase::Everywhere, None) => "switch",
        (Phase::Everywhere, Some(_)) => "probation",
        (Phase::Return, _) => "return",
    };
    let seen = rollout.shadowed.as_ref().filter(|_| rollout.phase == Phase::Shadow);
    let seen = seen.map_or_else(String::new, |Shadowed { counts, .. }| {
        format!(", {} records seen, {}", counts.records, counts.in_words("the present version", "the new one"))
    });
    let reason = match (&rollout.held, &rollout.reason) {
        (Some(held), _) => format!("; {}: {held}", super::super::plugin::DECISION),
        (None, Some(reason)) => format!("; called off: {reason}"),
        (None, None) => String::new(),
    };
    let waits = waiting::in_words(&rollout.waits_for).map_or_else(String::new, |waits| format!("; {waits}"));
    format!(
        "{pipeline}: rollout {number} of transform `{transform}`, {from} -> {to}: {phase}{seen}, {gone_over} of {tasks} tasks have gone over{reason}{waits}"
    )
}

/// One for each source topic.
fn task_rows(task: &TaskStatus) -> Vec<[String; 7]> {
    let dash = || "-".to_owned();
    let row = |offset: String, lag: String| {
        [
            task.task.to_string(),
            task.node.clone().unwrap_or_else(dash),
            task.thread.clone().unwrap_or_else(dash),
            task.epoch.map_or_else(dash, |epoch| epoch.to_string()),
            task.state_bytes.map_or_else(dash, |bytes| bytesize::ByteSize(bytes).to_string()),
            offset,
            lag,
        ]
    };
    let of = |source: &SourceStatus| {
        let several = task.sources.len() > 1;
        let offset = source.committed.map_or_else(dash, |offset| offset.to_string());
        row(if several { format!("{} {offset}", source.topic) } else { offset }, source.lag.to_string())
    };
    match task.sources.is_empty() {
        true => vec![row("?".to_owned(), "?".to_owned())],
        false => task.sources.iter().map(of).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::rollout::Awaited;

    #[test]
    fn a_rollout_is_a_line_with_both_versions_and_how_far_it_is() {
        let version = |reference: &str| Version {
            reference: reference.to_owned(),
            plugin: reference.to_owned(),
            config: "f89c88c4b8ca0011".to_owned(),
        };
        let rollout = RolloutStatus {
            number: 3,
            transform: "mask".to_owned(),
            from: version("mask-json@1.2.0"),
            to: version("mask-json@1.3.0"),
            shadowed: None,
            phase: Phase::Everywhere,
            watched_since: None,
            gone_over: 1,
            tasks: 4,
            reason: None,
            held: None,
            waits_for: Vec::new(),
        };
        assert_eq!(
            rollout_line("orders", &rollout),
            "orders: rollout 3 of transform `mask`, mask-json@1.2.0 -> mask-json@1.3.0: switch, 1 of 4 tasks have gone over"
        );
        let nowhere = Awaited { task: Some(2), node: None, lacks: waiting::Lack::Node };
        let waits = RolloutStatus { waits_for: vec![nowhere], ..rollout.clone() };
        let said = rollout_line("orders", &waits);
        assert!(said.ends_with("1 of 4 tasks have gone over; waits for task 2: no node has it"), "{said}");
        let held = RolloutStatus { held: Some("it traps".to_owned()), ..rollout.clone() };
        let said = rollout_line("orders", &held);
        assert!(said.ends_with(": held, 1 of 4 tasks have gone over; a person has to decide: it traps"), "{said}");
        let off = RolloutStatus { phase: Phase::Return, reason: Some("it traps".to_owned()), ..rollout };
        assert!(rollout_line("orders", &off).ends_with(": return, 1 of 4 tasks have gone over; called off: it traps"));
    }
}
