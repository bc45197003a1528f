//! From a pipeline's configuration to its plan: plugins fetched, compiled and opened once, topics found, revision recorded.

use std::collections::BTreeMap;
use std::sync::Arc;

use thiserror::Error;
use tracing::info;
use tracing::level_filters::LevelFilter;

use super::{NodeError, Parts};
use crate::checkpoint::head::TransformIdentity;
use crate::cluster::pipelines;
use crate::cluster::registry::{Registry, RegistryError, RegistryReference};
use crate::config::{Bound, Cluster, Grant, KafkaProperties, Pipeline, PluginReference, Transform};
use crate::digest::{self, Digest};
use crate::engine::{Engine, Grants, Limits, OpenError, Plugin};
use crate::kafka::settings::KafkaSettings;
use crate::kafka::topics::{TopicsError, wait_for_topics};
use crate::meta::layout::{self, Segment};
use crate::meta::{MetaError, MetaStore};
use crate::worker::control::Control;
use crate::worker::plan::{OutletPlan, Plan, SinkPlan, SourcePlan, TransformPlan};
use crate::worker::task;

/// Why a plugin is not to be had.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The registry.
    #[error("plugin `{reference}` of transform `{transform}`: {source}")]
    Registry {
        /// Which transform.
        transform: String,
        /// What the pipeline says.
        reference: String,
        /// What failed.
        source: RegistryError,
    },
    /// A plugin does not start.
    #[error("transform `{transform}` does not start: {error}")]
    Open {
        /// Which transform.
        transform: String,
        /// Why.
        error: OpenError,
    },
}

impl LoadError {
    /// Whether the same again cannot work.
    #[must_use]
    pub fn is_bad_input(&self) -> bool {
        match self {
            Self::Registry { source, .. } => matches!(source, RegistryError::Unknown { .. }),
            Self::Open { error, .. } => !error.is_transient(),
        }
    }
}

/// Makes the plan. `None` when `control` drains before everything is there.
///
/// # Errors
/// What is wrong, at the line of the pipeline file where that is known.
pub(super) async fn plan(
    cluster: &Cluster,
    pipeline: &Pipeline,
    parts: &Parts,
    engine: &Arc<Engine>,
    control: &Arc<Control>,
) -> Result<Option<Plan>, NodeError> {
    let mut plugins = Vec::with_capacity(pipeline.transforms.len());
    for at in 0..pipeline.transforms.len() {
        plugins.push(loop {
            match load(cluster, pipeline, at, parts, engine).await {
                Err(NodeError::Load(LoadError::Registry { source: RegistryError::Meta(error), .. }))
                    if error.is_outage() && !control.is_draining() =>
                {
                    waiting(&error).await;
                }
                loaded => break loaded?,
            }
        });
    }
    let manifests: Vec<_> = plugins.iter().map(|plugin| plugin.manifest().clone()).collect();
    let bound = pipeline.bind(&manifests).map_err(NodeError::Config)?;

    let Some(partitions) = topics(pipeline, parts, control).await? else { return Ok(None) };
    let digests: Vec<String> = plugins.iter().map(|plugin| plugin.digest().to_owned()).collect();
    let name = Segment::new(pipeline.name.as_str())?;
    let (spec, digest) = (pipeline.canonical_json(&digests), pipeline.digest(&digests));
    let record = loop {
        match pipelines::record(&*parts.store as &dyn MetaStore, &name, &spec, &digest, &digests).await {
            Err(error) if error.is_outage() && !control.is_draining() => waiting(&error).await,
            result => break result?,
        }
    };
    info!(pipeline = %pipeline.name, revision = record.revision, incarnation = record.incarnation, "recorded");

    let plan = assemble(cluster, pipeline, &bound, plugins, &partitions, record.incarnation);
    open_once(pipeline, plan).await.map(Some)
}

async fn waiting(error: &MetaError) {
    tracing::warn!("waiting: {error}");
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
}

async fn load(
    cluster: &Cluster,
    pipeline: &Pipeline,
    at: usize,
    parts: &Parts,
    engine: &Arc<Engine>,
) -> Result<Arc<Plugin>, NodeError> {
    let transform = &pipeline.transforms[at];
    let registry = Registry::new(Arc::clone(&parts.store) as Arc<dyn MetaStore>);
    let failed = |source| LoadError::Registry {
        transform: transform.name.clone(),
        reference: transform.plugin.to_string(),
        source,
    };
    let wrong = |message: &str, help: &str| NodeError::Config(pipeline.plugin_error(at, message, help));
    let bytes = match reference(&transform.plugin) {
        Err(path) => {
            let read = tokio::fs::read(path).await;
            read.map_err(|error| wrong(&format!("cannot read the plugin: {error}"), "build it, or correct the path"))?
        }
        Ok(reference) => {
            let resolved = match registry.resolve(&reference).await {
                Err(error @ RegistryError::Unknown { .. }) => {
                    return Err(wrong(
                        &error.to_string(),
                        "`sluicegate plugin list` shows what there is, `sluicegate plugin push FILE` adds one",
                    ));
                }
                resolved => resolved.map_err(failed)?,
            };
            registry.fetch(&resolved).await.map_err(failed)?
        }
    };
    let limit = cluster.limits.plugin_size;
    if bytes.len() as u64 > limit {
        let message = format!("the plugin has {} bytes, more than the {limit} that are allowed", bytes.len());
        return Err(wrong(&message, "make it smaller, or raise `plugin-size` under [limits] of the cluster file"));
    }
    let (engine, plugin) = (Arc::clone(engine), bytes.clone());
    let loaded = tokio::task::spawn_blocking(move || engine.load(&plugin)).await;
    let loaded = loaded.map_err(|error| wrong(&format!("the plugin could not be compiled: {error}"), ""))?;
    let plugin = loaded.map_err(|error| wrong(&error.to_string(), "build the plugin with the SDK of this version"))?;
    if matches!(transform.plugin, PluginReference::Path(_)) {
        let digest = registry.store_blob(&bytes).await.map_err(failed)?;
        info!(transform = transform.name, %digest, "stored the plugin in the registry");
    }
    Ok(plugin)
}

fn reference(plugin: &PluginReference) -> Result<RegistryReference, &std::path::Path> {
    let text = match plugin {
        PluginReference::Path(path) => return Err(path),
        other => other.to_string(),
    };
    Ok(text.parse().expect("the configuration checks references"))
}

/// The Kafka settings that a cluster's configuration gives.
#[must_use]
pub fn kafka_settings(cluster: &Cluster) -> KafkaSettings {
    let copy = |properties: &KafkaProperties| {
        properties.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    let kafka = &cluster.kafka;
    KafkaSettings { common: copy(&kafka.common), consumer: copy(&kafka.consumer), producer: copy(&kafka.producer) }
}

/// Waits for the topics and returns their partition counts.
async fn topics(
    pipeline: &Pipeline,
    parts: &Parts,
    control: &Arc<Control>,
) -> Result<Option<BTreeMap<String, u32>>, NodeError> {
    let sources = pipeline.sources.iter().map(|source| source.topic.clone());
    let names: Vec<String> = sources.chain(pipeline.sinks.iter().map(|sink| sink.topic.clone())).collect();
    let (kafka, stop) = (parts.kafka.clone(), Arc::clone(control));
    let wait = move || wait_for_topics(&kafka, &names, None, || stop.is_draining());
    let found = match tokio::task::spawn_blocking(wait).await {
        Ok(Ok(found)) => found,
        Ok(Err(TopicsError::Cancelled)) | Err(_) => return Ok(None),
        Ok(Err(error)) => return Err(error.into()),
    };
    let found: BTreeMap<String, u32> =
        found.into_iter().map(|(topic, count)| (topic, u32::try_from(count).unwrap_or(0))).collect();
    let counts: Vec<(&str, u32)> =
        pipeline.sources.iter().map(|source| (source.topic.as_str(), found[&source.topic])).collect();
    if counts.iter().any(|(_, count)| *count != counts[0].1) {
        let list = counts.iter().map(|(topic, count)| format!("{topic} has {count}"));
        return Err(NodeError::Copartitioned(list.collect::<Vec<_>>().join(", ")));
    }
    Ok(Some(found))
}

fn assemble(
    cluster: &Cluster,
    pipeline: &Pipeline,
    bound: &Bound,
    plugins: Vec<Arc<Plugin>>,
    partitions: &BTreeMap<String, u32>,
    incarnation: u64,
) -> Plan {
    // Sources in the order of the inputs that they feed: a topic's index is its input's.
    let mut sources: Vec<(usize, SourcePlan)> = pipeline
        .sources
        .iter()
        .zip(&bound.source_inputs)
        .map(|(source, &input)| (input, SourcePlan { topic: source.topic.clone(), start: source.start }))
        .collect();
    sources.sort_by_key(|(input, _)| *input);
    let namespace = cluster.zookeeper.as_ref().map_or("local", |zookeeper| zookeeper.namespace.trim_matches('/'));
    let transforms = plugins.into_iter().enumerate().map(|(at, plugin)| {
        let transform = &pipeline.transforms[at];
        let connections = &bound.transforms[at];
        let outlets = connections.outlets.iter().map(|outlet| OutletPlan {
            name: outlet.name.clone(),
            next: outlet.goes_on,
            sinks: outlet.sinks.clone(),
        });
        TransformPlan {
            name: transform.name.clone(),
            config: transform.config.to_string(),
            limits: limits(transform),
            grants: grants(transform),
            log_level: LevelFilter::current().into_level().unwrap_or(tracing::Level::ERROR),
            inputs: connections.inputs.clone(),
            outlets: outlets.collect(),
            identity: TransformIdentity {
                name: transform.name.clone(),
                plugin: plugin.digest().to_owned(),
                config: pipeline.config_hash(at).unwrap_or_default(),
                stores: plugin.manifest().stores.iter().map(|store| (store.name.clone(), store.schema)).collect(),
            },
            plugin,
        }
    });
    let sinks =
        pipeline.sinks.iter().map(|sink| SinkPlan { topic: sink.topic.clone(), partitions: partitions[&sink.topic] });
    Plan {
        group: format!("{namespace}/{}/{incarnation}", pipeline.name),
        pipeline: pipeline.name.as_str().to_owned(),
        incarnation,
        partitions: partitions[&sources[0].1.topic],
        transforms: transforms.collect(),
        sources: sources.into_iter().map(|(_, source)| source).collect(),
        sinks: sinks.collect(),
        guarantee: pipeline.delivery.guarantee,
        commit_interval: pipeline.delivery.commit_interval,
        on_error: pipeline.on_error,
        batch_records: pipeline.batches.records,
        batch_bytes: usize::try_from(pipeline.batches.bytes).unwrap_or(usize::MAX),
    }
}

fn limits(transform: &Transform) -> Limits {
    Limits {
        memory_bytes: transform.limits.memory,
        time_per_call: transform.limits.time_per_batch,
        output_bytes: transform.limits.output_bytes,
        state_bytes: transform.limits.state_bytes,
        ..Limits::default()
    }
}

fn grants(transform: &Transform) -> Grants {
    let mut grants = Grants::default();
    for grant in &transform.grants {
        match grant {
            Grant::Clocks => grants.clocks = true,
            Grant::Random => grants.random = true,
            Grant::Environment(name) => grants.env.push(name.clone()),
        }
    }
    grants
}

/// Opens every plugin once before anything runs, so that a wrong configuration is found here and shown at its line.
async fn open_once(pipeline: &Pipeline, plan: Plan) -> Result<Plan, NodeError> {
    let opened = tokio::task::spawn_blocking(move || {
        let opened = task::instantiate(&plan, 0).map(drop);
        (plan, opened)
    });
    let (plan, opened) = opened.await.expect("opening a plugin neither panics nor is cancelled");
    match opened {
        Ok(()) => Ok(plan),
        Err((at, OpenError::Config { field, message })) => {
            Err(NodeError::Config(pipeline.config_error(at, &field, &message)))
        }
        Err((at, error)) => Err(LoadError::Open { transform: pipeline.transforms[at].name.clone(), error }.into()),
    }
}

/// The digests that pipelines use, each with who uses it: their plugins may not be removed.
///
/// # Errors
/// Those of the store.
pub async fn digests_in_use(store: &dyn MetaStore) -> Result<BTreeMap<Digest, String>, MetaError> {
    let mut users = BTreeMap::new();
    for (name, record) in pipelines::list(store).await? {
        for hex in &record.plugins {
            let digest: Digest = format!("{}{hex}", digest::PREFIX).parse().map_err(|error| MetaError::Failed {
                path: format!("{}/{name}", layout::PIPELINES),
                reason: format!("the pipeline's record is damaged: {error}"),
            })?;
            users.insert(digest, format!("pipeline `{name}`, revision {}", record.revision));
        }
    }
    Ok(users)
}
