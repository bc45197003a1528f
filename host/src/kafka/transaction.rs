//! Transactions: records and offsets that become visible together or not at all.
//!
//! What librdkafka says of a call that failed is classified here, once, by what has to be done about it.

use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;
use thiserror::Error;

use super::access::advice;
use super::consumer::{CommitOffset, Consumer};
use super::native::{GroupMetadata, TransactionFault};
use super::producer::Producer;

/// An abort is interrupted this often, to hear what is thrown away.
const ABORT_SLICE: Duration = Duration::from_millis(20);

/// A call about a transaction failed. The kinds are what has to be done.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum TransactionError {
    /// It has not ended yet, or was not made: make the same call again, and no other.
    #[error("{text}")]
    Again {
        /// In librdkafka's words.
        text: String,
    },
    /// Nothing of the transaction will be visible: abort it, take the work back and do it again.
    #[error("the transaction cannot be committed: {text}")]
    Abort {
        /// In librdkafka's words.
        text: String,
    },
    /// Whether the transaction was committed is not known, or another producer has taken the transactional id: drop the
    /// producer, make a new one, and ask Kafka what was committed.
    #[error("the producer cannot go on: {text}")]
    Rebuild {
        /// In librdkafka's words.
        text: String,
    },
    /// The broker refuses transactions, and will again.
    #[error("{text}")]
    Refused {
        /// In librdkafka's words.
        text: String,
    },
}

impl From<TransactionFault> for TransactionError {
    fn from(fault: TransactionFault) -> Self {
        use RDKafkaErrorCode as Code;
        let TransactionFault { code, text, retriable, abort } = fault;
        match code {
            // Also where librdkafka would have the call repeated or the transaction aborted: the next would fail as well.
            Code::TransactionalIdAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TopicAuthorizationFailed
            | Code::InvalidTransactionTimeout
            | Code::UnsupportedFeature
            | Code::UnsupportedVersion => Self::Refused { text: format!("{text} ({code}){}", advice(code)) },
            _ if retriable => Self::Again { text },
            _ if abort => Self::Abort { text },
            // Fenced, fatal, and everything that is not foreseen: recovery asks Kafka and assumes nothing.
            _ => Self::Rebuild { text: format!("{text} ({code})") },
        }
    }
}

/// Membership of a group, taken for one transaction.
pub struct Membership(GroupMetadata);

impl Consumer {
    /// The membership as it is now, to be taken afresh for each transaction. `None` when there is none: offsets sent then would be
    /// taken from anybody.
    #[must_use]
    pub fn membership(&self) -> Option<Membership> {
        self.group_metadata().filter(GroupMetadata::names_a_member).map(Membership)
    }
}

impl Producer {
    /// Takes the transactional id over from an earlier producer and ends what that has left open. Before anything else, once.
    ///
    /// # Errors
    /// See [`TransactionError`].
    pub fn init_transactions(&self, wait: Duration) -> Result<(), TransactionError> {
        self.writer().init_transactions(wait).map_err(|fault| match fault.into() {
            TransactionError::Refused { text } => {
                TransactionError::Refused { text: format!("transactional id `{}`: {text}", self.transactional_id()) }
            }
            other => other,
        })
    }

    /// Begins a transaction. Asks no broker.
    ///
    /// # Errors
    /// See [`TransactionError`].
    pub fn begin_transaction(&self) -> Result<(), TransactionError> {
        self.writer().begin_transaction()?;
        self.in_transaction.set(true);
        Ok(())
    }

    /// Whether the open transaction has failed for want of a right to a topic, which the next one will want too. The records
    /// that failed with it only say that they did.
    pub(super) fn is_denied(&self) -> bool {
        // While one is open, librdkafka begins no other and says what is wrong with this one.
        self.in_transaction.get()
            && self
                .writer()
                .begin_transaction()
                .is_err_and(|fault| fault.code == RDKafkaErrorCode::TopicAuthorizationFailed)
    }

    /// Makes offsets of the consumer's group part of the transaction; `topics` are those of its inputs.
    ///
    /// # Errors
    /// See [`TransactionError`].
    pub fn send_offsets(
        &self,
        topics: &[String],
        offsets: &[CommitOffset],
        membership: &Membership,
        wait: Duration,
    ) -> Result<(), TransactionError> {
        let list = super::consumer::offset_list(topics, offsets);
        Ok(self.writer().send_offsets(&list, &membership.0, wait)?)
    }

    /// Commits the transaction. Flush before: it waits for nothing else as exactly.
    ///
    /// # Errors
    /// See [`TransactionError`].
    pub fn commit_transaction(&self, wait: Duration) -> Result<(), TransactionError> {
        self.writer().commit_transaction(wait)?;
        self.in_transaction.set(false);
        Ok(())
    }

    /// Aborts the transaction; records that were taken and not written are thrown away.
    ///
    /// # Errors
    /// See [`TransactionError`].
    pub fn abort_transaction(&self, wait: Duration) -> Result<(), TransactionError> {
        let until = Instant::now() + wait;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.writer().abort_transaction(left.min(ABORT_SLICE)).map_err(TransactionError::from) {
                Ok(()) => break,
                // librdkafka waits until it has reported what is thrown away, and reports only to who asks.
                Err(TransactionError::Again { .. }) if left > ABORT_SLICE => self.poll(Duration::ZERO),
                Err(error) => return Err(error),
            }
        }
        self.in_transaction.set(false);
        self.forget_failures();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(code: RDKafkaErrorCode) -> TransactionFault {
        TransactionFault { code, text: "said".to_owned(), retriable: false, abort: false }
    }

    #[test]
    fn a_call_that_may_be_repeated_is_repeated_even_if_it_is_all_that_is_known() {
        let error = TransactionFault { retriable: true, ..fault(RDKafkaErrorCode::OperationTimedOut) };
        assert!(matches!(error.into(), TransactionError::Again { .. }));
    }

    #[test]
    fn a_group_that_moved_on_aborts() {
        for code in [RDKafkaErrorCode::IllegalGeneration, RDKafkaErrorCode::UnknownMemberId] {
            let error = TransactionFault { abort: true, ..fault(code) };
            assert!(matches!(error.into(), TransactionError::Abort { .. }), "{code:?}");
        }
    }

    #[test]
    fn a_fence_an_unknown_outcome_and_what_is_not_foreseen_go_through_recovery() {
        for code in [
            RDKafkaErrorCode::Fenced,
            RDKafkaErrorCode::ProducerFenced,
            RDKafkaErrorCode::InvalidProducerEpoch,
            RDKafkaErrorCode::Fatal,
            RDKafkaErrorCode::State,
            RDKafkaErrorCode::Fail,
        ] {
            assert!(matches!(fault(code).into(), TransactionError::Rebuild { .. }), "{code:?}");
        }
    }

    #[test]
    fn what_the_broker_does_not_allow_is_not_tried_again() {
        for code in [
            RDKafkaErrorCode::TransactionalIdAuthorizationFailed,
            RDKafkaErrorCode::InvalidTransactionTimeout,
            RDKafkaErrorCode::UnsupportedFeature,
        ] {
            let error = TransactionFault { retriable: true, abort: true, ..fault(code) };
            assert!(matches!(error.into(), TransactionError::Refused { .. }), "{code:?}");
        }
    }
}
