//! Reading a TOML document without stopping at the first error.
//!
//! serde stops at the first value it cannot take, so the document is walked here: every table has a `Shape` that names
//! its keys, and every value that is asked for is a `Field`. What the keys mean is not known here. Invariant: a key that is not in the shape leaves a finding, however the table is used.

use std::cell::RefCell;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, Errors};
use super::field::Field;
use super::text::Text;
use super::value::{choice, nearest};

/// A table of a configuration file: how it is headed, and its keys.
#[derive(Debug)]
pub(super) struct Shape {
    /// `[[source]]`; empty for the top level.
    pub(super) heading: &'static str,
    /// Keys with values, in the order of the reference.
    pub(super) keys: &'static [&'static str],
    /// Keys with tables below.
    pub(super) tables: &'static [&'static str],
    /// Whether it has other keys too, of the user's choice.
    pub(super) open: bool,
}

impl Shape {
    fn place_in_words(&self) -> String {
        if self.heading.is_empty() { "at the top level".to_owned() } else { format!("in {}", self.heading) }
    }

    fn words(&self) -> impl Iterator<Item = &'static str> {
        self.keys.iter().chain(self.tables).copied()
    }
}

/// What was found wrong so far, and the shapes of all tables of this kind of file.
#[derive(Debug)]
pub(super) struct Findings {
    shapes: &'static [&'static Shape],
    list: RefCell<Vec<Diagnostic>>,
}

impl Findings {
    pub(super) fn add(&self, diagnostic: Diagnostic) {
        self.list.borrow_mut().push(diagnostic);
    }

    fn any(&self) -> bool {
        !self.list.borrow().is_empty()
    }
}

/// Reads `text` by `read`; all that is wrong with it otherwise.
pub(super) fn read<T>(
    text: &Text,
    shapes: &'static [&'static Shape],
    read: impl FnOnce(&Section<'_>) -> Option<T>,
) -> Result<T, Errors> {
    let (table, syntax) = DeTable::parse_recoverable(text.as_str());
    let findings = Findings { shapes, list: RefCell::default() };
    let mut syntax_lines = Vec::new();
    let mut structure_is_known = true;
    let masked = if syntax.is_empty() { String::new() } else { text.masked() };
    for error in &syntax {
        let (diagnostic, keeps_structure) = syntax_diagnostic(&masked, error);
        structure_is_known &= keeps_structure;
        syntax_lines.extend(diagnostic.place.as_ref().map(|place| line(text.as_str(), place.start)));
        findings.add(diagnostic);
    }
    let found = syntax_lines.len();
    let mut value = None;
    if structure_is_known && let [root, ..] = shapes {
        let section = Section::new(&findings, root, Some(table.get_ref()), 0..0);
        value = read(&section);
    }
    if let (Some(value), false) = (value, findings.any()) {
        return Ok(value);
    }
    let mut list = findings.list.into_inner();
    let mut nth = 0;
    list.retain(|diagnostic| {
        nth += 1;
        let lines = diagnostic.place.as_ref().map(|place| line(text.as_str(), place.start));
        nth <= found || lines.is_none_or(|line| !syntax_lines.contains(&line))
    });
    Err(Errors::new(text, list))
}

/// What is wrong with the TOML, given with its secrets masked, and whether the keys and tables around it are still what the author meant.
fn syntax_diagnostic(text: &str, error: &toml::de::Error) -> (Diagnostic, bool) {
    let place = super::text::clamp(text, error.span().unwrap_or(text.len()..text.len()));
    let marked = text.get(place.clone()).unwrap_or_default();
    let what = error.message();
    let unquoted = what.starts_with("string values must be quoted") || what.starts_with("invalid boolean");
    let diagnostic = Diagnostic::new("the file is not valid TOML").at(place);
    if unquoted && !marked.contains(char::is_whitespace) {
        (diagnostic.label("text must be in quotes").help(format!("write \"{marked}\"")), true)
    } else if what == "duplicate key" {
        let help = match text.as_bytes().get(..diagnostic.place.as_ref().map_or(0, |place| place.start)) {
            Some([.., b'[']) => {
                format!("put everything under one [{marked}]; only lists of tables, [[..]], repeat their heading")
            }
            _ => "remove one of them".to_owned(),
        };
        (diagnostic.label("this is here for the second time").help(help), true)
    } else {
        let other_format = (what.contains("unquoted key") && marked == ":") || text.trim_start().starts_with('{');
        let help = if other_format { "this file is TOML: key = \"value\"" } else { "" };
        (diagnostic.label(what).help(help), false)
    }
}

fn line(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|&byte| byte == b'\n').count()
}

/// One table of the document; an absent one reads like an empty one.
#[derive(Debug)]
pub(super) struct Section<'a> {
    findings: &'a Findings,
    shape: &'static Shape,
    table: Option<&'a DeTable<'a>>,
    place: Range<usize>,
}

impl<'a> Section<'a> {
    fn new(findings: &'a Findings, shape: &'static Shape, table: Option<&'a DeTable<'a>>, place: Range<usize>) -> Self {
        let section = Self { findings, shape, table, place };
        for (key, value) in table.into_iter().flatten() {
            if !shape.open && !shape.words().any(|word| word == key.get_ref()) {
                section.unknown(key, value);
            }
        }
        section
    }

    fn unknown(&self, key: &Spanned<std::borrow::Cow<'_, str>>, value: &Spanned<DeValue<'_>>) {
        let word = key.get_ref().as_ref();
        let elsewhere = self.findings.shapes.iter().filter(|shape| shape.heading != self.shape.heading);
        let homes: Vec<&str> = elsewhere
            .filter(|shape| !value.get_ref().is_table() && shape.keys.contains(&word))
            .map(|shape| shape.heading)
            .map(|home| if home.is_empty() { "the top of the file, before the first `[`" } else { home })
            .collect();
        let help = if !homes.is_empty() {
            format!("move it to {}", homes.join(" or "))
        } else if let Some(meant) = nearest(word, self.shape.words()) {
            format!("write `{meant}`")
        } else {
            choice("key", self.shape.words())
        };
        let message = format!("unknown key `{word}` {}", self.shape.place_in_words());
        self.findings.add(Diagnostic::new(message).at(key.span()).label("no such key").help(help));
    }

    pub(super) fn findings(&self) -> &'a Findings {
        self.findings
    }

    /// As it is headed: `[http]`.
    pub(super) fn heading(&self) -> &'static str {
        self.shape.heading
    }

    /// Where the table begins: its heading.
    pub(super) fn place(&self) -> Range<usize> {
        self.place.clone()
    }

    /// Whether the list `key` is empty or absent, and nothing else was found that explains it.
    pub(super) fn lacks(&self, key: &'static str) -> bool {
        let known = |word| self.shape.words().any(|known| known == word);
        let misspelt = self.entries().any(|(word, ..)| !known(word) && nearest(word, [key]).is_some());
        let value = self.field(key).map(|field| field.raw());
        !misspelt && value.is_none_or(|value| value.as_array().is_some_and(|list| list.is_empty()))
    }

    /// Keys and values as they stand, for tables with keys of the user's choice.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'a str, Range<usize>, &'a Spanned<DeValue<'a>>)> {
        self.table.into_iter().flatten().map(|(key, value)| (key.get_ref().as_ref(), key.span(), value))
    }

    /// The value of `key`, if it is there.
    pub(super) fn field(&self, key: &'static str) -> Option<Field<'a>> {
        debug_assert!(self.shape.words().any(|word| word == key), "`{key}` is missing in the shape");
        let value = self.table?.get(key)?;
        Some(Field::new(self.findings, key, value))
    }

    /// The value of `key`; a finding if it is missing.
    pub(super) fn required(&self, key: &'static str, example: &str) -> Option<Field<'a>> {
        let field = self.field(key);
        if field.is_none() {
            let diagnostic = match self.shape.heading {
                "" => Diagnostic::new(format!("`{key}` is missing at the top of the file")).at(0..0),
                heading => Diagnostic::new(format!("`{key}` is missing in {heading}")).at(self.place()),
            };
            self.findings.add(diagnostic.help(format!("add {key} = {example}")));
        }
        field
    }

    /// The value of `key` read by `read`, or `default` where the key is absent.
    pub(super) fn value<T>(
        &self,
        key: &'static str,
        default: T,
        read: impl FnOnce(&Field<'a>) -> Option<T>,
    ) -> Option<T> {
        self.field(key).map_or(Some(default), |field| read(&field))
    }

    /// Like `value`, for values that may be absent.
    pub(super) fn optional<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(&Field<'a>) -> Option<T>,
    ) -> Option<Option<T>> {
        self.value(key, None, |field| read(field).map(Some))
    }

    /// The table below `key`; empty where there is none.
    pub(super) fn table(&self, key: &'static str, shape: &'static Shape) -> Section<'a> {
        let absent = || Section::new(self.findings, shape, None, self.place());
        let Some(field) = self.field(key) else { return absent() };
        match field.raw() {
            DeValue::Table(table) => Section::new(self.findings, shape, Some(table), field.place()),
            other => {
                field.wrong_kind::<()>("a table", other, &format!("write {} and its keys below", shape.heading));
                absent()
            }
        }
    }

    /// The tables of the list `key`.
    pub(super) fn tables(&self, key: &'static str, shape: &'static Shape) -> Vec<Section<'a>> {
        let Some(field) = self.field(key) else { return Vec::new() };
        let help = format!("write {} and its keys below, once for each", shape.heading);
        let DeValue::Array(list) = field.raw() else {
            field.wrong_kind::<()>("a list of tables", field.raw(), &help);
            return Vec::new();
        };
        let mut sections = Vec::new();
        for value in list.iter() {
            match value.get_ref() {
                DeValue::Table(table) => {
                    sections.push(Section::new(self.findings, shape, Some(table), value.span()));
                }
                other => {
                    Field::new(self.findings, key, value).wrong_kind::<()>("a list of tables", other, &help);
                }
            }
        }
        sections
    }
}
