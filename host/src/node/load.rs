//! From a pipeline's configuration to its plan: plugins fetched, compiled and opened once, topics found, revision recorded.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::runtime::Handle;
use tracing::level_filters::LevelFilter;
use tracing::{Instrument, info, info_span};

use super::{NodeError, sandbox};
use crate::checkpoint::head::TransformIdentity;
use crate::cluster::pipelines::{PipelineRecord, Specification};
use crate::cluster::registry::{Registry, RegistryError, RegistryReference};
use crate::config::{Bound, Cluster, KafkaProperties, OnError, Pipeline, PluginReference, Start};
use crate::digest::{self, Digest};
use crate::engine::{self, Engine, EngineError, EngineOptions, OpenError, Plugin};
use crate::kafka::settings::KafkaSettings;
use crate::kafka::topics::{TopicsError, wait_for_topics};
use crate::lineage;
use crate::meta::layout;
use crate::meta::{MetaError, MetaStore};
use crate::signing::{BesideError, NotTrusted, Signatures, read_beside};
use crate::worker::control::Control;
use crate::worker::plan::{FailingRecords, OutletPlan, Plan, SinkPlan, SourcePlan, TransformPlan};
use crate::worker::runtime::Runtime;
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
    /// A plugin needs a signature by a key that this node trusts.
    #[error("transform `{transform}`: {error}")]
    NotTrusted {
        /// Which transform.
        transform: String,
        /// What is missing.
        error: Box<NotTrusted>,
    },
    /// Signatures in a file are none.
    #[error("transform `{transform}`: {error}")]
    Signatures {
        /// Which transform.
        transform: String,
        /// What is wrong.
        error: BesideError,
    },
}

/// Pause while the store is away.
const AGAIN: Duration = Duration::from_millis(500);

impl LoadError {
    /// Whether it fails only because the store is away.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Registry { source: RegistryError::Meta(error), .. } if error.is_outage())
    }

    /// Whether the same again cannot work.
    #[must_use]
    pub fn is_bad_input(&self) -> bool {
        match self {
            Self::Registry { source, .. } => source.is_bad_input(),
            Self::Open { error, .. } => !error.is_transient(),
            Self::NotTrusted { .. } | Self::Signatures { .. } => true,
        }
    }

    /// Whether somebody who signs the plugin cures it, here and now.
    #[must_use]
    pub fn awaits_signature(&self) -> bool {
        match self {
            Self::Registry { source, .. } => matches!(source, RegistryError::Signatures { .. }),
            Self::NotTrusted { .. } => true,
            Self::Open { .. } | Self::Signatures { .. } => false,
        }
    }
}

/// What loading works with.
#[derive(Clone)]
pub(super) struct Loader {
    pub(super) cluster: Arc<Cluster>,
    pub(super) kafka: KafkaSettings,
    pub(super) store: Arc<dyn MetaStore>,
    pub(super) engine: Arc<Engine>,
    /// A plugin that the registry need not have: what is only looked at is not stored.
    pub(super) given: Option<Given>,
}

/// A plugin as it came from a file, with signatures that were checked.
#[derive(Clone)]
pub(super) struct Given {
    pub(super) digest: Digest,
    pub(super) bytes: Vec<u8>,
    pub(super) signatures: Signatures,
}

/// A pipeline with its plugins, and with topics that exist.
pub(super) struct Loaded {
    pipeline: Pipeline,
    bound: Bound,
    plugins: Vec<Arc<Plugin>>,
    topics: BTreeMap<String, u32>,
}

impl Loader {
    /// For a command: with an engine of its own.
    ///
    /// # Errors
    /// WebAssembly does not work here.
    pub(super) fn of_command(cluster: &Arc<Cluster>, store: &Arc<dyn MetaStore>) -> Result<Self, EngineError> {
        let engine = Arc::new(Engine::new(EngineOptions { cache_dir: Some(cluster.cache_path.clone()) })?);
        Ok(Self::new(cluster, store, engine))
    }

    pub(super) fn new(cluster: &Arc<Cluster>, store: &Arc<dyn MetaStore>, engine: Arc<Engine>) -> Self {
        let kafka = kafka_settings(cluster);
        Self { cluster: Arc::clone(cluster), kafka, store: Arc::clone(store), engine, given: None }
    }

    /// Whether a plugin is small enough.
    ///
    /// # Errors
    /// That it is not, in words.
    pub(super) fn has_room_for(&self, bytes: &[u8]) -> Result<(), String> {
        let limit = self.cluster.limits.plugin_size;
        match bytes.len() as u64 > limit {
            true => Err(format!("the plugin has {} bytes, more than the {limit} that are allowed", bytes.len())),
            false => Ok(()),
        }
    }

    /// Fetches and compiles the plugins, checks that everything fits, and waits for the topics, for `patience` at most, if that is
    /// given. `None` when `control` drains before everything is there.
    ///
    /// # Errors
    /// What is wrong, at the line of the pipeline file where that is known.
    pub(super) async fn load(
        &self,
        pipeline: Pipeline,
        patience: Option<Duration>,
        control: &Arc<Control>,
    ) -> Result<Option<Loaded>, NodeError> {
        let span = info_span!(target: "sluicegate", parent: None, "load", pipeline = pipeline.name.as_str());
        self.load_traced(pipeline, patience, control).instrument(span).await
    }

    async fn load_traced(
        &self,
        pipeline: Pipeline,
        patience: Option<Duration>,
        control: &Arc<Control>,
    ) -> Result<Option<Loaded>, NodeError> {
        let mut plugins = Vec::with_capacity(pipeline.transforms.len());
        for at in 0..pipeline.transforms.len() {
            plugins.push(loop {
                let transform = &pipeline.transforms[at].name;
                let span = info_span!(target: "sluicegate", "fetch and compile", transform);
                match self.plugin(&pipeline, at).instrument(span).await {
                    Err(NodeError::Load(failed))
                        if failed.is_outage() && patience.is_none() && !control.is_draining() =>
                    {
                        tracing::warn!("waiting: {failed}");
                        tokio::time::sleep(AGAIN).await;
                    }
                    loaded => break loaded?,
                }
            });
        }
        let manifests: Vec<_> = plugins.iter().map(|plugin| plugin.manifest().clone()).collect();
        let bound = pipeline.bind(&manifests).map_err(NodeError::Config)?;
        let topics = topics(&pipeline, &self.kafka, patience, control);
        let topics = topics.instrument(info_span!(target: "sluicegate", "wait for topics")).await?;
        Ok(topics.map(|topics| Loaded { pipeline, bound, plugins, topics }))
    }

    /// Loads what is recorded.
    ///
    /// # Errors
    /// See [`Loader::load`].
    pub(super) async fn load_recorded(
        &self,
        record: &PipelineRecord,
        patience: Option<Duration>,
        control: &Arc<Control>,
    ) -> Result<Option<Loaded>, NodeError> {
        let origin = format!("revision {} of the pipeline", record.revision);
        let mut pipeline =
            Pipeline::parse(Path::new(&origin), &record.specification.file).map_err(NodeError::Config)?;
        for (transform, hex) in pipeline.transforms.iter_mut().zip(&record.specification.plugins) {
            transform.plugin = PluginReference::Digest(of_record(hex)?);
        }
        self.load(pipeline, patience, control).await
    }

    /// The signatures in the file beside a plugin, which has these bytes, if they are what this node asks for. Those of other
    /// contents count as none where no signature is needed.
    ///
    /// # Errors
    /// [`LoadError::NotTrusted`], [`LoadError::Signatures`].
    pub(super) fn signatures_beside(
        &self,
        transform: &str,
        path: &Path,
        bytes: &[u8],
    ) -> Result<Signatures, NodeError> {
        let found = read_beside(path);
        let found = found.map_err(|error| LoadError::Signatures { transform: transform.to_owned(), error })?;
        let digest = Digest::of(bytes);
        let signatures = found.unwrap_or_else(|| Signatures::none(digest));
        self.must_be_trusted(transform, bytes, &signatures, &path.display().to_string())?;
        Ok(if *signatures.digest() == digest { signatures } else { Signatures::none(digest) })
    }

    fn must_be_trusted(
        &self,
        transform: &str,
        bytes: &[u8],
        signatures: &Signatures,
        target: &str,
    ) -> Result<(), NodeError> {
        let name = || match engine::inspect(bytes) {
            Ok(found) => format!("{}@{}", found.manifest.name, found.manifest.version),
            // What it says of itself is not to be had: what it was called by is.
            Err(_) => target.to_owned(),
        };
        let trusted = self.cluster.trusted_keys.require(&Digest::of(bytes), signatures, name, target);
        Ok(trusted.map_err(|error| LoadError::NotTrusted { transform: transform.to_owned(), error })?)
    }

    fn given(&self, digest: &Digest) -> Option<&Given> {
        self.given.as_ref().filter(|given| given.digest == *digest)
    }

    async fn plugin(&self, pipeline: &Pipeline, at: usize) -> Result<Arc<Plugin>, NodeError> {
        let transform = &pipeline.transforms[at];
        let registry = Registry::new(Arc::clone(&self.store));
        let failed = |source| LoadError::Registry {
            transform: transform.name.clone(),
            reference: transform.plugin.to_string(),
            source,
        };
        let wrong = |message: &str, help: &str| NodeError::Config(pipeline.plugin_error(at, message, help));
        // A signature is looked for before anything is done with the bytes, each time: who deployed the pipeline, or can write
        // to the metadata store, does not decide what this node trusts.
        let (bytes, signatures) = match reference(&transform.plugin) {
            Err(path) => {
                let read = tokio::fs::read(path).await;
                let bytes = read.map_err(|error| {
                    wrong(&format!("cannot read the plugin: {error}"), "build it, or correct the path")
                })?;
                let signatures = self.signatures_beside(&transform.name, path, &bytes)?;
                (bytes, signatures)
            }
            Ok(RegistryReference::Digest(digest)) if self.given(&digest).is_some() => {
                let Given { bytes, signatures, .. } = self.given(&digest).cloned().expect("it was there");
                (bytes, signatures)
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
                let bytes = registry.fetch(&resolved).await.map_err(failed)?;
                let signatures = match self.cluster.trusted_keys.are_required() {
                    true => registry.signatures(&resolved).await.map_err(failed)?,
                    false => Signatures::none(resolved),
                };
                self.must_be_trusted(&transform.name, &bytes, &signatures, &resolved.to_string())?;
                (bytes, signatures)
            }
        };
        self.has_room_for(&bytes).map_err(|message| {
            wrong(&message, "make it smaller, or raise `plugin-size` under [limits] of the cluster file")
        })?;
        let (engine, plugin) = (Arc::clone(&self.engine), bytes.clone());
        let loaded = tokio::task::spawn_blocking(move || engine.load(&plugin)).await;
        let loaded = loaded.map_err(|error| wrong(&format!("the plugin could not be compiled: {error}"), ""))?;
        let plugin =
            loaded.map_err(|error| wrong(&error.to_string(), "build the plugin with the SDK of this version"))?;
        if matches!(transform.plugin, PluginReference::Path(_)) {
            let digest = registry.store_blob(&bytes, &signatures).await.map_err(failed)?;
            info!(transform = transform.name, %digest, "stored the plugin in the registry");
        }
        Ok(plugin)
    }

    /// The plan of a pipeline that is recorded. Every plugin is opened once before anything runs, so that a wrong configuration is
    /// found here and shown at its line.
    ///
    /// # Errors
    /// A plugin does not start.
    pub(super) async fn plan(&self, loaded: Loaded, revision: u64, incarnation: u64) -> Result<Plan, NodeError> {
        let Loaded { pipeline, bound, plugins, topics } = loaded;
        let plan = assemble(&self.cluster, &pipeline, &bound, plugins, &topics, (revision, incarnation));
        open_once(&pipeline, plan).await
    }
}

impl Loaded {
    /// As it is written down.
    pub(super) fn specification(&self) -> Specification {
        let plugins: Vec<String> = self.plugins.iter().map(|plugin| plugin.digest().to_owned()).collect();
        Specification {
            file: self.pipeline.text().to_owned(),
            canonical: self.pipeline.canonical_json(&plugins),
            digest: self.pipeline.digest(&plugins),
            plugins,
            partitions: self.pipeline.sources.first().map_or(0, |source| self.topics[&source.topic]),
        }
    }
}

pub(super) fn of_record(hex: &str) -> Result<Digest, MetaError> {
    format!("{}{hex}", digest::PREFIX).parse().map_err(|error| MetaError::Failed {
        path: layout::PIPELINES.to_owned(),
        reason: format!("the record of a pipeline is damaged: {error}"),
    })
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
    kafka: &KafkaSettings,
    patience: Option<Duration>,
    control: &Arc<Control>,
) -> Result<Option<BTreeMap<String, u32>>, NodeError> {
    let sources = pipeline.sources.iter().map(|source| source.topic.clone());
    let sinks = pipeline.sinks.iter().map(|sink| &sink.topic).chain(pipeline.dead_letter_topic());
    let names: Vec<String> = sources.chain(sinks.cloned()).collect();
    let (kafka, stop) = (kafka.clone(), Arc::clone(control));
    let wait = move || wait_for_topics(&kafka, &names, patience, || stop.is_draining());
    let found = match tokio::task::spawn_blocking(wait).await {
        Ok(Ok(found)) => found,
        Ok(Err(TopicsError::Cancelled)) | Err(_) => return Ok(None),
        Ok(Err(error)) => return Err(error.into()),
    };
    let found: BTreeMap<String, u32> =
        found.into_iter().map(|(topic, count)| (topic, u32::try_from(count).unwrap_or(0))).collect();
    let counts: Vec<(String, u32)> = pipeline
        .topics_read()
        .into_iter()
        .map(|(topic, _)| {
            let count = found[&topic];
            (topic, count)
        })
        .collect();
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
    (revision, incarnation): (u64, u64),
) -> Plan {
    // Sources in the order of the inputs that they feed: a topic's index is its input's.
    let mut sources: Vec<(usize, SourcePlan)> = pipeline
        .sources
        .iter()
        .zip(&bound.source_inputs)
        .map(|(source, &input)| (input, SourcePlan { topic: source.topic.clone(), start: source.start }))
        .collect();
    sources.sort_by_key(|(input, _)| *input);
    let mut sources: Vec<SourcePlan> = sources.into_iter().map(|(_, source)| source).collect();
    let inputs = sources.len();
    sources.extend(pipeline.dead_letter_topic().map(|topic| SourcePlan { topic: topic.clone(), start: Start::Latest }));
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
            limits: sandbox::limits(&transform.limits),
            grants: sandbox::grants(&transform.grants),
            log_level: LevelFilter::current().into_level().unwrap_or(tracing::Level::ERROR),
            inputs: connections.inputs.clone(),
            outlets: outlets.collect(),
            identity: TransformIdentity {
                name: transform.name.clone(),
                plugin: plugin.digest().to_owned(),
                config: pipeline.config_hash(at).unwrap_or_default(),
                stores: plugin.manifest().stores.iter().map(|store| (store.name.clone(), store.schema)).collect(),
                copies: BTreeMap::new(),
                former: BTreeMap::new(),
                since: BTreeMap::new(),
            },
            plugin,
        }
    });
    let transforms: Vec<TransformPlan> = transforms.collect();
    let identities: Vec<TransformIdentity> = transforms.iter().map(|transform| transform.identity.clone()).collect();
    let made_by = |at: usize| lineage::made_by(pipeline.name.as_str(), &identities[..=at]);
    let sinks = pipeline
        .sinks
        .iter()
        .map(|sink| (&sink.topic, pipeline.delivery.provenance_headers.then(|| made_by(sink.transform))));
    // Dead letters say where they come from as it is.
    let sinks = sinks.chain(pipeline.dead_letter_topic().map(|topic| (topic, None)));
    let sinks =
        sinks.map(|(topic, provenance)| SinkPlan { topic: topic.clone(), partitions: partitions[topic], provenance });
    Plan {
        group: group(cluster, pipeline.name.as_str(), incarnation),
        revision,
        pipeline: pipeline.name.as_str().to_owned(),
        incarnation,
        partitions: partitions[&sources[0].topic],
        transforms,
        sources,
        inputs,
        sinks: sinks.collect(),
        guarantee: pipeline.delivery.guarantee,
        commit_interval: pipeline.delivery.commit_interval,
        commit_bytes: pipeline.delivery.commit_bytes,
        failing: match pipeline.on_error {
            OnError::Stop => FailingRecords::Stop,
            OnError::Skip => FailingRecords::Skip,
            OnError::DeadLetter(_) => FailingRecords::DeadLetter { sink: pipeline.sinks.len() },
        },
        give_up_after: pipeline.give_up_after,
        batch_records: pipeline.batches.records,
        batch_bytes: usize::try_from(pipeline.batches.bytes).unwrap_or(usize::MAX),
    }
}

/// The consumer group of an incarnation of a pipeline.
#[must_use]
pub fn group(cluster: &Cluster, pipeline: &str, incarnation: u64) -> String {
    let namespace = cluster.zookeeper.as_ref().map_or("local", |zookeeper| zookeeper.namespace.trim_matches('/'));
    format!("{namespace}/{pipeline}/{incarnation}")
}

async fn open_once(pipeline: &Pipeline, plan: Plan) -> Result<Plan, NodeError> {
    let now_ms = Handle::current().now_ms();
    let opened = tokio::task::spawn_blocking(move || {
        let opened = task::instantiate(&plan, 0, now_ms).map(drop);
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
