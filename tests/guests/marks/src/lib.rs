//! Says of each record which code and which configuration made it, and how many there have been with its key.
//!
//! What comes out is `CODE MARK VALUE COUNT`, separated by spaces: the code of this version, the mark of its configuration, the
//! record's value, and the count, which is state. Whoever wants other code replaces the bytes of [`CODE`] in the component by as
//! many others.

use sluicegate_sdk::prelude::*;

/// Stands in the component once, and is read from there: another text is another version of the code.
static CODE: &str = "code-of-version-a";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    mark: u64,
}

#[transform]
struct Marks {
    #[config]
    config: Config,
    #[store(schema = 1, description = "records per key")]
    counts: Value<[u8], u64>,
    #[output]
    main: Output,
}

impl Transform for Marks {
    fn process(&mut self, record: Record) -> Outcome {
        let key = record.key().ok_or_else(|| reject("record has no key"))?;
        let value = record.text()?;
        let count = *self.counts.update(key, |count| count.unwrap_or(0) + 1);
        let made_by = (std::hint::black_box(CODE), " ", self.config.mark);
        self.main.send(record.with_value((made_by, " ", value, " ", count)))
    }
}
