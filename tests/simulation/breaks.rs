//! The protocol, broken on purpose, each way once: what Kafka or the metadata store would see of code that does it wrong.
//!
//! The models stay as they are, and so does the code under test: what is wrong stands between them, in [`store`] and [`kafka`].

mod kafka;
mod store;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use sluicegate::kafka::TopicPartition;
use sluicegate::kafka::offsets::Committed;
use sluicegate::meta::MetaStore;
use sluicegate::worker::plan::Plan;

pub(crate) use self::kafka::BrokenKafka;
use self::store::BrokenStore;
use crate::kafka::Clients;
use crate::kafka::broker::Broker;
use crate::kernel::{Kernel, Pid};
use crate::zookeeper::Client;

/// A way to break the protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Break {
    /// A prepare is taken for durable when it was sent.
    CommitsBeforePrepared,
    /// What Kafka has committed is read first, and the head claimed then.
    ReadsBeforeClaim,
    /// A claim begins with a clean slate: what others have prepared goes.
    ClaimDropsPrepared,
    /// Manifests are told apart by their epoch alone.
    BareEpochs,
    /// Only inputs that had records have their offsets committed.
    ForgetsIdleInputs,
    /// A commit of which nobody knows the end is taken for one that did not happen.
    UndoesUnknownCommits,
    /// What the list of chunks shows and the head does not name is deleted, whoever owns the task by then.
    SweepsUnchecked,
    /// Outputs are taken for written when they were sent.
    CommitsBeforeOutputs,
}

/// Whose edges are made.
#[derive(Clone)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    pub(crate) kernel: Kernel,
    pub(crate) broker: Broker,
    /// Without it, everything is as it should be.
    pub(crate) how: Option<Break>,
}

/// What Kafka had committed before a head was claimed.
type ReadBefore = Arc<Mutex<BTreeMap<TopicPartition, Committed>>>;

/// Kafka and the metadata store as a process sees them.
pub(crate) fn edges(process: Process, store: Client, plan: Arc<Plan>) -> (BrokenKafka, Arc<dyn MetaStore>) {
    let read = ReadBefore::default();
    let inner = Clients { broker: process.broker.clone(), pid: process.pid };
    let kafka = BrokenKafka::new(inner, process.how, Arc::clone(&read));
    (kafka, Arc::new(BrokenStore::new(store, process, plan, read)))
}
