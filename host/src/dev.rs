//! Development mode: a pipeline in this process, whose plugins are built anew when their sources change, and which goes on with the
//! new ones and the state it has. It is the node of production; by default over an embedded broker and a local store.
//!
//! Modules: [`project`] finds and builds the sources of plugins, `watch` sees changes, `input` takes records in, `output` shows what
//! comes out.

mod input;
mod output;
pub mod project;
mod watch;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::sync::mpsc;

pub use self::input::Feed;
use self::project::Projects;
use self::watch::Watch;
use crate::cluster::pipelines;
use crate::config::{Cluster, Pipeline};
use crate::kafka::embedded::EmbeddedBroker;
use crate::kafka::settings::KafkaSettings;
use crate::meta::layout::Segment;
use crate::meta::local::LocalStore;
use crate::meta::{Coordination, MetaStore};
use crate::node::{self, Parts};
use crate::worker::control::Control;

/// How long the end may take.
const DRAIN: Duration = Duration::from_secs(10);
/// How often is looked whether the input is through, with `once`.
const LOOK: Duration = Duration::from_millis(200);

/// What development mode is asked for.
pub struct Options {
    /// The pipeline file.
    pub pipeline: PathBuf,
    /// Where records come from.
    pub feed: Feed,
    /// Partitions of the topics of the embedded broker.
    pub partitions: u32,
    /// Ends when the input has ended and is through.
    pub once: bool,
    /// Builds plugins, at the start and when they change.
    pub build: bool,
    /// Shows records as JSON, one a line.
    pub json: bool,
    /// Keeps the state in this folder; otherwise it ends with the process.
    pub state: Option<PathBuf>,
    /// The Kafka to use instead of the embedded broker.
    pub kafka: Option<KafkaSettings>,
}

/// Builds a plugin's project: its folder; an error that has been shown already or says everything.
pub type Build = fn(&Path) -> Result<()>;

/// Runs until `control` drains, or the input is through.
///
/// # Errors
/// It does not start, in words for whoever typed the command.
pub async fn run(options: Options, cluster: Cluster, build: Build, control: Arc<Control>) -> Result<()> {
    let begin = Instant::now();
    let broker = if options.kafka.is_some() { None } else { Some(EmbeddedBroker::start()?) };
    let kafka = match (&options.kafka, &broker) {
        (Some(kafka), _) => kafka.clone(),
        (None, Some(broker)) => broker.settings(),
        (None, None) => bail!("there is no broker"),
    };
    let folder = tempfile::tempdir().context("make a folder for the state")?;
    let state = options.state.clone().unwrap_or_else(|| folder.path().join("state"));
    let store = Arc::new(LocalStore::open(&state).await.with_context(|| format!("open {}", state.display()))?);

    let mut session = Session { build: options.build.then_some(build), broker, options, topics: BTreeSet::new() };
    let Some((pipeline, mut watch)) = session.first(&control).await? else { return Ok(()) };
    let source = pipeline.sources[0].topic.clone();
    session.say_where(&pipeline);

    let (changed, changes) = mpsc::channel(1);
    let parts = Parts { kafka: kafka.clone(), store: Arc::clone(&store) as Arc<dyn Coordination>, local: None };
    let running = tokio::spawn(node::develop(cluster.clone(), pipeline.clone(), changes, parts, Arc::clone(&control)));
    let printing = output::show(&kafka, session.broker.is_some(), session.options.json, Arc::clone(&control))?;
    printing.follow(outputs(&pipeline));
    let feed = std::mem::replace(&mut session.options.feed, Feed::Nothing);
    let mut fed = tokio::task::spawn_blocking({
        let (kafka, control) = (kafka.clone(), Arc::clone(&control));
        move || input::run(&feed, &kafka, &source, &control)
    });
    eprintln!("running after {:.1} s; Ctrl-C ends it", begin.elapsed().as_secs_f64());
    let (mut is_fed, mut failure) = (false, None);
    while !control.is_draining() && !running.is_finished() {
        tokio::select! {
            changed_files = watch.changed() => {
                if let Some(pipeline) = session.change(&changed_files, &mut watch).await {
                    printing.follow(outputs(&pipeline));
                    // The node says when it runs, or why it cannot.
                    let _ = changed.send(pipeline).await;
                }
            }
            ended = &mut fed, if !is_fed => {
                is_fed = true;
                if let Err(error) = ended.context("the input ended by a defect")? {
                    failure = Some(error);
                    break;
                }
                if session.options.once {
                    let until_through = async {
                        while !running.is_finished() && !control.is_draining() && !is_through(&kafka, &cluster, &*store, &pipeline).await? {
                            tokio::time::sleep(LOOK).await;
                        }
                        anyhow::Ok(())
                    };
                    until_through.await?;
                    break;
                }
            }
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    control.drain(DRAIN);
    let result = running.await.context("the node ended by a defect")?;
    printing.end().await;
    store.close().await;
    match failure {
        Some(failure) => Err(failure),
        None => Ok(result?),
    }
}

/// What stays the same over changes.
struct Session {
    options: Options,
    build: Option<Build>,
    broker: Option<EmbeddedBroker>,
    /// Those that the embedded broker has.
    topics: BTreeSet<String>,
}

impl Session {
    /// The pipeline as it is run; waits until there is one that can be. `None` when it is not waited any longer.
    async fn first(&mut self, control: &Control) -> Result<Option<(Pipeline, Watch)>> {
        let file = self.options.pipeline.clone();
        let projects = Projects::of(&load(&file)?);
        let mut watch = Watch::new(&file, &projects)?;
        let mut built = self.build_all(projects.folders()).await;
        while !built {
            if self.options.once {
                bail!("there is no plugin to run");
            }
            eprintln!("waiting for a change");
            tokio::select! {
                files = watch.changed() => built = self.build_all(projects.touched_by(&files)).await,
                () = until_draining(control) => return Ok(None),
            }
        }
        let pipeline = self.adapted(load(&file)?)?;
        self.create_topics(&pipeline)?;
        Ok(Some((pipeline, watch)))
    }

    /// Builds the plugins of these folders. Whether all are there.
    async fn build_all(&self, folders: BTreeSet<PathBuf>) -> bool {
        let Some(build) = self.build else { return true };
        for folder in folders {
            let (begin, shown) = (Instant::now(), folder.display().to_string());
            eprintln!("building {shown}");
            match tokio::task::spawn_blocking(move || build(&folder)).await {
                Ok(Ok(())) => eprintln!("built {shown} in {:.1} s", begin.elapsed().as_secs_f64()),
                Ok(Err(error)) => {
                    eprintln!("error: {error:#}");
                    return false;
                }
                Err(error) => {
                    eprintln!("error: the build ended by a defect: {error}");
                    return false;
                }
            }
        }
        true
    }

    /// A pipeline as this broker can run it: the embedded one has no transactions, and shows what is rejected.
    fn adapted(&self, pipeline: Pipeline) -> Result<Pipeline> {
        if self.broker.is_none() {
            return Ok(pipeline);
        }
        let text = project::for_embedded_broker(&pipeline)?;
        Pipeline::parse(&self.options.pipeline, &text).map_err(|errors| anyhow::anyhow!("{errors}"))
    }

    fn create_topics(&mut self, pipeline: &Pipeline) -> Result<()> {
        let Some(broker) = &self.broker else { return Ok(()) };
        let read = pipeline.topics_read().into_iter().map(|(topic, _)| topic);
        for topic in read.chain(pipeline.sinks.iter().map(|sink| sink.topic.clone())) {
            if self.topics.insert(topic.clone()) {
                broker.create_topic(&topic, i32::try_from(self.options.partitions)?)?;
            }
        }
        Ok(())
    }

    fn say_where(&self, pipeline: &Pipeline) {
        let source = &pipeline.sources[0].topic;
        match &self.broker {
            Some(broker) => eprintln!(
                "pipeline `{}` on an embedded broker at {} (in memory, at-least-once; --kafka takes a real one); records go into topic {source}",
                pipeline.name,
                broker.bootstrap()
            ),
            None => eprintln!("pipeline `{}`; records go into topic {source}", pipeline.name),
        }
    }

    /// Files have changed: builds what they belong to. The pipeline to go on with, if there is a new one.
    async fn change(&mut self, files: &BTreeSet<PathBuf>, watch: &mut Watch) -> Option<Pipeline> {
        let pipeline = match Pipeline::load(&self.options.pipeline) {
            Ok(pipeline) => pipeline,
            Err(errors) => {
                eprintln!("{errors}\nwhat ran before goes on");
                return None;
            }
        };
        let projects = Projects::of(&pipeline);
        if let Err(error) = watch.follow(&projects) {
            eprintln!("error: {error:#}");
        }
        if !self.build_all(projects.touched_by(files)).await {
            eprintln!("what ran before goes on");
            return None;
        }
        let adapted = self.adapted(pipeline).and_then(|pipeline| {
            self.create_topics(&pipeline)?;
            Ok(pipeline)
        });
        adapted.inspect_err(|error| eprintln!("error: {error:#}\nwhat ran before goes on")).ok()
    }
}

fn load(file: &Path) -> Result<Pipeline> {
    Pipeline::load(file).map_err(|errors| anyhow::anyhow!("{errors}"))
}

/// Whether everything that is in the sources is committed.
async fn is_through(
    kafka: &KafkaSettings,
    cluster: &Cluster,
    store: &dyn MetaStore,
    pipeline: &Pipeline,
) -> Result<bool> {
    let name = Segment::new(pipeline.name.as_str())?;
    let Some(known) = pipelines::read(store, &name).await? else { return Ok(false) };
    let group = node::consumer_group(cluster, pipeline.name.as_str(), known.record.incarnation);
    let topics: Vec<String> = pipeline.sources.iter().map(|source| source.topic.clone()).collect();
    let kafka = kafka.clone();
    tokio::task::spawn_blocking(move || input::is_through(&kafka, &group, &topics)).await?
}

/// The topics to show.
fn outputs(pipeline: &Pipeline) -> Vec<String> {
    pipeline.sinks.iter().map(|sink| &sink.topic).chain(pipeline.dead_letter_topic()).cloned().collect()
}

async fn until_draining(control: &Control) {
    while !control.is_draining() {
        tokio::time::sleep(LOOK).await;
    }
}
