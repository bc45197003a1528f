//! Running totals: each value, a whole number, becomes the sum of those that its key has had.

use sluicegate_sdk::prelude::*;

#[transform]
struct RunningTotal {
    /// Kept by the host, and there again after a restart. Raise `schema` when the type of the values changes.
    #[store(schema = 1, description = "sum by key")]
    totals: Value<[u8], i64>,
    #[output]
    main: Output,
}

impl Transform for RunningTotal {
    fn process(&mut self, record: Record) -> Outcome {
        // `?` rejects the record, with the reason.
        let key = record.key().ok_or_else(|| reject("record has no key"))?;
        let number: i64 = record.text()?.trim().parse()?;
        let total = self.totals.update(key, |total| total.unwrap_or(0).saturating_add(number));
        self.main.send(record.with_value(*total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluicegate_sdk::testing::{TestHost, keyless, record};

    #[test]
    fn numbers_are_summed_up_by_key() {
        let mut host = TestHost::<RunningTotal>::new("{}");
        let done = host.process([record("ada", "1"), record("grace", "5"), record("ada", "2")]);
        assert_eq!(done.values("main"), ["1", "5", "3"]);
    }

    #[test]
    fn totals_go_on_after_a_restart() {
        let mut host = TestHost::<RunningTotal>::new("{}");
        host.process([record("ada", "1")]);
        host.restart();
        assert_eq!(host.process([record("ada", "2")]).values("main"), ["3"]);
        assert_eq!(host.value::<[u8], i64>("totals", b"ada"), Some(3));
    }

    #[test]
    fn what_is_no_number_and_what_has_no_key_is_rejected() {
        let done = TestHost::<RunningTotal>::new("{}").process([record("ada", "one"), keyless("1")]);
        assert!(done.output("main").is_empty());
        assert_eq!(done.rejects().len(), 2);
    }
}
