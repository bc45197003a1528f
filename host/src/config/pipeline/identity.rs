//! When two pipeline files mean the same: canonical JSON and digests of it.
//!
//! Comments, order of keys, defaults that are written out and the folder a file lies in change nothing. Invariant:
//! objects are written with sorted keys, whatever `serde_json` was compiled with, so a digest never changes by itself.

use serde_json::{Value, json};

use super::{OnError, Pipeline, PluginReference, Start, TransformLimits};
use crate::digest::Digest;

impl Pipeline {
    /// The pipeline as one line of JSON with sorted keys and every default filled in.
    ///
    /// `digests` has the SHA-256 of each transform's plugin, in hexadecimal: a plugin named by path is
    /// identified by it, so that a file that was built anew makes another revision.
    #[must_use]
    pub fn canonical_json(&self, digests: &[String]) -> String {
        let sources = self.sources.iter().map(|source| {
            let start = match source.start {
                Start::Earliest => json!("earliest"),
                Start::Latest => json!("latest"),
                Start::Timestamp(milliseconds) => json!(milliseconds),
            };
            json!({ "topic": source.topic, "start": start, "input": source.input })
        });
        let transforms = self.transforms.iter().enumerate().map(|(index, transform)| {
            let plugin = match &transform.plugin {
                PluginReference::Path(_) => Value::Null,
                reference => json!(reference.to_string()),
            };
            json!({
                "name": transform.name,
                "plugin": plugin,
                "digest": digests.get(index),
                "config": transform.config,
                "grants": transform.grants.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "limits": limits(&transform.limits),
            })
        });
        let named = |index: usize| self.transforms.get(index).map(|transform| transform.name.as_str());
        let sinks = self
            .sinks
            .iter()
            .map(|sink| json!({ "topic": sink.topic, "transform": named(sink.transform), "output": sink.output }));
        let discards = self
            .discards
            .iter()
            .map(|discard| json!({ "transform": named(discard.transform), "output": discard.output }));
        let (on_error, dead_letter_topic) = match &self.on_error {
            OnError::Stop => ("stop", None),
            OnError::Skip => ("skip", None),
            OnError::DeadLetter(topic) => ("dead-letter", Some(topic)),
        };
        let mut delivery = json!({
            "guarantee": self.delivery.guarantee.to_string(),
            "commit-interval-ms": milliseconds(self.delivery.commit_interval),
            "commit-bytes": self.delivery.commit_bytes,
        });
        // The form is that of earlier versions where nothing newer is used.
        if self.delivery.provenance_headers {
            delivery["provenance-headers"] = json!(true);
        }
        canonical(&json!({
            "name": self.name.as_str(),
            "source": sources.collect::<Vec<_>>(),
            "transform": transforms.collect::<Vec<_>>(),
            "sink": sinks.collect::<Vec<_>>(),
            "discard": discards.collect::<Vec<_>>(),
            "delivery": delivery,
            "errors": {
                "on-error": on_error,
                "dead-letter-topic": dead_letter_topic,
                "give-up-after": self.give_up_after,
            },
            "limits": { "batch-records": self.batches.records, "batch-bytes": self.batches.bytes },
        }))
    }

    /// SHA-256 of `canonical_json`, in hexadecimal: two files with the same one are the same revision.
    #[must_use]
    pub fn digest(&self, digests: &[String]) -> String {
        Digest::of(self.canonical_json(digests).as_bytes()).hex()
    }

    /// SHA-256, in hexadecimal, of what a transform's results depend on beside its code: configuration, grants, limits.
    ///
    /// `None` if there is no transform of that index.
    #[must_use]
    pub fn config_hash(&self, transform: usize) -> Option<String> {
        let transform = self.transforms.get(transform)?;
        let json = canonical(&json!({
            "config": transform.config,
            "grants": transform.grants.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "limits": limits(&transform.limits),
        }));
        Some(Digest::of(json.as_bytes()).hex())
    }
}

fn limits(limits: &TransformLimits) -> Value {
    json!({
        "memory": limits.memory,
        "time-per-batch-ms": milliseconds(limits.time_per_batch),
        "output-bytes": limits.output_bytes,
        "state-bytes": limits.state_bytes,
    })
}

fn milliseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn canonical(value: &Value) -> String {
    match value {
        Value::Object(object) => {
            let mut entries: Vec<_> = object.iter().collect();
            entries.sort_by_key(|(key, _)| key.as_str());
            let entries: Vec<String> = entries
                .into_iter()
                .map(|(key, value)| format!("{}:{}", Value::String(key.clone()), canonical(value)))
                .collect();
            format!("{{{}}}", entries.join(","))
        }
        Value::Array(list) => format!("[{}]", list.iter().map(canonical).collect::<Vec<_>>().join(",")),
        scalar => scalar.to_string(),
    }
}
