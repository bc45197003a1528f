//! What plugins rely on, shown with small plugins on the test host.
#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use serde_json::json;
use sluicegate_sdk::prelude::*;
use sluicegate_sdk::testing::{TestHost, TestRecord, keyless, record, tombstone};
use sluicegate_sdk::{FailureKind, Outcome};
use std::collections::BTreeMap;

/// Keeps numbers by key; the value says what to do.
#[transform(inputs = ["orders", "payments"], wants = ["clocks"])]
struct Numbers {
    #[store(schema = 2, entries = 8, dirty = 4, description = "numbers \"by\" key")]
    numbers: Value<[u8], i64>,
    #[store(schema = 1, prefetch = false)]
    lists: Map<str, i32, String>,
    #[output]
    main: Output,
    #[output(name = "late", optional)]
    second: Output,
    seen: u64,
}

impl Transform for Numbers {
    fn process(&mut self, record: Record) -> Outcome {
        self.seen += 1;
        let key = record.key().ok_or_else(|| reject("record has no key"))?;
        match record.text()?.split_once(' ') {
            Some(("add", number)) => {
                let number: i64 = number.parse()?;
                let sum = *self.numbers.update(key, |sum| sum.unwrap_or(0) + number);
                self.main.send(record.with_value(sum))?;
                if sum < 0 { Err(reject("negative")) } else { Ok(()) }
            }
            Some(("list", name)) => {
                self.lists.set(std::str::from_utf8(key)?, &name.parse()?, format!("n{name}"));
                let mut list = Vec::new();
                for entry in self.lists.scan(std::str::from_utf8(key)?) {
                    let (number, text) = entry?;
                    list.push(format!("{number}:{text}"));
                }
                self.main.send(record.with_value(list.join(" ")))?;
                if name == "13" { Err(reject("unlucky")) } else { Ok(()) }
            }
            Some(("late", _)) => self.second.send(record.with_value(("late", ',', self.seen))),
            Some(("remove", _)) => {
                self.numbers.remove(key);
                Ok(())
            }
            Some(("fatal", why)) => Err(fatal(why)),
            Some(("wait", why)) => Err(transient(why)),
            _ => Err(reject(format_args!("what is {}", record.input()))),
        }
    }
}

fn numbers() -> TestHost<Numbers> {
    TestHost::new("{}")
}

#[test]
fn a_rejected_record_leaves_no_state_and_emits_nothing() {
    let mut host = numbers();
    let done = host.process([record("a", "add 5"), record("a", "add -9"), record("a", "add 1")]);
    assert_eq!(done.values("main"), ["5", "6"]);
    assert_eq!(done.rejects(), [(1, "negative".to_string())]);
    assert_eq!(host.value::<[u8], i64>("numbers", b"a"), Some(6));
}

#[test]
fn a_rejected_record_leaves_no_state_when_a_scan_put_it() {
    let mut host = numbers();
    let done = host.process([record("k", "list 1"), record("k", "list 13"), record("k", "list -2")]);
    assert_eq!(done.values("main"), ["1:n1", "-2:n-2 1:n1"]);
    assert_eq!(host.state("lists").len(), 2);
}

#[test]
fn a_removed_entry_is_gone_after_the_commit() {
    let mut host = numbers();
    host.process([record("a", "add 5")]);
    assert_eq!(host.state("numbers").len(), 1);
    host.process([record("a", "remove "), record("b", "remove ")]);
    assert!(host.state("numbers").is_empty());
}

#[test]
fn failures_drop_the_instance_and_return_to_the_last_commit() {
    let mut host = numbers();
    host.process([record("a", "add 5")]);
    host.commit();
    let failure = host.try_process([record("a", "add 1"), record("a", "fatal out of luck")]).unwrap_err();
    assert_eq!((failure.kind(), failure.reason()), (FailureKind::Fatal, "out of luck"));
    let failure = host.try_process([record("a", "wait for it")]).unwrap_err();
    assert_eq!(failure.kind(), FailureKind::Transient);
    assert_eq!(host.process([record("a", "late x")]).values("late"), ["late,1"]);
    assert_eq!(host.value::<[u8], i64>("numbers", b"a"), Some(5));
}

#[test]
fn any_error_rejects_with_its_text() {
    let done =
        numbers().process([record("a", "add x"), keyless("add 1"), tombstone("a"), record("a", "?").from("payments")]);
    let reasons: Vec<_> = done.rejects().iter().map(|(_, reason)| reason.as_str()).collect();
    assert_eq!(
        reasons,
        ["invalid digit found in string", "record has no key", "record has no value", "what is payments"]
    );
}

#[test]
fn state_of_another_type_is_fatal() {
    let mut host = numbers();
    host.put_state("numbers", "a", [1, 2, 3]);
    let failure = host.try_process([record("a", "add 1")]).unwrap_err();
    assert_eq!(failure.kind(), FailureKind::Fatal);
    assert!(failure.reason().contains("store `numbers`"), "{failure:?}");
}

#[test]
fn the_manifest_says_what_the_attributes_say() {
    let manifest = TestHost::<Numbers>::manifest();
    assert_eq!(manifest["name"], "sluicegate-sdk");
    assert_eq!(manifest["inputs"], json!([{ "name": "orders" }, { "name": "payments" }]));
    assert_eq!(manifest["outputs"], json!([{ "name": "main" }, { "name": "late", "optional": true }]));
    assert_eq!(manifest["wants"], json!(["clocks"]));
    let numbers = json!({
        "name": "numbers", "schema": 2, "key-format": "bytes", "value-format": "postcard:i64", "description": "numbers \"by\" key"
    });
    assert_eq!(manifest["stores"][0], numbers);
    assert_eq!(manifest["stores"][1]["key-format"], "map(utf8,i32)");
}

#[test]
fn changed_entries_are_put_when_too_many_are_held_back() {
    let mut host = numbers();
    host.process((0..4).map(|key| record(format!("{key}"), "add 1")));
    assert_eq!(host.calls().puts, 1);
    host.process([record("0", "add 1")]);
    assert_eq!(host.calls().puts, 1);
}

/// Counts words of the value: keys that are not the record's.
#[transform]
struct Words {
    #[store(schema = 1)]
    counts: Value<str, u32>,
    #[store(schema = 1)]
    pairs: Map<u64, (u8, bool), u32>,
    #[output]
    main: Output,
}

impl Transform for Words {
    fn prefetch(&self, record: Record, want: &mut Want) {
        for word in record.text().unwrap_or_default().split(' ') {
            want.value(&self.counts, word);
            want.entry(&self.pairs, &(word.len() as u64), &(0, word.is_empty()));
        }
    }

    fn process(&mut self, record: Record) -> Outcome {
        for word in record.text()?.split(' ') {
            let count = *self.counts.update(word, |count| count.unwrap_or(0) + 1);
            self.pairs.update(&(word.len() as u64), &(0, word.is_empty()), |count| count.unwrap_or(0) + 1);
            self.main.send(record.with_key(word).with_value(count))?;
        }
        Ok(())
    }
}

#[test]
fn named_keys_are_fetched_in_one_call_a_store() {
    let mut host = TestHost::<Words>::new("{}");
    let done = host.process([keyless("a b a"), keyless("b cc dd ee"), keyless("a")]);
    assert_eq!(done.values("main"), ["1", "1", "2", "2", "1", "1", "1", "3"]);
    assert_eq!(host.calls().gets, 2);
    assert_eq!(host.value::<str, u32>("counts", "a"), Some(3));
}

/// Sends on what the value says.
#[transform]
fn change(record: Record, out: &mut Output) -> Outcome {
    for step in record.text()?.split(' ') {
        match step {
            "same" => out.send(record)?,
            "key" => out.send(record.with_key(format_args!("{}!", 1)))?,
            "nokey" => out.send(record.without_key())?,
            "value" => out.send(record.with_value("v"))?,
            "tombstone" => out.send(record.without_value())?,
            "headers" => out.send(record.with_headers([("h", Some(1)), ("n", None)]))?,
            "time" => out.send(record.with_timestamp(record.timestamp() + 1))?,
            "all" => out.send(record.with_value("v").with_key("k").with_timestamp(0).with_headers([("", ""); 0]))?,
            "reject" => return Err(reject("told to")),
            "" => {}
            other => info!("what is {other}"),
        }
    }
    Ok(())
}

/// What `change` is meant to send for a record.
fn expected(given: &TestRecord) -> Option<Vec<TestRecord>> {
    let text = String::from_utf8(given.value.clone().unwrap()).unwrap();
    let mut all = Vec::new();
    for step in text.split(' ').filter(|step| !step.is_empty()) {
        let mut sent = given.clone();
        match step {
            "key" => sent.key = Some(b"1!".to_vec()),
            "nokey" => sent.key = None,
            "value" => sent.value = Some(b"v".to_vec()),
            "tombstone" => sent.value = None,
            "headers" => sent.headers = vec![("h".into(), Some(b"1".to_vec())), ("n".into(), None)],
            "time" => sent.timestamp += 1,
            "all" => {
                (sent.key, sent.value, sent.timestamp, sent.headers) =
                    (Some(b"k".to_vec()), Some(b"v".to_vec()), 0, vec![])
            }
            "reject" => return None,
            _ => {}
        }
        all.push(sent);
    }
    Some(all)
}

#[test]
fn an_unchanged_batch_pulls_nothing_that_is_not_read() {
    let mut host = TestHost::<change>::new("{}");
    host.process([record("k", "same").at(3), record("k", "same")]);
    assert_eq!((host.calls().columns, host.calls().emissions), (1, 1));
}

#[test]
fn log_macros_write_to_the_host() {
    let mut host = TestHost::<change>::new("{}");
    host.process([record("k", "this")]);
    assert_eq!(host.logs(), [(log::Level::Info, "what is this")]);
}

#[test]
fn a_plugin_without_configuration_refuses_one() {
    let unfit = TestHost::<change>::try_new(json!({ "x": 1 })).err().unwrap();
    assert!(unfit.to_string().contains("unknown field `x`"), "{unfit}");
}

proptest! {
    #[test]
    fn what_is_sent_is_what_comes_out(
        steps in prop::collection::vec(
            prop::collection::vec(
                prop::sample::select(vec!["same", "key", "nokey", "value", "tombstone", "headers", "time", "all", "reject"]),
                0..3,
            ),
            1..12,
        ),
    ) {
        let given: Vec<_> = steps.iter().enumerate().map(|(number, steps)| TestRecord {
            offset: i64::try_from(number).unwrap(),
            ..record(format!("key{number}"), steps.join(" ")).header("given", "1").at(100)
        }).collect();
        let done = TestHost::<change>::new("{}").process(given.clone());
        let wanted: Vec<_> = given.iter().filter_map(expected).flatten().collect();
        prop_assert_eq!(done.output("main"), &wanted);
        prop_assert_eq!(done.rejects().len(), given.iter().filter(|given| expected(given).is_none()).count());
    }

    /// The store has room for 8 entries and 4 changed ones, so that everything is evicted, put and fetched again.
    #[test]
    fn the_cache_changes_no_result(
        batches in prop::collection::vec(prop::collection::vec((0_u8..24, -3_i64..10, any::<bool>()), 1..20), 1..12),
        restart in any::<bool>(),
    ) {
        let mut host = numbers();
        let mut model = BTreeMap::<u8, i64>::new();
        for batch in batches {
            let mut wanted = Vec::new();
            for &(key, number, remove) in &batch {
                let sum = model.get(&key).copied().unwrap_or(0) + number;
                if remove {
                    model.remove(&key);
                } else if sum >= 0 {
                    model.insert(key, sum);
                    wanted.push(sum.to_string());
                }
            }
            let done = host.process(batch.iter().map(|&(key, number, remove)| {
                record([key], if remove { "remove ".to_string() } else { format!("add {number}") })
            }));
            prop_assert_eq!(done.values("main"), wanted);
            if restart {
                host.restart();
            }
        }
        for key in 0..24 {
            prop_assert_eq!(host.value::<[u8], i64>("numbers", &[key]), model.get(&key).copied());
        }
    }
}
