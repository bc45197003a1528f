//! Right cluster files, what they mean, and what goes over what; the wrong ones are in the goldens.

use std::fs;

use clap::{Args, Parser};

use super::*;
use crate::signing::PrivateKey;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    cluster: ClusterArgs,
}

fn arguments(words: &[&str]) -> ClusterArgs {
    Command::try_parse_from(["test"].iter().chain(words)).unwrap_or_else(|error| panic!("{error}")).cluster
}

fn parse(text: &str, words: &[&str]) -> Cluster {
    Cluster::parse(Path::new("folder/sluicegate.toml"), text, &arguments(words))
        .unwrap_or_else(|errors| panic!("{errors}"))
}

/// As far as it is looked into before a connection is made.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nhunter3+\n-----END PRIVATE KEY-----\n";

fn pairs(properties: &KafkaProperties) -> Vec<(&str, &str)> {
    properties.iter().collect()
}

#[test]
fn without_a_file_there_is_a_local_kafka_and_the_local_store() {
    let cluster = parse("", &[]);
    assert_eq!(pairs(&cluster.kafka.common), [("bootstrap.servers", "localhost:9092")]);
    assert_eq!(cluster.zookeeper, None);
    assert_eq!(cluster.local_path, Path::new(".sluicegate"));
    assert_eq!(cluster.http, Http::Listen("127.0.0.1:8080".parse().unwrap()));
    assert_eq!(cluster.worker_threads, std::thread::available_parallelism().unwrap().get().min(256));
    assert_eq!(cluster.limits.zookeeper_bytes_per_second, 10 << 20);
    assert!(!cluster.trusted_keys.are_required());
    assert!(!cluster.node.as_str().is_empty());
}

#[test]
fn everything_that_is_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("password"), "hunter2\n").unwrap();
    fs::write(folder.path().join("token"), "hunter4-hunter4-hunter4\n").unwrap();
    fs::write(folder.path().join("ca.pem"), CERTIFICATE).unwrap();
    fs::write(folder.path().join("own.pem"), format!("{CERTIFICATE}{KEY}")).unwrap();
    let text = r#"
        [node]
        name = "one"
        [zookeeper]
        connect = "a, b:2182"
        namespace = "/team/sluicegate"
        session-timeout = "20s"
        auth = { scheme = "digest", user = "me", password-file = "password" }
        tls = { ca = "ca.pem", certificate = "own.pem", key = "own.pem" }
        [local]
        path = "store"
        [cache]
        path = "/var/cache/sluicegate"
        [http]
        listen = "localhost:0"
        token-file = "token"
        [worker]
        threads = 3
        [limits]
        zookeeper-bytes-per-second = "1MiB"
        plugin-size = 1048576
        drain-deadline = "1m"
        [plugins]
        trusted-keys = ["ada.pub", "PEM"]
    "#;
    let [ada, grace] = [1, 2].map(|seed| PrivateKey::from_seed(&[seed; 32]).public());
    fs::write(folder.path().join("ada.pub"), ada.to_pem()).unwrap();
    let text = text.replace("\"PEM\"", &format!("\"\"\"\n{}\"\"\"", grace.to_pem()));
    let cluster = Cluster::parse(&folder.path().join("c.toml"), &text, &ClusterArgs::default()).unwrap();
    assert_eq!(cluster.trusted_keys, TrustedKeys::new(vec![ada, grace]));
    let zookeeper = cluster.zookeeper.clone().unwrap();
    assert_eq!(cluster.node.as_str(), "one");
    assert_eq!(zookeeper.connect, "a:2181,b:2182");
    assert_eq!(zookeeper.namespace, "/team/sluicegate");
    assert_eq!(zookeeper.session_timeout, Duration::from_secs(20));
    assert_eq!(zookeeper.auth.unwrap().password.expose(), "hunter2");
    let tls = zookeeper.tls.unwrap();
    assert_eq!(tls.ca, CERTIFICATE);
    assert!(tls.identity.unwrap().key.expose().contains("hunter3"));
    assert_eq!(cluster.local_path, folder.path().join("store"));
    assert_eq!(cluster.cache_path, Path::new("/var/cache/sluicegate"));
    assert_eq!(cluster.http, Http::Listen("127.0.0.1:0".parse().unwrap()));
    assert_eq!(cluster.http_token.as_ref().unwrap().expose(), "hunter4-hunter4-hunter4");
    assert_eq!(cluster.worker_threads, 3);
    let limits = ClusterLimits {
        zookeeper_bytes_per_second: 1 << 20,
        plugin_size: 1 << 20,
        drain_deadline: Duration::from_secs(60),
    };
    assert_eq!(cluster.limits, limits);
    assert!(!format!("{cluster:?}").contains("hunter"), "{cluster:?}");
}

#[test]
fn properties_keep_their_names_however_they_are_written() {
    let text = r#"
        [kafka]
        bootstrap.servers = "a:1"
        "client.rack" = "me"
        socket.keepalive.enable = true
        retry.backoff.ms = 5
        retry.backoff.max.ms = 1_000
        [kafka.consumer]
        fetch.min.bytes = 0x10
        client.rack = "reader"
        [kafka.producer]
        linger.ms = 0.5
    "#;
    let kafka = parse(text, &[]).kafka;
    assert_eq!(
        pairs(&kafka.common),
        [
            ("bootstrap.servers", "a:1"),
            ("client.rack", "me"),
            ("retry.backoff.max.ms", "1000"),
            ("retry.backoff.ms", "5"),
            ("socket.keepalive.enable", "true"),
        ]
    );
    assert_eq!(pairs(&kafka.consumer), [("client.rack", "reader"), ("fetch.min.bytes", "16")]);
    assert_eq!(pairs(&kafka.producer), [("linger.ms", "0.5")]);
}

#[test]
fn secret_properties_come_from_files_and_are_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("key"), "hunter2\r\n").unwrap();
    let text =
        "[kafka]\nsasl.password = \"hunter3\"\n\"ssl.key.password\" = { file = \"key\" }\nsasl.username = \"me\"\n";
    let cluster = Cluster::parse(&folder.path().join("c.toml"), text, &ClusterArgs::default()).unwrap();
    assert_eq!(cluster.kafka.common.get("ssl.key.password").unwrap().expose(), "hunter2");
    assert_eq!(cluster.kafka.common.get("sasl.password").unwrap().expose(), "hunter3");
    let shown = format!("{cluster:?}");
    assert!(shown.contains("\"me\"") && shown.contains("***") && !shown.contains("hunter"), "{shown}");
}

#[test]
fn a_certificate_without_its_key_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("ca.pem"), CERTIFICATE).unwrap();
    let text = "[zookeeper]\nconnect = \"a\"\n[zookeeper.tls]\nca = \"ca.pem\"\ncertificate = \"ca.pem\"\n";
    let errors = Cluster::parse(&folder.path().join("c.toml"), text, &ClusterArgs::default()).unwrap_err().to_string();
    assert!(errors.contains("has a `certificate` and no `key`") && errors.contains("c.toml:3:1"), "{errors}");
}

#[test]
fn files_of_kafkas_tls_start_from_the_files_folder() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    fs::write(&ca, CERTIFICATE).unwrap();
    let text = "[kafka]\nssl.ca.location = \"ca.pem\"\n[kafka.consumer]\nssl.ca.location = \"probe\"\n";
    let cluster = Cluster::parse(&folder.path().join("c.toml"), text, &ClusterArgs::default()).unwrap();
    assert_eq!(cluster.kafka.common.get("ssl.ca.location").unwrap().expose(), ca.to_str().unwrap());
    assert_eq!(pairs(&cluster.kafka.consumer), [("ssl.ca.location", "probe")]);
}

#[test]
fn flags_go_over_the_file() {
    let text =
        "[kafka]\nbootstrap.servers = 'a:1'\n[zookeeper]\nconnect = 'z:1'\n[worker]\nthreads = 3\n[node]\nname = 'n'\n";
    let words = [
        "--kafka-bootstrap-servers=b",
        "--zookeeper-connect=y",
        "--zookeeper-namespace=/other",
        "--node-name=m",
        "--http-listen=off",
        "--worker-threads=5",
        "--local-path=store",
        "--cache-path=cache",
    ];
    let cluster = parse(text, &words);
    assert_eq!(pairs(&cluster.kafka.common), [("bootstrap.servers", "b:9092")]);
    let zookeeper = cluster.zookeeper.unwrap();
    assert_eq!((zookeeper.connect.as_str(), zookeeper.namespace.as_str()), ("y:2181", "/other"));
    assert_eq!(cluster.node.as_str(), "m");
    assert_eq!(cluster.http, Http::Off);
    assert_eq!(cluster.worker_threads, 5);
    assert_eq!((cluster.local_path.as_path(), cluster.cache_path.as_path()), (Path::new("store"), Path::new("cache")));
}

#[test]
fn a_wrong_flag_is_refused_with_what_to_write() {
    for (flag, expected) in [
        ("--worker-threads=0", "write at least 1"),
        ("--http-listen=8080", "127.0.0.1:8080"),
        ("--zookeeper-namespace=a", "\"/sluicegate\""),
        ("--kafka-bootstrap-servers=a:b", "localhost:9092"),
        ("--node-name=a/b", "ASCII letters"),
    ] {
        let error = Command::try_parse_from(["test", flag]).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn the_store_alone_needs_no_cluster_file_but_a_named_one_must_exist() {
    let mut arguments = ClusterArgs { cluster: Some("no/such.toml".into()), ..ClusterArgs::default() };
    let errors = Cluster::load(&arguments).unwrap_err().to_string();
    assert!(errors.starts_with("error: cannot read the cluster file `no/such.toml`: "), "{errors}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.toml");
    fs::write(&path, "[node]\nname = \"n\"\n").unwrap();
    arguments.cluster = Some(path);
    assert_eq!(Cluster::load(&arguments).unwrap().node.as_str(), "n");
}

#[test]
fn librdkafkas_complaint_is_shown_at_the_line_of_the_property() {
    let cluster = parse("[kafka]\nfetch.min.byte = 1\n[kafka.producer]\n\"linger.ms\" = -1\n", &[]);
    let message = cluster.kafka_error("fetch.min.byte", "no such property").to_string();
    assert!(message.contains("folder/sluicegate.toml:2:18") && message.contains("^ no such property"), "{message}");
    let message = cluster.kafka_error("linger.ms", "out of range").to_string();
    assert!(message.contains("folder/sluicegate.toml:4:15"), "{message}");
    let message = cluster.kafka_error("fetch.wait.max.ms", "must be more").to_string();
    assert!(
        message.starts_with("error: librdkafka refuses the property `fetch.wait.max.ms`: must be more"),
        "{message}"
    );
}

#[test]
fn every_value_says_where_it_comes_from_and_secrets_are_masked() {
    let text = "[node]\nname = 'n'\n[kafka]\nsasl.password = 'hunter2'\n[kafka.consumer]\nclient.rack = 'r'\n\
        [zookeeper]\nconnect = 'z'\n[worker]\nthreads = 3\n";
    let cluster = parse(text, &["--node-name=m"]);
    let command = ClusterArgs::augment_args(clap::Command::new("test"));
    let matches = command.get_matches_from(["test", "--node-name=m"]);
    let settings = cluster.settings(&ClusterArgs::overrides(&matches));
    let of = |key: &str| {
        let setting = settings.iter().find(|setting| setting.key == key).unwrap_or_else(|| panic!("{key}"));
        (setting.value.as_deref().unwrap_or("-"), setting.from.to_string())
    };
    assert_eq!(of("node.name"), ("m", "--node-name".into()));
    assert_eq!(of("kafka.bootstrap.servers"), ("localhost:9092", "default".into()));
    assert_eq!(of("kafka.sasl.password"), ("***", "folder/sluicegate.toml:4".into()));
    assert_eq!(of("kafka.consumer.client.rack"), ("r", "folder/sluicegate.toml:6".into()));
    assert_eq!(of("zookeeper.connect"), ("z:2181", "folder/sluicegate.toml:8".into()));
    assert_eq!(of("zookeeper.session-timeout"), ("10s", "default".into()));
    assert_eq!(of("worker.threads"), ("3", "folder/sluicegate.toml:10".into()));
}

#[test]
fn every_argument_but_the_file_goes_over_a_key() {
    let command = ClusterArgs::augment_args(clap::Command::new("test"));
    let arguments: Vec<&str> = command.get_arguments().map(|argument| argument.get_id().as_str()).collect();
    let over: Vec<&str> = super::arguments::OVER_KEYS.iter().map(|(argument, _)| *argument).collect();
    assert_eq!(arguments[1..], over);
    assert_eq!(arguments[0], "cluster");
}
