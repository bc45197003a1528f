//! Messages about what goes on for long, said now and then.

use std::time::{Duration, Instant};

/// librdkafka reports a broker that is away at every attempt to reach it, several times a second.
const PAUSE: Duration = Duration::from_secs(10);

/// Whether to say something again.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    said: Option<Instant>,
}

impl Throttle {
    /// The first time, and then not again for a while.
    pub(super) fn is_due(&mut self) -> bool {
        let due = self.said.is_none_or(|said| said.elapsed() >= PAUSE);
        if due {
            self.said = Some(Instant::now());
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_just_said_is_not_repeated() {
        let mut throttle = Throttle::default();
        assert!(throttle.is_due());
        assert!(!throttle.is_due());
        throttle.said = Instant::now().checked_sub(PAUSE);
        assert!(throttle.is_due());
    }
}
