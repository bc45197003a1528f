//! One pipeline of one test: topics, namespace, work folder and files of its own, on shared servers or on the test's.
//!
//! The pipeline's text names topics and plugins plainly; here they become names that nobody else uses, and files. What the text
//! leaves out and a test wants short (the commit interval) is filled in.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tempfile::TempDir;
use toml::{Table, Value};

use crate::node::{self, Node};
use crate::records::{self, Record, read_all};
use crate::shared::{self, SOON, create_topic, unique, wait_for};

/// Where the servers are.
#[derive(Clone, Debug)]
pub(crate) struct Servers {
    pub(crate) kafka: String,
    /// `None`: the local store instead.
    pub(crate) zookeeper: Option<String>,
}

impl Servers {
    /// Those that all tests share.
    pub(crate) fn shared() -> Self {
        Self { kafka: shared::kafka().bootstrap(), zookeeper: Some(shared::zookeeper().connect()) }
    }

    /// The shared Kafka and no ZooKeeper.
    pub(crate) fn local() -> Self {
        Self { zookeeper: None, ..Self::shared() }
    }
}

/// What processes log: enough to see what went wrong in a test that failed.
const LOG: &str = "info,sluicegate=debug";

pub(crate) struct Deployment {
    pub(crate) servers: Servers,
    /// Name of the pipeline.
    pub(crate) pipeline: String,
    /// Namespace in ZooKeeper; also what its topics begin with.
    pub(crate) namespace: String,
    pub(crate) sources: Vec<String>,
    pub(crate) sinks: Vec<String>,
    /// Whether outputs may not repeat.
    pub(crate) exactly_once: bool,
    folder: TempDir,
    processes: AtomicU32,
}

impl Deployment {
    /// On the shared servers, with topics of three partitions.
    pub(crate) fn new(pipeline: &str) -> Self {
        Self::on(Servers::shared(), 3, pipeline)
    }

    /// Writes the files and creates the topics.
    pub(crate) fn on(servers: Servers, partitions: i32, pipeline: &str) -> Self {
        let mut table: Table = pipeline.parse().unwrap();
        let name = table["name"].as_str().unwrap().to_owned();
        let namespace = unique(&name);
        let mut deployment = Self {
            servers,
            pipeline: name,
            namespace,
            sources: Vec::new(),
            sinks: Vec::new(),
            exactly_once: !pipeline.contains("at-least-once"),
            folder: tempfile::tempdir().unwrap(),
            processes: AtomicU32::new(0),
        };
        deployment.sources = deployment.rename_topics(&mut table, "source");
        deployment.sinks = deployment.rename_topics(&mut table, "sink");
        let letters = deployment.rename_dead_letters(&mut table);
        for topic in deployment.sources.iter().chain(&deployment.sinks).chain(&letters) {
            create_topic(&deployment.servers.kafka, topic, partitions);
        }
        deployment.write(table);
        let cluster = deployment.cluster_file();
        fs::write(deployment.path("sluicegate.toml"), cluster).unwrap();
        deployment
    }

    /// From now on processes are members by the newer group protocol, whose time-outs are the broker's to set.
    pub(crate) fn use_consumer_protocol(&self) {
        let cluster = fs::read_to_string(self.path("sluicegate.toml")).unwrap();
        let classic = "session.timeout.ms = 2000\nheartbeat.interval.ms = 300\n";
        assert!(cluster.contains(classic));
        let newer = cluster.replace(classic, "group.protocol = \"consumer\"\n");
        fs::write(self.path("sluicegate.toml"), newer).unwrap();
    }

    /// Another cluster file; what every one has (the node's own folders and the time-outs) is added.
    pub(crate) fn use_cluster(&self, kafka: &str, rest: &str) {
        let common = self.cluster_file();
        let (_, common) = common.split_once("[kafka.consumer]").unwrap();
        let (common, _) = common.split_once("[zookeeper]").unwrap_or((common, ""));
        fs::write(self.path("sluicegate.toml"), format!("{kafka}[kafka.consumer]{common}{rest}")).unwrap();
    }

    fn rename_topics(&self, pipeline: &mut Table, kind: &str) -> Vec<String> {
        let tables = pipeline.get_mut(kind).into_iter().flat_map(|tables| tables.as_array_mut().unwrap());
        let mut names = Vec::new();
        for table in tables {
            let name = self.topic(table["topic"].as_str().unwrap());
            table["topic"] = Value::from(name.as_str());
            names.push(name);
        }
        names
    }

    fn rename_dead_letters(&self, pipeline: &mut Table) -> Option<String> {
        let topic = pipeline.get_mut("errors")?.as_table_mut().unwrap().get_mut("dead-letter-topic")?;
        let name = self.topic(topic.as_str().unwrap());
        *topic = Value::from(name.as_str());
        Some(name)
    }

    /// Writes the pipeline file, its topics renamed already.
    fn write(&self, mut pipeline: Table) {
        for transform in pipeline["transform"].as_array_mut().unwrap() {
            let plugin = transform["plugin"].as_str().unwrap();
            if !plugin.contains(['@', ':', '/']) {
                transform["plugin"] = Value::from(node::plugin(plugin).to_str().unwrap());
            }
        }
        let delivery = pipeline.entry("delivery").or_insert_with(|| Table::new().into());
        delivery.as_table_mut().unwrap().entry("commit-interval").or_insert_with(|| "100ms".into());
        fs::write(self.path("pipeline.toml"), pipeline.to_string()).unwrap();
    }

    /// Another text for the same pipeline, with the same topics.
    pub(crate) fn change(&self, pipeline: &str) {
        let mut table: Table = pipeline.parse().unwrap();
        self.rename_topics(&mut table, "source");
        self.rename_topics(&mut table, "sink");
        self.rename_dead_letters(&mut table);
        self.write(table);
    }

    /// Sessions are short, so that the end of a killed process is noticed soon.
    fn cluster_file(&self) -> String {
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugin-cache");
        let mut text = format!(
            "[kafka]\nbootstrap.servers = {:?}\nreconnect.backoff.max.ms = 500\n\
             [kafka.consumer]\nsession.timeout.ms = 2000\nheartbeat.interval.ms = 300\n\
             [http]\nlisten = \"127.0.0.1:0\"\n[worker]\nthreads = 2\n[cache]\npath = {:?}\n[local]\npath = {:?}\n",
            self.servers.kafka,
            cache.to_str().unwrap(),
            self.path("local").to_str().unwrap(),
        );
        if let Some(zookeeper) = &self.servers.zookeeper {
            text += &format!(
                "[zookeeper]\nconnect = {zookeeper:?}\nnamespace = \"/{}\"\nsession-timeout = \"4s\"\n",
                self.namespace
            );
        }
        text
    }

    /// A file of the work folder.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// What each process has logged, by the name of the file.
    pub(crate) fn logs(&self) -> Vec<(String, String)> {
        let logs = (0..self.processes.load(Ordering::Relaxed)).map(|number| format!("{number}.log"));
        logs.map(|name| (name.clone(), String::from_utf8_lossy(&fs::read(self.path(&name)).unwrap()).into_owned()))
            .collect()
    }

    /// Leaves the work folder where it is.
    pub(crate) fn keep(&mut self) -> &Path {
        self.folder.disable_cleanup(true);
        self.folder.path()
    }

    /// The full name of a topic that the pipeline names `name`.
    pub(crate) fn topic(&self, name: &str) -> String {
        format!("{}.{name}", self.namespace)
    }

    /// The consumer group.
    pub(crate) fn group(&self) -> String {
        let namespace = if self.servers.zookeeper.is_some() { &self.namespace } else { "local" };
        format!("{namespace}/{}/1", self.pipeline)
    }

    /// The program in the work folder, for this cluster.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = node::program();
        command.args(arguments).current_dir(self.folder.path()).env("NO_COLOR", "1").env("SLUICEGATE_LOG", LOG);
        command
    }

    /// The command that runs the pipeline as the node `name`.
    pub(crate) fn run_command(&self, name: &str) -> Command {
        self.command(&["run", "pipeline.toml", "--node-name", name])
    }

    /// Starts a process of this deployment.
    pub(crate) fn spawn(&self, command: Command) -> Node {
        let number = self.processes.fetch_add(1, Ordering::Relaxed);
        Node::start(command, self.path(&format!("{number}.log")))
    }

    /// Runs the pipeline as the node `a`.
    pub(crate) fn start(&self) -> Node {
        self.spawn(self.run_command("a"))
    }

    /// Runs the pipeline as the node `a`, and waits until all its tasks run.
    pub(crate) fn start_ready(&self) -> Node {
        let mut node = self.start();
        node.wait_until_ready();
        node
    }

    pub(crate) fn produce(&self, topic: &str, records: impl IntoIterator<Item = Record>) {
        records::produce(&self.servers.kafka, &self.topic(topic), records);
    }

    /// Everything in a topic, by partition and offset.
    pub(crate) fn read(&self, topic: &str) -> Vec<Record> {
        read_all(&self.servers.kafka, &self.topic(topic))
    }

    pub(crate) fn consumer(&self) -> BaseConsumer {
        records::consumer(&self.servers.kafka, &self.group())
    }

    /// What the group has committed for each partition of a full topic name; nothing while its coordinator is being found.
    pub(crate) fn committed(&self, consumer: &BaseConsumer, topic: &str) -> Vec<Option<i64>> {
        let mut asked = TopicPartitionList::new();
        asked.add_partition_range(topic, 0, records::ends(consumer, topic).len() as i32 - 1);
        let Ok(found) = consumer.committed_offsets(asked, SOON) else { return Vec::new() };
        let offset = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match element.offset() {
            rdkafka::Offset::Offset(offset) => Some(offset),
            _ => None,
        };
        found.elements().iter().map(offset).collect()
    }

    /// Waits until everything that is in the sources now is committed.
    pub(crate) fn wait_until_done(&self, node: &mut Node) {
        let consumer = self.consumer();
        for topic in &self.sources {
            let ends = records::ends(&consumer, topic);
            node.wait_for("a commit of everything", |_| {
                let all = self.committed(&consumer, topic).iter().copied().eq(ends.iter().copied().map(Some));
                all.then_some(())
            });
        }
    }

    /// Runs the pipeline over everything that is in its sources, and stops it.
    pub(crate) fn run_through(&self) {
        // One that finds everything done, and is stopped before it has begun, would have nothing to say.
        let mut node = self.start_ready();
        self.wait_until_done(&mut node);
        node.stop();
    }

    /// Waits for records in a topic.
    pub(crate) fn wait_for_output(&self, node: &mut Node, topic: &str, count: usize) {
        node.wait_for(&format!("{count} records in {topic}"), |_| (self.read(topic).len() >= count).then_some(()));
    }

    /// Waits until so many records of a topic can be read.
    pub(crate) fn wait_for_read(&self, topic: &str, count: usize) {
        wait_for(&format!("{count} records in {topic}"), || (self.read(topic).len() >= count).then_some(()));
    }

    /// Waits, while no process runs, until the group has no members: a killed one counts until its session ends.
    pub(crate) fn wait_until_group_is_empty(&self) {
        let consumer = self.consumer();
        wait_for("an empty group", || {
            let list = consumer.fetch_group_list(Some(&self.group()), SOON).unwrap();
            list.groups().iter().all(|group| group.members().is_empty()).then_some(())
        });
    }
}
