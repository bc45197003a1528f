//! Every value of a cluster's configuration with where it comes from.

use super::kafka::KafkaProperty;
use super::{Cluster, Http, KafkaProperties, ZooKeeper};
use crate::config::setting::{Listing, Overrides, Setting};
use crate::config::value;

impl Cluster {
    /// Every value in the order of the reference page; `overrides` are those of the arguments that it was loaded with.
    ///
    /// Properties that are not set have librdkafka's defaults, or the host's, and are not in it.
    #[must_use]
    pub fn settings(&self, overrides: &Overrides) -> Vec<Setting> {
        let mut list = Listing::new(&self.text, overrides);
        list.add("node.name", &self.node);
        properties(&mut list, "kafka", &self.kafka.common);
        properties(&mut list, "kafka.consumer", &self.kafka.consumer);
        properties(&mut list, "kafka.producer", &self.kafka.producer);
        match &self.zookeeper {
            Some(zookeeper) => ensemble(&mut list, zookeeper),
            None => list.add_optional("zookeeper.connect", None::<String>),
        }
        list.add("local.path", self.local_path.display());
        list.add("cache.path", self.cache_path.display());
        match self.http {
            Http::Listen(address) => list.add("http.listen", address),
            Http::Off => list.add("http.listen", "off"),
        }
        if self.http_token.is_some() {
            list.add_secret("http.token", &["http.token-env", "http.token-file"]);
        }
        list.add("worker.threads", self.worker_threads);
        list.add("limits.zookeeper-bytes-per-second", value::plain_size(self.limits.zookeeper_bytes_per_second));
        list.add("limits.plugin-size", value::plain_size(self.limits.plugin_size));
        list.add("limits.drain-deadline", humantime::format_duration(self.limits.drain_deadline));
        if !self.trusted_keys.are_required() {
            list.add("plugins.trusted-keys", "[]");
        }
        for (nth, id) in self.trusted_keys.ids().enumerate() {
            list.add(format!("plugins.trusted-keys[{nth}]"), id);
        }
        list.finish()
    }
}

fn properties(list: &mut Listing<'_>, table: &str, properties: &KafkaProperties) {
    for (name, property) in properties.entries() {
        let key = format!("{table}.{name}");
        match property {
            KafkaProperty::Plain(value) => list.add(key, value),
            KafkaProperty::Secret(_) => list.add_secret(key.clone(), &[&key]),
        }
    }
}

fn ensemble(list: &mut Listing<'_>, zookeeper: &ZooKeeper) {
    list.add("zookeeper.connect", &zookeeper.connect);
    list.add("zookeeper.namespace", &zookeeper.namespace);
    list.add("zookeeper.session-timeout", humantime::format_duration(zookeeper.session_timeout));
    if let Some(auth) = &zookeeper.auth {
        list.add("zookeeper.auth.scheme", "digest");
        list.add("zookeeper.auth.user", &auth.user);
        let places = ["zookeeper.auth.password-env", "zookeeper.auth.password-file"];
        list.add_secret("zookeeper.auth.password", &places);
    }
    if zookeeper.tls.is_some() {
        for key in ["zookeeper.tls.ca", "zookeeper.tls.certificate", "zookeeper.tls.key"] {
            list.add_written(key);
        }
    }
}
