//! librdkafka's producer: a buffer, a connection on which requests arrive in order, and transactions.
//!
//! A call about a transaction that does not end in time goes on beside the thread, and the same call made again waits for it.
//! What a call ends with is classified as the real client's errors are.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::Rng;
use rdkafka::error::RDKafkaErrorCode;
use sluicegate::kafka::ClientError;
use sluicegate::kafka::clients::ProducerClient;
use sluicegate::kafka::consumer::CommitOffset;
use sluicegate::kafka::producer::{
    DeliveryFailure, FlushError, Flushed, ProducerEvent, ProducerOptions, SendError, TopicHandle, Transactions,
};
use sluicegate::kafka::transaction::TransactionError;

use super::Clients;
use super::broker::{Broker, Denied, Offset, Output};
use super::consumer::Membership;
use crate::faults::Fault;
use crate::kernel::{Kernel, Pid};
use crate::runtime::Answer;

/// A broker that is busy with the id's last transaction is asked again after this time.
const CONCURRENT_PAUSE: Duration = Duration::from_millis(20);

/// Beside the thread.
#[derive(Default)]
struct Connection {
    buffer: VecDeque<(usize, Output)>,
    in_flight: usize,
    sending: bool,
    failure: Option<DeliveryFailure>,
    epoch: u32,
    /// When the last request arrives.
    last: Duration,
    /// Counts the calls about transactions: one that was given up for another is not repeated.
    calls: u64,
    /// How often the buffer was emptied: what was in flight then does not come back into it.
    purged: u64,
    /// Dropped: what lies in the buffer is thrown away.
    closed: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Call {
    Init,
    Offsets,
    Commit,
    Abort,
}

type Result<T, E = TransactionError> = std::result::Result<T, E>;

/// A producer.
pub(crate) struct Producer {
    broker: Broker,
    kernel: Kernel,
    pid: Pid,
    transactions: Option<Transactions>,
    shared: Arc<Mutex<Connection>>,
    /// The call that has not ended.
    call: RefCell<Option<(Call, Answer<Result<()>>)>>,
    /// Whether brokers know of the transaction.
    registered: RefCell<bool>,
}

fn again(text: &str) -> TransactionError {
    TransactionError::Again { text: text.to_owned() }
}

fn denied(denied: Denied) -> TransactionError {
    let text = format!("{denied:?}");
    match denied {
        Denied::Concurrent => TransactionError::Again { text },
        Denied::Group(_) => TransactionError::Abort { text },
        Denied::Fenced | Denied::NoTransaction => TransactionError::Rebuild { text },
    }
}

impl Producer {
    pub(super) fn new(clients: Clients, options: &ProducerOptions) -> Self {
        let Clients { broker, pid } = clients;
        Self {
            kernel: broker.kernel.clone(),
            broker,
            pid,
            transactions: options.transactions.clone(),
            shared: Arc::default(),
            call: RefCell::default(),
            registered: RefCell::default(),
        }
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        lock(&self.shared)
    }

    fn id(&self) -> &str {
        self.transactions.as_ref().map_or("", |transactions| &transactions.id)
    }

    /// When a request that is sent now arrives: behind all others of this connection.
    fn arrival(&self, late: Duration) -> Duration {
        arrival(&self.kernel, &self.shared, late)
    }

    /// Goes on with a call, or begins it: `request` is made where the broker is, until it is not told to come again.
    fn transact(
        &self,
        call: Call,
        wait: Duration,
        request: impl Fn(&Broker) -> Result<(), Denied> + Send + 'static,
    ) -> Result<()> {
        let under_way =
            self.call.borrow().as_ref().filter(|(before, _)| *before == call).map(|(_, answer)| answer.clone());
        let answer = under_way.unwrap_or_else(|| {
            self.broker.faults.point(self.pid);
            let answer = Answer::default();
            let arrives = self.arrival(self.broker.faults.kafka_latency());
            let number = {
                let mut connection = self.connection();
                connection.calls += 1;
                connection.calls
            };
            let shared = Arc::clone(&self.shared);
            let current = Box::new(move || lock(&shared).calls == number);
            ask(self.broker.clone(), self.pid, arrives, Box::new(request), current, answer.clone());
            *self.call.borrow_mut() = Some((call, answer.clone()));
            answer
        });
        self.kernel.wait_for(wait, || answer.is_there());
        let Some(result) = answer.take() else { return Err(again("no answer yet")) };
        *self.call.borrow_mut() = None;
        self.broker.faults.point(self.pid);
        self.kernel.note(format_args!("{} {call:?}: {result:?}", self.pid));
        result
    }
}

fn lock(shared: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn arrival(kernel: &Kernel, shared: &Mutex<Connection>, late: Duration) -> Duration {
    let now = kernel.now();
    let mut connection = lock(shared);
    connection.last = (connection.last + Duration::from_micros(1)).max(now + late);
    connection.last - now
}

type Request = Box<dyn Fn(&Broker) -> Result<(), Denied> + Send>;

/// Asks until there is an answer, as long as the call is the client's last.
fn ask(
    broker: Broker,
    pid: Pid,
    arrives: Duration,
    request: Request,
    current: Box<dyn Fn() -> bool + Send>,
    answer: Answer<Result<()>>,
) {
    let kernel = broker.kernel.clone();
    kernel.after(arrives, move || {
        let result = request(&broker);
        broker.faults.point(pid);
        if result == Err(Denied::Concurrent) {
            // A client that is no more does not ask again.
            if !broker.kernel.has_crashed(pid) && current() {
                ask(broker, pid, CONCURRENT_PAUSE, request, current, answer);
            }
            return;
        }
        let back = broker.faults.kafka_latency();
        broker.kernel.clone().after(back, move || answer.give(result.map_err(denied)));
    });
}

/// Sends what lies in the buffer, one request after the other.
fn drain(broker: Broker, pid: Pid, id: Option<String>, shared: Arc<Mutex<Connection>>) {
    let (batch, purged): (Vec<(usize, Output)>, u64) = {
        let mut connection = lock(&shared);
        if connection.closed || connection.buffer.is_empty() || broker.kernel.has_crashed(pid) {
            connection.sending = false;
            return;
        }
        let most = broker.kernel.random(|rng| rng.random_range(1..=20)).min(connection.buffer.len());
        connection.in_flight = most;
        (connection.buffer.drain(..most).collect(), connection.purged)
    };
    let kernel = broker.kernel.clone();
    kernel.after(arrival(&kernel, &shared, broker.faults.kafka_latency()), move || {
        let epoch = lock(&shared).epoch;
        let lost = id.is_some() && broker.faults.strikes(Fault::NotDelivered);
        let result = match &id {
            _ if lost => Err(Denied::NoTransaction),
            id => broker.append(id.as_deref().map(|id| (id, epoch)), &batch),
        };
        broker.faults.point(pid);
        let back = broker.faults.latency();
        broker.kernel.clone().after(back, move || {
            {
                let mut connection = lock(&shared);
                connection.in_flight = 0;
                match result {
                    Err(Denied::Concurrent) if connection.purged == purged => {
                        for record in batch.into_iter().rev() {
                            connection.buffer.push_front(record);
                        }
                    }
                    Ok(()) | Err(Denied::Concurrent) => {}
                    Err(_) => {
                        let code = RDKafkaErrorCode::InvalidProducerEpoch;
                        let failure = DeliveryFailure { topic: "out".to_owned(), partition: 0, code };
                        connection.failure.get_or_insert(failure);
                        connection.buffer.clear();
                    }
                }
            }
            drain(broker, pid, id, shared);
        });
    });
}

impl ProducerClient for Producer {
    type Membership = Membership;

    fn topic(&mut self, _: &str) -> Result<TopicHandle, ClientError> {
        Ok(TopicHandle(0))
    }

    fn send<'h>(
        &self,
        _: TopicHandle,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp: i64,
        _: impl Iterator<Item = (&'h [u8], Option<&'h [u8]>)>,
    ) -> Result<(), SendError> {
        if self.broker.faults.strikes(Fault::BufferFull) {
            return Err(SendError::QueueFull);
        }
        let owned = |bytes: Option<&[u8]>| bytes.unwrap_or_default().to_vec();
        let output = Output { key: owned(key), value: owned(value), timestamp };
        *self.registered.borrow_mut() = true;
        let start = {
            let mut connection = self.connection();
            connection.buffer.push_back((partition as usize, output));
            !std::mem::replace(&mut connection.sending, true)
        };
        if start {
            let (broker, pid, shared) = (self.broker.clone(), self.pid, Arc::clone(&self.shared));
            let id = self.transactions.as_ref().map(|transactions| transactions.id.clone());
            self.kernel.after(self.broker.faults.latency(), move || drain(broker, pid, id, shared));
        }
        Ok(())
    }

    fn poll(&self, wait: Duration) {
        if !wait.is_zero() {
            self.kernel.sleep(wait);
        }
    }

    fn next_event(&self) -> Option<ProducerEvent> {
        None
    }

    fn in_flight(&self) -> usize {
        let connection = self.connection();
        connection.buffer.len() + connection.in_flight
    }

    fn flush(&self, wait: Duration) -> Result<Flushed, FlushError> {
        self.broker.faults.point(self.pid);
        let done = |connection: &Connection| {
            connection.failure.is_some() || (connection.buffer.is_empty() && connection.in_flight == 0)
        };
        self.kernel.wait_for(wait, || done(&self.connection()));
        let connection = self.connection();
        match &connection.failure {
            Some(first) => Err(FlushError::Refused { count: 1, first: first.clone() }),
            None if done(&connection) => Ok(Flushed::attested()),
            None => Err(FlushError::TimedOut { in_flight: connection.buffer.len() + connection.in_flight }),
        }
    }

    fn init_transactions(&self, wait: Duration) -> Result<()> {
        let Some(Transactions { id, timeout }) = self.transactions.clone() else { return Ok(()) };
        let shared = Arc::clone(&self.shared);
        self.transact(Call::Init, wait, move |broker| {
            lock(&shared).epoch = broker.init(&id, timeout)?;
            Ok(())
        })
    }

    fn begin_transaction(&self) -> Result<()> {
        *self.registered.borrow_mut() = false;
        Ok(())
    }

    fn send_offsets(
        &self,
        _: &[String],
        offsets: &[CommitOffset],
        membership: &Membership,
        wait: Duration,
    ) -> Result<()> {
        if offsets.is_empty() {
            return Ok(());
        }
        *self.registered.borrow_mut() = true;
        let offsets: Vec<Offset> = offsets.iter().map(Offset::from).collect();
        let (id, shared, Membership { member, generation }) =
            (self.id().to_owned(), Arc::clone(&self.shared), *membership);
        self.transact(Call::Offsets, wait, move |broker| {
            let epoch = lock(&shared).epoch;
            broker.add_offsets(&id, epoch, member, generation, &offsets)
        })
    }

    fn commit_transaction(&self, wait: Duration) -> Result<()> {
        if !*self.registered.borrow() {
            return Ok(());
        }
        if self.connection().failure.is_some() {
            return Err(TransactionError::Abort { text: "a record was not delivered".to_owned() });
        }
        let (id, shared) = (self.id().to_owned(), Arc::clone(&self.shared));
        let beginning = self.call.borrow().is_none();
        if beginning && self.broker.faults.strikes(Fault::CommitUnknown) {
            // It is on its way, or it is not.
            if self.broker.faults.happens() {
                let arrives = self.arrival(self.broker.faults.kafka_latency());
                let broker = self.broker.clone();
                self.kernel.after(arrives, move || {
                    let epoch = lock(&shared).epoch;
                    // Nobody hears the answer.
                    let _ = broker.end(&id, epoch, true);
                });
            }
            let wait = self.broker.faults.kafka_latency();
            self.kernel.sleep(wait);
            return Err(TransactionError::Rebuild { text: "nobody knows".to_owned() });
        }
        self.transact(Call::Commit, wait, move |broker| {
            let epoch = lock(&shared).epoch;
            broker.end(&id, epoch, true)
        })
    }

    fn abort_transaction(&self, wait: Duration) -> Result<()> {
        {
            let mut connection = self.connection();
            connection.buffer.clear();
            connection.purged += 1;
        }
        if *self.registered.borrow() {
            let (id, shared) = (self.id().to_owned(), Arc::clone(&self.shared));
            self.transact(Call::Abort, wait, move |broker| {
                let epoch = lock(&shared).epoch;
                match broker.end(&id, epoch, false) {
                    // Nothing of it has arrived.
                    Err(Denied::NoTransaction) => Ok(()),
                    result => result,
                }
            })?;
        }
        self.connection().failure = None;
        Ok(())
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.connection().closed = true;
    }
}
