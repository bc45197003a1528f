//! The table `[kafka]`: properties of librdkafka, for both sides or one, by their own names.
//!
//! Which properties exist is librdkafka's business; refused here are only those that the host sets itself. Invariant: a
//! secret value is never in `Debug`.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use toml::Spanned;
use toml::de::DeValue;

use crate::config::diagnostic::Diagnostic;
use crate::config::field::{Field, whole};
use crate::config::secret::{self, Secret};
use crate::config::section::{Findings, Section};
use crate::config::text::Text;
use crate::config::value::Fault;

/// Properties for librdkafka.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kafka {
    /// For consumers and producers.
    pub common: KafkaProperties,
    /// For consumers; over `common`.
    pub consumer: KafkaProperties,
    /// For producers; over `common`.
    pub producer: KafkaProperties,
}

/// Properties by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KafkaProperties(BTreeMap<String, KafkaProperty>);

/// The value of a property, in the form that librdkafka takes.
#[derive(Clone, PartialEq)]
pub enum KafkaProperty {
    /// May be shown.
    Plain(String),
    /// Must not be shown.
    Secret(Secret),
}

impl KafkaProperty {
    /// The value, secret or not.
    #[must_use]
    pub fn expose(&self) -> &str {
        match self {
            Self::Plain(value) => value,
            Self::Secret(secret) => secret.expose(),
        }
    }
}

impl fmt::Debug for KafkaProperty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(value) => write!(f, "{value:?}"),
            Self::Secret(secret) => write!(f, "{secret:?}"),
        }
    }
}

impl KafkaProperties {
    /// Name and value of every property, sorted by name. Values may be secret: for librdkafka, not for logs.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.expose()))
    }

    /// Name and value of every property, sorted by name.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, &KafkaProperty)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// The value of one property.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&KafkaProperty> {
        self.0.get(name)
    }

    pub(super) fn set(&mut self, name: &str, value: String) {
        self.0.insert(name.to_owned(), KafkaProperty::Plain(value));
    }
}

/// Properties that the host sets itself, and why a user's value would break it.
const RESERVED: &[(&str, &str)] = &[
    ("acks", WRITTEN),
    ("auto.commit.enable", OFFSETS),
    ("auto.offset.reset", "write `start` in the [[source]] of the pipeline"),
    ("client.id", GROUP),
    ("delivery.report.only.error", EVENTS),
    ("delivery.timeout.ms", PATIENCE),
    ("enable.auto.commit", OFFSETS),
    ("enable.auto.offset.store", OFFSETS),
    ("enable.idempotence", "without it a retry can repeat or reorder records"),
    ("enable.partition.eof", EVENTS),
    ("group.id", GROUP),
    ("group.instance.id", GROUP),
    ("group.remote.assignor", ASSIGNOR),
    ("isolation.level", "records of aborted transactions must not be processed"),
    ("message.timeout.ms", PATIENCE),
    ("partition.assignment.strategy", ASSIGNOR),
    ("request.required.acks", WRITTEN),
    ("transactional.id", GROUP),
];

const ASSIGNOR: &str = "partitions of several sources must stay together";
const EVENTS: &str = "it is how sluicegate hears from librdkafka";
const GROUP: &str = "it follows from namespace, pipeline and node";
const OFFSETS: &str = "offsets are committed together with the state";
const PATIENCE: &str = "a broker that is away is waited for, and a record given up would be lost";
const WRITTEN: &str = "a record counts as written when all in-sync replicas have it";

/// Reads `[kafka]`: the properties at its top for both sides, those below `consumer` and `producer` for one.
pub(super) fn properties(section: &Section<'_>, text: &Text) -> Option<Kafka> {
    let reader = Reader { findings: section.findings(), text };
    let mut kafka = Kafka::default();
    let mut complete = true;
    let mut seen = BTreeMap::new();
    for (key, place, value) in section.entries() {
        complete &= match (key, value.get_ref()) {
            ("consumer", DeValue::Table(_)) => reader.side(value, &mut kafka.consumer),
            ("producer", DeValue::Table(_)) => reader.side(value, &mut kafka.producer),
            _ => reader.flatten(key, place, value, &mut kafka.common, &mut seen),
        };
    }
    complete.then_some(kafka)
}

struct Reader<'a> {
    findings: &'a Findings,
    text: &'a Text,
}

impl<'a> Reader<'a> {
    fn side(&self, table: &'a Spanned<DeValue<'a>>, properties: &mut KafkaProperties) -> bool {
        let mut seen = BTreeMap::new();
        let mut complete = true;
        for (key, value) in table.get_ref().as_table().into_iter().flatten() {
            complete &= self.flatten(key.get_ref(), key.span(), value, properties, &mut seen);
        }
        complete
    }

    /// Takes in one value; TOML reads `a.b.c = 1` as tables in tables, so their names are put together again.
    fn flatten(
        &self,
        name: &str,
        place: Range<usize>,
        value: &'a Spanned<DeValue<'a>>,
        properties: &mut KafkaProperties,
        seen: &mut BTreeMap<String, Range<usize>>,
    ) -> bool {
        if let DeValue::Table(table) = value.get_ref()
            && !is_reference(value.get_ref())
        {
            let mut complete = true;
            for (key, value) in table {
                complete &= self.flatten(&format!("{name}.{}", key.get_ref()), key.span(), value, properties, seen);
            }
            return complete;
        }
        let place = self.whole_key(name, place);
        if let Some(first) = seen.insert(name.to_owned(), place.clone()) {
            let diagnostic = Diagnostic::new(format!("the property `{name}` is there twice"));
            self.findings.add(diagnostic.at(place).related(first, "first time").help("remove one of them"));
            return false;
        }
        if let Some((_, why)) = RESERVED.iter().find(|(reserved, _)| *reserved == name) {
            let diagnostic = Diagnostic::new(format!("the property `{name}` cannot be set"));
            self.findings.add(diagnostic.at(place).label(*why).help("remove it"));
            return false;
        }
        match self.property(name, value) {
            Some(value) => {
                properties.0.insert(name.to_owned(), value);
                true
            }
            None => false,
        }
    }

    /// The place of all parts of a dotted key, given that of its last part.
    fn whole_key(&self, name: &str, last: Range<usize>) -> Range<usize> {
        let whole = last.end.saturating_sub(name.len())..last.end;
        if self.text.as_str().get(whole.clone()) == Some(name) { whole } else { last }
    }

    fn property(&self, name: &str, value: &'a Spanned<DeValue<'a>>) -> Option<KafkaProperty> {
        let field = Field::new(self.findings, name, value);
        let plain = match value.get_ref() {
            DeValue::String(path) if is_path(name, path) => return field.parsed(|path| self.path(path)),
            DeValue::String(text) => text.to_string(),
            DeValue::Boolean(value) => value.to_string(),
            DeValue::Float(number) => number.as_str().to_owned(),
            DeValue::Integer(number) => match whole(number) {
                Some(number) => number.to_string(),
                None => return field.refuse(Fault::new("too large a number", "write it in quotes")),
            },
            DeValue::Array(_) => {
                let help = "librdkafka takes lists as one string: \"a,b\"";
                return field.wrong_kind("a string, a number or a boolean", value.get_ref(), help);
            }
            DeValue::Datetime(_) => {
                return field.wrong_kind("a string, a number or a boolean", value.get_ref(), "write it in quotes");
            }
            DeValue::Table(_) => return self.reference(&field).map(KafkaProperty::Secret),
        };
        Some(match secret::is_secret_name(name) {
            true => KafkaProperty::Secret(Secret::new(plain)),
            false => KafkaProperty::Plain(plain),
        })
    }

    /// A file or folder, which starts from this file's folder as every path here does.
    fn path(&self, path: &str) -> Result<KafkaProperty, Fault> {
        let path = self.text.resolve(path);
        let help = "write the path of a file; a relative one starts from this file's folder";
        if let Err(error) = std::fs::metadata(&path) {
            return Err(Fault::new(format!("cannot read `{}`: {error}", path.display()), help));
        }
        path.into_os_string().into_string().map(KafkaProperty::Plain).map_err(|_| Fault::new("not UTF-8 text", help))
    }

    /// `{ env = "NAME" }` or `{ file = "path" }`.
    fn reference(&self, field: &Field<'a>) -> Option<Secret> {
        let table = field.raw().as_table()?;
        let secret = match (table.get("env").map(Spanned::get_ref), table.get("file").map(Spanned::get_ref)) {
            (Some(DeValue::String(variable)), _) => secret::from_environment(variable),
            (None, Some(DeValue::String(path))) => secret::from_file(&self.text.resolve(path)),
            _ => {
                let help = "write { env = \"VARIABLE\" } or { file = \"path\" }";
                return field.refuse(Fault::new("does not say where the value is", help));
            }
        };
        secret.map_or_else(|problem| field.refuse(Fault::new(problem, "set it, or name another one")), Some)
    }
}

/// Whether the value of a property is a path; `probe` looks in the usual places.
fn is_path(name: &str, value: &str) -> bool {
    name.starts_with("ssl.") && name.ends_with(".location") && value != "probe"
}

/// Whether a table says where a secret comes from; any other one is part of a dotted name.
fn is_reference(value: &DeValue<'_>) -> bool {
    value.as_table().is_some_and(|table| table.len() == 1 && (table.contains_key("env") || table.contains_key("file")))
}
