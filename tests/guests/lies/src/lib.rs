//! Breaks the rules of the plugin interface, as the configuration says: the SDK would not let it, so it has the raw
//! bindings. The configuration is `{"how":"sum"}` and the like; see `lie`.
//!
//! `"honest"` passes every batch on.

#![cfg(target_family = "wasm")]
#![expect(unsafe_code, reason = "the exports of a component are raw functions")]

use sluicegate_sdk::bindings::exports::sluicegate::transform::processor::{Guest, Unfit};
use sluicegate_sdk::bindings::sluicegate::transform::input::Batch;
use sluicegate_sdk::bindings::sluicegate::transform::output::{Outlet, Records, reject};
use sluicegate_sdk::bindings::sluicegate::transform::state::Store;
use sluicegate_sdk::bindings::sluicegate::transform::types::{Column, Failure, Headers};
use sluicegate_sdk::migrating::bindings::exports::sluicegate::transform::migration::{
    BadEntry, Guest as Migration, Stuck,
};
use std::cell::RefCell;

#[used]
#[unsafe(link_section = "sluicegate:manifest")]
static SECTION: [u8; 111] = *br#"{"name":"guest-lies","version":"0.1.0","interface":"0.1.0","sdk":"none","stores":[{"name":"store","schema":1}]}"#;

struct Lies;

thread_local! {
    static HOW: RefCell<String> = RefCell::default();
    static OUTLET: RefCell<Option<Outlet>> = RefCell::default();
}

fn emit(records: &Records) {
    OUTLET.with_borrow(|outlet| {
        if let Some(outlet) = outlet {
            outlet.emit(records);
        }
    });
}

fn nothing() -> Records {
    Records { causes: None, keys: None, values: None, headers: None, timestamps: None }
}

fn column(bytes: &[u8], lengths: impl Into<Vec<i32>>) -> Column {
    Column { bytes: bytes.to_vec(), lengths: lengths.into() }
}

/// Does in `process` what `how` names, for a batch of `count` records.
fn lie(how: &str, count: u32) {
    let all = count as usize;
    let values = |column| Records { values: Some(column), ..nothing() };
    match how {
        "honest" => emit(&nothing()),
        // More bytes than the lengths say, and fewer.
        "sum" => emit(&values(column(b"abc", vec![0; all]))),
        "sum-short" => emit(&values(column(b"", vec![1 << 30; all]))),
        "negative-length" => emit(&values(column(b"", vec![-3; all]))),
        // One value too many.
        "count" => emit(&values(column(b"", vec![0; all + 1]))),
        "no-such-cause" => emit(&Records { causes: Some(vec![count]), ..nothing() }),
        "falling-causes" => emit(&Records { causes: Some(vec![count - 1, 0]), ..nothing() }),
        "header-counts" => {
            let headers = Headers { counts: vec![1; all], names: column(b"", []), values: column(b"", []) };
            emit(&Records { headers: Some(headers), ..nothing() });
        }
        "header-name" => {
            let headers =
                Headers { counts: vec![1; all], names: column(b"", vec![-1; all]), values: column(b"", vec![-1; all]) };
            emit(&Records { headers: Some(headers), ..nothing() });
        }
        "timestamps" => emit(&Records { timestamps: Some(vec![]), ..nothing() }),
        "unknown-outlet" => drop(Outlet::new("nowhere")),
        "unknown-store" => drop(Store::new("nothing")),
        "reject-nobody" => reject(count, "there is no such record"),
        "null-key" => drop(Store::new("store").get(&column(b"", [-1]))),
        "put-count" => Store::new("store").put(&column(b"a", [1]), &column(b"", [])),
        "put-sum" => Store::new("store").put(&column(b"a", [1]), &column(b"", [5])),
        _ => {}
    }
}

impl Guest for Lies {
    fn open(config: String) -> Result<(), Unfit> {
        let how = config.split('"').nth(3).unwrap_or("honest").to_owned();
        let unknown = how == "unknown-outlet-in-open";
        OUTLET.set(Some(Outlet::new(if unknown { "nowhere" } else { "main" })));
        if how == "emit-in-open" {
            emit(&nothing());
        }
        HOW.set(how);
        Ok(())
    }

    fn process(batch: &Batch) -> Result<(), Failure> {
        HOW.with_borrow(|how| lie(how, batch.count()));
        Ok(())
    }

    fn flush() -> Result<(), Failure> {
        match HOW.with_borrow(Clone::clone).as_str() {
            "emit-in-flush" => emit(&nothing()),
            "flush-fails" => return Err(Failure::Fatal("told to fail".into())),
            _ => {}
        }
        Ok(())
    }
}

impl Migration for Lies {
    /// The version it comes from says how it lies; all go to version 1.
    fn migrate(_: String, from: u32, _: u32, keys: Column, values: Column) -> Result<Column, Stuck> {
        let all = keys.lengths.len();
        match from {
            2 => Ok(column(b"", vec![0; all + 1])),
            3 => Ok(column(b"abc", vec![0; all])),
            4 => Ok(column(b"", vec![-2; all])),
            5 => Ok(column(&vec![0; 1 << 20], [1 << 20])),
            6 => Err(Stuck::Entry(BadEntry { index: u32::MAX, reason: "nowhere".into() })),
            7 => Err(Stuck::Fatal("told to".into())),
            8 => loop {
                std::hint::spin_loop();
            },
            9 => {
                drop(Store::new("store").get(&keys));
                Ok(values)
            }
            10 => {
                emit(&nothing());
                drop(Outlet::new("main"));
                reject(0, "in vain");
                Ok(values)
            }
            _ => Ok(values),
        }
    }
}

sluicegate_sdk::migrating::bindings::export!(Lies with_types_in sluicegate_sdk::migrating::bindings);
sluicegate_sdk::bindings::export!(Lies with_types_in sluicegate_sdk::bindings);
