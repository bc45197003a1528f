//! What must agree between the tables of one pipeline file: names, topics, outputs.
//!
//! Runs on whatever could be read, so that these errors are shown beside those of single values. What depends on the
//! plugins is in `bind`.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{Discard, Sink};
use crate::config::diagnostic::Diagnostic;
use crate::config::section::{Findings, Section};

/// A value and where it stands.
pub(super) type Placed<T> = (T, Range<usize>);

/// The strings under `key` in each section, without findings: others have left those.
pub(super) fn placed(sections: &[Section<'_>], key: &'static str) -> Vec<Placed<String>> {
    let string = |section: &Section<'_>| {
        let field = section.field(key)?;
        field.raw().as_str().map(|text| (text.to_owned(), field.place()))
    };
    sections.iter().filter_map(string).collect()
}

pub(super) fn unique<'a>(findings: &Findings, what: &str, names: impl IntoIterator<Item = &'a Placed<String>>) {
    let mut seen: BTreeMap<&str, &Range<usize>> = BTreeMap::new();
    for (name, place) in names {
        if let Some(first) = seen.insert(name, place) {
            let diagnostic = Diagnostic::new(format!("the {what} `{name}` is there twice"))
                .at(place.clone())
                .label("second time")
                .related(first.clone(), "first time");
            let help = match what {
                "transform" => "give one of them another name: state and metrics go by it",
                "input" => "bind each input once",
                _ => "remove one of them: a pipeline reads a topic once",
            };
            findings.add(diagnostic.help(help));
        }
    }
}

pub(super) fn no_loop(findings: &Findings, sources: &[Placed<String>], sinks: &[Placed<String>]) {
    for (topic, place) in sinks {
        if let Some((_, source)) = sources.iter().find(|(source, _)| source == topic) {
            let diagnostic = Diagnostic::new(format!("the pipeline would read what it writes to `{topic}`"))
                .at(place.clone())
                .label("written here")
                .related(source.clone(), "read here");
            findings.add(diagnostic.help("write to another topic: each record would come back for ever"));
        }
    }
}

/// An output goes to a topic once, and is not discarded as well.
pub(super) fn each_output_once(
    findings: &Findings,
    sink_sections: &[Section<'_>],
    sinks: &[Option<Sink>],
    discard_sections: &[Section<'_>],
    discards: &[Option<Discard>],
) {
    let sinks: Vec<_> = sinks.iter().zip(sink_sections).filter_map(|(sink, at)| Some((sink.as_ref()?, at))).collect();
    for (nth, (sink, section)) in sinks.iter().enumerate() {
        if let Some((_, first)) = sinks.iter().take(nth).find(|(earlier, _)| earlier == sink) {
            let diagnostic = Diagnostic::new(format!("two [[sink]] send the same output to `{}`", sink.topic))
                .at(section.place())
                .label("the second one")
                .related(first.place(), "the first one");
            findings.add(diagnostic.help("remove one of them: every record would be written twice"));
        }
    }
    let discards: Vec<_> =
        discards.iter().zip(discard_sections).filter_map(|(discard, at)| Some((discard.as_ref()?, at))).collect();
    for (nth, (discard, section)) in discards.iter().enumerate() {
        let sink = sinks
            .iter()
            .find(|(sink, _)| sink.transform == discard.transform && sink.output.as_ref() == Some(&discard.output));
        let twice = discards.iter().take(nth).find(|(earlier, _)| earlier == discard);
        if let Some((_, other)) = sink {
            let diagnostic = Diagnostic::new(format!("the output `{}` is sent and discarded", discard.output))
                .at(section.place())
                .label("discarded here")
                .related(other.place(), "sent here");
            findings.add(diagnostic.help("remove one of them"));
        } else if let Some((_, first)) = twice {
            let diagnostic = Diagnostic::new(format!("the output `{}` is discarded twice", discard.output))
                .at(section.place())
                .label("the second time")
                .related(first.place(), "the first time");
            findings.add(diagnostic.help("remove one of them"));
        }
    }
}
