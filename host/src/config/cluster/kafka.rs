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
use crate::config::secret::{self, Secret};
use crate::config::section::{Field, Findings, Section, whole};
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
    ("group.id", "the host derives it from namespace and pipeline"),
    ("group.instance.id", "the host decides who is in the group"),
    ("transactional.id", "the host derives it from namespace, pipeline and thread"),
    ("enable.auto.commit", "the host commits offsets together with state"),
    ("auto.commit.enable", "the host commits offsets together with state"),
    ("enable.auto.offset.store", "the host commits offsets together with state"),
    ("auto.offset.reset", "write `start` in the [[source]] of the pipeline"),
    ("partition.assignment.strategy", "topics that are joined must be assigned together"),
    ("enable.idempotence", "the host needs it for the order of records"),
    ("acks", "the host waits for all replicas"),
    ("request.required.acks", "the host waits for all replicas"),
    ("enable.partition.eof", "the host has no use for it"),
    ("delivery.report.only.error", "the host decides which reports it needs"),
    ("statistics.interval.ms", "the host takes its metrics from the statistics"),
];

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

    /// `{ env = "NAME" }` or `{ file = "path" }`.
    fn reference(&self, field: &Field<'a>) -> Option<Secret> {
        let table = field.raw().as_table()?;
        let string = |key: &str| table.get(key).and_then(|value| value.get_ref().as_str());
        let secret = match (string("env"), string("file")) {
            (Some(variable), _) => secret::from_environment(variable),
            (None, Some(path)) => secret::from_file(&self.text.resolve(path)),
            (None, None) => return None,
        };
        secret.map_or_else(|problem| field.refuse(Fault::new(problem, "set it, or name another one")), Some)
    }
}

/// Whether a table says where a secret comes from; any other one is part of a dotted name.
fn is_reference(value: &DeValue<'_>) -> bool {
    let Some(table) = value.as_table() else { return false };
    let string = |key: &str| table.get(key).is_some_and(|value| value.get_ref().is_str());
    table.len() == 1 && (string("env") || string("file"))
}
