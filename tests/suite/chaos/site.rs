//! Where it happens: a Kafka, an ensemble of ZooKeepers, workers, and what is done to them.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;
use serde_json::Value;
use sluicegate_harness::ensemble::Ensemble;
use sluicegate_harness::kafka::Kafka;

use super::fault::{Events, Fault};
use super::link::Link;
use crate::deployment::Deployment;
use crate::node::Node;
use crate::restarts::COUNT;
use crate::shared::wait_for;

const NAMES: [&str; 3] = ["a", "b", "c"];
const NEWCOMER: &str = "d";
/// Longer than the sessions in Kafka and ZooKeeper, which are at most 4 s in these tests.
const FREEZE: Duration = Duration::from_secs(6);
/// How long after the last fault everything runs and is done. Longer than all pauses of a pipeline that fails and is tried again.
const SETTLED_BY: Duration = Duration::from_secs(120);

/// The pipeline as it is after so many changes.
pub(super) fn pipeline(changes: u32) -> String {
    let (interval, batch) = [("100ms", 1000), ("300ms", 1000), ("100ms", 50), ("50ms", 300)][changes as usize % 4];
    format!("{}\n[limits]\nbatch-records = {batch}\n", COUNT.replace("50ms", interval))
}

pub(super) struct Site<'a> {
    kafka: &'a mut Kafka,
    ensemble: &'a mut Ensemble,
    deployment: &'a Deployment,
    events: &'a Events,
    links: Vec<Link>,
    nodes: Vec<Node>,
    changes: u32,
}

fn pause(random: &mut StdRng, up_to_ms: u64) {
    std::thread::sleep(Duration::from_millis(random.random_range(0..up_to_ms)));
}

impl<'a> Site<'a> {
    /// Starts the workers and deploys the pipeline.
    pub(super) fn start(
        kafka: &'a mut Kafka,
        ensemble: &'a mut Ensemble,
        deployment: &'a Deployment,
        events: &'a Events,
    ) -> Self {
        let links = NAMES.iter().map(|_| Link::to(ensemble)).collect();
        let mut site = Self { kafka, ensemble, deployment, events, links, nodes: Vec::new(), changes: 0 };
        site.nodes = (0..NAMES.len()).map(|at| site.node(at)).collect();
        site.nodes.iter_mut().for_each(|node| node.wait_for_log(WORKING));
        site.command(&["deploy", "pipeline.toml", "--wait", "60s"]);
        site
    }

    fn node(&self, at: usize) -> Node {
        self.worker(NAMES[at], &self.links[at].connect())
    }

    fn worker(&self, name: &str, zookeeper: &str) -> Node {
        let arguments = ["worker", "--node-name", name, "--zookeeper-connect", zookeeper];
        self.deployment.spawn(self.deployment.command(&arguments))
    }

    /// A node, and where it logs.
    fn place(&self, at: usize) -> String {
        format!("{} ({})", NAMES[at], self.nodes[at].log_name())
    }

    /// What a command prints. It is given again while it cannot reach the servers, as a person would.
    fn command(&self, arguments: &[&str]) -> String {
        wait_for(&format!("{arguments:?}"), || {
            let output = self.deployment.command(arguments).output().unwrap();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            match output.status.code() {
                Some(0) => return Some(text(&output.stdout)),
                Some(1) => println!("    {arguments:?}: {}", text(&output.stderr).lines().last().unwrap_or_default()),
                code => panic!("{arguments:?} ended with {code:?}:\n{}", text(&output.stderr)),
            }
            None
        })
    }

    fn status(&self) -> Value {
        let said: Value = serde_json::from_str(&self.command(&["status", "count", "--json"])).unwrap();
        said[0].clone()
    }

    /// Injects a fault and undoes it, except that the system then has to recover by itself.
    pub(super) fn inject(&mut self, fault: Fault, random: &mut StdRng) {
        let at = random.random_range(0..self.nodes.len());
        let place = match fault {
            Fault::RestartKafka | Fault::KillLeader | Fault::RestartZooKeeper | Fault::Pause => "for all".to_owned(),
            Fault::Deploy => format!("change {}", self.changes + 1),
            Fault::Join => NEWCOMER.to_owned(),
            _ => self.place(at),
        };
        let number = self.events.begin(fault, &place);
        match fault {
            Fault::Kill => {
                self.nodes.remove(at).kill();
                pause(random, 3_000);
                self.nodes.insert(at, self.node(at));
            }
            Fault::Drain => {
                drain(self.nodes.remove(at));
                pause(random, 1_000);
                self.nodes.insert(at, self.node(at));
            }
            Fault::Join => {
                let joined = self.worker(NEWCOMER, &self.ensemble.connect());
                pause(random, 6_000);
                drain(joined);
            }
            Fault::Freeze => {
                self.nodes[at].signal(libc::SIGSTOP);
                self.meanwhile(at, random, 2_000);
                std::thread::sleep(FREEZE);
                self.nodes[at].signal(libc::SIGCONT);
            }
            Fault::CutOff => {
                self.links[at].hold();
                self.meanwhile(at, random, 6_000);
                self.links[at].cut();
            }
            Fault::Delay => {
                self.links[at].hold();
                self.meanwhile(at, random, 6_000);
                self.links[at].forward();
            }
            Fault::SwallowAnswers => {
                self.links[at].swallow_answers();
                pause(random, 1_000);
                self.links[at].cut();
            }
            Fault::RestartKafka => {
                self.kafka.kill().unwrap();
                self.meanwhile(at, random, 2_000);
                self.kafka.restart().unwrap();
            }
            Fault::KillLeader => {
                let leader = wait_for("a leader of the zookeepers", || self.ensemble.leader());
                self.ensemble.member(leader).kill().unwrap();
                self.meanwhile(at, random, 5_000);
                self.ensemble.member(leader).restart().unwrap();
            }
            Fault::RestartZooKeeper => {
                self.ensemble.kill().unwrap();
                self.meanwhile(at, random, 5_000);
                self.ensemble.restart().unwrap();
            }
            Fault::Deploy => {
                self.changes += 1;
                self.deployment.change(&pipeline(self.changes));
                self.command(&["deploy", "pipeline.toml"]);
            }
            Fault::Pause => {
                self.command(&["pause", "count"]);
                pause(random, 3_000);
                self.command(&["resume", "count"]);
            }
        }
        self.events.end(number);
        self.look();
    }

    /// How long a fault lasts. Now and then a node other than `at` is killed in the middle of it.
    fn meanwhile(&mut self, at: usize, random: &mut StdRng, up_to_ms: u64) {
        pause(random, up_to_ms / 2);
        if random.random_ratio(1, 3) {
            let other = (at + 1) % self.nodes.len();
            let number = self.events.begin(Fault::Kill, &format!("{}, too", self.place(other)));
            self.nodes.remove(other).kill();
            self.nodes.insert(other, self.node(other));
            self.events.end(number);
        }
        pause(random, up_to_ms / 2);
    }

    /// Workers never end by themselves, and none of these faults is a reason to give the pipeline up.
    fn look(&mut self) {
        for (name, node) in NAMES.iter().zip(&mut self.nodes) {
            assert!(!node.has_ended(), "node {name} ended by itself:\n{}", node.log());
        }
        let status = self.status();
        assert_ne!(status["state"], "failed", "{status}");
        if status["problems"].as_object().is_some_and(|problems| !problems.is_empty()) {
            println!("    {}: {}", status["state"], status["problems"]);
        }
    }

    /// Nothing fails any more: waits until the newest revision runs and everything that was sent is committed, and stops all.
    pub(super) fn settle(mut self) {
        let until = Instant::now() + SETTLED_BY;
        loop {
            let status = self.status();
            if status["state"] == "running" && status["lag"] == 0 {
                break;
            }
            assert!(Instant::now() < until, "not settled after {SETTLED_BY:?}: {status}");
        }
        self.deployment.wait_until_done(&mut self.nodes[0]);
        self.look();
        self.nodes.drain(..).for_each(Node::stop);
    }
}

/// What a worker logs when it has signed on; from then on it knows what to do at SIGTERM.
const WORKING: &str = "working: ";

/// SIGTERM, and sees it end as it should if it has signed on.
fn drain(node: Node) {
    let ended = node.terminate();
    if ended.log.contains(WORKING) {
        ended.expect(0, &["everything is committed"]);
    }
}
