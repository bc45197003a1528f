//! Every value of a pipeline with where it comes from.

use serde_json::Value;

use super::{OnError, Pipeline, PluginReference, Source, Start, Transform};
use crate::config::secret::is_secret_name;
use crate::config::setting::{Listing, Overrides, Setting};
use crate::config::value;

impl Pipeline {
    /// Every value in the order of the reference page. Nothing goes over a pipeline file.
    #[must_use]
    pub fn settings(&self) -> Vec<Setting> {
        let overrides = Overrides::new();
        let mut list = Listing::new(&self.text, &overrides);
        list.add("name", &self.name);
        for (index, of) in self.sources.iter().enumerate() {
            source(&mut list, index, of);
        }
        for (index, of) in self.transforms.iter().enumerate() {
            transform(&mut list, index, of);
        }
        for (index, sink) in self.sinks.iter().enumerate() {
            list.add(format!("sink[{index}].topic"), &sink.topic);
            list.add(format!("sink[{index}].transform"), self.transform_name(sink.transform));
            list.add_optional(format!("sink[{index}].output"), sink.output.as_ref());
        }
        for (index, discard) in self.discards.iter().enumerate() {
            list.add(format!("discard[{index}].transform"), self.transform_name(discard.transform));
            list.add(format!("discard[{index}].output"), &discard.output);
        }
        list.add("delivery.guarantee", self.delivery.guarantee);
        list.add("delivery.commit-interval", humantime::format_duration(self.delivery.commit_interval));
        list.add("delivery.commit-bytes", value::plain_size(self.delivery.commit_bytes));
        list.add("delivery.provenance-headers", self.delivery.provenance_headers);
        errors(&mut list, &self.on_error);
        list.add("errors.give-up-after", self.give_up_after);
        list.add("limits.batch-records", self.batches.records);
        list.add("limits.batch-bytes", value::plain_size(self.batches.bytes));
        list.finish()
    }

    fn transform_name(&self, index: usize) -> &str {
        self.transforms.get(index).map_or("", |transform| transform.name.as_str())
    }
}

fn source(list: &mut Listing<'_>, index: usize, source: &Source) {
    let start = match source.start {
        Start::Earliest => "earliest".to_owned(),
        Start::Latest => "latest".to_owned(),
        Start::Timestamp(ms) => {
            jiff::Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |time| time.to_string())
        }
    };
    list.add(format!("source[{index}].topic"), &source.topic);
    list.add(format!("source[{index}].start"), start);
    list.add_optional(format!("source[{index}].input"), source.input.as_ref());
}

fn transform(list: &mut Listing<'_>, index: usize, transform: &Transform) {
    let own = |key: &str| format!("transform[{index}].{key}");
    list.add(own("name"), &transform.name);
    match &transform.plugin {
        PluginReference::Path(path) => list.add(own("plugin"), path.display()),
        reference => list.add(own("plugin"), reference),
    }
    config(list, &own("config"), &transform.config);
    let grants: Vec<String> = transform.grants.iter().map(ToString::to_string).collect();
    list.add(own("grants"), format!("[{}]", grants.join(", ")));
    let limits = &transform.limits;
    for (key, value) in [
        ("memory", value::plain_size(limits.memory)),
        ("time-per-batch", humantime::format_duration(limits.time_per_batch).to_string()),
        ("output-bytes", value::plain_size(limits.output_bytes)),
        ("state-bytes", value::plain_size(limits.state_bytes)),
    ] {
        let (of_transform, of_all) = (own(&format!("limits.{key}")), format!("limits.{key}"));
        list.add_from(of_transform.clone(), value, &[&of_transform, &of_all]);
    }
}

/// Each value of a plugin's configuration by itself, so that each can say where it is, and secrets can be masked.
fn config(list: &mut Listing<'_>, at: &str, value: &Value) {
    match value {
        Value::Object(object) if !object.is_empty() => {
            object.iter().for_each(|(key, value)| config(list, &format!("{at}.{key}"), value));
        }
        Value::Array(entries) if !entries.is_empty() => {
            entries.iter().enumerate().for_each(|(index, value)| config(list, &format!("{at}[{index}]"), value));
        }
        _ if is_secret_name(at) => list.add_secret(at, &[at]),
        Value::String(text) => list.add(at, text),
        other => list.add(at, other),
    }
}

fn errors(list: &mut Listing<'_>, on_error: &OnError) {
    // A topic alone says as much as both.
    let places = ["errors.on-error", "errors.dead-letter-topic"];
    match on_error {
        OnError::Stop => list.add_from("errors.on-error", "stop", &places),
        OnError::Skip => list.add_from("errors.on-error", "skip", &places),
        OnError::DeadLetter(topic) => {
            list.add_from("errors.on-error", "dead-letter", &places);
            list.add("errors.dead-letter-topic", topic);
        }
    }
}
