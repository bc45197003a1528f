//! From the text of a pipeline file to a `Pipeline`: keys, types, defaults, bounds, and what must agree within the file.

use std::time::Duration;

use serde_json::Value;
use toml::de::DeValue;

use super::agreement::{Placed, each_output_once, no_loop, placed, unique};
use super::{
    BatchLimits, Delivery, Discard, Grant, Guarantee, OnError, Pipeline, PipelineName, PluginReference, Sink, Source,
    Start, Transform, TransformLimits,
};
use crate::config::diagnostic::{Diagnostic, Errors};
use crate::config::field::{Field, whole};
use crate::config::section::{self, Section, Shape};
use crate::config::text::Text;
use crate::config::value::{self, Bounds, Fault, choice, nearest};
use crate::digest;

const ROOT: Shape = Shape {
    heading: "",
    keys: &["name"],
    tables: &["source", "transform", "sink", "discard", "delivery", "errors", "limits"],
    open: false,
};
const SOURCE: Shape = Shape { heading: "[[source]]", keys: &["topic", "start", "input"], tables: &[], open: false };
const TRANSFORM: Shape =
    Shape { heading: "[[transform]]", keys: &["name", "plugin", "config", "grants"], tables: &["limits"], open: false };
const TRANSFORM_LIMITS: Shape = Shape {
    heading: "[transform.limits]",
    keys: &["memory", "time-per-batch", "output-bytes", "state-bytes"],
    tables: &[],
    open: false,
};
const SINK: Shape = Shape { heading: "[[sink]]", keys: &["topic", "transform", "output"], tables: &[], open: false };
const DISCARD: Shape = Shape { heading: "[[discard]]", keys: &["transform", "output"], tables: &[], open: false };
const DELIVERY: Shape = Shape {
    heading: "[delivery]",
    keys: &["guarantee", "commit-interval", "commit-bytes", "provenance-headers"],
    tables: &[],
    open: false,
};
const ERRORS: Shape =
    Shape { heading: "[errors]", keys: &["on-error", "dead-letter-topic", "give-up-after"], tables: &[], open: false };
const LIMITS: Shape = Shape {
    heading: "[limits]",
    keys: &["memory", "time-per-batch", "output-bytes", "state-bytes", "batch-records", "batch-bytes"],
    tables: &[],
    open: false,
};

/// Every table of a pipeline file; the top level first.
pub(in crate::config) const SHAPES: &[&Shape] =
    &[&ROOT, &SOURCE, &TRANSFORM, &TRANSFORM_LIMITS, &SINK, &DISCARD, &DELIVERY, &ERRORS, &LIMITS];

const MIB: u64 = 1 << 20;

const COMMIT_INTERVAL: Bounds<Duration> = Bounds {
    min: Duration::from_millis(10),
    why_min: "each commit writes to Kafka and ZooKeeper",
    max: Duration::from_secs(60),
    why_max: "everything since the last commit is repeated after a crash",
};
/// Readers of the sinks wait for it, and for the time-out of a transaction whose thread has died, which is longer.
const TRANSACTION_INTERVAL: Bounds<Duration> = Bounds {
    min: Duration::from_millis(10),
    why_min: "each commit writes to Kafka and ZooKeeper",
    max: Duration::from_secs(10),
    why_max: "readers of the sinks wait for an open transaction",
};
const COMMIT_BYTES_DEFAULT: u64 = 256 * MIB;
const COMMIT_BYTES: Bounds<u64> = Bounds {
    min: 1 << 10,
    why_min: "each commit writes to Kafka and ZooKeeper",
    max: 64 << 30,
    why_max: "everything since the last commit is repeated after a crash",
};
const TIME_PER_BATCH: Bounds<Duration> = Bounds {
    min: Duration::from_millis(10),
    why_min: "time is measured in steps of some milliseconds",
    max: Duration::from_secs(60),
    why_max: "Kafka takes partitions away from a member that does not answer for minutes",
};
const MEMORY: Bounds<u64> = Bounds {
    min: 4 * MIB,
    why_min: "a plugin needs one or two to start and must hold a batch",
    max: 4096 * MIB,
    why_max: "that is all that WebAssembly can address",
};
const OUTPUT_BYTES: Bounds<u64> = Bounds {
    min: 64 << 10,
    why_min: "the output of a batch must fit",
    max: 1024 * MIB,
    why_max: "the host holds it in memory until Kafka has it",
};
const STATE_BYTES: Bounds<u64> = Bounds {
    min: 64 << 10,
    why_min: "with less there is no use in keeping state",
    max: 4096 * MIB,
    why_max: "the host holds it in memory, and it is written to ZooKeeper",
};
const BATCH_RECORDS: Bounds<u64> = Bounds {
    min: 1,
    why_min: "an empty batch moves nothing",
    max: 100_000,
    why_max: "records wait in memory until their batch is done",
};
const BATCH_BYTES: Bounds<u64> = Bounds {
    min: 1 << 10,
    why_min: "smaller batches cost more than they move",
    max: 256 * MIB,
    why_max: "a plugin that asks for everything must hold a batch in its memory",
};
const GIVE_UP_AFTER: Bounds<u64> = Bounds {
    min: 1,
    why_min: "the first failing record stops the pipeline then",
    max: 1_000_000,
    why_max: "a plugin that fails on everything would empty the topic into the dead letters",
};
const GIVE_UP_AFTER_DEFAULT: u32 = 100;
const LIMITS_DEFAULT: TransformLimits = TransformLimits {
    memory: 64 * MIB,
    time_per_batch: Duration::from_secs(1),
    output_bytes: 64 * MIB,
    state_bytes: 256 * MIB,
};
const BATCHES_DEFAULT: BatchLimits = BatchLimits { records: 1000, bytes: 1 << 20 };

impl Default for TransformLimits {
    fn default() -> Self {
        LIMITS_DEFAULT
    }
}

pub(super) fn pipeline(text: Text) -> Result<Pipeline, Errors> {
    let mut pipeline = section::read(&text, SHAPES, |root| root_table(root, &text))?;
    pipeline.text = text;
    Ok(pipeline)
}

fn root_table(root: &Section<'_>, text: &Text) -> Option<Pipeline> {
    let name = root.required("name", "\"orders\"").and_then(|field| field.checked(value::name));
    let source_sections = root.tables("source", &SOURCE);
    let transform_sections = root.tables("transform", &TRANSFORM);
    for (key, example) in [
        ("source", "[[source]] with a topic: records must come from somewhere"),
        ("transform", "[[transform]] with a name and a plugin"),
    ] {
        if root.lacks(key) {
            let message = format!("there is no [[{key}]]");
            root.findings().add(Diagnostic::new(message).at(0..0).help(format!("add {example}")));
        }
    }

    let limits_section = root.table("limits", &LIMITS);
    let limits = transform_limits(&limits_section, &LIMITS_DEFAULT);
    let batches = batch_limits(&limits_section);

    let names: Vec<Option<Placed<String>>> = transform_sections.iter().map(transform_name).collect();
    unique(root.findings(), "transform", names.iter().flatten());
    let known: Vec<&str> = names.iter().map(|name| name.as_ref().map_or("", |(name, _)| name.as_str())).collect();
    let transforms: Vec<Option<Transform>> = transform_sections
        .iter()
        .zip(&names)
        .map(|(section, name)| transform(section, name.as_ref(), limits.as_ref(), batches.as_ref(), text))
        .collect();

    let sources: Vec<Option<Source>> = source_sections.iter().map(source).collect();
    let topics = placed(&source_sections, "topic");
    unique(root.findings(), "source topic", &topics);
    unique(root.findings(), "input", &placed(&source_sections, "input"));

    let sink_sections = root.tables("sink", &SINK);
    let sinks: Vec<Option<Sink>> = sink_sections.iter().map(|section| sink(section, &known)).collect();
    no_loop(root.findings(), &topics, &placed(&sink_sections, "topic"));
    let discard_sections = root.tables("discard", &DISCARD);
    let discards: Vec<Option<Discard>> = discard_sections.iter().map(|section| discard(section, &known)).collect();
    each_output_once(root.findings(), &sink_sections, &sinks, &discard_sections, &discards);

    let delivery = delivery(&root.table("delivery", &DELIVERY));
    let errors_section = root.table("errors", &ERRORS);
    let (on_error, give_up_after) = errors(&errors_section);
    no_loop(root.findings(), &topics, &placed(std::slice::from_ref(&errors_section), "dead-letter-topic"));
    Some(Pipeline {
        name: PipelineName::new(&name?)?,
        sources: all(sources)?,
        transforms: all(transforms)?,
        sinks: all(sinks)?,
        discards: all(discards)?,
        delivery: delivery?,
        on_error: on_error?,
        give_up_after: give_up_after?,
        batches: batches?,
        text: Text::default(),
    })
}

fn all<T>(list: Vec<Option<T>>) -> Option<Vec<T>> {
    list.into_iter().collect()
}

fn source(section: &Section<'_>) -> Option<Source> {
    let topic = section.required("topic", "\"orders\"").and_then(|field| field.checked(value::topic));
    let start = section.value("start", Start::Earliest, start);
    let input = section.optional("input", |field| field.checked(output_name));
    Some(Source { topic: topic?, start: start?, input: input? })
}

fn start(field: &Field<'_>) -> Option<Start> {
    let read = |text: &str| match text {
        "earliest" => Ok(Start::Earliest),
        "latest" => Ok(Start::Latest),
        _ => match nearest(text, ["earliest", "latest"]) {
            Some(meant) => Err(Fault::new("no such place to start", format!("write \"{meant}\""))),
            None if text.contains(char::is_numeric) => value::timestamp(text).map(Start::Timestamp),
            None => Err(Fault::new(
                "no such place to start",
                "write \"earliest\", \"latest\" or a date and time like 2026-01-31T12:00:00Z",
            )),
        },
    };
    let result = match field.raw() {
        DeValue::Integer(number) => whole(number)
            .and_then(|number| i64::try_from(number).ok())
            .ok_or_else(|| Fault::new("not a point in time", "write milliseconds since 1970, or a date and time"))
            .and_then(value::milliseconds)
            .map(Start::Timestamp),
        DeValue::Datetime(time) => value::timestamp(&time.to_string()).map(Start::Timestamp),
        _ => return field.parsed(read),
    };
    match result {
        Ok(start) => Some(start),
        Err(fault) => field.refuse(fault),
    }
}

/// Names of inputs and outputs are the plugin's choice; whether they exist is known when the plugin is.
fn output_name(name: &str) -> Result<(), Fault> {
    if name.is_empty() { Err(Fault::new("an empty name", "write the name that the plugin declares")) } else { Ok(()) }
}

fn transform_name(section: &Section<'_>) -> Option<Placed<String>> {
    let field = section.required("name", "\"length\"")?;
    field.checked(value::name).map(|name| (name, field.place()))
}

fn transform(
    section: &Section<'_>,
    name: Option<&Placed<String>>,
    limits: Option<&TransformLimits>,
    batches: Option<&BatchLimits>,
    text: &Text,
) -> Option<Transform> {
    let plugin =
        section.required("plugin", "\"value-length@0.1.0\"").and_then(|field| field.parsed(|it| plugin(it, text)));
    let config = section.value("config", Value::Object(serde_json::Map::new()), Field::json_object);
    let grants = section.value("grants", Vec::new(), grants);
    let limits = transform_limits(&section.table("limits", &TRANSFORM_LIMITS), limits.unwrap_or(&LIMITS_DEFAULT));
    if let (Some(limits), Some(batches), Some((name, place))) = (&limits, batches, name)
        && batches.bytes > limits.memory / 2
    {
        let message = format!("a batch may be larger than half the memory of transform `{name}`");
        let help = format!(
            "`batch-bytes` is {} and `memory` is {}: lower the one or raise the other, a plugin holds a batch and its results",
            value::show_size(batches.bytes),
            value::show_size(limits.memory)
        );
        section.findings().add(Diagnostic::new(message).at(place.clone()).help(help));
    }
    Some(Transform { name: name?.0.clone(), plugin: plugin?, config: config?, grants: grants?, limits: limits? })
}

fn plugin(reference: &str, text: &Text) -> Result<PluginReference, Fault> {
    let forms = "write \"name@1.2.3\", a path to a .wasm file like \"./name.wasm\", or \"sha256:\" and a digest";
    if reference.starts_with(digest::PREFIX) {
        let fault = |_| Fault::new("not a digest", "write \"sha256:\" and 64 digits of 0-9 and a-f");
        return reference.parse().map(PluginReference::Digest).map_err(fault);
    }
    if reference.contains("://") {
        let instead = "fetch the file, then name its path, or store it with `sluicegate plugin push`";
        return Err(Fault::new("plugins are not fetched from a URL", instead));
    }
    if reference.contains(['/', '\\']) || reference.ends_with(".wasm") {
        let wasm = reference.ends_with(".wasm");
        return match wasm {
            true => Ok(PluginReference::Path(text.resolve(reference))),
            false => Err(Fault::new("a path, but not to a .wasm file", forms)),
        };
    }
    let Some((name, version)) = reference.split_once('@') else {
        let instead = match crate::manifest::is_name(reference) {
            true => format!("say which version: \"{reference}@0.1.0\"; `sluicegate plugin list` shows what there is"),
            false => forms.to_owned(),
        };
        return Err(Fault::new("not a reference to a plugin", instead));
    };
    value::name(name).map_err(|fault| Fault::new("not the name of a plugin", fault.instead))?;
    match semver::Version::parse(version) {
        Ok(_) => Ok(PluginReference::Registry { name: name.to_owned(), version: version.to_owned() }),
        Err(_) => Err(Fault::new(
            format!("`{version}` is not an exact version"),
            format!("write all three numbers, for example \"{name}@0.1.0\""),
        )),
    }
}

fn grants(field: &Field<'_>) -> Option<Vec<Grant>> {
    let read = |text: &str| {
        Grant::parse(text).ok_or_else(|| match nearest(text, ["clocks", "random"]) {
            Some(meant) => Fault::new("no such grant", format!("write \"{meant}\"")),
            None => Fault::new("no such grant", "the grants are \"clocks\", \"random\" and \"env:NAME\""),
        })
    };
    let mut grants = field.list(read)?;
    grants.sort();
    grants.dedup();
    Some(grants)
}

fn transform_limits(section: &Section<'_>, default: &TransformLimits) -> Option<TransformLimits> {
    let size = |key, default, bounds| {
        section.value(key, default, |field| field.parsed_or_number(|text| value::size(text, bounds)))
    };
    let memory = size("memory", default.memory, &MEMORY);
    let output_bytes = size("output-bytes", default.output_bytes, &OUTPUT_BYTES);
    let state_bytes = size("state-bytes", default.state_bytes, &STATE_BYTES);
    let time_per_batch = section.value("time-per-batch", default.time_per_batch, |field| {
        field.parsed(|text| value::duration(text, &TIME_PER_BATCH))
    });
    Some(TransformLimits {
        memory: memory?,
        time_per_batch: time_per_batch?,
        output_bytes: output_bytes?,
        state_bytes: state_bytes?,
    })
}

fn batch_limits(section: &Section<'_>) -> Option<BatchLimits> {
    let records = section.value("batch-records", BATCHES_DEFAULT.records, |field| {
        field.count(|number| value::count(number, &BATCH_RECORDS)).and_then(|number| usize::try_from(number).ok())
    });
    let bytes = section.value("batch-bytes", BATCHES_DEFAULT.bytes, |field| {
        field.parsed_or_number(|text| value::size(text, &BATCH_BYTES))
    });
    Some(BatchLimits { records: records?, bytes: bytes? })
}

fn sink(section: &Section<'_>, transforms: &[&str]) -> Option<Sink> {
    let topic = section.required("topic", "\"lengths\"").and_then(|field| field.checked(value::topic));
    let transform = transform_index(section, transforms);
    let output = section.optional("output", |field| field.checked(output_name));
    Some(Sink { topic: topic?, transform: transform?, output: output? })
}

fn discard(section: &Section<'_>, transforms: &[&str]) -> Option<Discard> {
    let transform = transform_index(section, transforms);
    let output = section.required("output", "\"late\"").and_then(|field| field.checked(output_name));
    Some(Discard { transform: transform?, output: output? })
}

/// The transform that `transform` names; the last one where the key is absent.
fn transform_index(section: &Section<'_>, transforms: &[&str]) -> Option<usize> {
    let last = transforms.len().saturating_sub(1);
    section.value("transform", last, |field| {
        field.parsed(|name| {
            let named = || transforms.iter().copied().filter(|name| !name.is_empty());
            transforms.iter().position(|transform| *transform == name && !name.is_empty()).ok_or_else(|| match nearest(
                name,
                named(),
            ) {
                Some(meant) => Fault::new("there is no such transform", format!("write \"{meant}\"")),
                None => Fault::new("there is no such transform", choice("transform", named())),
            })
        })
    })
}

/// What a failing record does, and how many of them in a row stop the pipeline.
fn errors(section: &Section<'_>) -> (Option<OnError>, Option<u32>) {
    #[derive(Clone, Copy)]
    enum Word {
        Stop,
        Skip,
        DeadLetter,
    }
    let words = [("stop", Word::Stop), ("skip", Word::Skip), ("dead-letter", Word::DeadLetter)];
    let word = section.optional("on-error", |field| field.word(&words));
    let topic = section.optional("dead-letter-topic", |field| field.checked(value::topic));
    let give_up_after = section.value("give-up-after", GIVE_UP_AFTER_DEFAULT, |field| {
        field.count(|number| value::count(number, &GIVE_UP_AFTER)).and_then(|number| u32::try_from(number).ok())
    });
    let contradiction = |message: &str, help: &str| {
        let place = section.field("on-error").map_or_else(|| section.place(), |field| field.place());
        section.findings().add(Diagnostic::new(message).at(place).help(help));
        None
    };
    let on_error = match (word, topic) {
        (Some(None | Some(Word::Stop)), Some(None)) => Some(OnError::Stop),
        (Some(Some(Word::Skip)), Some(None)) => Some(OnError::Skip),
        (Some(None | Some(Word::DeadLetter)), Some(Some(topic))) => Some(OnError::DeadLetter(topic)),
        (Some(Some(Word::DeadLetter)), Some(None)) => contradiction(
            "there is no topic for dead letters",
            "add `dead-letter-topic`, or write \"stop\" or \"skip\"",
        ),
        (Some(Some(Word::Stop | Word::Skip)), Some(Some(_))) => contradiction(
            "`on-error` says that failing records do not go to `dead-letter-topic`",
            "remove one of the two: with a `dead-letter-topic`, failing records go there",
        ),
        (None, _) | (_, None) => None,
    };
    (on_error, give_up_after)
}

fn delivery(section: &Section<'_>) -> Option<Delivery> {
    let guarantee = section.value("guarantee", Guarantee::ExactlyOnce, |field| {
        field.word(&[("exactly-once", Guarantee::ExactlyOnce), ("at-least-once", Guarantee::AtLeastOnce)])
    });
    let (interval, bounds) = match guarantee {
        Some(Guarantee::AtLeastOnce) => (Duration::from_secs(1), &COMMIT_INTERVAL),
        // Readers of the sinks see records when they are committed.
        _ => (Duration::from_millis(100), &TRANSACTION_INTERVAL),
    };
    let commit_interval =
        section.value("commit-interval", interval, |field| field.parsed(|text| value::duration(text, bounds)));
    let commit_bytes = section.value("commit-bytes", COMMIT_BYTES_DEFAULT, |field| {
        field.parsed_or_number(|text| value::size(text, &COMMIT_BYTES))
    });
    let provenance_headers = section.value("provenance-headers", false, Field::boolean);
    Some(Delivery {
        guarantee: guarantee?,
        commit_interval: commit_interval?,
        commit_bytes: commit_bytes?,
        provenance_headers: provenance_headers?,
    })
}
