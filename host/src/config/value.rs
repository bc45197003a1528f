//! Single values in the forms people write them: durations, sizes, points in time, addresses, names.
//!
//! Pure, and shared by files and command-line flags. Every number has bounds, and each refusal says why they are there.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;

/// Why a value is refused, and what to write instead.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fault {
    /// Goes under the text in question.
    pub(super) what: String,
    /// A sentence with an example.
    pub(super) instead: String,
}

impl Fault {
    pub(super) fn new(what: impl Into<String>, instead: impl Into<String>) -> Self {
        Self { what: what.into(), instead: instead.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.instead)
    }
}

impl std::error::Error for Fault {}

/// The least and the most a value may be, and the reason for each.
#[derive(Debug)]
pub(super) struct Bounds<T> {
    pub(super) min: T,
    pub(super) why_min: &'static str,
    pub(super) max: T,
    pub(super) why_max: &'static str,
}

impl<T: Copy + PartialOrd> Bounds<T> {
    fn check(&self, value: T, show: impl Fn(T) -> String) -> Result<T, Fault> {
        if value < self.min {
            Err(Fault::new("too small", format!("write at least {}: {}", show(self.min), self.why_min)))
        } else if value > self.max {
            Err(Fault::new("too large", format!("write at most {}: {}", show(self.max), self.why_max)))
        } else {
            Ok(value)
        }
    }
}

/// `1s`, `250ms`, `1m 30s`.
pub(super) fn duration(text: &str, bounds: &Bounds<Duration>) -> Result<Duration, Fault> {
    let instead = "write a number and a unit, for example \"250ms\", \"1s\" or \"1m 30s\"";
    let value = humantime::parse_duration(text).map_err(|_| Fault::new("not a duration", instead))?;
    bounds.check(value, |value| format!("\"{}\"", humantime::format_duration(value)))
}

/// `64MiB`, `500kB`, `1048576`; in bytes.
pub(super) fn size(text: &str, bounds: &Bounds<u64>) -> Result<u64, Fault> {
    let instead = "write a number and a unit, for example \"64MiB\", or a number of bytes";
    let value = ByteSize::from_str(text).map_err(|_| Fault::new("not a size", instead))?.as_u64();
    bounds.check(value, show_size)
}

/// A count, already a number.
pub(super) fn count(value: u64, bounds: &Bounds<u64>) -> Result<u64, Fault> {
    bounds.check(value, |value| value.to_string())
}

/// A size in the largest unit that divides it, in quotes, as it would be written.
pub(super) fn show_size(bytes: u64) -> String {
    match in_unit(bytes) {
        Some(size) => format!("\"{size}\""),
        None => format!("{bytes} bytes"),
    }
}

/// A size in the largest unit that divides it, or as a number.
pub(super) fn plain_size(bytes: u64) -> String {
    in_unit(bytes).unwrap_or_else(|| bytes.to_string())
}

fn in_unit(bytes: u64) -> Option<String> {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let (factor, unit) = UNITS.iter().find(|(factor, _)| bytes >= *factor && bytes.is_multiple_of(*factor))?;
    Some(format!("{}{unit}", bytes / factor))
}

/// An RFC 3339 date and time, in milliseconds since 1970.
pub(super) fn timestamp(text: &str) -> Result<i64, Fault> {
    match text.parse::<jiff::Timestamp>() {
        Ok(time) => milliseconds(time.as_millisecond()),
        Err(_) => {
            let local = text.parse::<jiff::civil::DateTime>().is_ok();
            let what = if local { "a time without a time zone" } else { "not a point in time" };
            Err(Fault::new(what, "write one with its time zone, for example 2026-01-31T12:00:00Z"))
        }
    }
}

/// Milliseconds since 1970 that are plausible as the timestamp of a record.
pub(super) fn milliseconds(value: i64) -> Result<i64, Fault> {
    // Seconds since 1970 taken for milliseconds lie in the first months of 1970: no record in Kafka is that old.
    const SECONDS_LIKELY_MAX: i64 = 100_000_000_000;
    match value {
        0 => Ok(0),
        ..0 => Err(Fault::new(
            "before 1970",
            "Kafka counts time in milliseconds since 1970; write \"earliest\" for the oldest record",
        )),
        1..SECONDS_LIKELY_MAX => Err(Fault::new(
            "this is in the year 1970, or a number of seconds",
            format!("time is counted in milliseconds: write {value}000, or a date and time like 2026-01-31T12:00:00Z"),
        )),
        _ => Ok(value),
    }
}

/// A Kafka topic.
pub(super) fn topic(name: &str) -> Result<(), Fault> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name == "." || name == ".." {
        Err(Fault::new("not the name of a topic", "write the name of a Kafka topic, for example \"orders\""))
    } else if let Some(bad) = name.chars().find(|&c| !fine(c)) {
        Err(Fault::new(
            format!("{bad:?} cannot be in the name of a topic"),
            "Kafka allows ASCII letters, digits, `.`, `_` and `-`; one topic for each entry, and no patterns",
        ))
    } else if name.len() > 249 {
        Err(Fault::new("too long for the name of a topic", "Kafka allows at most 249 characters"))
    } else {
        Ok(())
    }
}

/// The name of a pipeline or transform.
pub(super) fn name(name: &str) -> Result<(), Fault> {
    if crate::manifest::is_name(name) {
        return Ok(());
    }
    let rule = "use lower-case letters, digits and `-`, a letter first, at most 63 of them";
    let suggestion = name.to_ascii_lowercase().replace(['_', ' ', '.'], "-");
    let instead = match crate::manifest::is_name(&suggestion) {
        true => format!("{rule}: for example \"{suggestion}\""),
        false => rule.to_owned(),
    };
    Err(Fault::new("not a name", instead))
}

/// The name of a node: it stands in ZooKeeper paths and on the command line.
pub(super) fn node_name(name: &str) -> Result<(), Fault> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let allowed = !name.is_empty() && name.len() <= 255 && name.chars().all(fine) && !name.chars().all(|c| c == '.');
    match allowed {
        true => Ok(()),
        false => Err(Fault::new(
            "not the name of a node",
            "use ASCII letters, digits, `.`, `_` and `-`, at most 255 of them",
        )),
    }
}

/// `host:port` pairs, separated by commas; a missing port is filled in.
pub(super) fn servers(text: &str, default_port: u16) -> Result<String, Fault> {
    let mut servers = Vec::new();
    for server in text.split(',').map(str::trim) {
        let (host, port) = match server.rsplit_once(':') {
            Some((host, port)) if !host.ends_with(':') || host.starts_with('[') => (host, port.parse::<u16>().ok()),
            _ => (server, Some(default_port)),
        };
        if server.contains('/') {
            let instead = "write servers only; a path below which everything is stored is the key `namespace`";
            return Err(Fault::new("has a path in it", instead));
        }
        let Some(port) = port.filter(|&port| port != 0 && !host.is_empty() && !host.contains(char::is_whitespace))
        else {
            let instead =
                format!("write host:port, several with commas between, for example \"localhost:{default_port}\"");
            return Err(Fault::new(format!("`{server}` is not the address of a server"), instead));
        };
        servers.push(format!("{host}:{port}"));
    }
    Ok(servers.join(","))
}

/// A ZooKeeper path below which everything is stored.
pub(super) fn namespace(path: &str) -> Result<(), Fault> {
    let example = "write an absolute path, for example \"/sluicegate\"";
    let Some(parts) = path.strip_prefix('/') else {
        return Err(Fault::new("does not start with `/`", example));
    };
    let fine = |part: &str| {
        let characters = part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
        !part.is_empty() && part != "." && part != ".." && characters
    };
    if path == "/" || !parts.split('/').all(fine) || path.len() > 200 {
        let parts = "parts of letters, digits, `.`, `_` and `-` with one `/` between, at most 200 characters";
        return Err(Fault::new("not the path of a ZooKeeper node", format!("{example}: {parts}")));
    }
    if parts == "zookeeper" || parts.starts_with("zookeeper/") {
        return Err(Fault::new("ZooKeeper keeps its own data there", example));
    }
    Ok(())
}

/// The word of `candidates` that is most like `word`, if any is like it.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |word: &str| word.to_lowercase().replace('_', "-");
    let word = plain(word);
    // Whole words that were cut or drawn out, such as `configuration`, count as one mistake.
    let distance = |candidate: &str| {
        let is_start =
            candidate.len().min(word.len()) >= 4 && (word.starts_with(candidate) || candidate.starts_with(&word));
        if is_start { 1 } else { strsim::damerau_levenshtein(&word, candidate) }
    };
    candidates
        .into_iter()
        .map(|candidate| (distance(&plain(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len().min(word.len()) / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `a`, `b` and `c`, each in back quotes.
pub(super) fn listed<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<String> = words.into_iter().map(|word| format!("`{word}`")).collect();
    match words.split_last() {
        None => "none".to_owned(),
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
    }
}

/// `the values are ..`, `the only value is ..`.
pub(super) fn choice<'a>(what: &str, words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<&str> = words.into_iter().collect();
    match words.as_slice() {
        [] => format!("there is no {what}"),
        [only] => format!("the only {what} is `{only}`"),
        _ => format!("the {what}s are {}", listed(words)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Bounds<u64> =
        Bounds { min: 1024, why_min: "less is nothing", max: 1 << 30, why_max: "more is too much" };

    #[test]
    fn sizes_are_read_in_binary_and_decimal_units() {
        assert_eq!(size("64MiB", &SIZE), Ok(64 << 20));
        assert_eq!(size("64 kB", &SIZE), Ok(64_000));
        assert_eq!(size("2048", &SIZE), Ok(2048));
        assert_eq!(size("1B", &SIZE).unwrap_err().to_string(), "too small: write at least \"1KiB\": less is nothing");
        assert_eq!(size("much", &SIZE).unwrap_err().what, "not a size");
    }

    #[test]
    fn points_in_time_need_a_zone_and_are_milliseconds() {
        assert_eq!(timestamp("2026-01-31T12:00:00.5Z"), Ok(1_769_860_800_500));
        assert_eq!(timestamp("2026-01-31T12:00:00+01:00"), Ok(1_769_857_200_000));
        assert_eq!(timestamp("2026-01-31T12:00:00").unwrap_err().what, "a time without a time zone");
        assert!(milliseconds(1_769_860_800).unwrap_err().instead.contains("1769860800000"));
    }

    #[test]
    fn servers_get_their_port() {
        assert_eq!(servers("a, b:1", 9092).unwrap(), "a:9092,b:1");
        assert_eq!(servers("[::1]:1", 9092).unwrap(), "[::1]:1");
        for wrong in ["", "a:x", "a:0", ":1", "a,,b", "a b:1", "a:1/chroot"] {
            servers(wrong, 9092).unwrap_err();
        }
    }

    #[test]
    fn typos_find_the_word_that_was_meant() {
        let words = ["topic", "commit-interval", "start"];
        assert_eq!(nearest("topik", words), Some("topic"));
        assert_eq!(nearest("commit_intervall", words), Some("commit-interval"));
        assert_eq!(nearest("bananas", words), None);
    }
}
