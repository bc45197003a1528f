//! What librdkafka reports on the side, put into a mailbox for whoever polls next.
//!
//! Nothing is decided here. In particular the rebalance callback does not touch the assignment (librdkafka waits for that):
//! the owner of the consumer commits first and gives partitions back afterwards. Only when the consumer is being closed, and
//! nobody will answer any more, does it answer itself.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryResult, NoCustomPartitioner, ProducerContext};
use rdkafka::{Message as _, TopicPartitionList};

use super::statistics::Statistics;

/// A report.
pub(super) enum Notice {
    Assign(Vec<(String, i32)>),
    Revoke { partitions: Vec<(String, i32)>, lost: bool },
    NotDelivered { topic: String, partition: i32, code: RDKafkaErrorCode },
    Statistics(Statistics),
    Error { code: RDKafkaErrorCode, text: String },
}

/// The mailbox of one client.
#[derive(Default)]
pub(super) struct Context {
    notices: Mutex<VecDeque<Notice>>,
    /// Counts everything librdkafka has reported, log lines too.
    served: AtomicU64,
    closing: AtomicBool,
}

impl Context {
    fn post(&self, notice: Notice) {
        self.notices().push_back(notice);
        self.served.fetch_add(1, Ordering::Relaxed);
    }

    fn notices(&self) -> MutexGuard<'_, VecDeque<Notice>> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The oldest notice.
    pub(super) fn next(&self) -> Option<Notice> {
        self.notices().pop_front()
    }

    /// Has `poll` serve one report after the other, the first of them awaited for up to `wait`, until there is none left or
    /// `count_max` are served. One call of librdkafka's serves one report and does not say whether it did.
    pub(super) fn serve(&self, wait: Duration, count_max: usize, mut poll: impl FnMut(Duration)) {
        let mut wait = wait;
        for _ in 0..count_max {
            let served = self.served.load(Ordering::Relaxed);
            poll(wait);
            wait = Duration::ZERO;
            if self.served.load(Ordering::Relaxed) == served {
                break;
            }
        }
    }

    /// From now on rebalances are answered at once.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.served.fetch_add(1, Ordering::Relaxed);
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", facility, "{message}"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::info!(target: "librdkafka", facility, "{message}");
            }
            RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", facility, "{message}"),
        }
    }

    fn stats_raw(&self, json: &[u8]) {
        match Statistics::parse(json) {
            Ok(statistics) => self.post(Notice::Statistics(statistics)),
            Err(error) => tracing::warn!(%error, "librdkafka's statistics cannot be read"),
        }
    }

    fn error(&self, error: KafkaError, text: &str) {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        self.post(Notice::Error { code, text: text.to_owned() });
    }
}

impl ConsumerContext for Context {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        kind: rdkafka::types::RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        if self.closing.load(Ordering::Acquire) {
            let result = match consumer.rebalance_protocol() {
                RebalanceProtocol::Cooperative if kind != ASSIGN => consumer.incremental_unassign(list),
                _ => consumer.unassign(),
            };
            if let Err(error) = result {
                tracing::warn!(%error, "partitions could not be given back while closing");
            }
            return;
        }
        let partitions =
            list.elements().iter().map(|element| (element.topic().to_owned(), element.partition())).collect();
        if kind == ASSIGN {
            self.post(Notice::Assign(partitions));
        } else {
            self.post(Notice::Revoke { partitions, lost: consumer.assignment_lost() });
        }
    }
}

const ASSIGN: rdkafka::types::RDKafkaRespErr = rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;

impl ProducerContext<NoCustomPartitioner> for Context {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, message)) = result {
            let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
            self.post(Notice::NotDelivered { topic: message.topic().to_owned(), partition: message.partition(), code });
        }
    }
}
