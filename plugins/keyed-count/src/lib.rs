//! Running count of records per key: the value of each record becomes how many with its key there have been.
//!
//! A record without a key is rejected. The counts are the transform's state and go on after a restart.

use sluicegate_sdk::prelude::*;

#[transform]
struct KeyedCount {
    #[store(schema = 1, description = "records per key")]
    counts: Value<[u8], u64>,
    #[output]
    main: Output,
}

impl Transform for KeyedCount {
    fn process(&mut self, record: Record) -> Outcome {
        let key = record.key().ok_or_else(|| reject("record has no key"))?;
        let count = self.counts.update(key, |count| count.unwrap_or(0) + 1);
        self.main.send(record.with_value(*count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluicegate_sdk::testing::{TestHost, keyless, record};

    #[test]
    fn records_are_counted_per_key() {
        let mut host = TestHost::<KeyedCount>::new("{}");
        let done = host.process([record("a", "x"), record("b", "x"), record("a", "x")]);
        assert_eq!(done.values("main"), ["1", "1", "2"]);
    }

    #[test]
    fn counts_go_on_after_a_restart() {
        let mut host = TestHost::<KeyedCount>::new("{}");
        host.process([record("a", "x"), record("a", "x")]);
        host.restart();
        assert_eq!(host.process([record("a", "x")]).values("main"), ["3"]);
        assert_eq!(host.value::<[u8], u64>("counts", b"a"), Some(3));
    }

    #[test]
    fn a_batch_reads_its_keys_in_one_call() {
        let mut host = TestHost::<KeyedCount>::new("{}");
        host.process((0..100).map(|key| record(format!("{key}"), "x")));
        assert_eq!(host.calls().gets, 1);
    }

    #[test]
    fn a_record_without_a_key_is_rejected() {
        let done = TestHost::<KeyedCount>::new("{}").process([keyless("x")]);
        assert_eq!(done.rejects(), [(0, "record has no key".to_string())]);
    }
}
