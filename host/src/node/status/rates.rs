//! Records a second, from what nodes count: they are asked over HTTP twice, and nothing is written anywhere for it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use serde::Serialize;
use utoipa::ToSchema;

use crate::cluster::membership::NodeRecord;

/// Longer than this a node is not waited for.
const ASK_WAIT: Duration = Duration::from_secs(1);
const IN: &str = "sluicegate_records_in_total";
const OUT: &str = "sluicegate_records_out_total";

/// What each node has counted of each pipeline since it was started.
pub struct Sample {
    at: Instant,
    /// By the node's instance and pipeline.
    counts: BTreeMap<(String, String), Counts>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counts {
    taken: f64,
    sent: f64,
}

/// Records a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Rates {
    /// Taken from source topics.
    #[serde(rename = "in")]
    pub taken: f64,
    /// Sent to sink topics.
    #[serde(rename = "out")]
    pub sent: f64,
}

impl Sample {
    /// Asks all nodes at once; those that cannot be asked are not in it.
    pub async fn take(nodes: &[(String, NodeRecord)]) -> Self {
        let asked = nodes.iter().filter_map(|(_, node)| {
            let address = address(node.http.as_deref()?, node.is_here())?;
            let instance = node.instance.clone();
            Some(tokio::task::spawn_blocking(move || Some((instance, ask(address)?))))
        });
        let mut counts = BTreeMap::new();
        for answer in futures::future::join_all(asked).await.into_iter().flatten().flatten() {
            let (instance, text) = answer;
            counts.extend(read(&text).into_iter().map(|(pipeline, counts)| ((instance.clone(), pipeline), counts)));
        }
        Self { at: Instant::now(), counts }
    }

    /// What has been done since `before`, by pipeline. Nodes that are in one of the two only are left out.
    #[must_use]
    pub fn since(&self, before: &Self) -> BTreeMap<String, Rates> {
        rates(&before.counts, &self.counts, self.at.duration_since(before.at))
    }
}

fn rates(
    before: &BTreeMap<(String, String), Counts>,
    now: &BTreeMap<(String, String), Counts>,
    over: Duration,
) -> BTreeMap<String, Rates> {
    let mut rates: BTreeMap<String, Rates> = BTreeMap::new();
    for (of, now) in now {
        let Some(before) = before.get(of) else { continue };
        let rate = rates.entry(of.1.clone()).or_default();
        rate.taken += (now.taken - before.taken).max(0.0) / over.as_secs_f64().max(f64::EPSILON);
        rate.sent += (now.sent - before.sent).max(0.0) / over.as_secs_f64().max(f64::EPSILON);
    }
    rates
}

/// Where a node can be asked from here. One that listens on its own machine alone can be asked only there: the same address
/// is another node's elsewhere.
fn address(listens_at: &str, is_here: bool) -> Option<SocketAddr> {
    let address: SocketAddr = listens_at.parse().ok()?;
    match (address.ip(), is_here) {
        (ip, false) if ip.is_loopback() || ip.is_unspecified() => None,
        (ip, true) if ip.is_unspecified() => Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port())),
        _ => Some(address),
    }
}

fn ask(address: SocketAddr) -> Option<String> {
    let agent = ureq::Agent::new_with_config(ureq::Agent::config_builder().timeout_global(Some(ASK_WAIT)).build());
    agent.get(format!("http://{address}/metrics")).call().ok()?.body_mut().read_to_string().ok()
}

/// The two counters of every pipeline, over all topics.
fn read(text: &str) -> BTreeMap<String, Counts> {
    let mut counts: BTreeMap<String, Counts> = BTreeMap::new();
    for line in text.lines() {
        let Some((name, rest)) = line.split_once('{') else { continue };
        let Some((labels, value)) = rest.rsplit_once("} ") else { continue };
        let pipeline = labels.split("pipeline=\"").nth(1).and_then(|rest| rest.split('"').next());
        let (Some(pipeline), Ok(value)) = (pipeline, value.trim().parse::<f64>()) else { continue };
        match name {
            IN => counts.entry(pipeline.to_owned()).or_default().taken += value,
            OUT => counts.entry(pipeline.to_owned()).or_default().sent += value,
            _ => {}
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Metrics, TopicLabels};

    #[test]
    fn what_a_node_counts_is_summed_over_topics() {
        let metrics = Metrics::default();
        let labels = |pipeline: &str, topic: &str| TopicLabels { pipeline: pipeline.into(), topic: topic.into() };
        metrics.records_in.get_or_create(&labels("orders", "a")).inc_by(3);
        metrics.records_in.get_or_create(&labels("orders", "b")).inc_by(4);
        metrics.records_out.get_or_create(&labels("orders", "c")).inc_by(5);
        metrics.records_out.get_or_create(&labels("other", "c")).inc_by(1);
        let counts = read(&metrics.render());
        assert_eq!(counts["orders"], Counts { taken: 7.0, sent: 5.0 });
        assert_eq!(counts["other"], Counts { taken: 0.0, sent: 1.0 });
    }

    #[test]
    fn nodes_that_come_or_begin_anew_between_two_samples_are_left_out() {
        let of = |instance: &str, taken| ((instance.to_owned(), "orders".to_owned()), Counts { taken, sent: 0.0 });
        let before = BTreeMap::from([of("1", 100.0), of("2", 50.0), of("gone", 9.0)]);
        let now = BTreeMap::from([of("1", 300.0), of("2", 150.0), of("new", 1000.0)]);
        let rates = rates(&before, &now, Duration::from_secs(2));
        assert_eq!(rates["orders"].taken, 150.0);
    }

    #[test]
    fn a_node_that_listens_on_its_own_machine_alone_is_not_mistaken_for_another() {
        assert_eq!(address("127.0.0.1:8080", false), None);
        assert_eq!(address("0.0.0.0:8080", false), None);
        assert_eq!(address("0.0.0.0:8080", true), "127.0.0.1:8080".parse().ok());
        assert_eq!(address("10.0.0.5:8080", false), "10.0.0.5:8080".parse().ok());
    }
}
