//! What to think of what was measured with ZooKeeper. Pure.

use std::time::Duration;

use super::finding::Finding;
use crate::meta::zookeeper::Examination;
use crate::meta::{MetaError, REQUEST_BYTES_MAX};

/// A commit writes once under at-least-once and once before the transaction under exactly-once, whose interval is 100 ms.
const WRITE_SLOW: Duration = Duration::from_millis(50);
/// Further apart, logs of several machines cannot be read together.
const CLOCK_APART_MS: u64 = 1000;

pub(super) fn judge(connect: &str, asked: Duration, found: &Result<Examination, MetaError>) -> Vec<Finding> {
    let found = match found {
        Ok(found) => found,
        Err(error) => return vec![Finding::problem("zookeeper", format!("at {connect}: {error}"))],
    };
    vec![
        Finding::ok("zookeeper", format!("a session at {connect}")),
        latency(found.write, found.read),
        request_size(&found.largest_request),
        session(asked, found.session_timeout),
        clock(found.clock_ahead_ms),
        purging(),
    ]
}

fn latency(write: Duration, read: Duration) -> Finding {
    let subject = "zookeeper latency";
    let finding = format!("{} for a write, {} for a read (medians)", shown(write), shown(read));
    if write < WRITE_SLOW {
        return Finding::ok(subject, finding);
    }
    Finding::warning(subject, finding)
        .help("every commit takes a write: give the servers' `dataLogDir` a disk of its own, and keep them near")
}

fn request_size(tried: &Result<(), MetaError>) -> Finding {
    let subject = "zookeeper request size";
    match tried {
        Ok(()) => Finding::ok(subject, format!("{REQUEST_BYTES_MAX} bytes are taken, the most that a node sends")),
        Err(error) => Finding::problem(subject, format!("{REQUEST_BYTES_MAX} bytes are not taken: {error}"))
            .help("set `jute.maxbuffer` to at least 1048575, its default, on all servers"),
    }
}

fn session(asked: Duration, granted: Duration) -> Finding {
    let subject = "zookeeper session";
    if asked == granted {
        return Finding::ok(subject, format!("{} as asked for", shown(granted)));
    }
    let finding = format!("{} and not the {} that were asked for", shown(granted), shown(asked));
    Finding::warning(subject, finding).help(
        "so long the work of a crashed node lies still; the servers allow 2 to 20 `tickTime` unless `minSessionTimeout` and `maxSessionTimeout` say otherwise",
    )
}

fn clock(ahead_ms: i64) -> Finding {
    let subject = "clock";
    let apart = Duration::from_millis(ahead_ms.unsigned_abs());
    let (apart, way) = (shown(apart), if ahead_ms < 0 { "behind" } else { "ahead of" });
    let finding = format!("zookeeper's is {apart} {way} this machine's");
    if ahead_ms.unsigned_abs() < CLOCK_APART_MS {
        return Finding::ok(subject, finding);
    }
    Finding::warning(subject, finding).help("keep the clocks of all machines together, with NTP for example")
}

/// A server says how it purges to its administrator only.
fn purging() -> Finding {
    Finding::ok("zookeeper purging", "cannot be seen from here: is `autopurge.purgeInterval` set on all servers?")
}

/// To the millisecond.
fn shown(time: Duration) -> String {
    let rounded = Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    if rounded.is_zero() { "less than 1ms".to_owned() } else { humantime::format_duration(rounded).to_string() }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn examined() -> Examination {
        Examination {
            session_timeout: Duration::from_secs(10),
            write: Duration::from_millis(4),
            read: Duration::from_micros(300),
            clock_ahead_ms: -3,
            largest_request: Ok(()),
        }
    }

    fn complaints(found: Result<Examination, MetaError>) -> Vec<String> {
        let findings = judge("zk:2181", Duration::from_secs(10), &found).into_iter();
        let bad = findings.filter(|finding| finding.level != Level::Ok);
        bad.map(|finding| format!("{} {}: {}", finding.level.word(), finding.subject, finding.finding)).collect()
    }

    #[test]
    fn an_ensemble_that_is_as_it_should_be_is_not_complained_of() {
        assert_eq!(complaints(Ok(examined())), [""; 0]);
        let lines = judge("zk:2181", Duration::from_secs(10), &Ok(examined()));
        assert_eq!(lines[1].finding, "4ms for a write, less than 1ms for a read (medians)");
    }

    #[test]
    fn what_is_slow_short_or_apart_is_a_warning() {
        let found = Examination {
            session_timeout: Duration::from_secs(4),
            write: Duration::from_millis(80),
            clock_ahead_ms: 61_000,
            ..examined()
        };
        assert_eq!(
            complaints(Ok(found)),
            [
                "warning zookeeper latency: 80ms for a write, less than 1ms for a read (medians)",
                "warning zookeeper session: 4s and not the 10s that were asked for",
                "warning clock: zookeeper's is 1m 1s ahead of this machine's",
            ]
        );
    }

    #[test]
    fn requests_that_are_refused_and_servers_that_are_away_are_problems() {
        let lost = MetaError::AnswerLost { reason: "connection closed".into() };
        let refused = complaints(Ok(Examination { largest_request: Err(lost), ..examined() }));
        assert!(refused[0].starts_with("problem zookeeper request size: 1000000 bytes are not taken"), "{refused:?}");
        let away = complaints(Err(MetaError::Away { reason: "zk:2181 cannot be reached".into() }));
        assert!(away[0].starts_with("problem zookeeper: at zk:2181: "), "{away:?}");
    }
}
