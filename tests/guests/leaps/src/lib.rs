//! Counts records per key in a store of schema 3, which it makes of schema 2 and of no other: whoever has schema 1 needs the version
//! between.
//!
//! What comes out is `COUNT;`, behind which nothing stands.

use sluicegate_sdk::prelude::*;

#[derive(Clone, Default, Deserialize, Serialize)]
struct Tally {
    count: u64,
    /// What schema 1 does not have.
    length: u64,
    /// What schema 2 does not have.
    longest: u64,
}

#[transform(migrates)]
struct LeapingTally {
    #[store(schema = 3)]
    counts: Value<[u8], Tally>,
    #[output]
    main: Output,
}

impl Transform for LeapingTally {
    fn process(&mut self, record: Record) -> Outcome {
        let key = record.key().ok_or_else(|| reject("record has no key"))?;
        let length = record.text()?.len() as u64;
        let tally = self.counts.update(key, |tally| {
            let Tally { count, length: before, longest } = tally.unwrap_or_default();
            Tally { count: count + 1, length: before + length, longest: longest.max(length) }
        });
        self.main.send(record.with_value(format!("{};", tally.count)))
    }
}

impl Migrate for LeapingTally {
    fn step(store: &str, from: u32, to: u32) -> Option<Step> {
        match (store, from, to) {
            ("counts", 2, 3) => Some(Step::values(|(count, length): (u64, u64)| Tally { count, length, longest: 0 })),
            _ => None,
        }
    }
}
