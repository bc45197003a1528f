//! Servers that do not let everybody in: TLS, passwords, rights in Kafka, access lists in ZooKeeper, and what a person who gets
//! one of them wrong is told.
#![allow(clippy::unwrap_used)]

mod certificates;
mod mistakes;
mod rights;

use std::fs;
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};

use sluicegate::meta::zookeeper::{ZooKeeperAuth, ZooKeeperOptions, ZooKeeperTls};
use sluicegate::meta::{Coordination, MetaStore, SessionState, Write, conformance};
use sluicegate_harness::kafka::{self, Kafka, KafkaOptions};
use sluicegate_harness::zookeeper::{self, ZooKeeper};
use zookeeper_client::{Acls, Client, CreateMode, Error};

use self::certificates::Authority;
use crate::deployment::{Deployment, Servers};
use crate::restarts::{COUNT, check_exact_in, commits, records, under_load};
use crate::shared::SOON;
use crate::state::{State, runtime};

/// A user of Kafka, and of ZooKeeper.
const USER: &str = "flow";
const KAFKA_PASSWORD: &str = "kafka-hunter2";
const ZOOKEEPER_PASSWORD: &str = "zookeeper-hunter2";
/// What appears nowhere.
const SECRET: &str = "hunter2";

/// One Kafka and one ZooKeeper for the tests here.
struct Site {
    authority: Authority,
    kafka: Kafka,
    zookeeper: ZooKeeper,
}

impl Site {
    fn get() -> &'static Self {
        static SITE: OnceLock<Site> = OnceLock::new();
        SITE.get_or_init(|| {
            let authority = Authority::new("authority");
            let users = [USER, "guest"].map(|user| (user.to_owned(), KAFKA_PASSWORD.to_owned())).to_vec();
            let secured = kafka::Secured { identity: authority.issue("kafka", &["127.0.0.1"]), users };
            let kafka = Kafka::start(KafkaOptions { secured: Some(secured), ..KafkaOptions::default() }).unwrap();
            let zookeeper = secured_zookeeper(&authority, false);
            Self { authority, kafka, zookeeper }
        })
    }

    /// A pipeline whose processes come through the doors for strangers, as `user`; the test itself uses the others.
    fn deployment(&self, user: &str, pipeline: &str) -> Deployment {
        let servers = Servers { kafka: self.kafka.bootstrap(), zookeeper: Some(self.zookeeper.connect()) };
        let deployment = Deployment::on(servers, 3, pipeline);
        fs::write(deployment.path("ca.pem"), self.authority.certificate()).unwrap();
        fs::write(deployment.path("zookeeper-password"), format!("{ZOOKEEPER_PASSWORD}\n")).unwrap();
        let zookeeper = format!(
            "[zookeeper]\nconnect = {:?}\nnamespace = \"/{}\"\nsession-timeout = \"4s\"\n\
             [zookeeper.tls]\nca = \"ca.pem\"\n\
             [zookeeper.auth]\nuser = \"{USER}\"\npassword-file = \"zookeeper-password\"\n",
            self.zookeeper.secured_connect(),
            deployment.namespace,
        );
        deployment.use_cluster(&self.kafka_table(user), &zookeeper);
        deployment
    }

    fn kafka_table(&self, user: &str) -> String {
        format!(
            "[kafka]\nbootstrap.servers = {:?}\nreconnect.backoff.max.ms = 500\n\
             security.protocol = \"sasl_ssl\"\nssl.ca.location = \"ca.pem\"\n\
             sasl.mechanism = \"SCRAM-SHA-512\"\nsasl.username = \"{user}\"\nsasl.password = {{ env = \"KAFKA_PASSWORD\" }}\n",
            self.kafka.secured_bootstrap(),
        )
    }

    /// Lets a user do something with what begins with a name: `--topic`, `--group`, `--transactional-id`.
    fn grant(&self, user: &str, operation: &str, resources: &[&str]) {
        let principal = format!("User:{user}");
        let fixed =
            ["--add", "--allow-principal", &principal, "--operation", operation, "--resource-pattern-type", "prefixed"];
        let arguments: Vec<&str> = fixed.into_iter().chain(resources.iter().copied()).collect();
        self.kafka.tool("org.apache.kafka.tools.AclCommand", &arguments).unwrap();
    }
}

fn secured_zookeeper(authority: &Authority, asks_clients: bool) -> ZooKeeper {
    let identity = authority.issue("zookeeper", &["127.0.0.1"]);
    let clients = asks_clients.then(|| authority.certificate());
    let secured = zookeeper::Secured { identity, clients };
    ZooKeeper::start(zookeeper::ZooKeeperOptions { secured: Some(secured), ..Default::default() }).unwrap()
}

/// The command that runs the pipeline, with the password that the cluster file takes from the environment.
fn run(deployment: &Deployment) -> Command {
    let mut command = deployment.run_command("a");
    command.env("KAFKA_PASSWORD", KAFKA_PASSWORD);
    command
}

/// Exit code and everything that a command printed.
fn output(command: &mut Command) -> (Option<i32>, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

/// Path, contents and access list of every node below a path.
fn tree(client: &Client, path: &str) -> Vec<(String, Vec<u8>, Vec<String>)> {
    let (data, _) = runtime().block_on(client.get_data(path)).unwrap();
    let (acls, _) = runtime().block_on(client.get_acl(path)).unwrap();
    let list = acls.iter().map(|acl| format!("{}:{}:{}", acl.scheme(), acl.id(), acl.permission())).collect();
    let mut nodes = vec![(path.to_owned(), data, list)];
    for child in runtime().block_on(client.list_children(path)).unwrap() {
        nodes.extend(tree(client, &format!("{path}/{child}")));
    }
    nodes
}

fn client(connect: &str, user: Option<&str>) -> Client {
    let connector = Client::connector();
    let connector = match user {
        Some(user) => connector.with_auth("digest", user.as_bytes()),
        None => connector,
    };
    runtime().block_on(connector.connect(connect)).unwrap()
}

#[test]
fn a_pipeline_is_exact_over_tls_with_passwords_and_shuts_others_out_and_keeps_its_secrets() {
    let site = Site::get();
    let deployment = site.deployment(USER, COUNT);
    let (input, output_topic, group) = (deployment.topic("in"), deployment.topic("out"), deployment.group());
    site.grant(USER, "Read", &["--topic", &input, "--group", &group]);
    site.grant(USER, "Write", &["--topic", &output_topic, "--transactional-id", &group]);

    let mut printed = String::new();
    under_load(&deployment, 200, || {
        for _ in 0..3 {
            let mut command = run(&deployment);
            command.env("SLUICEGATE_LOG", "trace,wasmtime=info,cranelift=info,regalloc2=info");
            let mut node = deployment.spawn(command);
            node.wait_for("commits", |node| (commits(node) > 2.0).then_some(()));
            printed += &node.log();
            node.kill();
        }
    });
    deployment.produce("in", records(300, 30));
    let mut node = deployment.spawn(run(&deployment));
    deployment.wait_until_done(&mut node);
    // With a node signed on: ephemeral nodes too.
    shut_for_others(site, &deployment);
    printed += &node.log();
    node.stop();

    let credentials = format!("{USER}:{ZOOKEEPER_PASSWORD}");
    let options = ZooKeeperOptions {
        auth: Some(ZooKeeperAuth { scheme: "digest".into(), secret: credentials }),
        ..ZooKeeperOptions::new(&site.zookeeper.connect(), &format!("/{}", deployment.namespace))
    };
    check_exact_in(&deployment, &State::through(options, &deployment));

    printed += &command(&deployment, &["plugin", "list"]);
    assert!(printed.contains("TRACE") && printed.contains("started"), "nothing was logged");
    assert!(!printed.contains(SECRET), "a secret was printed: {}", line_with(&printed, SECRET));
}

#[test]
fn a_cluster_shuts_others_out_and_keeps_its_secrets() {
    let site = Site::get();
    let deployment = site.deployment(USER, COUNT);
    let (input, sink, group) = (deployment.topic("in"), deployment.topic("out"), deployment.group());
    site.grant(USER, "Read", &["--topic", &input, "--group", &group]);
    site.grant(USER, "Write", &["--topic", &sink, "--transactional-id", &group]);
    deployment.produce("in", records(300, 30));

    let mut worker = deployment.command(&["worker", "--node-name", "a"]);
    worker.env("KAFKA_PASSWORD", KAFKA_PASSWORD);
    let mut node = deployment.spawn(worker);
    let mut printed = command(&deployment, &["deploy", "pipeline.toml"]);
    deployment.wait_until_done(&mut node);
    for arguments in [
        &["status", "--json"][..],
        &["nodes", "--json"],
        &["revisions", "count", "--json"],
        &["config", "show", "pipeline.toml"],
        &["doctor", "pipeline.toml"],
        &["state", "export", "count"],
    ] {
        printed += &command(&deployment, arguments);
    }
    shut_for_others(site, &deployment);
    printed += &node.terminate().log;
    assert!(!printed.contains(SECRET), "a secret was printed: {}", line_with(&printed, SECRET));
}

/// What a command that succeeds prints, on both streams.
fn command(deployment: &Deployment, arguments: &[&str]) -> String {
    let (code, text) = output(deployment.command(arguments).env("KAFKA_PASSWORD", KAFKA_PASSWORD));
    assert_eq!(code, Some(0), "{arguments:?}: {text}");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_behind_tls_and_a_password_keeps_the_promises_of_every_store() -> anyhow::Result<()> {
    let site = Site::get();
    let open = || async {
        let tls = ZooKeeperTls { ca: site.authority.certificate(), identity: None };
        let auth = ZooKeeperAuth { scheme: "digest".into(), secret: format!("{USER}:{ZOOKEEPER_PASSWORD}") };
        let options = ZooKeeperOptions::new(&site.zookeeper.secured_connect(), "/promises");
        let options = ZooKeeperOptions { auth: Some(auth), tls: Some(tls), ..options };
        Ok(Arc::new(sluicegate::meta::zookeeper::ZooKeeper::connect(options).await?) as Arc<dyn Coordination>)
    };
    let store = open().await?;
    conformance::store(store.clone()).await?;
    conformance::coordination(store, open).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_over_tls_goes_on_when_the_server_is_back() -> anyhow::Result<()> {
    let authority = Authority::new("authority");
    let mut server = secured_zookeeper(&authority, false);
    let tls = ZooKeeperTls { ca: authority.certificate(), identity: None };
    let options = ZooKeeperOptions::new(&server.secured_connect(), "/restarted");
    let store = sluicegate::meta::zookeeper::ZooKeeper::connect(ZooKeeperOptions { tls: Some(tls), ..options }).await?;
    store.multi(vec![Write::Create { path: "/a".into(), data: "1".into(), ephemeral: true }]).await?;
    server.kill()?;
    let mut session = store.session();
    tokio::time::timeout(SOON, session.wait_for(|session| session.state == SessionState::Away)).await??;
    server.restart()?;
    tokio::time::timeout(SOON, session.wait_for(|session| session.state == SessionState::Connected)).await??;
    assert_eq!(session.borrow().number, 1, "the server still knew the session");
    assert!(store.get("/a").await?.is_some());
    Ok(())
}

fn line_with<'a>(text: &'a str, word: &str) -> &'a str {
    text.lines().find(|line| line.contains(word)).unwrap_or_default()
}

/// Every node below the namespace belongs to the user alone, and holds no secret.
fn shut_for_others(site: &Site, deployment: &Deployment) {
    let (connect, root) = (site.zookeeper.connect(), format!("/{}", deployment.namespace));
    let owner = client(&connect, Some(&format!("{USER}:{ZOOKEEPER_PASSWORD}")));
    let nodes = tree(&owner, &root);
    let paths: Vec<&str> = nodes.iter().map(|(path, ..)| path.as_str()).collect();
    for part in ["", "/format", "/nodes/a", "/blobs", "/pipelines/count", "/head", "/chunks/"] {
        assert!(paths.iter().any(|path| path[root.len()..].contains(part)), "no {part} in {paths:?}");
    }
    let strangers = [None, Some("flow:guess"), Some("guest:zookeeper-hunter2")].map(|user| client(&connect, user));
    for (path, data, acls) in &nodes {
        assert!(!String::from_utf8_lossy(data).contains(SECRET), "{path} holds a secret");
        assert_eq!(acls.len(), 1, "{path} is open to others: {acls:?}");
        assert!(acls[0].starts_with("digest:flow:") && !acls[0].contains(SECRET), "{path}: {acls:?}");
        for stranger in &strangers {
            let read = runtime().block_on(stranger.get_data(path));
            assert_eq!(read.map(drop), Err(Error::NoAuth), "{path}");
            let written = runtime().block_on(stranger.set_data(path, b"x", None));
            assert_eq!(written.map(drop), Err(Error::NoAuth), "{path}");
            let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
            let made = runtime().block_on(stranger.create(&format!("{path}/x"), b"", &options));
            let refusal = made.map(drop).unwrap_err();
            assert!(matches!(refusal, Error::NoAuth | Error::NoChildrenForEphemerals), "{path}: {refusal}");
            let listed = runtime().block_on(stranger.list_children(path));
            assert_eq!(listed.map(drop), Err(Error::NoAuth), "{path}");
        }
        // Deleting takes a right on the parent; the namespace's own parent belongs to everybody.
        if *path != root {
            let deleted = runtime().block_on(strangers[0].delete(path, None));
            assert_eq!(deleted, Err(Error::NoAuth), "{path}");
        }
    }
}
