//! A one-node Kafka 4.1 (KRaft: broker and controller in one process).
//!
//! It is ready when it answers a request of the Kafka protocol, not when its port is open. Data survives `stop`, `kill` and
//! `restart`; it goes with the value, unless a folder was given.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::identity::Identity;
use crate::jars::{Distribution, class_path};
use crate::ports::Port;
use crate::process::{Attachment, Home, JavaCommand, Server};

const CLUSTER_ID: &str = "c2x1aWNlZ2F0ZS10ZXN0cw";
const ANSWER_DEADLINE: Duration = Duration::from_secs(1);

/// Log to standard output, which goes to the server's log file; what groups do, in detail.
const LOGGING: &str = "\
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{HH:mm:ss.SSS} %p %c{1}: %m%n
rootLogger.level = WARN
rootLogger.appenderRef.out.ref = out
logger.group.name = org.apache.kafka.coordinator.group
logger.group.level = INFO
";

/// How a Kafka is started. `KafkaOptions::default()` is small and starts fast.
#[derive(Clone, Debug)]
pub struct KafkaOptions {
    /// Broker settings that replace or add to the harness's own.
    pub settings: BTreeMap<String, String>,
    /// Heap, in MiB.
    pub heap_mib: u32,
    /// Optimise for long runs at full load instead of a quick start: for benchmarks.
    pub full_speed: bool,
    /// Port of the listener; a free one if not given.
    pub port: Option<u16>,
    /// A second listener, for users with passwords and rights.
    pub secured: Option<Secured>,
    /// Where data, configuration and log go, and stay; a temporary folder if not given.
    pub folder: Option<PathBuf>,
    /// Whether the server ends with this process.
    pub attachment: Attachment,
}

impl Default for KafkaOptions {
    fn default() -> Self {
        Self {
            settings: BTreeMap::new(),
            heap_mib: 512,
            full_speed: false,
            port: None,
            secured: None,
            folder: None,
            attachment: Attachment::Attached,
        }
    }
}

impl KafkaOptions {
    /// With one more broker setting.
    #[must_use]
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.settings.insert(key.to_owned(), value.to_owned());
        self
    }
}

/// TLS, SASL and an authorizer for the second listener. Who comes through the first one, which has neither, may do everything.
#[derive(Clone, Debug)]
pub struct Secured {
    /// What the broker shows of itself: certificate and key, in the PEM format.
    pub identity: Identity,
    /// Names and passwords, for SCRAM-SHA-512.
    pub users: Vec<(String, String)>,
}

/// A Kafka broker on 127.0.0.1.
#[derive(Debug)]
pub struct Kafka {
    server: Server,
    class_path: String,
    port: Port,
    secured: Option<Port>,
    _controller: Port,
    _home: Home,
}

impl Kafka {
    /// Starts a broker and waits until it serves requests: about three seconds.
    ///
    /// # Errors
    /// Jars cannot be fetched, Java is missing, or the broker does not come up; the end of its log is in the error.
    pub fn start(options: KafkaOptions) -> Result<Self> {
        let class_path = class_path(Distribution::Kafka)?;
        let port = options.port.map_or_else(Port::free, Port::fixed)?;
        let controller = Port::free()?;
        let home = options.folder.map_or_else(Home::temporary, Home::kept)?;
        let folder = home.path();
        let configuration = folder.join("server.properties");
        let logging = folder.join("log4j2.properties");
        let data = folder.join("data");
        fs::write(&logging, LOGGING).context("write the logging configuration")?;
        let mut settings = settings(&port, &controller);
        let secured = options.secured.as_ref().map(|_| Port::free()).transpose()?;
        let mut credentials = Vec::new();
        if let (Some(options), Some(port)) = (&options.secured, &secured) {
            let keystore = folder.join("keystore.pem");
            fs::write(&keystore, options.identity.key_and_certificate()).context("write the keystore")?;
            add_secured(&mut settings, port, &keystore);
            for (user, password) in &options.users {
                credentials
                    .extend(["--add-scram".to_owned(), format!("SCRAM-SHA-512=[name={user},password={password}]")]);
            }
        }
        settings.insert("log.dirs".to_owned(), data.display().to_string());
        settings.extend(options.settings);
        let mut text = String::new();
        for (key, value) in &settings {
            writeln!(text, "{key}={value}")?;
        }
        fs::write(&configuration, text).context("write server.properties")?;

        let tool = |main: &str, arguments: &[&str]| JavaCommand {
            class_path: class_path.clone(),
            flags: vec!["-Xmx256m".to_owned(), "-XX:+UseSerialGC".to_owned(), "-XX:TieredStopAtLevel=1".to_owned()],
            main: main.to_owned(),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
        };
        let configuration = configuration.display().to_string();
        if !data.join("meta.properties").exists() {
            let mut format = tool("kafka.tools.StorageTool", &["format", "-t", CLUSTER_ID, "-c", &configuration]);
            format.arguments.extend(credentials);
            format.run()?;
        }
        let mut command = tool("kafka.Kafka", &[&configuration]);
        command.flags = vec![
            format!("-Xmx{}m", options.heap_mib),
            "-Djava.awt.headless=true".to_owned(),
            format!("-Dlog4j2.configurationFile={}", logging.display()),
        ];
        if !options.full_speed {
            command.flags.extend(["-XX:+UseSerialGC".to_owned(), "-XX:TieredStopAtLevel=1".to_owned()]);
        }
        let address = port.address();
        let mut server = Server::new("kafka", command, folder.join("kafka.log"), options.attachment);
        server.launch(|| answers(&address))?;
        Ok(Self { server, class_path, port, secured, _controller: controller, _home: home })
    }

    /// For `bootstrap.servers`, through the second listener.
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    pub fn secured_bootstrap(&self) -> String {
        self.secured.as_ref().expect("started with a second listener").address()
    }

    /// For `bootstrap.servers`.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        self.port.address()
    }

    /// Process id, while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.server.id()
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// It had to be killed.
    pub fn stop(&mut self) -> Result<()> {
        self.server.stop()
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// From the operating system.
    pub fn kill(&mut self) -> Result<()> {
        self.server.kill()
    }

    /// Starts it again, after `kill` if it runs, on the same port with the same data.
    ///
    /// # Errors
    /// As [`Kafka::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.server.kill()?;
        let address = self.port.address();
        self.server.launch(|| answers(&address))
    }

    /// SIGSTOP: connections stay, nothing is answered.
    ///
    /// # Errors
    /// It does not run.
    pub fn pause(&self) -> Result<()> {
        self.server.pause()
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// It does not run.
    pub fn resume(&self) -> Result<()> {
        self.server.resume()
    }

    /// Where the broker's log is.
    #[must_use]
    pub fn log(&self) -> &Path {
        self.server.log()
    }

    /// The end of the broker's log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        self.server.log_tail()
    }

    /// Runs one of Kafka's command-line tools, for example `org.apache.kafka.tools.consumer.ConsoleConsumer`, and returns
    /// what it prints. `--bootstrap-server` is added.
    ///
    /// # Errors
    /// The tool fails; what it printed is in the error.
    pub fn tool(&self, main: &str, arguments: &[&str]) -> Result<String> {
        let mut arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        arguments.extend(["--bootstrap-server".to_owned(), self.bootstrap()]);
        JavaCommand {
            class_path: self.class_path.clone(),
            flags: vec!["-Xmx256m".to_owned(), "-XX:+UseSerialGC".to_owned(), "-XX:TieredStopAtLevel=1".to_owned()],
            main: main.to_owned(),
            arguments,
        }
        .run()
    }

    /// Creates a topic of `partitions` partitions with the tools (about a second; a client in the test is faster).
    ///
    /// # Errors
    /// The tool fails.
    pub fn create_topic(&self, topic: &str, partitions: u32) -> Result<()> {
        self.tool(
            "org.apache.kafka.tools.TopicCommand",
            &["--create", "--topic", topic, "--partitions", &partitions.to_string(), "--replication-factor", "1"],
        )
        .map(drop)
    }
}

/// One node with everything replicated once, groups that form at once, and KIP-848 heartbeats every second.
fn settings(port: &Port, controller: &Port) -> BTreeMap<String, String> {
    let own = [
        ("process.roles", "broker,controller".to_owned()),
        ("node.id", "1".to_owned()),
        ("controller.quorum.voters", format!("1@{}", controller.address())),
        ("listeners", format!("PLAINTEXT://{},CONTROLLER://{}", port.address(), controller.address())),
        ("advertised.listeners", format!("PLAINTEXT://{}", port.address())),
        ("controller.listener.names", "CONTROLLER".to_owned()),
        ("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned()),
        ("auto.create.topics.enable", "false".to_owned()),
        ("offsets.topic.num.partitions", "3".to_owned()),
        ("offsets.topic.replication.factor", "1".to_owned()),
        ("transaction.state.log.num.partitions", "3".to_owned()),
        ("transaction.state.log.replication.factor", "1".to_owned()),
        ("transaction.state.log.min.isr", "1".to_owned()),
        ("share.coordinator.state.topic.replication.factor", "1".to_owned()),
        ("share.coordinator.state.topic.min.isr", "1".to_owned()),
        ("group.initial.rebalance.delay.ms", "0".to_owned()),
        ("group.min.session.timeout.ms", "1000".to_owned()),
        ("group.consumer.min.heartbeat.interval.ms", "500".to_owned()),
        ("group.consumer.heartbeat.interval.ms", "1000".to_owned()),
        ("group.consumer.min.session.timeout.ms", "3000".to_owned()),
        ("log.retention.hours", "-1".to_owned()),
    ];
    own.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// The second listener, and rights for everybody who is not on the first one.
fn add_secured(settings: &mut BTreeMap<String, String>, port: &Port, keystore: &Path) {
    for (key, addition) in [
        ("listeners", format!(",SASL_SSL://{}", port.address())),
        ("advertised.listeners", format!(",SASL_SSL://{}", port.address())),
        ("listener.security.protocol.map", ",SASL_SSL:SASL_SSL".to_owned()),
    ] {
        settings.entry(key.to_owned()).or_default().push_str(&addition);
    }
    let own = [
        ("ssl.keystore.type", "PEM".to_owned()),
        ("ssl.keystore.location", keystore.display().to_string()),
        ("sasl.enabled.mechanisms", "SCRAM-SHA-512".to_owned()),
        (
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config",
            "org.apache.kafka.common.security.scram.ScramLoginModule required;".to_owned(),
        ),
        ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer".to_owned()),
        ("super.users", "User:ANONYMOUS".to_owned()),
    ];
    settings.extend(own.map(|(key, value)| (key.to_owned(), value)));
}

/// Whether a broker at `address` answers an `ApiVersions` request, which it does once it is registered and unfenced.
#[must_use]
pub fn answers(address: &str) -> bool {
    fn ask(address: &str) -> std::io::Result<()> {
        // Length, API key 18 (ApiVersions), version 0, correlation id, no client id.
        let request = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff];
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
        stream.write_all(&request)?;
        let mut header = [0; 8];
        stream.read_exact(&mut header)
    }
    ask(address).is_ok()
}
