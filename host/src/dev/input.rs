//! Takes records in: from what is typed, from a file, or made up. Blocks: for a thread of its own.

use std::io::BufRead;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};

use crate::embedded::order;
use crate::kafka::groups::GroupClient;
use crate::kafka::offsets::End;
use crate::kafka::partition;
use crate::kafka::producer::{Producer, ProducerOptions, SendError, TopicHandle};
use crate::kafka::settings::KafkaSettings;
use crate::kafka::topics::wait_for_topics;
use crate::worker::control::Control;

const WAIT: Duration = Duration::from_secs(10);

/// Where records come from.
#[derive(Clone, Debug)]
pub enum Feed {
    /// From nowhere: others write into the topic.
    Nothing,
    /// Lines of standard input.
    Typed {
        /// What stands between key and value; without it lines are values.
        separator: Option<String>,
    },
    /// Lines of a file.
    File {
        /// Which.
        file: PathBuf,
        /// As for what is typed.
        separator: Option<String>,
    },
    /// Orders, so many a second.
    Generated {
        /// How many.
        per_second: u32,
    },
}

/// Feeds a topic until the feed ends or `control` drains.
///
/// # Errors
/// A file cannot be read; Kafka does not take a record.
pub(super) fn run(feed: &Feed, kafka: &KafkaSettings, topic: &str, control: &Arc<Control>) -> Result<()> {
    if matches!(feed, Feed::Nothing) {
        return Ok(());
    }
    let mut sender = Sender::new(kafka, topic)?;
    match feed {
        Feed::Nothing => {}
        Feed::Typed { separator } => sender.lines(std::io::stdin().lock(), separator.as_deref(), control)?,
        Feed::File { file, separator } => {
            let open = std::fs::File::open(file).with_context(|| format!("open {}", file.display()))?;
            sender.lines(std::io::BufReader::new(open), separator.as_deref(), control)?;
        }
        Feed::Generated { per_second } => {
            let begin = Instant::now();
            let pause = Duration::from_secs(1) / (*per_second).max(1);
            for number in 0.. {
                if control.is_draining() {
                    break;
                }
                let (key, value) = order(number);
                sender.send(Some(key.as_bytes()), value.as_bytes())?;
                sender.producer.poll(Duration::ZERO);
                let due = begin + pause * u32::try_from(number + 1).unwrap_or(u32::MAX);
                std::thread::sleep(due.saturating_duration_since(Instant::now()).min(WAIT));
            }
        }
    }
    sender.producer.flush(Instant::now() + WAIT).context("write records")?;
    Ok(())
}

struct Sender {
    producer: Producer,
    topic: TopicHandle,
    partitions: i32,
    sent: i32,
}

impl Sender {
    fn new(kafka: &KafkaSettings, name: &str) -> Result<Self> {
        let names = [name.to_owned()];
        let counts = wait_for_topics(kafka, &names, Some(WAIT), || false)?;
        let mut producer = Producer::new(kafka, &ProducerOptions { client_id: "dev".into(), transactions: None })?;
        let topic = producer.topic(name)?;
        Ok(Self { producer, topic, partitions: counts.get(name).copied().unwrap_or(1), sent: 0 })
    }

    fn lines(&mut self, lines: impl BufRead, separator: Option<&str>, control: &Control) -> Result<()> {
        for (number, line) in (1..).zip(lines.split(b'\n')) {
            if control.is_draining() {
                return Ok(());
            }
            let line = line.context("read records")?;
            let line = line.strip_suffix(b"\r").unwrap_or(&line);
            let Some(separator) = separator.filter(|separator| !separator.is_empty()) else {
                self.send(None, line)?;
                continue;
            };
            let at = line.windows(separator.len()).position(|part| part == separator.as_bytes());
            match at {
                Some(at) => self.send(Some(&line[..at]), &line[at + separator.len()..])?,
                None => eprintln!("line {number}: there is no `{separator}` between key and value; it is left out"),
            }
        }
        Ok(())
    }

    fn send(&mut self, key: Option<&[u8]>, value: &[u8]) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
        self.sent = self.sent.wrapping_add(1).max(0);
        let target = partition::choose(key, self.sent % self.partitions, self.partitions);
        loop {
            match self.producer.send(self.topic, target, key, Some(value), now, std::iter::empty()) {
                Ok(()) => break,
                Err(SendError::QueueFull) => self.producer.poll(Duration::from_millis(1)),
                Err(error) => bail!("write a record: {error}"),
            }
        }
        self.producer.poll(Duration::ZERO);
        Ok(())
    }
}

/// Whether the group has committed everything that is in these topics.
pub(super) fn is_through(kafka: &KafkaSettings, group: &str, topics: &[String]) -> Result<bool> {
    let counts = wait_for_topics(kafka, topics, Some(WAIT), || false)?;
    let partitions = counts.values().next().and_then(|count| u32::try_from(*count).ok()).unwrap_or(0);
    let client = GroupClient::new(kafka, group, topics)?;
    let numbers: Vec<u32> = (0..partitions).collect();
    let (committed, ends) = (client.committed(&numbers, WAIT)?, client.ends(&numbers, End::Newest, WAIT)?);
    let mut pairs = committed.iter().flatten().zip(ends.iter().flatten());
    Ok(pairs.all(|(committed, end)| committed.offset.unwrap_or(0) >= *end))
}
