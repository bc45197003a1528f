//! The demo: the node of production over an embedded broker and a local store, in one process.
//!
//! Two pipelines run on generated orders: `value-length` without state and `keyed-count` with it. In the middle both are
//! stopped and started again, and the counts go on. Everything that is shown was read back from the sinks, and the summary
//! checks it. Nothing here is another implementation of anything: it hands [`crate::node`] other parts, generates and reads.

mod orders;
mod reader;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use tokio::task::JoinHandle;

use self::orders::Orders;
pub(crate) use self::orders::order;
use self::reader::{Counts, Reader};
use crate::config::{Cluster, ClusterArgs, Http, Pipeline};
use crate::kafka::embedded::EmbeddedBroker;
use crate::meta::Coordination;
use crate::meta::local::LocalStore;
use crate::node::{self, NodeError, Parts};
use crate::worker::control::Control;

const PARTITIONS: i32 = 4;
const SOURCE: &str = "orders";
const LENGTHS: &str = "order-lengths";
const COUNTS: &str = "orders-per-customer";
/// Orders of each half.
const ORDERS: u64 = 150_000;
/// Orders that may be on their way: the embedded broker keeps 5 MiB a partition and then drops the oldest.
const AHEAD_MAX: u64 = 20_000;
/// How long anything may take that should take moments.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the demo with the plugins of a folder; `keep` lets it run on until `stop`.
///
/// # Errors
/// Something does not work, or the counts are not right.
pub async fn run(plugins: &Path, keep: bool, stop: Arc<Control>, out: &mut impl Write) -> Result<()> {
    let folder = tempfile::tempdir().context("make a folder for the local store")?;
    let broker = EmbeddedBroker::start()?;
    for topic in [SOURCE, LENGTHS, COUNTS] {
        broker.create_topic(topic, PARTITIONS)?;
    }
    writeln!(out, "An embedded broker is at {}, the local store in {}.", broker.bootstrap(), folder.path().display())?;
    writeln!(
        out,
        "The broker is librdkafka's mock: in memory, a few MiB a partition, no transactions. It is for looking"
    )?;
    writeln!(out, "around and promises nothing after this process ends; nor is its throughput that of a Kafka.\n")?;

    let mut orders = Orders::new(&broker.settings(), SOURCE, PARTITIONS)?;
    let mut lengths = Reader::new(&broker.settings(), LENGTHS)?;
    let mut counts = Reader::new(&broker.settings(), COUNTS)?;

    writeln!(out, "Two pipelines start: value-length (order -> order,length) and keyed-count (orders per customer).")?;
    let nodes = Nodes::start(&broker, folder.path(), plugins).await?;
    let begin = Instant::now();
    flow(&mut orders, &mut lengths, &mut counts, ORDERS, &nodes).await?;
    let took = begin.elapsed();
    for (key, value) in lengths.samples() {
        writeln!(out, "  {LENGTHS}: {key} -> {value}")?;
    }
    for (key, value) in counts.samples() {
        writeln!(out, "  {COUNTS}: {key} -> {value}")?;
    }
    writeln!(
        out,
        "{ORDERS} orders through both in {:.1} s: {:.0} records/s.\n",
        took.as_secs_f64(),
        2.0 * ORDERS as f64 / took.as_secs_f64()
    )?;

    writeln!(out, "Both pipelines are stopped and started again; the state comes from the local store.")?;
    let customer = "customer-7";
    let before = counts.counts().of(customer);
    nodes.stop().await?;
    let restart = Instant::now();
    let nodes = Nodes::start(&broker, folder.path(), plugins).await?;
    flow(&mut orders, &mut lengths, &mut counts, 1, &nodes).await?;
    let restarted = restart.elapsed();
    flow(&mut orders, &mut lengths, &mut counts, ORDERS - 1, &nodes).await?;
    let after = counts.counts().of(customer);
    writeln!(
        out,
        "  {customer}: {before} orders before the restart, {after} now; first record {:.1} s after the start.\n",
        restarted.as_secs_f64()
    )?;

    if keep {
        writeln!(out, "Running on until Ctrl-C.")?;
        while !stop.is_draining() {
            flow(&mut orders, &mut lengths, &mut counts, 5_000, &nodes).await?;
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }
    nodes.stop().await?;
    check(orders.sent(), counts.counts(), &lengths)?;
    writeln!(
        out,
        "{} orders, {} customers: every customer's count is exactly the number of their orders.",
        orders.total(),
        orders.sent().len()
    )?;
    Ok(())
}

/// Sends `more` orders, as fast as both pipelines follow, and waits until both sinks have all of them.
async fn flow(orders: &mut Orders, lengths: &mut Reader, counts: &mut Reader, more: u64, nodes: &Nodes) -> Result<()> {
    let goal = orders.total() + more;
    let mut moved = Instant::now();
    while lengths.records() < goal || counts.records() < goal {
        let arrived = lengths.records().min(counts.records());
        let room = (arrived + AHEAD_MAX).min(goal).saturating_sub(orders.total());
        orders.send(room)?;
        let read = lengths.read()? + counts.read()?;
        if read > 0 {
            moved = Instant::now();
        } else {
            ensure!(
                moved.elapsed() < PATIENCE,
                "nothing has come out for {PATIENCE:?}; run with --log info to see why"
            );
            ensure!(!nodes.have_ended(), "a pipeline has stopped; run with --log info to see why");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    Ok(())
}

/// Compares what came out with what went in.
fn check(sent: &Counts, counted: &Counts, lengths: &Reader) -> Result<()> {
    for (key, expected) in sent.iter() {
        let found = counted.of(key);
        ensure!(found == expected, "{key} has {found} orders according to {COUNTS}, {expected} were sent");
    }
    if let Some(wrong) = lengths.wrong() {
        bail!("{LENGTHS} has a wrong record: {wrong}");
    }
    Ok(())
}

/// Both pipelines, running.
struct Nodes {
    control: Arc<Control>,
    running: Vec<JoinHandle<Result<(), NodeError>>>,
    store: Arc<LocalStore>,
}

impl Nodes {
    async fn start(broker: &EmbeddedBroker, folder: &Path, plugins: &Path) -> Result<Self> {
        let control = Arc::new(Control::default());
        let store = Arc::new(LocalStore::open(&folder.join("store")).await?);
        let mut running = Vec::new();
        for (name, plugin, config, sink) in [
            ("value-length", "value_length.wasm", "config = { separator = \",\" }", LENGTHS),
            ("keyed-count", "keyed_count.wasm", "", COUNTS),
        ] {
            let file = plugins.join(plugin);
            ensure!(file.exists(), "{} is missing: build the plugins with `cargo xtask plugins`", file.display());
            let text = format!(
                "name = \"{name}\"\n[[source]]\ntopic = \"{SOURCE}\"\n[[transform]]\nname = \"main\"\nplugin = {:?}\n{config}\n[[sink]]\ntopic = \"{sink}\"\n[delivery]\nguarantee = \"at-least-once\"\ncommit-interval = \"200ms\"\n",
                std::path::absolute(&file)?.display().to_string()
            );
            let pipeline = Pipeline::parse(&folder.join(format!("{name}.toml")), &text)
                .map_err(|errors| anyhow::anyhow!("{errors}"))?;
            let arguments = ClusterArgs {
                node_name: Some(format!("demo-{name}")),
                http_listen: Some(Http::Off),
                worker_threads: Some(1),
                local_path: Some(folder.join("store")),
                cache_path: Some(folder.join("cache")),
                ..ClusterArgs::default()
            };
            let cluster =
                Cluster::parse(&PathBuf::from("demo"), "", &arguments).map_err(|errors| anyhow::anyhow!("{errors}"))?;
            let parts =
                Parts { kafka: broker.settings(), store: Arc::clone(&store) as Arc<dyn Coordination>, local: None };
            let control = Arc::clone(&control);
            running.push(tokio::spawn(async move { node::run(cluster, pipeline, parts, control).await }));
        }
        Ok(Self { control, running, store })
    }

    /// Whether one of them has ended though nobody asked for it.
    fn have_ended(&self) -> bool {
        self.running.iter().any(JoinHandle::is_finished)
    }

    async fn stop(self) -> Result<()> {
        self.control.drain(PATIENCE);
        for node in self.running {
            node.await.context("the node ended by a defect")??;
        }
        self.store.close().await;
        Ok(())
    }
}

/// Arguments of `demo`.
#[derive(Debug, Parser)]
pub struct DemoArgs {
    /// Folder with `value_length.wasm` and `keyed_count.wasm`
    #[arg(long, value_name = "FOLDER", default_value = "target/wasm32-wasip2/plugin")]
    pub plugins: PathBuf,
    /// Run on after the summary's records until Ctrl-C
    #[arg(long)]
    pub keep: bool,
}
