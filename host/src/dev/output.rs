//! Shows what comes out, as it comes: to standard output, a record a line.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::kafka::log::{Entry, Tail};
use crate::kafka::settings::KafkaSettings;
use crate::payload::Payload;
use crate::worker::control::Control;
use crate::worker::dead_letter;

/// After the pipeline has ended, what it has put out last is still waited for.
const LAST: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(50);

/// A thread that shows records.
pub(super) struct Printing {
    topics: Sender<Vec<String>>,
    thread: JoinHandle<()>,
}

impl Printing {
    /// Shows what comes into these topics too.
    pub(super) fn follow(&self, topics: Vec<String>) {
        // A thread that has ended has said why.
        let _ = self.topics.send(topics);
    }

    /// When everything has been shown.
    pub(super) async fn end(self) {
        // A defect in it has said so itself.
        let _ = self.thread.await;
    }
}

/// Shows what comes into topics, from their beginning or from now on.
///
/// # Errors
/// There is no such Kafka.
pub(super) fn show(
    kafka: &KafkaSettings,
    from_beginning: bool,
    as_json: bool,
    control: Arc<Control>,
) -> Result<Printing> {
    let mut tail = Tail::new(kafka, from_beginning)?;
    let (sender, topics) = mpsc::channel::<Vec<String>>();
    let print = move || {
        loop {
            for topic in topics.try_iter().flatten() {
                if let Err(error) = tail.follow(&topic) {
                    eprintln!("error: what comes out is not shown: {error}");
                }
            }
            // Asked before it is looked: what was put out before the end is shown.
            let last = control.is_draining() && control.task_counts().1 == 0;
            let wait = if last { LAST } else { POLL };
            let mut out = std::io::stdout().lock();
            let shown = tail.next(wait, |topic, entry| {
                let line = if as_json { as_object(topic, &entry).to_string() } else { as_text(topic, &entry) };
                // Whoever closes standard output does not want to see it.
                let _ = writeln!(out, "{line}");
            });
            if let Err(error) = shown {
                eprintln!("error: {error}");
                return;
            }
            if last && matches!(shown, Ok(0)) {
                return;
            }
        }
    };
    Ok(Printing { topics: sender, thread: tokio::task::spawn_blocking(print) })
}

fn payload(bytes: &Option<Vec<u8>>) -> Option<Payload> {
    bytes.as_deref().map(Payload::from)
}

fn text(bytes: &Option<Vec<u8>>) -> String {
    payload(bytes).map_or_else(|| "null".to_owned(), |payload| payload.to_string())
}

/// Of ours: what it holds is text.
fn header(entry: &Entry, name: &str) -> Option<String> {
    let value = entry.headers.iter().find(|(other, _)| other == name)?.1.as_deref()?;
    Some(String::from_utf8_lossy(value).into_owned())
}

fn as_text(topic: &str, entry: &Entry) -> String {
    let key = entry.key.as_ref().map(|_| format!("{}: ", text(&entry.key))).unwrap_or_default();
    let record = format!("{key}{}", text(&entry.value));
    match (header(entry, dead_letter::TRANSFORM), header(entry, dead_letter::REASON)) {
        (Some(transform), Some(reason)) => {
            format!("rejected by {transform}: {record}\n  {}", reason.trim_end().replace('\n', "\n  "))
        }
        _ => format!("{topic}  {record}"),
    }
}

fn as_object(topic: &str, entry: &Entry) -> serde_json::Value {
    let headers: Vec<_> = entry.headers.iter().map(|(name, value)| (name, payload(value))).collect();
    json!({
        "topic": topic,
        "partition": entry.partition,
        "offset": entry.offset,
        "timestamp": entry.timestamp,
        "key": payload(&entry.key),
        "value": payload(&entry.value),
        "headers": headers,
    })
}
