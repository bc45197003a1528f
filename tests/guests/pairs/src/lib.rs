//! Two inputs: pairs what came last from `left` with what came last from `right` under the same key, as `left+right`.
//!
//! Which of two inputs is read first is nobody's promise; with one record of a key in each, the pair comes out once.

use sluicegate_sdk::prelude::*;

#[transform(inputs = ["left", "right"])]
struct Pairs {
    #[store(schema = 1)]
    left: Value<[u8], String>,
    #[store(schema = 1)]
    right: Value<[u8], String>,
    #[output]
    main: Output,
}

impl Transform for Pairs {
    fn process(&mut self, record: Record) -> Outcome {
        let key = record.key().ok_or_else(|| reject("record has no key"))?;
        let own = if record.input() == "left" { &mut self.left } else { &mut self.right };
        own.set(key, record.text()?.to_owned());
        match (self.left.get(key), self.right.get(key)) {
            (Some(left), Some(right)) => self.main.send(record.with_value((left.as_str(), "+", right.as_str()))),
            _ => Ok(()),
        }
    }
}
