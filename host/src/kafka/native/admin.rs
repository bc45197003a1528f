//! Questions about brokers, topics and groups, with what this user may do with each: rdkafka's admin client does not ask
//! for that.

use std::ffi::{CString, c_char};
use std::ptr::NonNull;
use std::slice;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka_sys as sys;
use sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;

use super::{Queue, lossy, milliseconds};
use crate::kafka::context::Context;

/// Longer than the request may take: librdkafka answers by then.
const ANSWER_SLACK: Duration = Duration::from_secs(1);
/// Pause before a coordinator that is not there yet is asked again.
const COORDINATOR_PAUSE: Duration = Duration::from_millis(100);

/// What a user may do with a topic or a group, as far as it matters here.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Rights {
    /// `Read`.
    pub read: bool,
    /// `Write`.
    pub write: bool,
}

/// A consumer group as brokers describe it.
pub(in crate::kafka) struct GroupDescription {
    pub(in crate::kafka) members: usize,
    /// `None` when the broker does not say.
    pub(in crate::kafka) rights: Option<Rights>,
}

/// A topic as brokers describe it.
pub(in crate::kafka) struct TopicDescription {
    pub(in crate::kafka) name: String,
    pub(in crate::kafka) partitions: Result<Vec<Partition>, RDKafkaErrorCode>,
    /// `None` when the broker does not say.
    pub(in crate::kafka) rights: Option<Rights>,
}

/// A partition as brokers describe it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Partition {
    /// Whether a broker leads it.
    pub has_leader: bool,
    /// Brokers that have it.
    pub replicas: usize,
    /// Brokers that have all of it.
    pub in_sync: usize,
}

/// Asks on behalf of a client, which it borrows.
pub(in crate::kafka) struct Admin<'c> {
    client: NonNull<sys::rd_kafka_t>,
    queue: Queue,
    _client: std::marker::PhantomData<&'c BaseConsumer<Context>>,
}

/// An answer.
struct Event(NonNull<sys::rd_kafka_event_t>);

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: came out of a queue, and is destroyed once.
        unsafe { sys::rd_kafka_event_destroy(self.0.as_ptr()) }
    }
}

struct Options(NonNull<sys::rd_kafka_AdminOptions_t>);

impl Drop for Options {
    fn drop(&mut self) {
        // SAFETY: made by rd_kafka_AdminOptions_new, destroyed once.
        unsafe { sys::rd_kafka_AdminOptions_destroy(self.0.as_ptr()) }
    }
}

impl<'c> Admin<'c> {
    pub(in crate::kafka) fn new(client: &'c BaseConsumer<Context>) -> Self {
        let client = NonNull::new(client.client().native_ptr()).expect("a client that was made is not null");
        // SAFETY: the client is borrowed for as long as this lives, and so outlives the queue.
        let queue = unsafe { Queue::new(client.as_ptr()) };
        Self { client, queue, _client: std::marker::PhantomData }
    }

    /// The brokers, as `host:port`.
    pub(in crate::kafka) fn brokers(&self, wait: Duration) -> Result<Vec<String>, RDKafkaErrorCode> {
        let event =
            self.ask(sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECLUSTER, wait, |client, options, queue| {
                // SAFETY: all three are alive; librdkafka copies the options.
                unsafe { sys::rd_kafka_DescribeCluster(client, options, queue) }
            })?;
        // SAFETY: the result and what it lists belong to the event, which lives until the end of the scope; a node's host
        // ends with a NUL.
        unsafe {
            let result = sys::rd_kafka_event_DescribeCluster_result(event.0.as_ptr());
            if result.is_null() {
                return Err(RDKafkaErrorCode::BadMessage);
            }
            let nodes = list(|count| sys::rd_kafka_DescribeCluster_result_nodes(result, count));
            let broker = |&node| format!("{}:{}", lossy(sys::rd_kafka_Node_host(node)), sys::rd_kafka_Node_port(node));
            Ok(nodes.iter().map(broker).collect())
        }
    }

    /// Topics by name, in the order of the answer.
    pub(in crate::kafka) fn topics(
        &self,
        names: &[String],
        wait: Duration,
    ) -> Result<Vec<TopicDescription>, RDKafkaErrorCode> {
        let names = c_strings(names)?;
        let event =
            self.ask(sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS, wait, |client, options, queue| {
                let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
                // SAFETY: all are alive, and librdkafka copies names and options; the collection is destroyed once.
                unsafe {
                    let collection =
                        sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
                    sys::rd_kafka_DescribeTopics(client, collection, options, queue);
                    sys::rd_kafka_TopicCollection_destroy(collection);
                }
            })?;
        // SAFETY: the result and what it lists belong to the event, which lives until the end of the scope.
        unsafe {
            let result = sys::rd_kafka_event_DescribeTopics_result(event.0.as_ptr());
            if result.is_null() {
                return Err(RDKafkaErrorCode::BadMessage);
            }
            let topics = list(|count| sys::rd_kafka_DescribeTopics_result_topics(result, count));
            Ok(topics.iter().map(|&topic| describe(topic)).collect())
        }
    }

    /// A consumer group, that need not exist. Waits while its coordinator is being found, or reads what it knows.
    pub(in crate::kafka) fn group(&self, name: &str, wait: Duration) -> Result<GroupDescription, RDKafkaErrorCode> {
        use RDKafkaErrorCode as Code;
        let until = Instant::now() + wait;
        loop {
            match self.describe_group(name, wait) {
                Err(Code::CoordinatorLoadInProgress | Code::CoordinatorNotAvailable | Code::NotCoordinator)
                    if Instant::now() < until =>
                {
                    std::thread::sleep(COORDINATOR_PAUSE);
                }
                answer => return answer,
            }
        }
    }

    fn describe_group(&self, name: &str, wait: Duration) -> Result<GroupDescription, RDKafkaErrorCode> {
        let names = c_strings(std::slice::from_ref(&name))?;
        let operation = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS;
        let event = self.ask(operation, wait, |client, options, queue| {
            let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
            // SAFETY: all are alive, and librdkafka copies names and options.
            unsafe {
                sys::rd_kafka_DescribeConsumerGroups(client, pointers.as_mut_ptr(), pointers.len(), options, queue);
            }
        })?;
        // SAFETY: the result and what it lists belong to the event, which lives until the end of the scope.
        unsafe {
            let result = sys::rd_kafka_event_DescribeConsumerGroups_result(event.0.as_ptr());
            if result.is_null() {
                return Err(RDKafkaErrorCode::BadMessage);
            }
            let groups = list(|count| sys::rd_kafka_DescribeConsumerGroups_result_groups(result, count));
            let nobody = GroupDescription { members: 0, rights: None };
            let Some(&group) = groups.first() else { return Ok(nobody) };
            match check(sys::rd_kafka_ConsumerGroupDescription_error(group)) {
                Err(RDKafkaErrorCode::GroupIdNotFound) => return Ok(nobody),
                checked => checked?,
            }
            let operations = |count| sys::rd_kafka_ConsumerGroupDescription_authorized_operations(group, count);
            let members = sys::rd_kafka_ConsumerGroupDescription_member_count(group);
            Ok(GroupDescription { members, rights: rights(operations) })
        }
    }

    /// Makes a request and waits for its answer.
    fn ask(
        &self,
        operation: sys::rd_kafka_admin_op_t,
        wait: Duration,
        send: impl FnOnce(*mut sys::rd_kafka_t, *const sys::rd_kafka_AdminOptions_t, *mut sys::rd_kafka_queue_t),
    ) -> Result<Event, RDKafkaErrorCode> {
        let (client, queue) = (self.client.as_ptr(), self.queue.0.as_ptr());
        // SAFETY: the client is alive; both setters take a buffer for an error or give back one, which is destroyed.
        let options = unsafe {
            let options = NonNull::new(sys::rd_kafka_AdminOptions_new(client, operation));
            let options = Options(options.expect("librdkafka aborts when out of memory"));
            let mut reason = [0; 256];
            let wait_ms = milliseconds(wait);
            sys::rd_kafka_AdminOptions_set_request_timeout(
                options.0.as_ptr(),
                wait_ms,
                reason.as_mut_ptr(),
                reason.len(),
            );
            let error = sys::rd_kafka_AdminOptions_set_include_authorized_operations(options.0.as_ptr(), 1);
            if !error.is_null() {
                sys::rd_kafka_error_destroy(error);
            }
            options
        };
        send(client, options.0.as_ptr(), queue);
        // SAFETY: the queue is alive; an event that comes out of it is ours.
        let event = unsafe { sys::rd_kafka_queue_poll(queue, milliseconds(wait + ANSWER_SLACK)) };
        let event = Event(NonNull::new(event).ok_or(RDKafkaErrorCode::OperationTimedOut)?);
        // SAFETY: the event is alive.
        match unsafe { sys::rd_kafka_event_error(event.0.as_ptr()) } {
            RD_KAFKA_RESP_ERR_NO_ERROR => Ok(event),
            code => Err(code.into()),
        }
    }
}

/// `topic` is alive.
unsafe fn describe(topic: *const sys::rd_kafka_TopicDescription_t) -> TopicDescription {
    // SAFETY: what it lists belongs to the topic; a node that there is none of is null.
    unsafe {
        let partitions = check(sys::rd_kafka_TopicDescription_error(topic)).map(|()| {
            let partitions = list(|count| sys::rd_kafka_TopicDescription_partitions(topic, count));
            let partition = |&partition| {
                let leader = sys::rd_kafka_TopicPartitionInfo_leader(partition);
                Partition {
                    has_leader: !leader.is_null() && sys::rd_kafka_Node_id(leader) >= 0,
                    replicas: list(|count| sys::rd_kafka_TopicPartitionInfo_replicas(partition, count)).len(),
                    in_sync: list(|count| sys::rd_kafka_TopicPartitionInfo_isr(partition, count)).len(),
                }
            };
            partitions.iter().map(partition).collect()
        });
        TopicDescription {
            name: lossy(sys::rd_kafka_TopicDescription_name(topic)),
            partitions,
            rights: rights(|count| sys::rd_kafka_TopicDescription_authorized_operations(topic, count)),
        }
    }
}

/// What `ask` lists; it must be alive as long as the slice is used.
unsafe fn list<'a, T>(ask: impl FnOnce(*mut usize) -> *mut *const T) -> &'a [*const T] {
    let mut count = 0;
    let first = ask(&raw mut count);
    // SAFETY: librdkafka says how many there are.
    if first.is_null() || count == 0 { &[] } else { unsafe { slice::from_raw_parts(first, count) } }
}

/// The operations that `ask` lists, of which Kafka lists none when it does not say: whoever sees a thing may describe it.
unsafe fn rights(ask: impl FnOnce(*mut usize) -> *const sys::rd_kafka_AclOperation_t) -> Option<Rights> {
    use sys::rd_kafka_AclOperation_t as Operation;
    let mut count = 0;
    // As numbers: a broker may know operations that the enumeration does not.
    let first = ask(&raw mut count).cast::<u32>();
    if first.is_null() || count == 0 {
        return None;
    }
    // SAFETY: librdkafka says how many there are.
    let operations = unsafe { slice::from_raw_parts(first, count) };
    let has = |operation: Operation| operations.contains(&(operation as u32));
    let all = has(Operation::RD_KAFKA_ACL_OPERATION_ALL);
    Some(Rights {
        read: all || has(Operation::RD_KAFKA_ACL_OPERATION_READ),
        write: all || has(Operation::RD_KAFKA_ACL_OPERATION_WRITE),
    })
}

/// `error` is alive, or null.
unsafe fn check(error: *const sys::rd_kafka_error_t) -> Result<(), RDKafkaErrorCode> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: as the caller says.
    match unsafe { sys::rd_kafka_error_code(error) } {
        RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        code => Err(code.into()),
    }
}

fn c_strings(names: &[impl AsRef<str>]) -> Result<Vec<CString>, RDKafkaErrorCode> {
    names.iter().map(|name| CString::new(name.as_ref()).map_err(|_| RDKafkaErrorCode::InvalidArgument)).collect()
}
