//! Reading one value of a TOML document: it is what was asked for, or leaves a finding and yields `None`.
//!
//! What a value means is the business of the closures that are handed in. Invariant: a method that yields `None` has
//! left a finding at the value's place.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeInteger, DeValue};

use super::diagnostic::Diagnostic;
use super::section::Findings;
use super::value::{Fault, choice, nearest};

/// The value of one key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field<'a> {
    findings: &'a Findings,
    key: &'a str,
    value: &'a Spanned<DeValue<'a>>,
}

impl<'a> Field<'a> {
    pub(super) fn new(findings: &'a Findings, key: &'a str, value: &'a Spanned<DeValue<'a>>) -> Self {
        Self { findings, key, value }
    }

    pub(super) fn place(&self) -> Range<usize> {
        self.value.span()
    }

    pub(super) fn raw(&self) -> &'a DeValue<'a> {
        self.value.get_ref()
    }

    /// Leaves a finding about this value.
    pub(super) fn refuse<T>(&self, fault: Fault) -> Option<T> {
        let message = format!("invalid value for `{}`", self.key);
        self.findings.add(Diagnostic::new(message).at(self.place()).label(fault.what).help(fault.instead));
        None
    }

    /// Leaves a finding about the type of this value.
    pub(super) fn wrong_kind<T>(&self, wanted: &str, found: &DeValue<'_>, help: &str) -> Option<T> {
        let message = format!("`{}` must be {wanted}", self.key);
        let label = format!("this is {}", kind(found));
        self.findings.add(Diagnostic::new(message).at(self.place()).label(label).help(help));
        None
    }

    /// A string that `read` understands.
    pub(super) fn parsed<T>(&self, read: impl Fn(&str) -> Result<T, Fault>) -> Option<T> {
        let DeValue::String(text) = self.raw() else {
            // If quotes are all that is missing, say so; else what would be right, which `read` says of nothing.
            let plain = plain(self.raw());
            let quotes = || format!("write it in quotes: \"{plain}\"");
            let help = read(&plain).or_else(|_| read("")).err().map_or_else(quotes, |fault| fault.instead);
            return self.wrong_kind("a string", self.raw(), &help);
        };
        match read(text) {
            Ok(value) => Some(value),
            Err(fault) => self.refuse(fault),
        }
    }

    /// A string that `check` has nothing against.
    pub(super) fn checked(&self, check: impl Fn(&str) -> Result<(), Fault>) -> Option<String> {
        self.parsed(|text| check(text).map(|()| text.to_owned()))
    }

    /// A string, or a number that `read` understands as well, such as a size in bytes.
    pub(super) fn parsed_or_number<T>(&self, read: impl Fn(&str) -> Result<T, Fault>) -> Option<T> {
        match self.raw() {
            DeValue::Integer(number) => match read(&number.to_string()) {
                Ok(value) => Some(value),
                Err(fault) => self.refuse(fault),
            },
            _ => self.parsed(read),
        }
    }

    /// A whole number that is not negative.
    pub(super) fn count(&self, read: impl FnOnce(u64) -> Result<u64, Fault>) -> Option<u64> {
        let DeValue::Integer(number) = self.raw() else {
            return self.wrong_kind(
                "a whole number",
                self.raw(),
                "write a number without quotes and units, for example 4",
            );
        };
        let fault = || Fault::new("not a number that can be used here", "write a whole number above 0");
        match whole(number).and_then(|number| u64::try_from(number).ok()).ok_or_else(fault).and_then(read) {
            Ok(value) => Some(value),
            Err(fault) => self.refuse(fault),
        }
    }

    /// True or false.
    pub(super) fn boolean(&self) -> Option<bool> {
        match self.raw() {
            DeValue::Boolean(value) => Some(*value),
            other => self.wrong_kind("true or false", other, "write true or false, without quotes"),
        }
    }

    /// One of some words.
    pub(super) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        self.parsed(|text| {
            let names = || words.iter().map(|(word, _)| *word);
            let found = words.iter().find(|(word, _)| *word == text);
            found.map(|(_, value)| *value).ok_or_else(|| match nearest(text, names()) {
                Some(meant) => Fault::new("no such value", format!("write \"{meant}\"")),
                None => Fault::new("no such value", choice("value", names())),
            })
        })
    }

    /// A list of strings that `read` understands.
    pub(super) fn list<T>(&self, read: impl Fn(&str) -> Result<T, Fault>) -> Option<Vec<T>> {
        let help = "write strings in brackets: [\"..\", \"..\"]";
        let DeValue::Array(list) = self.raw() else {
            return self.wrong_kind("a list of strings", self.raw(), help);
        };
        let entry = |value: &'a Spanned<DeValue<'a>>| {
            let entry = Field { value, ..*self };
            match value.get_ref() {
                DeValue::String(_) => entry.parsed(&read),
                other => entry.wrong_kind("a list of strings", other, help),
            }
        };
        let entries: Vec<Option<T>> = list.iter().map(entry).collect();
        entries.into_iter().collect()
    }

    /// A table as a JSON object.
    pub(super) fn json_object(&self) -> Option<serde_json::Value> {
        match self.raw() {
            DeValue::Table(_) => self.json(),
            other => self.wrong_kind("a table", other, &format!("write {} = {{ key = \"value\" }}", self.key)),
        }
    }

    fn json(&self) -> Option<serde_json::Value> {
        use serde_json::Value;
        let number = |text: &str| text.parse::<f64>().ok().and_then(serde_json::Number::from_f64);
        match self.raw() {
            DeValue::String(text) => Some(Value::String(text.to_string())),
            DeValue::Boolean(value) => Some(Value::Bool(*value)),
            DeValue::Datetime(time) => Some(Value::String(time.to_string())),
            DeValue::Integer(number) => match whole(number).and_then(serde_json::Number::from_i128) {
                Some(number) => Some(Value::Number(number)),
                None => self.refuse(Fault::new("a number of more than 64 bits", "write it as a string, in quotes")),
            },
            DeValue::Float(float) => match number(float.as_str()) {
                Some(number) => Some(Value::Number(number)),
                None => self.refuse(Fault::new("JSON has no such number", "write it as a string, in quotes")),
            },
            DeValue::Array(list) => {
                let values: Vec<_> = list.iter().map(|value| Field { value, ..*self }.json()).collect();
                values.into_iter().collect::<Option<Vec<_>>>().map(Value::Array)
            }
            DeValue::Table(table) => {
                let entry = |(key, value): (&Spanned<std::borrow::Cow<'_, str>>, &'a Spanned<DeValue<'a>>)| {
                    (key.get_ref().to_string(), Field { value, ..*self }.json())
                };
                let entries: Vec<_> = table.iter().map(entry).collect();
                let object: Option<_> = entries.into_iter().map(|(key, value)| Some((key, value?))).collect();
                object.map(Value::Object)
            }
        }
    }
}

/// The value of an integer; none beyond 128 bits.
pub(super) fn whole(number: &DeInteger<'_>) -> Option<i128> {
    i128::from_str_radix(number.as_str(), number.radix()).ok()
}

/// A scalar as text without quotes.
fn plain(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(_) | DeValue::Table(_) => String::new(),
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number with a decimal point",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
