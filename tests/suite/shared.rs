//! One Kafka and one ZooKeeper for all tests of this binary that only need names of their own in them; a test that disturbs a
//! server starts its own.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use sluicegate_harness::kafka::{Kafka, KafkaOptions};
use sluicegate_harness::zookeeper::{ZooKeeper, ZooKeeperOptions};

/// How long anything may take that should happen soon. Generous, because the machine may be busy.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// The shared broker.
pub(crate) fn kafka() -> &'static Kafka {
    static KAFKA: OnceLock<Kafka> = OnceLock::new();
    KAFKA.get_or_init(|| Kafka::start(KafkaOptions::default()).unwrap())
}

/// The shared ZooKeeper.
pub(crate) fn zookeeper() -> &'static ZooKeeper {
    static ZOOKEEPER: OnceLock<ZooKeeper> = OnceLock::new();
    ZOOKEEPER.get_or_init(|| ZooKeeper::start(ZooKeeperOptions::default()).unwrap())
}

/// For tests that start servers of their own: one at a time, so that the machine has memory and cores for the others.
pub(crate) fn own_servers() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A name nobody else uses.
pub(crate) fn unique(what: &str) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    format!("{what}-{}", COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// Creates a topic of a name of its own.
pub(crate) fn topic(bootstrap: &str, what: &str, partitions: i32) -> String {
    let name = unique(what);
    create_topic(bootstrap, &name, partitions);
    name
}

/// Creates a topic.
pub(crate) fn create_topic(bootstrap: &str, name: &str, partitions: i32) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", bootstrap).create().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let new = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    let results = runtime.block_on(admin.create_topics([&new], &AdminOptions::new())).unwrap();
    results.into_iter().for_each(|result| drop(result.unwrap()));
}

/// Sets one setting of a topic.
pub(crate) fn alter_topic(bootstrap: &str, name: &str, key: &str, value: &str) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", bootstrap).create().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let change = AlterConfig::new(ResourceSpecifier::Topic(name)).set(key, value);
    let results = runtime.block_on(admin.alter_configs([&change], &AdminOptions::new())).unwrap();
    results.into_iter().for_each(|result| drop(result.unwrap()));
}

/// Asks `condition` until it gives something.
///
/// # Panics
/// Not within [`SOON`].
pub(crate) fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {SOON:?}: {what}");
    }
}

/// Looks every few milliseconds whether `condition` gives something.
///
/// # Panics
/// Not within [`SOON`].
pub(crate) fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    eventually(what, || {
        let found = condition();
        if found.is_none() {
            std::thread::sleep(Duration::from_millis(10));
        }
        found
    })
}
