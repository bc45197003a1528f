//! What the nodes of a cluster share through the metadata store.

pub mod registry;
