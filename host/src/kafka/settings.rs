//! From the user's properties to librdkafka's configuration.
//!
//! Three layers, later ones win: defaults for throughput, `[kafka]`, `[kafka.consumer]` or `[kafka.producer]`. On top lie the
//! properties on which correctness rests; setting one of those is an error that says why. What a property means and
//! whether it exists is librdkafka's business: its own message comes back with the name and the value.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaError;
use thiserror::Error;

use super::context::Context;
use super::producer::Transactions;

/// Properties as the user wrote them, by librdkafka's names. Values may be secret: `Debug` shows names alone.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct KafkaSettings {
    /// For every client: `bootstrap.servers`, security and so on.
    pub common: BTreeMap<String, String>,
    /// For consumers, over `common`.
    pub consumer: BTreeMap<String, String>,
    /// For producers, over `common`.
    pub producer: BTreeMap<String, String>,
}

impl fmt::Debug for KafkaSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { common, consumer, producer } = self;
        let names = |properties: &BTreeMap<String, String>| properties.keys().cloned().collect::<Vec<_>>();
        f.debug_struct("KafkaSettings")
            .field("common", &names(common))
            .field("consumer", &names(consumer))
            .field("producer", &names(producer))
            .finish()
    }
}

/// A property that cannot be used.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// It is Sluicegate's to set.
    #[error("kafka property `{key}` cannot be set: {reason}; remove it")]
    Reserved {
        /// The property.
        key: String,
        /// Why it is not the user's.
        reason: &'static str,
    },
    /// librdkafka does not know it or does not take its value.
    #[error("{reason}")]
    Refused {
        /// The property; empty where librdkafka does not say which.
        key: String,
        /// In librdkafka's words.
        reason: String,
    },
}

impl SettingsError {
    /// The property it is about.
    #[must_use]
    pub fn property(&self) -> &str {
        match self {
            Self::Reserved { key, .. } | Self::Refused { key, .. } => key,
        }
    }
}

/// Throughput without tuning. Each value was measured against librdkafka's default.
const CONSUMER_DEFAULTS: &[(&str, &str)] = &[
    // Default 1000: a partition whose queue is full is not fetched for a whole second. The largest single setting there is.
    ("fetch.queue.backoff.ms", "1"),
    ("fetch.message.max.bytes", "4194304"),
    ("fetch.error.backoff.ms", "100"),
    // Default 500: how long a partition that has just been started waits for the answer to a fetch of the others, when they
    // have nothing new. Ten requests a second to each broker is what it costs.
    ("fetch.wait.max.ms", "100"),
    // Bounds what lies fetched and unread, in KiB for the whole consumer and in records for a partition.
    ("queued.max.messages.kbytes", "65536"),
    ("queued.min.messages", "100000"),
    ("statistics.interval.ms", "1000"),
    ("reconnect.backoff.max.ms", "1000"),
    ("log.connection.close", "false"),
];

/// A killed node is noticed after the session time-out: librdkafka's default is 45 s, Kafka's own client had 10 s for years.
/// A member hears of a rebalance in the answer to a heartbeat: until then it keeps what another one is waiting for.
const CLASSIC_DEFAULTS: &[(&str, &str)] = &[("session.timeout.ms", "10000"), ("heartbeat.interval.ms", "500")];

/// Statistics stay off: with them librdkafka locks and fills a histogram for every record that it sends, and of a producer
/// nobody reads them.
const PRODUCER_DEFAULTS: &[(&str, &str)] = &[
    ("linger.ms", "5"),
    ("batch.size", "1000000"),
    ("batch.num.messages", "10000"),
    // Bounds what is sent and not acknowledged; beyond it the producer says that it is full and the input stops.
    ("queue.buffering.max.messages", "500000"),
    ("queue.buffering.max.kbytes", "131072"),
    ("reconnect.backoff.max.ms", "1000"),
    ("log.connection.close", "false"),
];

const OFFSETS_OURS: &str = "offsets are committed together with the state";
const GROUP_OURS: &str = "the group belongs to the pipeline";
const INFINITE: &str = "a broker that is away is waited for, and a record given up would be lost";
const RESET_OURS: &str =
    "a lost offset must stop the pipeline, not skip or repeat records; `start` in `[[source]]` says where to begin";
const ASSIGNOR_OURS: &str = "partitions of several sources must stay together";
const IDEMPOTENCE: &str = "without it a retry can repeat or reorder records";
const EVENTS_OURS: &str = "it is how sluicegate hears from librdkafka";
const ALIAS_ACKS: &str = "a record counts as written when all in-sync replicas have it";

/// Set for every consumer. What is empty here is set elsewhere, and reserved all the same.
const CONSUMER_ENFORCED: &[(&str, &str, &str)] = &[
    ("enable.auto.commit", "false", OFFSETS_OURS),
    ("enable.auto.offset.store", "false", OFFSETS_OURS),
    ("auto.offset.reset", "error", RESET_OURS),
    ("isolation.level", "read_committed", "records of aborted transactions must not be processed"),
    ("enable.partition.eof", "false", EVENTS_OURS),
    ("group.id", "", GROUP_OURS),
    ("client.id", "", GROUP_OURS),
    ("partition.assignment.strategy", "", ASSIGNOR_OURS),
    ("group.remote.assignor", "", ASSIGNOR_OURS),
];

const PRODUCER_ENFORCED: &[(&str, &str, &str)] = &[
    ("enable.idempotence", "true", IDEMPOTENCE),
    ("acks", "all", ALIAS_ACKS),
    ("request.required.acks", "", ALIAS_ACKS),
    ("message.timeout.ms", "0", INFINITE),
    ("delivery.timeout.ms", "", INFINITE),
    ("delivery.report.only.error", "true", EVENTS_OURS),
    ("transactional.id", "", GROUP_OURS),
    ("transaction.timeout.ms", "", "it follows from `commit-interval` and `time-per-batch` of the pipeline"),
    ("client.id", "", GROUP_OURS),
];

/// How group membership works.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum GroupProtocol {
    /// The members agree on who gets what.
    Classic,
    /// The broker says who gets what (KIP-848).
    Consumer,
}

impl KafkaSettings {
    /// Checks everything that can be checked without a broker, so that the user hears of it before anything starts.
    ///
    /// # Errors
    /// The first property that is reserved or that librdkafka refuses.
    pub fn check(&self) -> Result<(), SettingsError> {
        self.consumer_config("check", "check", 1)?.create_native_config().map_err(refused)?;
        let transactions = Transactions { id: "check".to_owned(), timeout: Duration::from_secs(15) };
        self.producer_config("check", Some(&transactions))?.create_native_config().map_err(refused)?;
        self.check_mechanism()?;
        // What belongs together is checked with a client alone. This one asks nobody anything.
        self.metadata_config()?.create_with_context::<_, BaseConsumer<Context>>(Context::default()).map_err(refused)?;
        Ok(())
    }

    /// librdkafka has OAUTHBEARER, and would wait for ever for somebody to hand it a token.
    fn check_mechanism(&self) -> Result<(), SettingsError> {
        for key in ["sasl.mechanism", "sasl.mechanisms"] {
            for layer in [&self.common, &self.consumer, &self.producer] {
                if layer.get(key).is_some_and(|mechanism| mechanism.eq_ignore_ascii_case("OAUTHBEARER")) {
                    let reason = format!("this program cannot get tokens; {MECHANISMS}");
                    return Err(SettingsError::Refused { key: key.to_owned(), reason });
                }
            }
        }
        Ok(())
    }

    pub(super) fn group_protocol(&self) -> GroupProtocol {
        let chosen = self.consumer.get("group.protocol").or_else(|| self.common.get("group.protocol"));
        match chosen {
            Some(protocol) if protocol.eq_ignore_ascii_case("consumer") => GroupProtocol::Consumer,
            _ => GroupProtocol::Classic,
        }
    }

    /// Whether a client with these properties of its own speaks TLS and leaves open whom it trusts.
    fn encrypts(&self, own: &BTreeMap<String, String>) -> bool {
        let get = |name| own.get(name).or_else(|| self.common.get(name));
        let protocol = get("security.protocol").map(|protocol| protocol.to_ascii_lowercase());
        let trusts = ["ssl.ca.location", "ssl.ca.pem"].into_iter().any(|name| get(name).is_some());
        cfg!(feature = "tls") && protocol.is_some_and(|protocol| protocol.ends_with("ssl")) && !trusts
    }

    /// For a member of `group`. Several topics are co-partitioned and must be assigned together, which `range` does and
    /// `cooperative-sticky` does not promise; one topic is moved with the least disturbance by the latter.
    pub(super) fn consumer_config(
        &self,
        group: &str,
        client_id: &str,
        topics: usize,
    ) -> Result<ClientConfig, SettingsError> {
        let mut config = self.layered(CONSUMER_DEFAULTS, &self.consumer, CONSUMER_ENFORCED)?;
        config.set("group.id", group).set("client.id", client_id);
        if self.group_protocol() == GroupProtocol::Classic {
            // Under the newer protocol these are the broker's to set.
            for (property, default) in CLASSIC_DEFAULTS {
                if config.get(property).is_none() {
                    config.set(*property, *default);
                }
            }
        }
        match (self.group_protocol(), topics) {
            (GroupProtocol::Classic, 0 | 1) => {
                config.set("partition.assignment.strategy", "cooperative-sticky");
            }
            (GroupProtocol::Classic, _) => {
                config.set("partition.assignment.strategy", "range");
            }
            (GroupProtocol::Consumer, 0 | 1) => {}
            (GroupProtocol::Consumer, _) => {
                config.set("group.remote.assignor", "range");
            }
        }
        Ok(config)
    }

    /// For a client that only asks for metadata.
    pub(super) fn metadata_config(&self) -> Result<ClientConfig, SettingsError> {
        self.layered(&[("reconnect.backoff.max.ms", "1000")], &BTreeMap::new(), &[])
    }

    pub(super) fn producer_config(
        &self,
        client_id: &str,
        transactions: Option<&Transactions>,
    ) -> Result<ClientConfig, SettingsError> {
        let mut config = self.layered(PRODUCER_DEFAULTS, &self.producer, PRODUCER_ENFORCED)?;
        config.set("client.id", client_id);
        if let Some(Transactions { id, timeout }) = transactions {
            config.set("transactional.id", id).set("transaction.timeout.ms", timeout.as_millis().to_string());
            // A record is given up with its transaction, and sent again in the next.
            config.remove("message.timeout.ms");
        }
        Ok(config)
    }

    fn layered(
        &self,
        defaults: &[(&str, &str)],
        own: &BTreeMap<String, String>,
        enforced: &[(&str, &str, &'static str)],
    ) -> Result<ClientConfig, SettingsError> {
        let mut config = ClientConfig::new();
        for (key, value) in defaults {
            config.set(*key, *value);
        }
        if self.encrypts(own) {
            // OpenSSL is built in, and would look for the authorities of this machine where it was built.
            config.set("ssl.ca.location", "probe");
        }
        for (key, value) in self.common.iter().chain(own) {
            let everywhere = CONSUMER_ENFORCED.iter().chain(PRODUCER_ENFORCED).chain(enforced);
            if let Some((_, _, reason)) = everywhere.into_iter().find(|(reserved, _, _)| reserved == key) {
                return Err(SettingsError::Reserved { key: key.clone(), reason });
            }
            config.set(key, value);
        }
        for (key, value, _) in enforced.iter().filter(|(_, value, _)| !value.is_empty()) {
            config.set(*key, *value);
        }
        Ok(config)
    }
}

/// What librdkafka said of a configuration.
pub(super) fn refused(error: KafkaError) -> SettingsError {
    match error {
        KafkaError::ClientConfig(_, reason, key, _) => SettingsError::Refused { reason: explain(reason), key },
        KafkaError::ClientCreation(reason) => SettingsError::Refused { key: String::new(), reason: explain(reason) },
        other => SettingsError::Refused { key: String::new(), reason: other.to_string() },
    }
}

const MECHANISMS: &str = "set `sasl.mechanism` to \"PLAIN\", \"SCRAM-SHA-256\" or \"SCRAM-SHA-512\"";

/// What to do where librdkafka says only what is missing.
fn explain(reason: String) -> String {
    if reason.contains("not available at build time") || reason.contains("No provider for SASL mechanism") {
        return match cfg!(feature = "tls") {
            true => format!("{reason}; {MECHANISMS}"),
            false => format!("{reason}; build this program with the cargo feature `tls`, which is on by default"),
        };
    }
    reason
}

/// A client's creation fails over its configuration or over something else.
pub(super) fn creation_error(error: KafkaError) -> super::ClientError {
    match error {
        KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_) => refused(error).into(),
        other => super::ClientError::Client(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(key: &str, value: &str) -> KafkaSettings {
        let mut settings = KafkaSettings::default();
        settings.common.insert("bootstrap.servers".to_owned(), "127.0.0.1:1".to_owned());
        settings.consumer.insert(key.to_owned(), value.to_owned());
        settings
    }

    #[test]
    fn own_properties_override_defaults() {
        let config = with("fetch.queue.backoff.ms", "7").consumer_config("g", "c", 1).unwrap();
        assert_eq!(config.get("fetch.queue.backoff.ms"), Some("7"));
        assert_eq!(config.get("queued.min.messages"), Some("100000"));
    }

    #[test]
    fn what_correctness_rests_on_cannot_be_set() {
        for key in ["enable.auto.commit", "auto.offset.reset", "group.id", "acks", "delivery.timeout.ms"] {
            let error = with(key, "1").check().unwrap_err();
            assert!(error.to_string().contains(key), "{error}");
            assert!(matches!(error, SettingsError::Reserved { .. }), "{error}");
        }
    }

    #[test]
    fn values_are_not_shown() {
        let shown = format!("{:?}", with("sasl.password", "hunter2"));
        assert!(shown.contains("sasl.password") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn a_client_that_speaks_tls_trusts_whom_the_machine_trusts_unless_told_otherwise() {
        let location = |settings: &KafkaSettings| {
            settings.consumer_config("g", "c", 1).unwrap().get("ssl.ca.location").map(str::to_owned)
        };
        let expected = cfg!(feature = "tls").then_some("probe");
        assert_eq!(location(&with("security.protocol", "SASL_SSL")).as_deref(), expected);
        assert_eq!(location(&with("security.protocol", "sasl_plaintext")), None);
        let mut settings = with("security.protocol", "ssl");
        settings.common.insert("ssl.ca.location".to_owned(), "ca.pem".to_owned());
        assert_eq!(location(&settings).as_deref(), Some("ca.pem"));
    }

    /// In a program with TLS and in one without.
    #[test]
    fn tls_works_or_the_error_says_how_to_get_it() {
        let result = with("security.protocol", "ssl").check();
        if cfg!(feature = "tls") {
            result.unwrap();
        } else {
            let error = result.unwrap_err();
            assert_eq!(error.property(), "security.protocol");
            assert!(error.to_string().contains("cargo feature `tls`"), "{error}");
        }
    }

    #[test]
    fn a_mechanism_that_cannot_work_is_refused_at_once() {
        for mechanism in ["OAUTHBEARER", "GSSAPI"] {
            let mut settings = with("fetch.wait.max.ms", "1");
            settings.common.insert("security.protocol".to_owned(), "sasl_plaintext".to_owned());
            settings.common.insert("sasl.mechanism".to_owned(), mechanism.to_owned());
            let error = settings.check().unwrap_err().to_string();
            assert!(error.contains("set `sasl.mechanism` to \"PLAIN\"") || !cfg!(feature = "tls"), "{error}");
        }
    }

    #[test]
    fn an_unknown_property_is_named() {
        let error = with("fetch.max.byte", "1").check().unwrap_err();
        assert!(error.to_string().contains("fetch.max.byte"), "{error}");
        let error = with("fetch.wait.max.ms", "soon").check().unwrap_err();
        assert!(error.to_string().contains("fetch.wait.max.ms"), "{error}");
    }

    #[test]
    fn several_topics_are_assigned_together() {
        let classic = with("session.timeout.ms", "10000");
        let strategy = |topics| {
            let config = classic.consumer_config("g", "c", topics).unwrap();
            config.get("partition.assignment.strategy").map(str::to_owned)
        };
        assert_eq!(strategy(1).as_deref(), Some("cooperative-sticky"));
        assert_eq!(strategy(2).as_deref(), Some("range"));
        let broker_side = with("group.protocol", "consumer").consumer_config("g", "c", 2).unwrap();
        assert_eq!(broker_side.get("partition.assignment.strategy"), None);
        assert_eq!(broker_side.get("group.remote.assignor"), Some("range"));
    }

    #[test]
    fn both_group_protocols_make_valid_configurations() {
        with("group.protocol", "classic").check().unwrap();
        with("group.protocol", "consumer").check().unwrap();
    }
}
