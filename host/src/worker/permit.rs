//! The right to commit a transaction: proof that what it depends on is durable.
//!
//! State is prepared before Kafka decides. So there is no way to send offsets into a transaction without a [`CommitPermit`], no
//! permit without [`Prepared`] and [`Flushed`], and neither of these without the writes that they stand for.

use crate::checkpoint::store::Settled;
use crate::kafka::producer::Flushed;

/// Every task's head with the new manifest is durable.
#[derive(Debug)]
pub struct Prepared(());

impl Prepared {
    /// From how writing the heads ended; tasks without state have none. `None` when one of them was lost.
    pub fn of(heads: impl IntoIterator<Item = Settled>) -> Option<Self> {
        heads.into_iter().all(|head| head == Settled::Durable).then_some(Self(()))
    }
}

/// Allows one transaction to be committed.
#[derive(Debug)]
pub struct CommitPermit(());

impl CommitPermit {
    /// Heads durable, outputs acknowledged.
    #[must_use]
    pub fn new(Prepared(()): Prepared, _: Flushed) -> Self {
        Self(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_lost_head_is_enough_to_refuse() {
        assert!(Prepared::of([Settled::Durable, Settled::Durable]).is_some());
        assert!(Prepared::of([Settled::Durable, Settled::Lost]).is_none());
        assert!(Prepared::of([]).is_some(), "without state there is nothing to prepare");
    }
}
