//! What is wrong with a configuration file, and how it is shown: the line, the text in question, what to write instead.
//!
//! Laid out by `annotate-snippets`, as rustc and cargo do. Does not decide what is wrong. Invariant: secrets in the
//! text are overwritten before any of it is shown.

use std::fmt;
use std::io::IsTerminal;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use super::text::{Text, clamp};

/// How many errors are shown; a file of another format altogether has one in every line.
const SHOWN_MAX: usize = 40;

/// One error in a configuration file.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnostic {
    /// What is wrong, in one line.
    pub message: String,
    /// Bytes in the file; none for errors about the file as a whole.
    pub place: Option<Range<usize>>,
    /// What the marked text should be, written under it. May be empty.
    pub label: String,
    /// Another place that has to do with it, with what it is.
    pub related: Option<(Range<usize>, String)>,
    /// What to write instead. May be empty.
    pub help: String,
}

impl Diagnostic {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), place: None, label: String::new(), related: None, help: String::new() }
    }

    pub(super) fn at(mut self, place: Range<usize>) -> Self {
        self.place = Some(place);
        self
    }

    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    pub(super) fn related(mut self, place: Range<usize>, label: impl Into<String>) -> Self {
        self.related = Some((place, label.into()));
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = help.into();
        self
    }
}

/// Everything that is wrong with a configuration file, in the order of its lines.
///
/// `Display` is the whole message without colour, several lines.
#[derive(Clone, Debug, PartialEq)]
pub struct Errors {
    text: Text,
    diagnostics: Vec<Diagnostic>,
}

impl Errors {
    pub(super) fn new(text: &Text, mut diagnostics: Vec<Diagnostic>) -> Self {
        diagnostics.sort_by_key(|diagnostic| diagnostic.place.as_ref().map(|place| (place.start, place.end)));
        Self { text: text.clone(), diagnostics }
    }

    /// These errors and `others`, which are of the same file.
    #[must_use]
    pub fn and(self, others: Self) -> Self {
        Self::new(&self.text, self.diagnostics.into_iter().chain(others.diagnostics).collect())
    }

    /// The single errors.
    #[must_use]
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// The single errors, each with the number of its line, counted from 1, if it has one.
    pub fn by_line(&self) -> impl Iterator<Item = (&Diagnostic, Option<usize>)> {
        let line = |place: &Range<usize>| {
            1 + self.text.as_str().bytes().take(place.start).filter(|&byte| byte == b'\n').count()
        };
        self.diagnostics.iter().map(move |diagnostic| (diagnostic, diagnostic.place.as_ref().map(line)))
    }

    /// The message, with ANSI colours if asked for.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let text = self.text.masked();
        let origin = self.text.origin().display().to_string();
        let shown = self.diagnostics.iter().take(SHOWN_MAX);
        let mut messages: Vec<String> =
            shown.map(|diagnostic| renderer.render(&[group(diagnostic, &text, &origin)])).collect();
        if let Some(more) = self.diagnostics.len().checked_sub(SHOWN_MAX).filter(|&more| more > 0) {
            messages.push(format!("... and {more} more"));
        }
        messages.join("\n\n")
    }

    /// Writes the message to stderr, coloured if that is a terminal and `NO_COLOR` is not set.
    pub fn report(&self) {
        let colour =
            std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        eprintln!("{}", self.render(colour));
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Errors {}

fn group<'a>(diagnostic: &'a Diagnostic, text: &'a str, origin: &'a str) -> Group<'a> {
    let mut group = Group::with_title(Level::ERROR.primary_title(&diagnostic.message));
    if let Some(place) = &diagnostic.place {
        let label = Some(diagnostic.label.as_str()).filter(|label| !label.is_empty());
        let primary = AnnotationKind::Primary.span(clamp(text, place.clone())).label(label);
        let related = diagnostic
            .related
            .iter()
            .map(|(place, label)| AnnotationKind::Context.span(clamp(text, place.clone())).label(label.as_str()));
        group = group.element(Snippet::source(text).path(origin).annotation(primary).annotations(related));
    }
    if !diagnostic.help.is_empty() {
        group = group.element(Level::HELP.message(&diagnostic.help));
    }
    group
}
