//! The dead letters of a pipeline, from what is in the topic: each with what became of it. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::kafka::log::Entry;
use crate::payload::Payload;
use crate::worker::dead_letter::{self as header, is_ours};

/// Where a letter lies: partition and offset, written `2/17`.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Place {
    pub(super) partition: i32,
    pub(super) offset: i64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.partition, self.offset)
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(partition, offset)| {
            Some(Self { partition: partition.parse().ok()?, offset: offset.parse().ok()? })
        });
        parts.ok_or_else(|| "write partition and offset of a dead letter, as `dlq list` shows them: 2/17".to_owned())
    }
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What became of a letter.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Fate {
    /// Nothing yet.
    Open,
    /// It was ordered to be processed again.
    Replayed,
    /// It is not needed.
    Discarded,
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Replayed => "replayed",
            Self::Discarded => "discarded",
        })
    }
}

/// A dead letter.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Letter {
    pub(super) letter: Place,
    pub(super) fate: Fate,
    pub(super) put_aside_at: jiff::Timestamp,
    pub(super) transform: String,
    pub(super) plugin: String,
    pub(super) plugin_version: String,
    pub(super) plugin_digest: String,
    pub(super) topic: String,
    pub(super) partition: Option<i32>,
    pub(super) offset: Option<i64>,
    pub(super) timestamp: Option<i64>,
    pub(super) error: String,
    pub(super) reason: String,
    pub(super) attempt: u32,
    pub(super) key: Option<Payload>,
    pub(super) value: Option<Payload>,
    pub(super) headers: Vec<(String, Option<Payload>)>,
    /// The order to process it again, if there is one.
    #[serde(skip)]
    pub(super) ordered_at: Option<Place>,
    /// As it stands in the topic.
    #[serde(skip)]
    pub(super) entry: Entry,
}

impl Letter {
    /// The source record: the same for every letter that was made of it.
    pub(super) fn source(&self) -> String {
        format!("{}/{}/{}", self.topic, shown(self.partition), shown(self.offset))
    }

    /// The line of the reason that says most: where a plugin panicked and with which words, else the first.
    pub(super) fn headline(&self) -> String {
        let mut lines = self.reason.lines().map(str::trim);
        match lines.find(|line| line.contains("panicked at ")) {
            Some(panic) => {
                let place = panic.rsplit_once("panicked at ").map_or(panic, |(_, place)| place);
                format!("panicked at {place} {}", lines.next().unwrap_or_default())
            }
            None => self.reason.lines().next().unwrap_or_default().to_owned(),
        }
    }
}

/// A number that may be missing, where headers are damaged.
pub(super) fn shown(number: Option<impl ToString>) -> String {
    number.map_or_else(|| "?".to_owned(), |number| number.to_string())
}

fn text(entry: &Entry, name: &str) -> Option<String> {
    let found = entry.headers.iter().rev().find(|(other, _)| other == name)?;
    Some(String::from_utf8_lossy(found.1.as_deref()?).into_owned())
}

/// The letters of `pipeline`, by their places.
pub(super) fn letters(entries: Vec<Entry>, pipeline: &str) -> BTreeMap<Place, Letter> {
    let mut letters = BTreeMap::new();
    let mut fates: Vec<(Place, Fate, Place)> = Vec::new();
    for entry in entries {
        if text(&entry, header::PIPELINE).as_deref() != Some(pipeline) {
            continue;
        }
        let here = Place { partition: entry.partition, offset: entry.offset };
        let of = |name| text(&entry, name).and_then(|place| place.parse::<Place>().ok());
        if let Some(place) = of(header::REPLAY_OF) {
            fates.push((place, Fate::Replayed, here));
        } else if let Some(place) = of(header::DISCARD_OF) {
            fates.push((place, Fate::Discarded, here));
        } else if let Some(letter) = letter(entry) {
            letters.insert(letter.letter, letter);
        }
    }
    for (place, fate, at) in fates {
        if let Some(letter) = letters.get_mut(&place) {
            letter.fate = fate;
            letter.ordered_at = (fate == Fate::Replayed).then_some(at);
        }
    }
    letters
}

fn letter(entry: Entry) -> Option<Letter> {
    let some = |name| text(&entry, name).unwrap_or_default();
    let payload = |bytes: &Option<Vec<u8>>| bytes.as_deref().map(Payload::from);
    Some(Letter {
        letter: Place { partition: entry.partition, offset: entry.offset },
        fate: Fate::Open,
        put_aside_at: jiff::Timestamp::from_millisecond(entry.timestamp).ok()?,
        transform: text(&entry, header::TRANSFORM)?,
        plugin: some(header::PLUGIN),
        plugin_version: some(header::PLUGIN_VERSION),
        plugin_digest: some(header::PLUGIN_DIGEST),
        topic: some(header::TOPIC),
        partition: some(header::PARTITION).parse().ok(),
        offset: some(header::OFFSET).parse().ok(),
        timestamp: some(header::TIMESTAMP).parse().ok(),
        error: some(header::ERROR),
        reason: some(header::REASON),
        attempt: some(header::ATTEMPT).parse().unwrap_or(1),
        key: payload(&entry.key),
        value: payload(&entry.value),
        headers: entry
            .headers
            .iter()
            .filter(|(name, _)| !is_ours(name.as_bytes()))
            .map(|(name, value)| (name.clone(), payload(value)))
            .collect(),
        ordered_at: None,
        entry,
    })
}

/// The order to process a letter again: a copy of it in the partition of its task.
pub(super) fn order(letter: &Letter) -> Result<Entry, String> {
    let damaged =
        || format!("dead letter {} does not say which partition it comes from: its headers are damaged", letter.letter);
    let partition = letter.partition.ok_or_else(damaged)?;
    let mut entry = Entry { partition, timestamp: -1, ..letter.entry.clone() };
    entry.headers.retain(|(name, _)| name != header::REPLAY_OF);
    entry.headers.push((header::REPLAY_OF.to_owned(), Some(letter.letter.to_string().into_bytes())));
    Ok(entry)
}

/// The note that a letter is not needed.
pub(super) fn note(letter: &Letter, pipeline: &str) -> Entry {
    let header = |name: &str, value: String| (name.to_owned(), Some(value.into_bytes()));
    let headers =
        vec![header(header::PIPELINE, pipeline.to_owned()), header(header::DISCARD_OF, letter.letter.to_string())];
    let partition = letter.letter.partition;
    Entry { partition, offset: 0, timestamp: -1, key: letter.entry.key.clone(), value: None, headers }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(offset: i64, headers: &[(&str, &str)]) -> Entry {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), Some(value.as_bytes().to_vec())));
        Entry { partition: 1, offset, timestamp: 5, key: None, value: Some(b"v".to_vec()), headers: headers.collect() }
    }

    fn dead(offset: i64) -> Entry {
        entry(offset, &[(header::PIPELINE, "p"), (header::TRANSFORM, "t"), (header::PARTITION, "1"), ("own", "x")])
    }

    #[test]
    fn what_became_of_a_letter_stands_behind_it() {
        let first = letters(vec![dead(0), dead(1), dead(2)], "p");
        let ordered = Entry { offset: 3, ..order(&first[&Place { partition: 1, offset: 0 }]).unwrap() };
        let noted = Entry { offset: 4, ..note(&first[&Place { partition: 1, offset: 2 }], "p") };
        let all = letters(vec![dead(0), dead(1), dead(2), ordered, noted], "p");
        let fates: Vec<Fate> = all.values().map(|letter| letter.fate).collect();
        assert_eq!(fates, [Fate::Replayed, Fate::Open, Fate::Discarded]);
    }

    #[test]
    fn letters_of_others_are_left_alone() {
        assert!(letters(vec![dead(0), entry(1, &[("own", "x")])], "q").is_empty());
    }

    #[test]
    fn an_order_is_the_letter_again_in_the_partition_of_its_task() {
        let mut elsewhere = dead(7);
        elsewhere.partition = 0;
        let found = letters(vec![elsewhere.clone()], "p");
        let order = order(&found[&Place { partition: 0, offset: 7 }]).unwrap();
        assert_eq!(order.partition, 1);
        assert_eq!((order.key, order.value), (elsewhere.key, elsewhere.value));
        assert!(order.headers.starts_with(&elsewhere.headers));
        assert_eq!(order.headers.last().unwrap().1, Some(b"0/7".to_vec()));
    }

    #[test]
    fn places_are_written_as_they_are_read() {
        assert_eq!("2/17".parse::<Place>().unwrap().to_string(), "2/17");
        assert!("2".parse::<Place>().is_err() && "a/b".parse::<Place>().is_err());
    }
}
