//! Development mode: a pipeline on a cluster of one node in this process, whose plugins are built anew when their
//! sources change.
//!
//! Nothing in it stands in for something else of the host's: the node is a worker that leads, the pipeline is deployed,
//! and what changes is deployed or rolled out as on any cluster. By default that is over an embedded broker and a local
//! store.
//!
//! Modules: `place` is the broker and the cluster, [`project`] finds and adapts what is developed, `sources` builds it,
//! `watch` sees changes, `change` says what they mean, `deployed` brings that about, `health` is how it is, `told` what
//! is said of it; `input` takes records in, `output` shows what comes out.

mod change;
mod deployed;
mod health;
mod input;
mod output;
mod place;
pub mod project;
mod sources;
mod told;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::task::JoinHandle;

use self::deployed::{Deployed, Manner};
use self::health::Health;
pub use self::input::Feed;
use self::output::Printing;
pub use self::place::Place;
pub use self::sources::Build;
use self::sources::Sources;
use crate::cluster::pipelines;
use crate::config::Pipeline;
use crate::kafka::settings::KafkaSettings;
use crate::meta::local::LocalStore;
use crate::meta::{Coordination, MetaStore};
use crate::node::{self, NodeError, Parts};
use crate::worker::control::Control;

/// How long the end may take.
const DRAIN: Duration = Duration::from_secs(10);
/// How often is looked how it is.
const LOOK: Duration = Duration::from_millis(200);

/// What development mode is asked for.
pub struct Options {
    /// The pipeline file.
    pub pipeline: PathBuf,
    /// Where records come from.
    pub feed: Feed,
    /// Ends when the input has ended and is through.
    pub once: bool,
    /// Builds plugins, at the start and when they change; without it they are taken as they are.
    pub build: Option<Build>,
    /// Shows records as JSON, one a line.
    pub json: bool,
    /// Keeps the state in this folder; otherwise it ends with the process.
    pub state: Option<PathBuf>,
    /// How long a changed plugin is watched before it is final.
    pub probation: Duration,
}

/// Runs until `control` drains, or the input is through.
///
/// # Errors
/// It does not start, or has failed for good before the input was through, in words for whoever typed the command.
pub async fn run(options: Options, place: Place, control: Arc<Control>) -> Result<()> {
    let folder = tempfile::tempdir().context("make a folder for the state")?;
    let state = options.state.clone().unwrap_or_else(|| folder.path().join("state"));
    let store = Arc::new(LocalStore::open(&state).await.with_context(|| format!("open {}", state.display()))?);

    let Options { pipeline, build, once, .. } = options;
    let Some((sources, pipeline)) = Sources::first(pipeline, build, place, once, &control).await? else {
        return Ok(());
    };
    let begin = Instant::now();
    let (kafka, cluster) = (sources.place().kafka(), sources.place().cluster.clone());
    sources.place().say(&pipeline);
    let (source, shown) = (pipeline.sources[0].topic.clone(), outputs(&pipeline));
    let around = (Arc::new(cluster.clone()), Arc::clone(&store) as Arc<dyn MetaStore>);
    let manner = Manner { probation: options.probation, kept: options.state, once, begin };
    let deployed = Deployed::new(around, pipeline, manner).await?;

    let printing = output::show(&kafka, sources.place().is_embedded(), options.json, Arc::clone(&control))?;
    printing.follow(shown);
    let parts = Parts { kafka: kafka.clone(), store: Arc::clone(&store) as Arc<dyn Coordination>, local: None };
    let node = tokio::spawn(node::work(cluster, parts, Arc::clone(&control)));
    let feed = options.feed;
    let fed = tokio::task::spawn_blocking({
        let (kafka, control) = (kafka.clone(), Arc::clone(&control));
        move || input::run(&feed, &kafka, &source, &control)
    });
    let mut session = Session { sources, deployed, printing, kafka, node, control };
    let outcome = session.go_on(fed, once).await;
    let Session { deployed, printing, node, control, .. } = session;
    control.drain(DRAIN);
    let ended = node.await.context("the node ended by a defect")?;
    printing.end().await;
    deployed.end().await;
    store.close().await;
    outcome?;
    Ok(ended?)
}

/// All that runs.
struct Session {
    sources: Sources,
    deployed: Deployed,
    printing: Printing,
    kafka: KafkaSettings,
    node: JoinHandle<Result<(), NodeError>>,
    control: Arc<Control>,
}

impl Session {
    /// Brings changes about until the node ends or is told to, or with `once` until the input is through.
    async fn go_on(&mut self, mut fed: JoinHandle<Result<()>>, once: bool) -> Result<()> {
        let mut is_fed = false;
        while !self.control.is_draining() && !self.node.is_finished() {
            tokio::select! {
                files = self.sources.changed() => if let Some(pipeline) = self.sources.after(&files).await {
                    self.printing.follow(outputs(&pipeline));
                    self.deployed.change(pipeline);
                },
                ended = &mut fed, if !is_fed => {
                    ended.context("the input ended by a defect")??;
                    is_fed = true;
                }
                () = tokio::time::sleep(LOOK) => {}
            }
            let health = tokio::select! {
                health = self.deployed.look() => health?,
                () = until_draining(&self.control) => return Ok(()),
            };
            match health {
                Health::Failed(problem) if once => bail!(told::here(&problem, self.deployed.kept())),
                _ if once && is_fed && self.is_through().await? => return Ok(()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether everything that is in the sources is committed.
    async fn is_through(&self) -> Result<bool> {
        let Deployed { cluster, store, name, .. } = &self.deployed;
        let Some(known) = pipelines::read(&**store, name).await? else { return Ok(false) };
        let group = node::consumer_group(cluster, name.as_str(), known.record.incarnation);
        let file = Pipeline::parse(std::path::Path::new("recorded"), &known.record.specification.file)?;
        let topics: Vec<String> = file.sources.iter().map(|source| source.topic.clone()).collect();
        let kafka = self.kafka.clone();
        tokio::task::spawn_blocking(move || input::is_through(&kafka, &group, &topics)).await?
    }
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
