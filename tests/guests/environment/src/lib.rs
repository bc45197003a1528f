//! Reports what it sees of the world around it: environment, files, sockets, clocks, randomness. One JSON object a record.

use serde_json::json;
use sluicegate_sdk::prelude::*;
use std::hash::{BuildHasher, RandomState};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

#[transform]
fn environment(record: Record, out: &mut Output) -> Outcome {
    let started = Instant::now();
    let clock = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    // Long enough for a clock that goes to have moved on.
    let spun = (0..3_000_000_u64).fold(0, |sum, number| std::hint::black_box(sum ^ number));
    let report = json!({
        "variables": std::env::vars().collect::<Vec<_>>(),
        "arguments": std::env::args().count(),
        "file": said(std::fs::read_to_string("/etc/passwd")),
        "written": said(std::fs::write("sluicegate.txt", "x")),
        "socket": said(std::net::TcpStream::connect("127.0.0.1:9")),
        "clock-ms": u64::try_from(clock)?,
        "now-ms": sluicegate_sdk::now(),
        "clock-stood-still": started.elapsed().is_zero(),
        "random": RandomState::new().hash_one(spun),
    });
    out.send(record.with_value(Json(report)))
}

/// The error, or that there was none.
fn said<T>(result: std::io::Result<T>) -> String {
    result.err().map_or_else(|| "allowed".into(), |error| error.to_string())
}
