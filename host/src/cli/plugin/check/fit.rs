//! How a plugin stands in a pipeline: each thing that the one asks for beside what the other gives. Pure.

use std::io::{self, Write};

use bytesize::ByteSize;
use serde::Serialize;

use crate::config::{Bound, Pipeline};
use crate::engine::OpenError;
use crate::manifest::Manifest;

/// A plugin as one transform.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Fit {
    pub(super) transform: String,
    grants_wanted: Vec<String>,
    grants_given: Vec<String>,
    /// Nothing where they do not fit.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    inputs: Vec<Connection>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    outputs: Vec<Connection>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stores: Vec<Store>,
    limits: Limits,
    configuration: &'static str,
    /// After it was opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<u64>,
}

/// A port, and what it is connected to: topics, or another transform.
#[derive(Serialize)]
struct Connection {
    name: String,
    with: Vec<String>,
}

#[derive(Serialize)]
struct Store {
    name: String,
    schema: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Limits {
    memory_bytes: u64,
    time_per_batch_ms: u128,
    output_bytes: u64,
    state_bytes: u64,
    batch_records: usize,
    batch_bytes: u64,
}

impl Fit {
    /// `opened` is how opening it went: the memory that it took.
    pub(super) fn new(
        pipeline: &Pipeline,
        at: usize,
        manifest: &Manifest,
        bound: Option<&Bound>,
        opened: &Result<u64, OpenError>,
    ) -> Self {
        let transform = &pipeline.transforms[at];
        let limits = &transform.limits;
        let store =
            |store: &crate::manifest::StoreDeclaration| Store { name: store.name.clone(), schema: store.schema };
        Self {
            transform: transform.name.clone(),
            grants_wanted: manifest.wants.clone(),
            grants_given: transform.grants.iter().map(ToString::to_string).collect(),
            inputs: bound.map(|bound| inputs(pipeline, at, bound)).unwrap_or_default(),
            outputs: bound.map(|bound| outputs(pipeline, at, bound)).unwrap_or_default(),
            stores: manifest.stores.iter().map(store).collect(),
            limits: Limits {
                memory_bytes: limits.memory,
                time_per_batch_ms: limits.time_per_batch.as_millis(),
                output_bytes: limits.output_bytes,
                state_bytes: limits.state_bytes,
                batch_records: pipeline.batches.records,
                batch_bytes: pipeline.batches.bytes,
            },
            configuration: match opened {
                Ok(_) => "accepted",
                Err(OpenError::Config { .. }) => "refused",
                Err(OpenError::Grants { .. } | OpenError::Failed(_) | OpenError::Call(_)) => "unknown",
            },
            memory_bytes: opened.as_ref().ok().copied(),
        }
    }

    /// For people.
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let list = |list: &[String], none: &str| if list.is_empty() { none.to_owned() } else { list.join(", ") };
        let (wanted, given) = (list(&self.grants_wanted, "none"), list(&self.grants_given, "none"));
        writeln!(out, "  grants     wants {wanted}; has {given}")?;
        for Connection { name, with } in &self.inputs {
            writeln!(out, "  input      {name} from {}", list(with, "nothing"))?;
        }
        for Connection { name, with } in &self.outputs {
            writeln!(out, "  output     {name} to {}", list(with, "nothing"))?;
        }
        for Store { name, schema } in &self.stores {
            writeln!(out, "  store      {name}, schema {schema}")?;
        }
        let Limits { memory_bytes, time_per_batch_ms, output_bytes, state_bytes, batch_records, batch_bytes } =
            &self.limits;
        let size = |bytes: &u64| ByteSize(*bytes).to_string();
        let used = self.memory_bytes.map(|bytes| format!(", of which opening takes {}", size(&bytes)));
        writeln!(out, "  memory     {}{}", size(memory_bytes), used.unwrap_or_default())?;
        writeln!(
            out,
            "  batch      {batch_records} records or {}; {time_per_batch_ms} ms and {} of output for each",
            size(batch_bytes),
            size(output_bytes)
        )?;
        if !self.stores.is_empty() {
            writeln!(out, "  state      up to {} on each partition", size(state_bytes))?;
        }
        writeln!(out, "  config     {}", self.configuration)
    }
}

fn inputs(pipeline: &Pipeline, at: usize, bound: &Bound) -> Vec<Connection> {
    let names = bound.transforms[at].inputs.iter().enumerate();
    let sources = |input: usize| {
        let fed = pipeline.sources.iter().zip(&bound.source_inputs).filter(move |(_, fed)| **fed == input);
        fed.map(|(source, _)| format!("the topic {}", source.topic)).collect()
    };
    let connection = |(input, name): (usize, &String)| Connection {
        name: name.clone(),
        with: match at.checked_sub(1) {
            None => sources(input),
            Some(before) => vec![format!("the transform `{}`", pipeline.transforms[before].name)],
        },
    };
    names.map(connection).collect()
}

fn outputs(pipeline: &Pipeline, at: usize, bound: &Bound) -> Vec<Connection> {
    let connection = |outlet: &crate::config::Outlet| {
        let next = pipeline.transforms.get(at + 1).filter(|_| outlet.goes_on);
        let next = next.map(|next| format!("the transform `{}`", next.name));
        let topics = outlet.sinks.iter().map(|&sink| format!("the topic {}", pipeline.sinks[sink].topic));
        Connection { name: outlet.name.clone(), with: next.into_iter().chain(topics).collect() }
    };
    bound.transforms[at].outlets.iter().map(connection).collect()
}
