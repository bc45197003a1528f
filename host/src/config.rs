//! What people write in TOML, from text to validated types: `sluicegate.toml` for the cluster, a pipeline's file, and a
//! plugin's manifest.
//!
//! Reading finds everything that is wrong, not the first thing, and shows it as compilers do. Nothing here connects to
//! anything; beside the files only the environment and files with secrets are read. Invariant: who holds a `Pipeline`
//! or a `Cluster` need not check it again.

mod cluster;
mod diagnostic;
mod field;
mod manifest;
mod pipeline;
mod secret;
mod section;
mod setting;
mod text;
mod value;

#[cfg(test)]
mod tests;

pub use cluster::{
    Authentication, Cluster, ClusterArgs, ClusterLimits, Http, Identity, Kafka, KafkaProperties, KafkaProperty,
    NodeName, Tls, ZooKeeper,
};
pub use diagnostic::{Diagnostic, Errors};
pub use manifest::{load_manifest, parse_manifest};
pub use pipeline::{
    BatchLimits, Bound, BoundTransform, Delivery, Difference, Discard, Grant, Guarantee, OnError, Outlet, Pipeline,
    PipelineName, PluginReference, Sink, Source, Start, Transform, TransformLimits, differences, with_transform,
};
pub use secret::Secret;
pub use setting::{Overrides, Setting, Source as SettingSource};
