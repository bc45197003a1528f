//! Does with each record what its value says, so that a test can see every shape of output.
//!
//! | value | what comes out |
//! |---|---|
//! | `key`, `nokey` | the key `changed`; no key |
//! | `headers`, `noheaders` | headers `a` = `1`, `n` null, `a` = `2`; none |
//! | `time` | a timestamp one second later |
//! | `all` | everything changed |
//! | `tombstone` | no value |
//! | `drop`, `twice` | nothing; two records, `twice,0` and `twice,1` |
//! | `odd`, `both` | to the output `odd`; to `main` and `odd` |
//! | `report` | JSON: what the plugin sees of the record |
//! | `reject` | sent to both outputs, then rejected |
//! | anything else | the record as it is |

use serde_json::json;
use sluicegate_sdk::prelude::*;

#[transform]
fn shapes(record: Record, out: &mut Output, odd: &mut Output, #[output(optional)] unused: &mut Output) -> Outcome {
    let _ = unused;
    let headers = [("a", Some("1")), ("n", None), ("a", Some("2"))];
    match record.value() {
        Some(b"key") => out.send(record.with_key("changed")),
        Some(b"nokey") => out.send(record.without_key()),
        Some(b"headers") => out.send(record.with_headers(headers)),
        Some(b"noheaders") => out.send(record.with_headers([("", ""); 0])),
        Some(b"time") => out.send(record.with_timestamp(record.timestamp() + 1000)),
        Some(b"all") => out.send(record.with_key(1).with_value("all").with_headers(headers).with_timestamp(5)),
        Some(b"tombstone") => out.send(record.without_value()),
        Some(b"drop") => Ok(()),
        Some(b"twice") => (0..2).try_for_each(|number| out.send(record.with_value(("twice,", number)))),
        Some(b"odd") => odd.send(record),
        Some(b"both") => out.send(record).and_then(|()| odd.send(record.with_value("both,odd"))),
        Some(b"report") => out.send(record.with_value(Json(report(record)))),
        Some(b"reject") => {
            out.send(record)?;
            odd.send(record.with_key("never seen"))?;
            Err(reject("told to reject"))
        }
        _ => out.send(record),
    }
}

fn report(record: Record) -> serde_json::Value {
    let text = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    json!({
        "key": text(record.key()),
        "headers": record.headers().map(|(name, value)| (name, text(value))).collect::<Vec<_>>(),
        "last-a": text(record.header("a")),
        "timestamp": record.timestamp(),
        "offset": record.offset(),
        "partition": record.partition(),
        "input": record.input(),
        "task": sluicegate_sdk::task(),
    })
}
