//! Traces and logs for a collector: a small one that listens here keeps what it is sent.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::deployment::Deployment;
use crate::records::Record;
use crate::restarts::{COUNT, check_exact, records};
use crate::shared::wait_for;

/// What was posted, by path. Texts in protobuf are as they are.
type Posted = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

struct Collector {
    url: String,
    posted: Posted,
}

impl Collector {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let posted = Posted::default();
        let keep = Arc::clone(&posted);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, keep) = (stream.unwrap(), Arc::clone(&keep));
                thread::spawn(move || serve(stream, &keep));
            }
        });
        Self { url, posted }
    }

    fn has(&self, path: &str, words: &[&str]) -> bool {
        let posted = self.posted.lock().unwrap();
        let Some(text) = posted.get(path).map(|bytes| String::from_utf8_lossy(bytes).into_owned()) else {
            return false;
        };
        words.iter().all(|word| text.contains(word))
    }
}

/// One request after the other, until the client has enough.
fn serve(mut stream: TcpStream, posted: &Posted) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let (mut line, mut head) = (String::new(), Vec::new());
        while reader.read_line(&mut line).ok()? > 2 {
            head.push(std::mem::take(&mut line));
        }
        let path = head.first()?.split(' ').nth(1)?.to_owned();
        let length = head.iter().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
        });
        let mut body = vec![0; length?];
        reader.read_exact(&mut body).ok()?;
        posted.lock().unwrap().entry(path).or_default().extend(body);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").ok()?;
    }
}

#[test]
fn commits_and_restores_are_traced_and_logs_go_along() {
    let collector = Collector::new();
    let deployment = Deployment::new(COUNT);
    deployment.produce("in", records(50, 5));
    let mut command = deployment.run_command("a");
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url).env("OTEL_SERVICE_NAME", "orders-team");
    let mut node = deployment.spawn(command);
    node.wait_until_ready();
    wait_for("outputs", || (deployment.read("out").len() == 50).then_some(()));
    node.stop();
    // The end sends what is left.
    let stages = ["flush outputs", "write heads", "send offsets", "commit transaction"];
    let spans = ["load", "fetch and compile", "bring up", "claim", "read state", "commit", "committed"];
    assert!(collector.has("/v1/traces", &[&stages[..], &spans[..]].concat()));
    assert!(collector.has("/v1/traces", &["orders-team", "service.version", "host.name"]));
    assert!(collector.has("/v1/logs", &["everything is committed", "orders-team"]));
    check_exact(&deployment);
}

#[test]
fn a_collector_that_is_away_costs_nothing_but_a_warning() {
    let deployment = Deployment::new(COUNT);
    let mut command = deployment.run_command("a");
    command.args(["--otlp-endpoint", "http://127.0.0.1:1"]);
    let mut node = deployment.spawn(command);
    node.wait_until_ready();
    node.wait_for_log("do not reach the collector");
    deployment.produce("in", [Record::of("key", "value")]);
    wait_for("an output", || (deployment.read("out").len() == 1).then_some(()));
    let log = node.log_name();
    node.stop();
    let (_, log) = deployment.logs().into_iter().find(|(name, _)| *name == log).unwrap();
    // Once for traces, once for logs.
    assert!(log.matches("do not reach the collector").count() <= 2, "{log}");
}
