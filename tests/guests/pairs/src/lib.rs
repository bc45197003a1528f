//! Two inputs: keeps the last value of each key from `left`, and puts it before each value with that key from `right`.
//!
//! A tombstone from `left` forgets the key; a record from `right` whose key is not known says `none`.

use sluicegate_sdk::prelude::*;

#[transform(inputs = ["left", "right"])]
struct Pairs {
    #[store(schema = 1)]
    last: Value<[u8], String>,
    #[output]
    main: Output,
}

impl Transform for Pairs {
    fn process(&mut self, record: Record) -> Outcome {
        let key = record.key().ok_or_else(|| reject("record has no key"))?;
        if record.input() == "left" {
            match record.value() {
                Some(_) => self.last.set(key, record.text()?.to_owned()),
                None => self.last.remove(key),
            }
            return Ok(());
        }
        let right = record.text()?;
        let left = self.last.get(key);
        let left = left.map_or("none", String::as_str);
        self.main.send(record.with_value((left, "+", right)))
    }
}
