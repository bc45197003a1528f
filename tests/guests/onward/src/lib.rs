//! What keyed-count may become for good: counts records per key in a store of schema 2, and converts that of schema 1, but not back.
//!
//! What comes out is `COUNT;`, behind which nothing stands. The record `panic` makes it panic.

use sluicegate_sdk::prelude::*;

#[derive(Clone, Default, Deserialize, Serialize)]
struct Tally {
    count: u64,
    /// What schema 1 does not have.
    length: u64,
}

#[transform(migrates)]
struct OnwardTally {
    #[store(schema = 2)]
    counts: Value<[u8], Tally>,
    #[output]
    main: Output,
}

impl Transform for OnwardTally {
    fn process(&mut self, record: Record) -> Outcome {
        let key = record.key().ok_or_else(|| reject("record has no key"))?;
        let text = record.text()?;
        assert!(text != "panic", "told to");
        let tally = self.counts.update(key, |tally| {
            let before = tally.unwrap_or_default();
            Tally { count: before.count + 1, length: before.length + text.len() as u64 }
        });
        self.main.send(record.with_value(format!("{};", tally.count)))
    }
}

impl Migrate for OnwardTally {
    fn step(store: &str, from: u32, to: u32) -> Option<Step> {
        match (store, from, to) {
            ("counts", 1, 2) => Some(Step::values(|count: u64| Tally { count, length: 0 })),
            _ => None,
        }
    }
}
