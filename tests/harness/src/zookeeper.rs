//! A ZooKeeper 3.9: standalone, or a member of an [`Ensemble`](crate::ensemble::Ensemble).
//!
//! It is ready when it says that it serves (`srvr`). Data survives `stop`, `kill` and `restart`; it goes with the value,
//! unless a folder was given. A session expires in a test when another client closes it, or when a client is cut off for
//! longer than its time-out; there is no back door for that here.

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

const ANSWER_DEADLINE: Duration = Duration::from_secs(1);

/// How a ZooKeeper is started. `ZooKeeperOptions::default()` lets sessions be short.
#[derive(Clone, Debug)]
pub struct ZooKeeperOptions {
    /// `tickTime`. Session time-outs are clamped to 2-20 ticks unless the next two say otherwise.
    pub tick: Duration,
    /// `minSessionTimeout`, if not two ticks.
    pub session_timeout_min: Option<Duration>,
    /// `maxSessionTimeout`, if not twenty ticks.
    pub session_timeout_max: Option<Duration>,
    /// A second port, for TLS.
    pub secured: Option<Secured>,
    /// Other lines of `zoo.cfg`.
    pub settings: BTreeMap<String, String>,
    /// Heap, in MiB.
    pub heap_mib: u32,
    /// Port; a free one if not given.
    pub port: Option<u16>,
    /// Where data, configuration and log go, and stay; a temporary folder if not given.
    pub folder: Option<PathBuf>,
    /// Whether the server ends with this process.
    pub attachment: Attachment,
}

impl Default for ZooKeeperOptions {
    fn default() -> Self {
        Self {
            tick: Duration::from_millis(500),
            session_timeout_min: None,
            session_timeout_max: Some(Duration::from_secs(60)),
            secured: None,
            settings: BTreeMap::new(),
            heap_mib: 256,
            port: None,
            folder: None,
            attachment: Attachment::Attached,
        }
    }
}

/// TLS for the second port.
#[derive(Clone, Debug)]
pub struct Secured {
    /// What the server shows of itself.
    pub identity: Identity,
    /// Certificate, in the PEM format, of the authority that clients' certificates must be signed by. Those are not asked for
    /// without one.
    pub clients: Option<String>,
}

/// A ZooKeeper server on 127.0.0.1.
#[derive(Debug)]
pub struct ZooKeeper {
    server: Server,
    port: Port,
    secured: Option<Port>,
    home: Home,
}

impl ZooKeeper {
    /// Starts a server and waits until it serves: about half a second.
    ///
    /// # Errors
    /// Jars cannot be fetched, Java is missing, or the server does not come up; the end of its log is in the error.
    pub fn start(options: ZooKeeperOptions) -> Result<Self> {
        let mut zookeeper = Self::prepare(options)?;
        zookeeper.restart()?;
        Ok(zookeeper)
    }

    /// Configures a server that `restart` will start.
    pub(crate) fn prepare(options: ZooKeeperOptions) -> Result<Self> {
        let class_path = class_path(Distribution::ZooKeeper)?;
        let port = options.port.map_or_else(Port::free, Port::fixed)?;
        let home = options.folder.map_or_else(Home::temporary, Home::kept)?;
        let folder = home.path();
        let mut settings = BTreeMap::from([
            ("tickTime".to_owned(), options.tick.as_millis().to_string()),
            ("dataDir".to_owned(), folder.join("data").display().to_string()),
            ("clientPort".to_owned(), port.number().to_string()),
            ("clientPortAddress".to_owned(), "127.0.0.1".to_owned()),
            ("admin.enableServer".to_owned(), "false".to_owned()),
            ("maxClientCnxns".to_owned(), "0".to_owned()),
        ]);
        for (key, timeout) in
            [("minSessionTimeout", options.session_timeout_min), ("maxSessionTimeout", options.session_timeout_max)]
        {
            if let Some(timeout) = timeout {
                settings.insert(key.to_owned(), timeout.as_millis().to_string());
            }
        }
        let secured = options.secured.as_ref().map(|_| Port::free()).transpose()?;
        if let (Some(options), Some(port)) = (&options.secured, &secured) {
            settings.extend(secured_settings(options, port, folder)?);
        }
        settings.extend(options.settings);
        let mut text = String::new();
        for (key, value) in &settings {
            writeln!(text, "{key}={value}")?;
        }
        let configuration = folder.join("zoo.cfg");
        fs::write(&configuration, text).context("write zoo.cfg")?;
        let command = JavaCommand {
            class_path,
            flags: vec![
                format!("-Xmx{}m", options.heap_mib),
                "-XX:+UseSerialGC".to_owned(),
                "-XX:TieredStopAtLevel=1".to_owned(),
                // A local server for tests: an fsync for every transaction buys nothing here.
                "-Dzookeeper.forceSync=no".to_owned(),
            ],
            main: "org.apache.zookeeper.server.quorum.QuorumPeerMain".to_owned(),
            arguments: vec![configuration.display().to_string()],
        };
        let server = Server::new("zookeeper", command, folder.join("zookeeper.log"), options.attachment);
        Ok(Self { server, port, secured, home })
    }

    /// For a client's connect string, through the port for TLS.
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    pub fn secured_connect(&self) -> String {
        self.secured.as_ref().expect("started with a port for TLS").address()
    }

    /// Where it keeps its data, and finds who it is in an ensemble.
    pub(crate) fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// For a client's connect string.
    #[must_use]
    pub fn connect(&self) -> String {
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
    /// As [`ZooKeeper::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.server.kill()?;
        let address = self.port.address();
        self.server.launch(|| serves(&address))
    }

    /// Kills it and removes its data; `restart` brings up an empty server.
    ///
    /// # Errors
    /// From the operating system.
    pub fn wipe(&mut self) -> Result<()> {
        self.server.kill()?;
        fs::remove_dir_all(self.data().join("version-2")).context("remove ZooKeeper's data")
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

    /// The end of the server's log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        self.server.log_tail()
    }
}

/// TLS is Netty's business; the server's own network code has none.
fn secured_settings(options: &Secured, port: &Port, folder: &Path) -> Result<BTreeMap<String, String>> {
    let keystore = folder.join("keystore.pem");
    fs::write(&keystore, options.identity.key_and_certificate()).context("write the keystore")?;
    let mut settings = BTreeMap::from([
        ("serverCnxnFactory".to_owned(), "org.apache.zookeeper.server.NettyServerCnxnFactory".to_owned()),
        ("secureClientPort".to_owned(), port.number().to_string()),
        ("secureClientPortAddress".to_owned(), "127.0.0.1".to_owned()),
        ("ssl.keyStore.location".to_owned(), keystore.display().to_string()),
        ("ssl.clientAuth".to_owned(), if options.clients.is_some() { "need" } else { "none" }.to_owned()),
    ]);
    if let Some(authority) = &options.clients {
        let truststore = folder.join("truststore.pem");
        fs::write(&truststore, authority).context("write the truststore")?;
        settings.insert("ssl.trustStore.location".to_owned(), truststore.display().to_string());
    }
    Ok(settings)
}

/// Whether a server at `address` says that it serves clients.
#[must_use]
pub fn serves(address: &str) -> bool {
    asked(address).is_ok_and(|answer| answer.starts_with("Zookeeper version"))
}

/// Whether a server at `address` says that it leads its ensemble.
pub(crate) fn leads(address: &str) -> bool {
    asked(address).is_ok_and(|answer| answer.lines().any(|line| line == "Mode: leader"))
}

/// What a server says of itself.
fn asked(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
    stream.write_all(b"srvr")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
