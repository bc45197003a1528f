//! Lists what it keeps (`{"how":"scan"}`), or fills its state without end (`{"how":"hog"}`).
//!
//! With `scan`, a value `NAME=NUMBER` is kept under the record's key, and what comes out is all that is kept there, as
//! `a=1 b=2`; `NAME=` removes; `reject NAME=NUMBER` keeps it, lists, and then rejects the record. With `hog`, every record
//! adds a thousand entries of 1 KiB. With `{"how":"grow"}`, all values of a key are appended to one entry, whose length comes out; a value that begins with
//! `bad` is appended, and then it panics.

use sluicegate_sdk::prelude::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    how: How,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum How {
    Scan,
    Hog,
    Grow,
}

#[transform]
struct Stateful {
    #[config]
    config: Config,
    #[store(schema = 1)]
    kept: Map<[u8], str, u64>,
    #[store(schema = 1, entries = 4096, dirty = 1024)]
    hoard: Value<u64, String>,
    // What is written is put at once, so that it is there when a record fails.
    #[store(schema = 1, entries = 64, dirty = 1)]
    grown: Value<[u8], String>,
    #[output]
    main: Output,
    hoarded: u64,
}

impl Transform for Stateful {
    fn process(&mut self, record: Record) -> Outcome {
        match self.config.how {
            How::Scan => self.scan(record),
            How::Hog => self.hog(record),
            How::Grow => self.grow(record),
        }
    }
}

impl Stateful {
    fn scan(&mut self, record: Record) -> Outcome {
        let key = record.key().ok_or_else(|| reject("record has no key"))?;
        let text = record.text()?;
        let rejected = text.strip_prefix("reject ");
        let (name, number) = rejected.unwrap_or(text).split_once('=').ok_or_else(|| reject("not NAME=NUMBER"))?;
        if number.is_empty() {
            self.kept.remove(key, name);
        } else {
            self.kept.set(key, name, number.parse()?);
        }
        let mut list = Vec::new();
        for entry in self.kept.scan(key) {
            let (name, number) = entry?;
            list.push(format!("{name}={number}"));
        }
        if rejected.is_some() {
            return Err(reject("told to reject"));
        }
        self.main.send(record.with_value(list.join(" ")))
    }

    fn grow(&mut self, record: Record) -> Outcome {
        let key = record.key().ok_or_else(|| reject("record has no key"))?;
        let text = record.text()?;
        let all = self.grown.update(key, |grown| grown.unwrap_or_default() + text);
        let length = all.len();
        assert!(!text.starts_with("bad"), "told to panic after a change");
        self.main.send(record.with_value(length))
    }

    fn hog(&mut self, record: Record) -> Outcome {
        for _ in 0..1000 {
            self.hoard.set(&self.hoarded, "x".repeat(1024));
            self.hoarded += 1;
        }
        self.main.send(record.with_value(self.hoarded))
    }
}
