//! What is run: a pipeline, over how many nodes and partitions.

use std::fmt;

use sluicegate::config::Guarantee;

use crate::faults::Fault;

/// A pipeline and its surroundings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) guarantee: Guarantee,
    /// Counts by key; else a transform without state.
    pub(crate) stateful: bool,
    /// Behind it a transform that asks for patience now and then.
    pub(crate) moody: bool,
    /// Source topics, the second one mostly idle.
    pub(crate) inputs: u32,
    pub(crate) partitions: u32,
    pub(crate) nodes: usize,
    pub(crate) records: u32,
}

/// All of them; seeds take turns.
pub(crate) const SCENARIOS: [Scenario; 6] = [
    Scenario {
        name: "exactly-once",
        guarantee: Guarantee::ExactlyOnce,
        stateful: true,
        moody: false,
        inputs: 1,
        partitions: 3,
        nodes: 2,
        records: 150,
    },
    Scenario {
        name: "two-inputs",
        guarantee: Guarantee::ExactlyOnce,
        stateful: true,
        moody: false,
        inputs: 2,
        partitions: 2,
        nodes: 3,
        records: 120,
    },
    Scenario {
        name: "patience",
        guarantee: Guarantee::ExactlyOnce,
        stateful: true,
        moody: true,
        inputs: 1,
        partitions: 3,
        nodes: 2,
        records: 100,
    },
    Scenario {
        name: "exactly-once-stateless",
        guarantee: Guarantee::ExactlyOnce,
        stateful: false,
        moody: false,
        inputs: 1,
        partitions: 3,
        nodes: 2,
        records: 150,
    },
    Scenario {
        name: "at-least-once",
        guarantee: Guarantee::AtLeastOnce,
        stateful: true,
        moody: false,
        inputs: 1,
        partitions: 3,
        nodes: 2,
        records: 150,
    },
    Scenario {
        name: "at-least-once-stateless",
        guarantee: Guarantee::AtLeastOnce,
        stateful: false,
        moody: false,
        inputs: 1,
        partitions: 3,
        nodes: 2,
        records: 150,
    },
];

impl Scenario {
    /// What can go wrong in it.
    pub(crate) fn faults(&self) -> impl Iterator<Item = Fault> {
        let transactions = self.guarantee == Guarantee::ExactlyOnce;
        let of_transactions = [Fault::CommitUnknown, Fault::NotDelivered, Fault::TransactionTimedOut];
        Fault::ALL.into_iter().filter(move |fault| transactions || !of_transactions.contains(fault))
    }

    /// By its name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        SCENARIOS.into_iter().find(|scenario| scenario.name == name)
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
