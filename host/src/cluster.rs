//! What the nodes of a cluster share through the metadata store.
//!
//! - [`membership`]: which nodes there are. [`election`]: which of them leads.
//! - [`pipelines`]: what is to run. [`presence`]: how it is on each node.
//! - [`placement`]: how many threads of each pipeline each node runs (pure). [`leader`]: decides that, and deletes what is left.
//! - [`registry`]: plugins. [`savepoints`]: copies of state and offsets. [`inspection`]: a look at state. [`imports`]: entries put into it,
//!   or taken out.
//! - [`contents`]: what stands in nodes.
//! - [`watching`]: reads several nodes and waits until one changes.

pub mod contents;
pub mod election;
pub mod imports;
pub mod inspection;
pub mod leader;
pub mod membership;
pub mod pipelines;
pub mod placement;
pub mod presence;
pub mod registry;
pub mod rollout;
pub mod savepoints;
pub mod watching;
