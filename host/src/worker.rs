//! The worker: an OS thread with one consumer-group member, one producer and the tasks that Kafka assigned to it.
//!
//! - [`plan`]: what a pipeline comes down to once its plugins are loaded; shared by all threads.
//! - [`plans`]: the same while it changes.
//! - [`candidate`]: what tasks go over to in a rollout.
//! - [`migration`]: state of one schema version made from another (pure); [`former`] knows what is kept as it was.
//! - [`shadow`]: a candidate that sees the records of a task, and is compared.
//! - [`step`]: what a thread does next (pure).
//! - [`budget`]: how many bytes commits may write (pure).
//! - [`chain`]: the way of a batch through a task's transforms to the sinks.
//! - [`careful`]: the same, while the records are looked for on which a transform fails.
//! - [`dead_letter`]: what becomes of those (pure).
//! - [`task`]: one partition: state, instances, positions.
//! - [`compatible`]: whether a plan can go on from what a task has (pure).
//! - [`restore`]: from an assigned partition to a task that can go on, beside the thread.
//! - [`orphans`]: transactions whose thread has died.
//! - [`outbox`]: the sinks.
//! - [`commit`]: making what was done durable.
//! - [`transaction`]: the same under exactly-once, with [`permit`] as what it needs to have.
//! - [`settling`]: heads and chunks on their way, beside the thread.
//! - [`runtime`]: time, chance, and what runs beside the thread.
//! - [`gathering`]: where the threads of a node meet before they join their group.
//! - [`control`]: how a node stops its threads.
//! - [`failure`]: why a pipeline stops.
//! - [`thread`]: the loop that puts these together.

pub mod budget;
pub mod candidate;
pub mod careful;
pub mod chain;
pub mod commit;
pub mod compatible;
pub mod control;
mod counters;
pub mod dead_letter;
pub mod failure;
pub mod former;
pub mod gathering;
pub mod migration;
pub mod orphans;
pub mod outbox;
pub mod permit;
pub mod plan;
pub mod plans;
pub mod restore;
pub mod runtime;
pub mod settling;
pub mod shadow;
pub mod step;
pub mod task;
pub mod thread;
mod throttle;
pub mod trace;
pub mod transaction;
