//! Jars of the servers, fetched once by Maven into `target/servers/<name>`.
//!
//! Invariant: a folder of that name is complete. It is filled under another name, behind a lock that other processes wait
//! for, and renamed at the end; an interrupted fetch leaves nothing that would be taken for a whole one.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A server program: a pinned set of artifacts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distribution {
    /// Apache Kafka 4.1.2 with its command-line tools.
    Kafka,
    /// Apache ZooKeeper 3.9.4.
    ZooKeeper,
}

impl Distribution {
    fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka-4.1.2",
            Self::ZooKeeper => "zookeeper-3.9.4",
        }
    }

    /// `(group, artifact, version)`; what they depend on comes along.
    fn artifacts(self) -> &'static [(&'static str, &'static str, &'static str)] {
        match self {
            // Without the last, for which it brings the rest, the server logs nothing.
            Self::Kafka => &[
                ("org.apache.kafka", "kafka_2.13", "4.1.2"),
                ("org.apache.kafka", "kafka-tools", "4.1.2"),
                ("org.apache.logging.log4j", "log4j-slf4j-impl", "2.25.3"),
            ],
            // The last two are optional dependencies that the server does not start without.
            Self::ZooKeeper => &[
                ("org.apache.zookeeper", "zookeeper", "3.9.4"),
                ("io.dropwizard.metrics", "metrics-core", "4.2.30"),
                ("org.xerial.snappy", "snappy-java", "1.1.10.7"),
            ],
        }
    }

    fn pom(self) -> String {
        let dependencies: String = self
            .artifacts()
            .iter()
            .map(|(group, artifact, version)| {
                format!(
                    "    <dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>\
                     <version>{version}</version></dependency>\n"
                )
            })
            .collect();
        format!(
            "<project xmlns=\"http://maven.apache.org/POM/4.0.0\">\n  <modelVersion>4.0.0</modelVersion>\n  \
             <groupId>sluicegate</groupId><artifactId>servers</artifactId><version>1</version>\n  \
             <dependencies>\n{dependencies}  </dependencies>\n</project>\n"
        )
    }
}

/// `target/servers`: jars and the state of servers started by hand. Honours `CARGO_TARGET_DIR`.
#[must_use]
pub fn servers_folder() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    workspace.canonicalize().unwrap_or(workspace).join(target).join("servers")
}

/// The Java class path of `distribution`, whose jars are fetched if they are not there yet. Safe from several processes.
///
/// # Errors
/// Maven is missing or fails, or the folder cannot be written.
pub fn class_path(distribution: Distribution) -> Result<String> {
    let servers = servers_folder();
    let folder = servers.join(distribution.name());
    if !folder.is_dir() {
        fetch(distribution, &servers, &folder)?;
    }
    Ok(format!("{}/*", folder.display()))
}

fn fetch(distribution: Distribution, servers: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(servers).with_context(|| format!("create {}", servers.display()))?;
    let lock_path = servers.join(format!("{}.lock", distribution.name()));
    let lock = File::create(&lock_path).with_context(|| format!("create {}", lock_path.display()))?;
    lock.lock().with_context(|| format!("lock {}", lock_path.display()))?;
    if folder.is_dir() {
        return Ok(());
    }
    let partial = servers.join(format!("{}.partial", distribution.name()));
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("remove {}", partial.display()))?;
    }
    let pom = servers.join(format!("{}.pom.xml", distribution.name()));
    fs::write(&pom, distribution.pom()).with_context(|| format!("write {}", pom.display()))?;
    eprintln!("fetching {} from Maven Central", distribution.name());
    let output = Command::new("mvn")
        .args(["-q", "-B", "-f"])
        .arg(&pom)
        .arg("dependency:copy-dependencies")
        .arg(format!("-DoutputDirectory={}", partial.display()))
        .output()
        .context(
            "run mvn: Maven 3 is needed once, to fetch the servers' jars; install it (Debian: apt install maven)",
        )?;
    if !output.status.success() {
        bail!(
            "mvn could not fetch {} ({}):\n{}{}",
            distribution.name(),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    fs::rename(&partial, folder).with_context(|| format!("rename {} to {}", partial.display(), folder.display()))
}
