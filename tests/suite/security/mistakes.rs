//! What somebody is told who gets a certificate, a port or a password wrong: within seconds, what it is and what to do.

use std::fs;
use std::time::{Duration, Instant};

use sluicegate_harness::kafka::{self, Kafka, KafkaOptions};
use sluicegate_harness::zookeeper::{self, ZooKeeper};

use super::certificates::Authority;
use super::{KAFKA_PASSWORD, SECRET, Site, USER, ZOOKEEPER_PASSWORD, output, run, secured_zookeeper};
use crate::deployment::{Deployment, Servers};
use crate::restarts::COUNT;
use crate::shared::own_servers;

/// Within which a person is told. It takes a second or two, but the machine may be busy.
const FEW_SECONDS: Duration = Duration::from_secs(30);

/// A folder with the files that a cluster file may name, those of others too.
fn workplace(authority: &Authority) -> Deployment {
    let deployment = Deployment::on(Servers::local(), 1, COUNT);
    let stranger = Authority::new("stranger");
    let (own, other) = (authority.issue("node", &[]), stranger.issue("node", &[]));
    for (file, text) in [
        ("ca.pem", authority.certificate()),
        ("other-ca.pem", stranger.certificate()),
        ("own.pem", own.certificate),
        ("own.key", own.key),
        ("other.pem", other.certificate),
        ("other.key", other.key),
        ("password", ZOOKEEPER_PASSWORD.to_owned()),
        ("other-password", "guessed-hunter2".to_owned()),
    ] {
        fs::write(deployment.path(file), text).unwrap();
    }
    deployment
}

/// A command for a ZooKeeper fails in time, with these words.
fn told_of_zookeeper(workplace: &Deployment, connect: &str, tables: &str, words: &[&str]) {
    let table = format!("[zookeeper]\nconnect = {connect:?}\nnamespace = \"/mistakes\"\n{tables}");
    workplace.use_cluster("[kafka]\n", &table);
    let begin = Instant::now();
    let (code, text) = output(&mut workplace.command(&["plugin", "list"]));
    assert!(begin.elapsed() < FEW_SECONDS, "after {:?}: {text}", begin.elapsed());
    expect(code, &text, words);
}

fn expect(code: Option<i32>, text: &str, words: &[&str]) {
    assert_eq!(code, Some(1), "{words:?}: {text}");
    for word in words {
        assert!(text.contains(word), "it did not say `{word}`:\n{text}");
    }
    assert!(!text.contains(SECRET), "{text}");
}

#[test]
fn what_is_wrong_between_a_node_and_zookeeper_is_said_with_its_cure() {
    let site = Site::get();
    let workplace = workplace(&site.authority);
    let (plain, secured) = (site.zookeeper.connect(), site.zookeeper.secured_connect());
    let told = |connect: &str, tables: &str, words: &[&str]| told_of_zookeeper(&workplace, connect, tables, words);

    told(
        &secured,
        "[zookeeper.tls]\nca = \"other-ca.pem\"\n",
        &[&secured, "no authority in `ca` of [zookeeper.tls] has signed", "put the certificate"],
    );
    told(&plain, "[zookeeper.tls]\nca = \"ca.pem\"\n", &[&plain, "does not speak TLS", "`secureClientPort`"]);
    told(&secured, "", &[&secured, "wants TLS at this port", "[zookeeper.tls]"]);
    let port = secured.rsplit(':').next().unwrap();
    let (by_name, tls) = (format!("localhost:{port}"), "[zookeeper.tls]\nca = \"ca.pem\"\n");
    told(&by_name, tls, &[&by_name, "for another name", "127.0.0.1"]);
    told("no_host.invalid:2281", tls, &["no_host.invalid:2281 cannot be reached"]);
    let mixed = "[zookeeper.tls]\nca = \"ca.pem\"\ncertificate = \"own.pem\"\nkey = \"other.key\"\n";
    told(&secured, mixed, &["[zookeeper.tls]: the key is not that of the certificate"]);

    // The namespace is made by somebody with a password; others are not let in.
    let auth =
        |user: &str, file: &str| format!("{tls}[zookeeper.auth]\nuser = \"{user}\"\npassword-file = \"{file}\"\n");
    let table = format!("[zookeeper]\nconnect = {secured:?}\nnamespace = \"/mistakes\"\n{}", auth(USER, "password"));
    workplace.use_cluster("[kafka]\n", &table);
    assert_eq!(output(&mut workplace.command(&["plugin", "list"])).0, Some(0));
    told(&secured, &auth(USER, "other-password"), &["as user `flow`", "another password", "access control list"]);
    told(&secured, tls, &["without credentials", "set [zookeeper.auth]"]);
}

#[test]
fn an_expired_certificate_of_zookeeper_is_said_to_have_expired() {
    let authority = Authority::new("authority");
    let identity = authority.issue_expired("zookeeper", &["127.0.0.1"]);
    let secured = zookeeper::Secured { identity, clients: None };
    let options = zookeeper::ZooKeeperOptions { secured: Some(secured), ..Default::default() };
    let server = ZooKeeper::start(options).unwrap();
    let tls = "[zookeeper.tls]\nca = \"ca.pem\"\n";
    told_of_zookeeper(
        &workplace(&authority),
        &server.secured_connect(),
        tls,
        &["certificate that has expired", "renew"],
    );
}

#[test]
fn a_zookeeper_that_asks_for_certificates_takes_them_for_credentials() {
    let authority = Authority::new("authority");
    let server = secured_zookeeper(&authority, true);
    let (workplace, connect) = (workplace(&authority), server.secured_connect());
    let tls = "[zookeeper.tls]\nca = \"ca.pem\"\n";
    told_of_zookeeper(&workplace, &connect, tls, &["does not accept", "set `certificate` and `key`"]);
    let other = format!("{tls}certificate = \"other.pem\"\nkey = \"other.key\"\n");
    told_of_zookeeper(&workplace, &connect, &other, &["does not accept", "set `certificate` and `key`"]);

    let own = format!("{tls}certificate = \"own.pem\"\nkey = \"own.key\"\n");
    let table = format!("[zookeeper]\nconnect = {connect:?}\nnamespace = \"/mine\"\n{own}");
    workplace.use_cluster("[kafka]\n", &table);
    let (code, text) = output(&mut workplace.command(&["plugin", "list"]));
    assert_eq!(code, Some(0), "{text}");
    // What it has made belongs to the name in the certificate.
    let stranger = format!("[zookeeper]\nconnect = {:?}\nnamespace = \"/mine\"\n", server.connect());
    workplace.use_cluster("[kafka]\n", &stranger);
    let (code, text) = output(&mut workplace.command(&["plugin", "list"]));
    expect(code, &text, &["without credentials"]);
}

/// A pipeline does not start for want of a broker that lets it in, and says so in time, with these words.
fn told_of_kafka(workplace: &Deployment, table: &str, words: &[&str]) {
    workplace.use_cluster(table, "");
    let begin = Instant::now();
    let ended = workplace.spawn(run(workplace)).wait_for_end();
    assert!(begin.elapsed() < FEW_SECONDS, "after {:?}: {}", begin.elapsed(), ended.log);
    expect(ended.code, &ended.log, words);
}

/// As above; but it waits, for that may end by itself.
fn waits_for_kafka(workplace: &Deployment, table: &str, words: &[&str]) {
    workplace.use_cluster(table, "");
    let mut node = workplace.spawn(run(workplace));
    node.wait_for_log("waiting: no broker answers");
    for word in words {
        node.wait_for_log(word);
    }
    node.terminate().expect(0, words);
}

#[test]
fn what_is_wrong_between_a_node_and_kafka_is_said_with_its_cure() {
    let site = Site::get();
    let workplace = workplace(&site.authority);
    let good = site.kafka_table(USER);
    let told = |table: &str, words: &[&str]| told_of_kafka(&workplace, table, words);

    told(
        &good.replace("ca.pem", "other-ca.pem"),
        &["no authority in `ssl.ca.location` has signed", "put the certificate"],
    );
    told(
        &good.replace("{ env = \"KAFKA_PASSWORD\" }", "\"guessed-hunter2\""),
        &["invalid credentials", "check `sasl.mechanism`"],
    );
    told(&good.replace("SCRAM-SHA-512", "PLAIN"), &["mechanism", "SCRAM-SHA-512"]);
    let other_port = good.replace(&site.kafka.secured_bootstrap(), &site.kafka.bootstrap());
    waits_for_kafka(&workplace, &other_port, &["connecting to a PLAINTEXT broker listener?"]);
    let plain = good.replace("sasl_ssl", "plaintext");
    told(&plain, &["wants TLS at this port", "set `security.protocol` in [kafka]"]);
}

#[test]
fn an_expired_certificate_of_kafka_is_said_to_have_expired() {
    let _turn = own_servers();
    let authority = Authority::new("authority");
    let identity = authority.issue_expired("kafka", &["127.0.0.1"]);
    let users = vec![(USER.to_owned(), KAFKA_PASSWORD.to_owned())];
    let secured = kafka::Secured { identity, users };
    let server = Kafka::start(KafkaOptions { secured: Some(secured), ..KafkaOptions::default() }).unwrap();
    let table =
        Site::get().kafka_table(USER).replace(&Site::get().kafka.secured_bootstrap(), &server.secured_bootstrap());
    told_of_kafka(&workplace(&authority), &table, &["certificate that has expired", "renew"]);
}
