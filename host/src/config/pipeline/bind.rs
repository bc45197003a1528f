//! A pipeline against the manifests of its plugins: which source feeds which input, where each output goes, grants.
//!
//! Knows manifests, not code. Invariant of `Bound`: every outlet that a plugin declares and does not call optional goes
//! on, goes to a sink, or was discarded by the pipeline's author.

use super::{Grant, Pipeline};
use crate::config::diagnostic::{Diagnostic, Errors};
use crate::config::text::Step;
use crate::config::value::{choice, listed, nearest};
use crate::manifest::{Manifest, Port};

/// A pipeline whose inputs and outputs are connected.
#[derive(Clone, Debug, PartialEq)]
pub struct Bound {
    /// For each source, in their order, the index of the input of the first transform that it feeds.
    pub source_inputs: Vec<usize>,
    /// In the order of the chain.
    pub transforms: Vec<BoundTransform>,
}

/// The connections of one transform.
#[derive(Clone, Debug, PartialEq)]
pub struct BoundTransform {
    /// Names of its inputs, in the manifest's order.
    pub inputs: Vec<String>,
    /// The declared outputs in the manifest's order, then those that only the pipeline names.
    pub outlets: Vec<Outlet>,
}

/// An output and where it goes; discarded if it neither goes on nor has sinks.
#[derive(Clone, Debug, PartialEq)]
pub struct Outlet {
    /// Its name.
    pub name: String,
    /// Whether it is the input of the next transform.
    pub goes_on: bool,
    /// Indices of the sinks it goes to.
    pub sinks: Vec<usize>,
}

impl Outlet {
    /// Whether nobody gets what is emitted here.
    #[must_use]
    pub fn is_discarded(&self) -> bool {
        !self.goes_on && self.sinks.is_empty()
    }
}

impl Pipeline {
    /// Connects sources, transforms and sinks; `manifests` has one for each transform, in their order.
    ///
    /// # Errors
    /// Everything that does not fit, at the line of the pipeline file.
    pub fn bind(&self, manifests: &[Manifest]) -> Result<Bound, Errors> {
        let mut binder = Binder { pipeline: self, errors: Vec::new() };
        let source_inputs = manifests.first().map(|first| binder.source_inputs(first)).unwrap_or_default();
        let transforms = manifests.iter().enumerate().map(|(index, manifest)| {
            binder.chain_input(index, manifest);
            binder.grants(index, manifest);
            BoundTransform {
                inputs: manifest.inputs.iter().map(|input| input.name.clone()).collect(),
                outlets: binder.outlets(index, manifest),
            }
        });
        let transforms = transforms.collect();
        match binder.errors.is_empty() {
            true => Ok(Bound { source_inputs, transforms }),
            false => Err(Errors::new(&self.text, binder.errors)),
        }
    }
}

struct Binder<'a> {
    pipeline: &'a Pipeline,
    errors: Vec<Diagnostic>,
}

impl Binder<'_> {
    fn error(&mut self, message: String, steps: &[Step<'_>], label: impl Into<String>, help: impl Into<String>) {
        let place = self.pipeline.text.place(steps);
        self.errors.push(Diagnostic::new(message).at(place).label(label).help(help));
    }

    fn transform_name(&self, index: usize) -> String {
        self.pipeline.transforms.get(index).map(|transform| transform.name.clone()).unwrap_or_default()
    }

    /// Named sources take their input, the others what is left, in order.
    fn source_inputs(&mut self, manifest: &Manifest) -> Vec<usize> {
        let sources = &self.pipeline.sources;
        let mut free: Vec<usize> = (0..manifest.inputs.len()).collect();
        let mut inputs: Vec<Option<usize>> = vec![None; sources.len()];
        let mut names_are_right = true;
        for (nth, source) in sources.iter().enumerate() {
            let Some(name) = &source.input else { continue };
            match manifest.inputs.iter().position(|input| input.name == *name) {
                Some(input) => {
                    free.retain(|other| *other != input);
                    if let Some(slot) = inputs.get_mut(nth) {
                        *slot = Some(input);
                    }
                }
                None => {
                    names_are_right = false;
                    let message = format!("the plugin `{}` has no input `{name}`", manifest.name);
                    let steps = [Step::Key("source"), Step::Index(nth), Step::Key("input")];
                    self.error(message, &steps, "no such input", instead(name, &manifest.inputs, "input"));
                }
            }
        }
        if sources.len() != manifest.inputs.len() {
            let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
            let message = format!(
                "the plugin `{}` has {}, and the pipeline has {}",
                manifest.name,
                count(manifest.inputs.len(), "input"),
                count(sources.len(), "source")
            );
            let help = format!(
                "write one [[source]] for each input; {}",
                choice("input", manifest.inputs.iter().map(|port| port.name.as_str()))
            );
            let nth = sources.len().min(manifest.inputs.len() + 1).saturating_sub(1);
            self.error(message, &[Step::Key("source"), Step::Index(nth)], "", help);
        } else if names_are_right {
            let mut free = free.into_iter();
            return inputs.into_iter().filter_map(|input| input.or_else(|| free.next())).collect();
        }
        Vec::new()
    }

    fn chain_input(&mut self, index: usize, manifest: &Manifest) {
        if index == 0 || manifest.inputs.len() == 1 {
            return;
        }
        let message = format!("the plugin `{}` cannot stand behind another transform", manifest.name);
        let label = format!("it has {} inputs: {}", manifest.inputs.len(), names(&manifest.inputs));
        let help = "make it the first transform, with one [[source]] for each input";
        self.error(message, &[Step::Key("transform"), Step::Index(index), Step::Key("plugin")], label, help);
    }

    fn grants(&mut self, index: usize, manifest: &Manifest) {
        let Some(transform) = self.pipeline.transforms.get(index) else { return };
        let has = |want: &str| Grant::parse(want).is_some_and(|grant| transform.grants.contains(&grant));
        let missing: Vec<&str> = manifest.wants.iter().map(String::as_str).filter(|want| !has(want)).collect();
        if missing.is_empty() {
            return;
        }
        let message =
            format!("the plugin of transform `{}` needs grants that the pipeline does not give", transform.name);
        let unknown: Vec<&str> = missing.iter().copied().filter(|want| Grant::parse(want).is_none()).collect();
        let help = if unknown.is_empty() {
            let given = transform.grants.iter().map(ToString::to_string);
            let all: Vec<String> =
                given.chain(missing.iter().map(ToString::to_string)).map(|grant| format!("\"{grant}\"")).collect();
            format!("if it may have them, write grants = [{}]", all.join(", "))
        } else {
            format!("this version of sluicegate cannot grant {}", listed(unknown))
        };
        let key = if transform.grants.is_empty() { "plugin" } else { "grants" };
        let label = format!("it asks for {}", listed(missing));
        self.error(message, &[Step::Key("transform"), Step::Index(index), Step::Key(key)], label, help);
    }

    fn outlets(&mut self, index: usize, manifest: &Manifest) -> Vec<Outlet> {
        let goes_on = index + 1 < self.pipeline.transforms.len();
        let mut outlets: Vec<Outlet> = manifest
            .outputs
            .iter()
            .enumerate()
            .map(|(nth, port)| Outlet { name: port.name.clone(), goes_on: goes_on && nth == 0, sinks: Vec::new() })
            .collect();
        let pipeline = self.pipeline;
        for (nth, sink) in pipeline.sinks.iter().enumerate().filter(|(_, sink)| sink.transform == index) {
            let name = sink.output.as_deref().or(manifest.outputs.first().map(|port| port.name.as_str()));
            let steps = [Step::Key("sink"), Step::Index(nth), Step::Key("output")];
            if let Some(name) = name
                && let Some(outlet) = self.outlet(&mut outlets, name, manifest, &steps)
            {
                outlet.sinks.push(nth);
            }
        }
        let mut discarded = Vec::new();
        for (nth, discard) in pipeline.discards.iter().enumerate().filter(|(_, discard)| discard.transform == index) {
            let steps = [Step::Key("discard"), Step::Index(nth), Step::Key("output")];
            let taken = match self.outlet(&mut outlets, &discard.output, manifest, &steps) {
                None => continue,
                Some(outlet) => (outlet.goes_on, outlet.sinks.first().copied()),
            };
            let message = format!("the output `{}` is discarded and used", discard.output);
            match taken {
                (true, _) => {
                    let label = format!("it goes on to the transform `{}`", self.transform_name(index + 1));
                    self.error(message, &steps, label, "remove this [[discard]]");
                }
                (false, Some(sink)) => {
                    let topic = pipeline.sinks.get(sink).map_or("", |sink| sink.topic.as_str());
                    self.error(message, &steps, format!("it goes to the topic `{topic}`"), "remove one of the two");
                }
                (false, None) => discarded.push(discard.output.as_str()),
            }
        }
        self.nothing_is_lost(index, manifest, &outlets, &discarded);
        outlets
    }

    /// The outlet called `name`: a declared one, or a new one where the plugin may open any.
    fn outlet<'a>(
        &mut self,
        outlets: &'a mut Vec<Outlet>,
        name: &str,
        manifest: &Manifest,
        steps: &[Step<'_>],
    ) -> Option<&'a mut Outlet> {
        if !outlets.iter().any(|outlet| outlet.name == name) {
            if !manifest.dynamic_outputs {
                let message = format!("the plugin `{}` has no output `{name}`", manifest.name);
                self.error(message, steps, "no such output", instead(name, &manifest.outputs, "output"));
                return None;
            }
            outlets.push(Outlet { name: name.to_owned(), goes_on: false, sinks: Vec::new() });
        }
        outlets.iter_mut().find(|outlet| outlet.name == name)
    }

    fn nothing_is_lost(&mut self, index: usize, manifest: &Manifest, outlets: &[Outlet], discarded: &[&str]) {
        let transform = self.transform_name(index);
        let last = index + 1 == self.pipeline.transforms.len();
        for (nth, port) in manifest.outputs.iter().enumerate() {
            let lost = outlets.iter().any(|outlet| outlet.name == port.name && outlet.is_discarded());
            if !lost || port.optional || discarded.contains(&port.name.as_str()) {
                continue;
            }
            let whose = if last { String::new() } else { format!("transform = \"{transform}\", ") };
            let which = if nth == 0 { String::new() } else { format!("output = \"{}\", ", port.name) };
            let message = format!("the output `{}` of transform `{transform}` goes nowhere", port.name);
            let help = format!(
                "add a [[sink]] with {whose}{which}topic = \"..\"; or, to throw it away, a [[discard]] with {whose}output = \"{}\"",
                port.name
            );
            let steps = [Step::Key("transform"), Step::Index(index), Step::Key("plugin")];
            let label = match port.description.as_str() {
                "" => "this plugin has the output".to_owned(),
                description => format!("`{}`: {description}", port.name),
            };
            self.error(message, &steps, label, help);
        }
    }
}

fn names(ports: &[Port]) -> String {
    listed(ports.iter().map(|port| port.name.as_str()))
}

/// What to write instead of `name`.
fn instead(name: &str, ports: &[Port], what: &str) -> String {
    let names = || ports.iter().map(|port| port.name.as_str());
    match nearest(name, names()) {
        Some(meant) => format!("write \"{meant}\""),
        None => choice(what, names()),
    }
}
