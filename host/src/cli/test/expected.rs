//! What should have come out, and how what did differs from it. Pure.
//!
//! Fields that no line of the expected file has are not compared: a file without timestamps says nothing of them.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use similar::TextDiff;

use super::lines::{self, Line, LineError};
use super::record::Outcome;

/// Equal lines that are shown around each difference.
const CONTEXT_LINES: usize = 3;

/// What should come out.
#[derive(Debug)]
pub(super) struct Expected {
    file: String,
    outcomes: Vec<Outcome>,
    fields: BTreeSet<String>,
}

impl Expected {
    /// Reads a file; lines without an output are of the output `main_output`.
    ///
    /// # Errors
    /// The first line that is wrong.
    pub(super) fn read(file: &str, bytes: &[u8], main_output: &str) -> Result<Self, LineError> {
        let outcomes: Vec<Line<Outcome>> = lines::read(file, bytes)?;
        let objects: Vec<Line<Map<String, Value>>> = lines::read(file, bytes)?;
        let fields = objects.into_iter().flat_map(|line| line.contents).map(|(field, _)| field).collect();
        let outcomes = outcomes.into_iter().map(|Line { contents, .. }| match &contents.rejected {
            Some(_) => contents,
            None => Outcome { output: contents.output.clone().or_else(|| Some(main_output.to_owned())), ..contents },
        });
        Ok(Self { file: file.to_owned(), outcomes: outcomes.collect(), fields })
    }

    /// The difference, line by line; `None` where there is none.
    pub(super) fn difference(&self, found: &[Outcome]) -> Option<String> {
        let expected = lines::write(&self.outcomes);
        let found = lines::write(found.iter().map(|outcome| self.compared(outcome)));
        if expected == found {
            return None;
        }
        let difference = TextDiff::from_lines(&expected, &found);
        let mut shown = difference.unified_diff();
        Some(shown.context_radius(CONTEXT_LINES).header(&self.file, "what came out").to_string())
    }

    /// What counts of an outcome.
    fn compared(&self, outcome: &Outcome) -> Outcome {
        if self.outcomes.is_empty() {
            return outcome.clone();
        }
        let counts = |field: &str| self.fields.contains(field);
        Outcome {
            output: outcome.output.clone(),
            rejected: outcome.rejected.clone(),
            key: outcome.key.clone().filter(|_| counts("key")),
            value: outcome.value.clone().filter(|_| counts("value")),
            headers: if counts("headers") { outcome.headers.clone() } else { Vec::new() },
            timestamp: outcome.timestamp.filter(|_| counts("timestamp")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(text: &str) -> Vec<Outcome> {
        lines::read("found", text.as_bytes()).unwrap().into_iter().map(|line| line.contents).collect()
    }

    fn difference(expected: &str, found: &str) -> Option<String> {
        Expected::read("expected", expected.as_bytes(), "main").unwrap().difference(&outcomes(found))
    }

    const FOUND: &str = r#"{"output":"main","key":"a","value":"1","timestamp":5}
{"rejected":"no","key":"b","value":"2","timestamp":6}
"#;

    #[test]
    fn what_the_file_does_not_mention_is_not_compared() {
        assert_eq!(difference("{\"value\":\"1\"}\n{\"rejected\":\"no\",\"value\":\"2\"}", FOUND), None);
        assert_eq!(difference("{\"key\":\"a\"}\n{\"rejected\":\"no\",\"key\":\"b\"}", FOUND), None);
        assert_eq!(difference(FOUND, FOUND), None);
    }

    #[test]
    fn a_field_that_one_line_mentions_is_compared_in_all() {
        let said =
            difference("{\"value\":\"1\",\"timestamp\":5}\n{\"rejected\":\"no\",\"value\":\"2\"}", FOUND).unwrap();
        assert!(said.contains("-{\"rejected\":\"no\",\"key\":null,\"value\":\"2\"}\n+"), "{said}");
    }

    #[test]
    fn a_difference_shows_what_is_missing_and_what_was_not_expected() {
        let said = difference("{\"value\":\"1\"}\n{\"value\":\"3\"}\n", FOUND).unwrap();
        let expected = r#"--- expected
+++ what came out
@@ -1,2 +1,2 @@
 {"output":"main","key":null,"value":"1"}
-{"output":"main","key":null,"value":"3"}
+{"rejected":"no","key":null,"value":"2"}
"#;
        assert_eq!(said, expected);
        assert!(difference("", FOUND).unwrap().contains("+{\"output\":\"main\",\"key\":\"a\""));
    }
}
