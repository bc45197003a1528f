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
    /// Behind it a transform that goes wrong; what it fails on becomes a dead letter.
    pub(crate) second: Option<Second>,
    /// Source topics, the second one mostly idle.
    pub(crate) inputs: u32,
    pub(crate) partitions: u32,
    pub(crate) nodes: usize,
    pub(crate) records: u32,
}

/// How the second transform goes wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Second {
    /// It asks for patience now and then.
    Moody,
    /// It traps on some records.
    Traps,
}

/// All of them; seeds take turns.
pub(crate) const SCENARIOS: [Scenario; 8] = [
    Scenario {
        name: "exactly-once",
        guarantee: Guarantee::ExactlyOnce,
        stateful: true,
        second: None,
        inputs: 1,
        partitions: 3,
        nodes: 2,
        records: 150,
    },
    Scenario {
        name: "two-inputs",
        guarantee: Guarantee::ExactlyOnce,
        stateful: true,
        second: None,
        inputs: 2,
        partitions: 2,
        nodes: 3,
        records: 120,
    },
    Scenario {
        name: "patience",
        guarantee: Guarantee::ExactlyOnce,
        stateful: true,
        second: Some(Second::Moody),
        inputs: 1,
        partitions: 3,
        nodes: 2,
        records: 100,
    },
    Scenario {
        name: "failing",
        guarantee: Guarantee::ExactlyOnce,
        stateful: true,
        second: Some(Second::Traps),
        inputs: 1,
        partitions: 3,
        nodes: 2,
        records: 100,
    },
    Scenario {
        name: "failing-at-least-once",
        guarantee: Guarantee::AtLeastOnce,
        stateful: true,
        second: Some(Second::Traps),
        inputs: 1,
        partitions: 3,
        nodes: 2,
        records: 100,
    },
    Scenario {
        name: "exactly-once-stateless",
        guarantee: Guarantee::ExactlyOnce,
        stateful: false,
        second: None,
        inputs: 1,
        partitions: 3,
        nodes: 2,
        records: 150,
    },
    Scenario {
        name: "at-least-once",
        guarantee: Guarantee::AtLeastOnce,
        stateful: true,
        second: None,
        inputs: 1,
        partitions: 3,
        nodes: 2,
        records: 150,
    },
    Scenario {
        name: "at-least-once-stateless",
        guarantee: Guarantee::AtLeastOnce,
        stateful: false,
        second: None,
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
