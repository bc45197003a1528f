//! The other baseline: the loop that people write with rdkafka, a stream of messages and a future for each record sent.
//!
//! Default settings, except that offsets are stored when a record has been delivered, for at-least-once. Many records are in
//! flight at a time; in order. Ends when its standard input does.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use futures::TryStreamExt;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Message};
use tokio::io::AsyncReadExt;

/// Records that are waited for at a time.
const IN_FLIGHT: usize = 10_000;

/// The loop that people write with rdkafka
#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    group: String,
    #[arg(long)]
    source: String,
    #[arg(long)]
    sink: String,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", &arguments.bootstrap)
        .set("group.id", &arguments.group)
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "true")
        .set("enable.auto.offset.store", "false")
        .create()
        .context("make a consumer")?;
    let producer: FutureProducer =
        ClientConfig::new().set("bootstrap.servers", &arguments.bootstrap).create().context("make a producer")?;
    consumer.subscribe(&[&arguments.source])?;
    let sent = consumer.stream().map_err(anyhow::Error::from).map_ok(|message| {
        let (producer, sink) = (&producer, &arguments.sink);
        async move {
            let text = message.payload_view::<str>().context("no tombstones here")?.context("all of it is text")?;
            let value = format!("{text},{}", text.len());
            let record = FutureRecord {
                timestamp: message.timestamp().to_millis(),
                ..FutureRecord::to(sink).key(message.key().unwrap_or_default()).payload(&value)
            };
            let delivered = producer.send(record, Duration::from_secs(60)).await;
            delivered.map_err(|(error, _)| error).context("send a record")?;
            Ok(message)
        }
    });
    let work = sent.try_buffered(IN_FLIGHT).try_for_each(|message| {
        let stored = consumer.store_offset_from_message(&message).context("store an offset");
        futures::future::ready(stored)
    });
    let mut ignored = Vec::new();
    tokio::select! {
        worked = work => worked,
        ended = async { tokio::io::stdin().read_to_end(&mut ignored).await } => ended.map(drop).context("read standard input"),
    }
}
