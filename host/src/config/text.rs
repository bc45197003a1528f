//! The text of one configuration file, kept so that errors found long after reading can be shown at their line.
//!
//! Places are found by parsing the text again: spans are not carried through the validated types, and an error is rare
//! enough that reading a small file twice costs nothing. Invariant: a place that is returned lies within the text, on
//! character boundaries.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::secret::is_secret_name;

/// The largest configuration file: a pipeline's is stored in one ZooKeeper node, which may hold a megabyte at most.
const BYTES_MAX: usize = 256 * 1024;

/// The text of a configuration file and where it came from.
#[derive(Clone, Default, PartialEq)]
pub(super) struct Text {
    origin: PathBuf,
    text: String,
}

/// Without the text, in which there may be a secret.
impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Text").field("origin", &self.origin).finish_non_exhaustive()
    }
}

/// One step on the way to a value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step<'a> {
    /// Into a table.
    Key(&'a str),
    /// Into an array, counted from 0.
    Index(usize),
    /// Along a path like `paths[2].name`; keys may have dots in them.
    Path(&'a str),
}

impl Text {
    /// A text that was read elsewhere; `origin` is shown in errors, and relative paths start from its folder.
    pub(super) fn new(origin: &Path, text: &str) -> Self {
        Self { origin: origin.to_path_buf(), text: text.to_owned() }
    }

    /// Reads a file. The error is a clause for the user, to be put behind "cannot read FILE: ".
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
        if bytes.len() > BYTES_MAX {
            return Err(format!("it has {} bytes, and a configuration file has at most {BYTES_MAX}", bytes.len()));
        }
        match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(Self::new(path, text)),
            Err(error) => {
                let line = 1 + bytes.iter().take(error.valid_up_to()).filter(|&&byte| byte == b'\n').count();
                Err(format!("line {line} is not UTF-8 text"))
            }
        }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    pub(super) fn origin(&self) -> &Path {
        &self.origin
    }

    /// `path` as seen from the folder that the file is in.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        match self.origin.parent() {
            Some(folder) => folder.join(path),
            None => PathBuf::from(path),
        }
    }

    /// The place of the value that `steps` lead to, or of the last one on the way that exists.
    pub(super) fn place(&self, steps: &[Step<'_>]) -> Range<usize> {
        self.follow(steps).0
    }

    /// The place of the value that `steps` lead to, if it exists.
    pub(super) fn find(&self, steps: &[Step<'_>]) -> Option<Range<usize>> {
        let (place, complete) = self.follow(steps);
        complete.then_some(place)
    }

    fn follow(&self, steps: &[Step<'_>]) -> (Range<usize>, bool) {
        let (table, _) = DeTable::parse_recoverable(&self.text);
        let mut place = 0..0;
        let mut value = &DeValue::Table(table.into_inner());
        for step in steps {
            let (next, complete) = match step {
                Step::Key(key) => (member(value, key), true),
                Step::Index(index) => (element(value, *index), true),
                Step::Path("") => continue,
                Step::Path(path) => walk(value, path),
            };
            let Some(next) = next else { return (place, false) };
            place = clamp(&self.text, next.span());
            value = next.get_ref();
            if !complete {
                return (place, false);
            }
        }
        (place, true)
    }

    /// The text with the characters of every secret value overwritten, so that places stay what they are.
    pub(super) fn masked(&self) -> String {
        let (table, errors) = DeTable::parse_recoverable(&self.text);
        let mut secrets = Vec::new();
        if !errors.is_empty() {
            // Where a value ends is not certain then.
            collect_secret_lines(&self.text, &mut secrets);
        }
        for (key, value) in table.get_ref() {
            collect_secrets(key.get_ref(), value, &mut secrets);
        }
        let mut masked = String::with_capacity(self.text.len());
        for (at, character) in self.text.char_indices() {
            let hidden =
                secrets.iter().any(|span| span.contains(&at)) && !matches!(character, '"' | '\'' | '\n' | '\r');
            if hidden {
                masked.extend(std::iter::repeat_n('*', character.len_utf8()));
            } else {
                masked.push(character);
            }
        }
        masked
    }
}

/// Brings a span into the text and onto character boundaries.
pub(super) fn clamp(text: &str, span: Range<usize>) -> Range<usize> {
    let floor = |mut at: usize| {
        at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let start = floor(span.start);
    start..floor(span.end).max(start)
}

fn member<'a, 'i>(value: &'a DeValue<'i>, key: &str) -> Option<&'a Spanned<DeValue<'i>>> {
    value.as_table().and_then(|table| table.get(key))
}

fn element<'a, 'i>(value: &'a DeValue<'i>, index: usize) -> Option<&'a Spanned<DeValue<'i>>> {
    value.as_array().and_then(|array| array.get(index))
}

/// Follows `path` as far as it leads; the second value says whether that was all of it.
fn walk<'a, 'i>(value: &'a DeValue<'i>, path: &str) -> (Option<&'a Spanned<DeValue<'i>>>, bool) {
    let path = path.trim_start_matches('.');
    if path.is_empty() {
        return (None, true);
    }
    let steps = if let Some((index, rest)) = path.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
        index.parse().ok().and_then(|index| element(value, index)).map(|next| (next, rest))
    } else {
        // The longest key first: a key may have dots in it.
        let ends = path.char_indices().filter(|(_, c)| matches!(c, '.' | '[')).map(|(at, _)| at).chain([path.len()]);
        let ends: Vec<usize> = ends.collect();
        ends.into_iter().rev().find_map(|end| Some((member(value, path.get(..end)?)?, path.get(end..)?)))
    };
    match steps {
        None => (None, false),
        Some((next, rest)) => match walk(next.get_ref(), rest) {
            (Some(further), complete) => (Some(further), complete),
            (None, complete) => (Some(next), complete),
        },
    }
}

fn collect_secrets(path: &str, value: &Spanned<DeValue<'_>>, secrets: &mut Vec<Range<usize>>) {
    match value.get_ref() {
        DeValue::Table(table) => {
            for (key, value) in table {
                collect_secrets(&format!("{path}.{}", key.get_ref()), value, secrets);
            }
        }
        DeValue::Array(array) => array.iter().for_each(|value| collect_secrets(path, value, secrets)),
        // Wherever somebody has put it, who meant the public one.
        DeValue::String(text) if text.contains("PRIVATE KEY-----") => secrets.push(value.span()),
        _ if is_secret_name(path) => secrets.push(value.span()),
        _ => {}
    }
}

/// What stands behind the first `=` of every line that begins with the name of a secret.
fn collect_secret_lines(text: &str, secrets: &mut Vec<Range<usize>>) {
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let end = start + line.len();
        if let Some((key, value)) = line.split_once('=')
            && is_secret_name(key)
        {
            secrets.push(end - value.trim_start().len()..end);
        }
        start = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str, steps: &[Step<'_>]) -> String {
        let text = Text::new(Path::new("a.toml"), text);
        text.as_str()[text.place(steps)].to_owned()
    }

    #[test]
    fn a_path_leads_to_the_deepest_value_there_is() {
        let text = "[[transform]]\nname = 'x'\n[[transform]]\nconfig = { paths = ['a', 'b'], 'c.d' = { e = 1 } }\n";
        let config = [Step::Key("transform"), Step::Index(1), Step::Key("config")];
        let at = |path| place(text, &[config[0], config[1], config[2], Step::Path(path)]);
        assert_eq!(at("paths[1]"), "'b'");
        assert_eq!(at("paths[7]"), "['a', 'b']");
        assert_eq!(at("c.d.e"), "1");
        assert_eq!(at("c.d.f.g"), "{ e = 1 }");
        assert_eq!(at("nothing"), "{ paths = ['a', 'b'], 'c.d' = { e = 1 } }");
        assert_eq!(at("["), "{ paths = ['a', 'b'], 'c.d' = { e = 1 } }");
        assert_eq!(place(text, &[Step::Key("sink"), Step::Index(1)]), "");
    }

    #[test]
    fn secrets_are_overwritten_in_place() {
        let text = Text::new(
            Path::new("a.toml"),
            "[kafka]\nsasl.password = \"hünter\"\n'sasl.username' = 'me'\nssl.key.password = { env = 'NAME' }\n",
        );
        let masked = text.masked();
        assert_eq!(masked.len(), text.as_str().len());
        assert_eq!(
            masked,
            "[kafka]\nsasl.password = \"*******\"\n'sasl.username' = 'me'\nssl.key.password = { env = 'NAME' }\n"
        );
    }
}
