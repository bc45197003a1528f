//! What keyed-count may become: counts records per key in a store of schema 2, and converts that of schema 1, and back.
//!
//! What comes out is `COUNT;`, behind which nothing stands. The record `panic` makes it panic. Keys decide how the conversion goes:
//! `unconvertible` is refused on the way there, `one-way` on the way back, `trap` panics, and `loop` never ends.

use sluicegate_sdk::prelude::*;

#[derive(Clone, Default, Deserialize, Serialize)]
struct Tally {
    count: u64,
    /// What schema 1 does not have.
    length: u64,
}

#[transform(migrates)]
struct KeyedTally {
    #[store(schema = 2)]
    counts: Value<[u8], Tally>,
    #[output]
    main: Output,
}

impl Transform for KeyedTally {
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

impl Migrate for KeyedTally {
    fn step(store: &str, from: u32, to: u32) -> Option<Step> {
        match (store, from, to) {
            ("counts", 1, 2) => Some(Step::entries(|key, count: u64| match key {
                b"unconvertible" => Err(reject("this key is refused")),
                b"trap" => panic!("told to"),
                b"loop" => loop {
                    std::hint::spin_loop();
                },
                _ => Ok(Some(Tally { count, length: 0 })),
            })),
            ("counts", 2, 1) => Some(Step::entries(|key, tally: Tally| match key {
                b"one-way" => Err(reject("there is no way back for this key")),
                _ => Ok(Some(tally.count)),
            })),
            _ => None,
        }
    }
}
