//! Files of JSON lines. Pure.

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Characters of a line that an error shows.
const SHOWN_MAX: usize = 120;

/// A line that says something.
#[derive(Debug)]
pub(super) struct Line<T> {
    /// Counted from 1.
    pub(super) number: usize,
    pub(super) contents: T,
}

/// A line that is not what it should be.
#[derive(Debug, Error)]
#[error("{file}:{line}:{column}: {problem}\n  {text}")]
pub(super) struct LineError {
    file: String,
    line: usize,
    column: usize,
    problem: String,
    text: String,
}

impl LineError {
    /// An error about a line as a whole.
    pub(super) fn new(file: &str, line: usize, problem: String, text: &str) -> Self {
        let cut: String = text.chars().take(SHOWN_MAX).collect();
        let dots = if cut.len() < text.len() { ".." } else { "" };
        Self { file: file.into(), line, column: 1, problem, text: format!("{cut}{dots}") }
    }
}

/// The lines of a file that hold anything; `file` is for errors.
///
/// # Errors
/// The first line that is no JSON of that shape.
pub(super) fn read<T: DeserializeOwned>(file: &str, bytes: &[u8]) -> Result<Vec<Line<T>>, LineError> {
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(bytes.split(|&byte| byte == b'\n')) {
        let Ok(text) = std::str::from_utf8(line) else {
            return Err(LineError::new(file, number, "the line is not UTF-8".into(), &String::from_utf8_lossy(line)));
        };
        let text = text.trim_end();
        if text.is_empty() {
            continue;
        }
        match serde_json::from_str(text) {
            Ok(contents) => lines.push(Line { number, contents }),
            Err(error) => {
                let problem = error.to_string();
                let place = format!(" at line {} column {}", error.line(), error.column());
                let problem = problem.strip_suffix(&place).unwrap_or(&problem).to_owned();
                let whole = LineError::new(file, number, problem, text);
                return Err(LineError { column: error.column().max(1), ..whole });
            }
        }
    }
    Ok(lines)
}

/// Each as a line of JSON.
pub(super) fn write<T: Serialize>(contents: impl IntoIterator<Item = T>) -> String {
    let line = |contents| serde_json::to_string(&contents).expect("lines have strings for keys") + "\n";
    contents.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::payload::Payload;

    #[test]
    fn bytes_are_text_where_they_are_text() {
        let shown = |bytes: &[u8]| serde_json::to_string(&Payload::from(bytes)).unwrap();
        assert_eq!(shown("é\n".as_bytes()), "\"é\\n\"");
        assert_eq!(shown(&[0xff]), r#"{"base64":"/w=="}"#);
        // A number in a few bytes is no text, although it could be one.
        assert_eq!(shown(&[3]), r#"{"base64":"Aw=="}"#);
    }

    #[test]
    fn empty_lines_say_nothing_and_numbers_count_them() {
        let lines: Vec<Line<u32>> = read("a", b"1\n\n  \n2\r\n").unwrap();
        assert_eq!(lines.iter().map(|line| (line.number, line.contents)).collect::<Vec<_>>(), [(1, 1), (4, 2)]);
    }

    #[test]
    fn an_error_is_at_its_line_and_column() {
        let error = read::<Option<Payload>>("in.jsonl", b"null\n{\"base64\": \"!\"}\n").unwrap_err().to_string();
        assert!(error.starts_with("in.jsonl:2:") && error.contains("`!` is no base64"), "{error}");
        assert!(error.ends_with("\n  {\"base64\": \"!\"}"), "{error}");
        let error = read::<Payload>("in.jsonl", b"7").unwrap_err().to_string();
        assert!(error.contains("expected text, {\"base64\": \"..\"}, {\"json\": ..} or null"), "{error}");
        let error = read::<Payload>("in.jsonl", b"\"a\"\n\xff\n").unwrap_err().to_string();
        assert!(error.starts_with("in.jsonl:2:1: the line is not UTF-8"), "{error}");
    }

    proptest! {
        #[test]
        fn bytes_come_back_as_they_were(bytes in any::<Vec<u8>>()) {
            let text = write([Payload(bytes.clone())]);
            let lines: Vec<Line<Payload>> = read("a", text.as_bytes()).unwrap();
            prop_assert_eq!(&lines[0].contents.0, &bytes);
        }
    }
}
