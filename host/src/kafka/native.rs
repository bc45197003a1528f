//! The calls of librdkafka that rdkafka has no form for: taking records in batches from a queue of one's own, sending with a
//! topic handle, and reading offset metadata that may be anything. The only module with `unsafe` in it; what it hands out is safe.
//!
//! Invariants:
//! - A [`Reader`] or [`Writer`] owns its client, a reader together with those whose call is under way. Handles of topics and queues are fields before the client, so that they are
//!   destroyed before it (fields drop in order), and nothing outside gets at them.
//! - A message that was taken is destroyed exactly once: by [`Taken`], which owns it from the call on and lends it out.
//! - What is lent out ([`Fetched`], [`HeaderIter`]) borrows from the `Taken` and so cannot outlive the message.
//! - librdkafka's handles may be used from any thread, which is what makes both types `Send`; neither is `Sync`.
#![expect(unsafe_code, reason = "foreign functions of librdkafka")]

mod admin;

use std::ffi::{CStr, CString, c_char, c_void};
use std::marker::PhantomData;
use std::os::raw::c_int;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::BorrowedMessage;
use rdkafka::producer::{BaseProducer, Producer as _};
use rdkafka_sys as sys;
use sys::rd_kafka_resp_err_t::{RD_KAFKA_RESP_ERR__TIMED_OUT, RD_KAFKA_RESP_ERR_NO_ERROR};
use sys::rd_kafka_vtype_t as vtype;

pub(super) use self::admin::{Admin, TopicDescription};
pub use self::admin::{Partition, Rights};
use super::context::Context;

/// A reference to one of librdkafka's topic objects. While it is held, the object's address means this topic.
struct Topic(NonNull<sys::rd_kafka_topic_t>);

impl Topic {
    /// `client` must outlive the value.
    unsafe fn new(client: *mut sys::rd_kafka_t, name: &CStr) -> Option<Self> {
        // SAFETY: the client is alive, the name ends with a NUL; no configuration means the client's own.
        NonNull::new(unsafe { sys::rd_kafka_topic_new(client, name.as_ptr(), ptr::null_mut()) }).map(Self)
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        // SAFETY: made by rd_kafka_topic_new, destroyed once, before the client.
        unsafe { sys::rd_kafka_topic_destroy(self.0.as_ptr()) }
    }
}

/// A reference to one of librdkafka's queues.
struct Queue(NonNull<sys::rd_kafka_queue_t>);

impl Queue {
    /// `client` must outlive the value.
    unsafe fn new(client: *mut sys::rd_kafka_t) -> Self {
        // SAFETY: the client is alive.
        let queue = NonNull::new(unsafe { sys::rd_kafka_queue_new(client) });
        Self(queue.expect("librdkafka aborts when out of memory"))
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: a reference of our own, given up once, before the client.
        unsafe { sys::rd_kafka_queue_destroy(self.0.as_ptr()) }
    }
}

/// A name that a handle cannot be made for.
#[derive(Debug)]
pub(super) struct BadTopicName(pub(super) usize);

/// A consumer whose records come through one queue.
pub(super) struct Reader {
    names: Vec<CString>,
    topics: Vec<Topic>,
    queue: Queue,
    /// Where answers to offset commits arrive, one each.
    commits: Queue,
    taken: Vec<*mut sys::rd_kafka_message_t>,
    consumer: Arc<BaseConsumer<Context>>,
}

// SAFETY: librdkafka's handles are not bound to a thread, and every method that is not `&self`-safe takes `&mut self`.
unsafe impl Send for Reader {}

/// Identity of a topic object, to compare with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct TopicId(*const sys::rd_kafka_topic_t);

// SAFETY: the address is compared and never followed.
unsafe impl Send for TopicId {}

#[cfg(test)]
impl TopicId {
    /// An identity of no topic.
    pub(super) fn for_tests(number: usize) -> Self {
        Self(ptr::without_provenance(number))
    }
}

impl Reader {
    /// Takes over `consumer`, to read `topics`; the index of a topic is its input number.
    pub(super) fn new(consumer: BaseConsumer<Context>, topics: &[String]) -> Result<Self, BadTopicName> {
        let client = consumer.client().native_ptr();
        let mut names = Vec::with_capacity(topics.len());
        let mut handles = Vec::with_capacity(topics.len());
        for (index, topic) in topics.iter().enumerate() {
            let name = CString::new(topic.as_str()).map_err(|_| BadTopicName(index))?;
            // SAFETY: the handles are dropped before `consumer`, which goes into the same struct, or, on the error path,
            // is an argument and so dropped after the locals.
            handles.push(unsafe { Topic::new(client, &name) }.ok_or(BadTopicName(index))?);
            names.push(name);
        }
        // SAFETY: the client is alive, and outlives the queues as it does the topics.
        let (queue, commits) = unsafe { (Queue::new(client), Queue::new(client)) };
        Ok(Self { names, topics: handles, queue, commits, taken: Vec::new(), consumer: Arc::new(consumer) })
    }

    /// The consumer, for everything rdkafka has a form for.
    pub(super) fn consumer(&self) -> &Arc<BaseConsumer<Context>> {
        &self.consumer
    }

    /// Identity of the topic of `input`, as [`Fetched`] records of it carry it.
    pub(super) fn topic_id(&self, input: u32) -> Option<TopicId> {
        self.topics.get(input as usize).map(|topic| TopicId(topic.0.as_ptr()))
    }

    /// Routes a partition's records to the queue that [`Reader::take`] reads. Stopping a partition undoes it.
    pub(super) fn forward(&self, input: u32, partition: i32) {
        let Some(name) = self.names.get(input as usize) else { return };
        // SAFETY: client, name and our queue are alive; the partition's queue reference is given up at the end of the
        // scope, the forwarding holds references of its own.
        unsafe {
            let client = self.consumer.client().native_ptr();
            if let Some(queue) = NonNull::new(sys::rd_kafka_queue_get_partition(client, name.as_ptr(), partition)) {
                let queue = Queue(queue);
                sys::rd_kafka_queue_forward(queue.0.as_ptr(), self.queue.0.as_ptr());
            }
        }
    }

    /// Sends an offset commit; [`Reader::next_commit`] has the answer. rdkafka's own asynchronous commit keeps it to itself.
    pub(super) fn commit(&self, offsets: &TopicPartitionList) -> Result<(), RDKafkaErrorCode> {
        // SAFETY: client, list and queue are alive; the list is copied; without a callback the answer comes as an event.
        let result = unsafe {
            sys::rd_kafka_commit_queue(
                self.consumer.client().native_ptr(),
                offsets.ptr(),
                self.commits.0.as_ptr(),
                None,
                ptr::null_mut(),
            )
        };
        if result == RD_KAFKA_RESP_ERR_NO_ERROR { Ok(()) } else { Err(result.into()) }
    }

    /// The answer to the oldest commit that has none yet: what went wrong, or what went wrong with one of its partitions.
    pub(super) fn next_commit(&self, wait: Duration) -> Option<Result<(), RDKafkaErrorCode>> {
        let wait = milliseconds(wait);
        // SAFETY: the queue is alive; an event is ours until it is destroyed below; its list, if it has one, belongs to it.
        unsafe {
            let event = sys::rd_kafka_queue_poll(self.commits.0.as_ptr(), wait);
            if event.is_null() {
                return None;
            }
            let mut error = sys::rd_kafka_event_error(event);
            let offsets = sys::rd_kafka_event_topic_partition_list(event);
            if error == RD_KAFKA_RESP_ERR_NO_ERROR && !offsets.is_null() {
                let failed = elements(offsets).iter().find(|element| element.err != RD_KAFKA_RESP_ERR_NO_ERROR);
                error = failed.map_or(RD_KAFKA_RESP_ERR_NO_ERROR, |element| element.err);
            }
            sys::rd_kafka_event_destroy(event);
            Some(if error == RD_KAFKA_RESP_ERR_NO_ERROR { Ok(()) } else { Err(error.into()) })
        }
    }

    /// Takes up to `count` records that are there, after waiting for the first one up to `wait`.
    ///
    /// librdkafka's batch call waits until its array is full; so it is asked for one record with the time-out, then for
    /// the rest without.
    pub(super) fn take(&mut self, wait: Duration, count: usize) -> Taken<'_> {
        self.taken.clear();
        self.taken.reserve(count);
        if wait.is_zero() || count == 0 {
            self.append(0, count);
        } else {
            let wait = milliseconds(wait).max(1);
            self.append(wait, 1);
            if !self.taken.is_empty() {
                self.append(0, count - 1);
            }
        }
        Taken { messages: &mut self.taken, next: 0 }
    }

    fn append(&mut self, wait_ms: c_int, count: usize) {
        if count == 0 {
            return;
        }
        let room = &mut self.taken.spare_capacity_mut()[..count];
        // SAFETY: librdkafka writes at most `count` pointers into the room, which has at least as many places, and says
        // how many; the messages are ours from then on. -1 means a wrong argument and writes none.
        unsafe {
            let taken =
                sys::rd_kafka_consume_batch_queue(self.queue.0.as_ptr(), wait_ms, room.as_mut_ptr().cast(), count);
            let taken = usize::try_from(taken).unwrap_or(0);
            self.taken.set_len(self.taken.len() + taken);
        }
    }
}

/// Who a member of a group is, for transactions: what it was when this was taken.
pub(super) struct GroupMetadata(NonNull<sys::rd_kafka_consumer_group_metadata_t>);

// SAFETY: memory of its own that nothing else refers to, and no method changes it.
unsafe impl Send for GroupMetadata {}

impl GroupMetadata {
    /// Whether it names a member of a generation. Brokers take offsets without either from anybody, and would fence nobody.
    pub(super) fn names_a_member(&self) -> bool {
        // SAFETY: the metadata is alive; the id is a NUL-terminated text that belongs to it, or null.
        unsafe {
            let generation = sys::rd_kafka_consumer_group_metadata_generation_id(self.0.as_ptr());
            let member = sys::rd_kafka_consumer_group_metadata_member_id(self.0.as_ptr());
            generation >= 0 && !member.is_null() && *member != 0
        }
    }
}

impl Drop for GroupMetadata {
    fn drop(&mut self) {
        // SAFETY: ours, destroyed once.
        unsafe { sys::rd_kafka_consumer_group_metadata_destroy(self.0.as_ptr()) }
    }
}

impl Reader {
    /// The consumer's membership as it is now; `None` before it has joined for the first time.
    pub(super) fn group_metadata(&self) -> Option<GroupMetadata> {
        // SAFETY: the client is alive; what it returns is ours.
        NonNull::new(unsafe { sys::rd_kafka_consumer_group_metadata(self.consumer.client().native_ptr()) })
            .map(GroupMetadata)
    }
}

/// What librdkafka says of a call about a transaction that failed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct TransactionFault {
    pub(super) code: RDKafkaErrorCode,
    pub(super) text: String,
    /// The same call may be made again.
    pub(super) retriable: bool,
    /// The transaction has to be aborted.
    pub(super) abort: bool,
}

impl TransactionFault {
    /// `error` must be null or an error that is the caller's.
    unsafe fn check(error: *mut sys::rd_kafka_error_t) -> Result<(), Self> {
        if error.is_null() {
            return Ok(());
        }
        // SAFETY: promised by the caller; the text belongs to the error, which is destroyed once, after its last use.
        unsafe {
            let fault = Self {
                code: sys::rd_kafka_error_code(error).into(),
                text: lossy(sys::rd_kafka_error_string(error)),
                retriable: sys::rd_kafka_error_is_retriable(error) != 0,
                abort: sys::rd_kafka_error_txn_requires_abort(error) != 0,
            };
            sys::rd_kafka_error_destroy(error);
            Err(fault)
        }
    }
}

/// Messages that were taken. Those not looked at are destroyed with it.
pub(super) struct Taken<'r> {
    messages: &'r mut Vec<*mut sys::rd_kafka_message_t>,
    next: usize,
}

/// A message as it was taken.
pub(super) enum Message<'a> {
    /// A record.
    Record {
        /// Its topic.
        topic: TopicId,
        /// The record; its `input` is not filled in yet.
        record: Fetched<'a>,
    },
    /// Something is wrong with a partition.
    Error {
        /// Its topic.
        topic: TopicId,
        /// Its number.
        partition: i32,
        /// What is wrong.
        code: RDKafkaErrorCode,
        /// What librdkafka says to it.
        text: String,
    },
}

impl Taken<'_> {
    /// Number of messages taken.
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Lends the next message to `look` and destroys it. `None` when there is none left.
    pub(super) fn next<T>(&mut self, look: impl FnOnce(Message<'_>) -> T) -> Option<T> {
        let message = *self.messages.get(self.next)?;
        self.next += 1;
        let message = OwnedMessage(message);
        Some(look(message.view()))
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        for &message in &self.messages[self.next..] {
            drop(OwnedMessage(message));
        }
        self.messages.clear();
    }
}

struct OwnedMessage(*mut sys::rd_kafka_message_t);

impl Drop for OwnedMessage {
    fn drop(&mut self) {
        // SAFETY: taken from a queue, and each pointer is wrapped once.
        unsafe { sys::rd_kafka_message_destroy(self.0) }
    }
}

impl OwnedMessage {
    #[inline]
    fn view(&self) -> Message<'_> {
        // SAFETY: the message is alive as long as `self`; librdkafka fills in every field of a message it gives out.
        let message = unsafe { &*self.0 };
        let topic = TopicId(message.rkt);
        if message.err != RD_KAFKA_RESP_ERR_NO_ERROR {
            // SAFETY: for a consumer's error message this is a NUL-terminated text inside the message.
            let text = unsafe { sys::rd_kafka_message_errstr(self.0) };
            // SAFETY: as above; null is checked for.
            let text = if text.is_null() { String::new() } else { unsafe { lossy(text) } };
            return Message::Error { topic, partition: message.partition, code: message.err.into(), text };
        }
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is alive and a consumer's.
        let timestamp = unsafe { sys::rd_kafka_message_timestamp(self.0, &raw mut kind) };
        let mut headers = ptr::null_mut();
        // SAFETY: the message is alive; on success `headers` belongs to it, otherwise it stays null.
        if unsafe { sys::rd_kafka_message_headers(self.0, &raw mut headers) } != RD_KAFKA_RESP_ERR_NO_ERROR {
            headers = ptr::null_mut();
        }
        // SAFETY: pointer and length of key and value describe memory of the message, or the pointer is null.
        let (key, value) = unsafe { (bytes(message.key, message.key_len), bytes(message.payload, message.len)) };
        let record = Fetched {
            input: 0,
            partition: message.partition,
            offset: message.offset,
            timestamp,
            key,
            value,
            headers: HeaderIter { headers, index: 0, message: PhantomData },
        };
        Message::Record { topic, record }
    }
}

/// `pointer` must be null or point to `length` bytes that live as long as `'a`.
#[inline]
unsafe fn bytes<'a>(pointer: *const c_void, length: usize) -> Option<&'a [u8]> {
    if pointer.is_null() {
        None
    } else {
        // SAFETY: promised by the caller.
        Some(unsafe { slice::from_raw_parts(pointer.cast(), length) })
    }
}

fn milliseconds(wait: Duration) -> c_int {
    // Rounded up: waiting for less than a millisecond must not become not waiting.
    c_int::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(c_int::MAX)
}

/// `text` must be a NUL-terminated string.
unsafe fn lossy(text: *const c_char) -> String {
    // SAFETY: promised by the caller.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// A record, borrowed from librdkafka's buffer: copy out what is to be kept.
#[derive(Clone, Debug)]
pub struct Fetched<'a> {
    /// Index of its topic among the consumer's.
    pub input: u32,
    /// Partition number.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// Milliseconds since 1970, or -1 if it has none.
    pub timestamp: i64,
    /// Key; null and empty differ.
    pub key: Option<&'a [u8]>,
    /// Value; null and empty differ.
    pub value: Option<&'a [u8]>,
    /// Headers, in their order. A name with a NUL byte in it is cut there.
    pub headers: HeaderIter<'a>,
}

/// Iterator over a record's headers: name and value.
#[derive(Clone, Debug)]
pub struct HeaderIter<'a> {
    headers: *mut sys::rd_kafka_headers_t,
    index: usize,
    message: PhantomData<&'a [u8]>,
}

impl<'a> HeaderIter<'a> {
    /// Of a record without headers.
    #[must_use]
    pub fn none() -> Self {
        Self { headers: ptr::null_mut(), index: 0, message: PhantomData }
    }

    /// Of a record that rdkafka has taken, whose own iterator panics on names that are not UTF-8.
    pub(super) fn of(message: &'a BorrowedMessage<'_>) -> Self {
        let mut headers = ptr::null_mut();
        // SAFETY: the message lives as long as `'a`, and its headers belong to it. Without any the call says so.
        let result = unsafe { sys::rd_kafka_message_headers(message.ptr(), &raw mut headers) };
        if result == RD_KAFKA_RESP_ERR_NO_ERROR { Self { headers, ..Self::none() } } else { Self::none() }
    }
}

impl<'a> Iterator for HeaderIter<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.headers.is_null() {
            return None;
        }
        let (mut name, mut value, mut length) = (ptr::null(), ptr::null(), 0);
        // SAFETY: the headers belong to a message that lives as long as `'a`, and so does what the call points at. It
        // returns an error at the first index behind the last.
        unsafe {
            let result =
                sys::rd_kafka_header_get_all(self.headers, self.index, &raw mut name, &raw mut value, &raw mut length);
            if result != RD_KAFKA_RESP_ERR_NO_ERROR {
                return None;
            }
            self.index += 1;
            Some((CStr::from_ptr(name).to_bytes(), bytes(value, length)))
        }
    }
}

/// A producer with handles of the topics it writes to.
pub(super) struct Writer {
    topics: Vec<Topic>,
    producer: BaseProducer<Context>,
}

// SAFETY: as for `Reader`.
unsafe impl Send for Writer {}

impl Writer {
    /// Takes over `producer`.
    pub(super) fn new(producer: BaseProducer<Context>) -> Self {
        Self { topics: Vec::new(), producer }
    }

    /// The producer, for everything rdkafka has a form for.
    pub(super) fn producer(&self) -> &BaseProducer<Context> {
        &self.producer
    }

    /// Makes a handle and returns its index.
    pub(super) fn add_topic(&mut self, name: &str) -> Option<usize> {
        let name = CString::new(name).ok()?;
        // SAFETY: the handle is dropped before the producer.
        let topic = unsafe { Topic::new(self.producer.client().native_ptr(), &name) }?;
        self.topics.push(topic);
        Some(self.topics.len() - 1)
    }

    /// Queues one record; librdkafka copies it. `timestamp` 0 means now.
    ///
    /// # Panics
    /// `topic` is no index that `add_topic` returned.
    #[inline]
    pub(super) fn send<'h>(
        &self,
        topic: usize,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp: i64,
        headers: impl Iterator<Item = (&'h [u8], Option<&'h [u8]>)>,
    ) -> Result<(), RDKafkaErrorCode> {
        let (key, key_length) = parts(key);
        let (value, value_length) = parts(value);
        let headers = OwnedHeaders::new(headers);
        // SAFETY: the arguments are the pairs of type and value that librdkafka documents for each VTYPE, ended by END;
        // key and value are read before the call returns (F_COPY); the headers become librdkafka's on success only.
        let result = unsafe {
            sys::rd_kafka_producev(
                self.producer.client().native_ptr(),
                vtype::RD_KAFKA_VTYPE_RKT,
                self.topics[topic].0.as_ptr(),
                vtype::RD_KAFKA_VTYPE_PARTITION,
                partition,
                vtype::RD_KAFKA_VTYPE_MSGFLAGS,
                sys::RD_KAFKA_MSG_F_COPY,
                vtype::RD_KAFKA_VTYPE_VALUE,
                value,
                value_length,
                vtype::RD_KAFKA_VTYPE_KEY,
                key,
                key_length,
                vtype::RD_KAFKA_VTYPE_TIMESTAMP,
                timestamp,
                vtype::RD_KAFKA_VTYPE_HEADERS,
                headers.0,
                vtype::RD_KAFKA_VTYPE_END,
            )
        };
        if result == RD_KAFKA_RESP_ERR_NO_ERROR {
            std::mem::forget(headers);
            Ok(())
        } else {
            Err(result.into())
        }
    }

    /// Makes the producer the only one of its transactional id: waits for, or aborts, what an earlier one left open.
    pub(super) fn init_transactions(&self, wait: Duration) -> Result<(), TransactionFault> {
        // SAFETY: the client is alive; the error, if there is one, is ours.
        unsafe { TransactionFault::check(sys::rd_kafka_init_transactions(self.client(), milliseconds(wait))) }
    }

    /// Begins a transaction; the broker hears of it with the first record.
    pub(super) fn begin_transaction(&self) -> Result<(), TransactionFault> {
        // SAFETY: as above.
        unsafe { TransactionFault::check(sys::rd_kafka_begin_transaction(self.client())) }
    }

    /// Makes offsets part of the transaction.
    pub(super) fn send_offsets(
        &self,
        offsets: &TopicPartitionList,
        group: &GroupMetadata,
        wait: Duration,
    ) -> Result<(), TransactionFault> {
        let (client, wait) = (self.client(), milliseconds(wait));
        // SAFETY: as above; list and metadata are alive and copied.
        unsafe {
            TransactionFault::check(sys::rd_kafka_send_offsets_to_transaction(
                client,
                offsets.ptr(),
                group.0.as_ptr(),
                wait,
            ))
        }
    }

    /// Commits the transaction.
    pub(super) fn commit_transaction(&self, wait: Duration) -> Result<(), TransactionFault> {
        // SAFETY: as above.
        unsafe { TransactionFault::check(sys::rd_kafka_commit_transaction(self.client(), milliseconds(wait))) }
    }

    /// Aborts the transaction and throws away what is queued.
    pub(super) fn abort_transaction(&self, wait: Duration) -> Result<(), TransactionFault> {
        // SAFETY: as above.
        unsafe { TransactionFault::check(sys::rd_kafka_abort_transaction(self.client(), milliseconds(wait))) }
    }

    fn client(&self) -> *mut sys::rd_kafka_t {
        self.producer.client().native_ptr()
    }

    /// Sends what is queued without waiting for more, and waits until nothing is in flight, or `wait` is over: `false`.
    pub(super) fn flush(&self, wait: Duration) -> Result<bool, RDKafkaErrorCode> {
        let wait = milliseconds(wait);
        // SAFETY: the client is alive. Reports come as events, so that the call runs no code of ours.
        match unsafe { sys::rd_kafka_flush(self.producer.client().native_ptr(), wait) } {
            RD_KAFKA_RESP_ERR_NO_ERROR => Ok(true),
            RD_KAFKA_RESP_ERR__TIMED_OUT => Ok(false),
            other => Err(other.into()),
        }
    }
}

#[inline]
fn parts(bytes: Option<&[u8]>) -> (*mut c_void, usize) {
    // librdkafka's signature is not const, but it only reads. A pointer to an empty slice is not null.
    bytes.map_or((ptr::null_mut(), 0), |bytes| (bytes.as_ptr().cast_mut().cast(), bytes.len()))
}

/// Headers not given to librdkafka yet; null if there are none.
struct OwnedHeaders(*mut sys::rd_kafka_headers_t);

impl OwnedHeaders {
    #[inline]
    fn new<'h>(headers: impl Iterator<Item = (&'h [u8], Option<&'h [u8]>)>) -> Self {
        let mut list = Self(ptr::null_mut());
        for (name, value) in headers {
            let (value, value_length) = parts(value);
            // SAFETY: the list is made on first use; name and value are copied. Lengths are not -1 (Rust slices are shorter
            // than isize::MAX), which would make librdkafka look for a NUL.
            unsafe {
                if list.0.is_null() {
                    list.0 = sys::rd_kafka_headers_new(8);
                }
                sys::rd_kafka_header_add(
                    list.0,
                    name.as_ptr().cast(),
                    name.len().cast_signed(),
                    value,
                    value_length.cast_signed(),
                );
            }
        }
        list
    }
}

impl Drop for OwnedHeaders {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: made by rd_kafka_headers_new and, since `send` forgets it otherwise, still ours.
            unsafe { sys::rd_kafka_headers_destroy(self.0) }
        }
    }
}

/// The offset metadata of a list's entries, in order. rdkafka's own accessor panics on what is not UTF-8, and any client of
/// the group may have written anything; such bytes are replaced, since they are not ours.
pub(super) fn metadata_of(list: &TopicPartitionList) -> Vec<String> {
    // SAFETY: the list is alive, and the metadata of its elements is theirs.
    unsafe {
        let metadata = |element: &sys::rd_kafka_topic_partition_t| {
            bytes(element.metadata, element.metadata_size)
                .map_or_else(String::new, |bytes| String::from_utf8_lossy(bytes).into_owned())
        };
        elements(list.ptr()).iter().map(metadata).collect()
    }
}

/// `list` must be alive as long as `'a`.
unsafe fn elements<'a>(list: *const sys::rd_kafka_topic_partition_list_t) -> &'a [sys::rd_kafka_topic_partition_t] {
    // SAFETY: a list has `cnt` elements; an empty one may have a null pointer.
    unsafe {
        match usize::try_from((*list).cnt) {
            Ok(count) if count > 0 => slice::from_raw_parts((*list).elems, count),
            _ => &[],
        }
    }
}
