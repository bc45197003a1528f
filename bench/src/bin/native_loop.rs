//! The baseline: what the plugins do, natively, in the tightest loop that librdkafka allows.
//!
//! Consumes in batches, keeps keys and timestamps, produces idempotently to the partition that Kafka's own client would choose,
//! flushes and commits every second. Nothing is allocated for a record. The settings of librdkafka are those of Sluicegate. What it
//! leaves out: headers, the group's membership, state that survives it, errors that are told apart. Ends when its standard
//! input does.
#![expect(unsafe_code, reason = "the baseline calls librdkafka directly")]

use std::ffi::{CStr, CString, c_char, c_void};
use std::io::{Read as _, Write as _};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use hashbrown::HashMap;
use rdkafka_sys as sys;
use sluicegate::kafka::partition;
use sys::rd_kafka_resp_err_t::{RD_KAFKA_RESP_ERR__QUEUE_FULL, RD_KAFKA_RESP_ERR_NO_ERROR};
use sys::rd_kafka_vtype_t as vtype;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PARTITIONS_MAX: usize = 64;

/// As in `host/src/kafka/settings.rs`.
const CONSUMER: &[(&str, &str)] = &[
    ("fetch.queue.backoff.ms", "1"),
    ("fetch.message.max.bytes", "4194304"),
    ("fetch.wait.max.ms", "100"),
    ("queued.max.messages.kbytes", "65536"),
    ("queued.min.messages", "100000"),
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("auto.offset.reset", "earliest"),
    ("isolation.level", "read_committed"),
];
const PRODUCER: &[(&str, &str)] = &[
    ("linger.ms", "5"),
    ("batch.size", "1000000"),
    ("batch.num.messages", "10000"),
    ("queue.buffering.max.messages", "500000"),
    ("queue.buffering.max.kbytes", "131072"),
    ("enable.idempotence", "true"),
    ("acks", "all"),
    ("message.timeout.ms", "0"),
    ("delivery.report.only.error", "true"),
];

/// The tightest native loop on librdkafka
#[derive(Clone, Parser)]
struct Arguments {
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    group: String,
    #[arg(long)]
    source: String,
    #[arg(long)]
    sink: String,
    /// Partitions of source and sink
    #[arg(long)]
    partitions: i32,
    #[arg(long, value_enum)]
    work: Work,
    /// Threads, each with a consumer and a producer
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Most records taken at once
    #[arg(long, default_value_t = 1000)]
    batch: usize,
    /// Time between commits
    #[arg(long, default_value_t = 1000)]
    commit_interval_ms: u64,
    /// Outputs and offsets in transactions, with ids that begin with the group's name
    #[arg(long)]
    transactions: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Work {
    ValueLength,
    KeyedCount,
}

fn main() {
    let arguments = Arguments::parse();
    // A thread that fails must not leave the others running.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
    let stop = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..arguments.threads)
        .map(|number| {
            // Each thread has its partitions from the start: nothing moves.
            let partitions =
                (0..arguments.partitions).filter(|one| *one as usize % arguments.threads == number).collect();
            let (arguments, stop) = (arguments.clone(), Arc::clone(&stop));
            let name = format!("loop-{number}");
            std::thread::Builder::new()
                .name(name)
                .spawn(move || Loop::new(&arguments, number, partitions).run(&stop))
                .expect("threads start")
        })
        .collect();
    std::io::stdin().read_to_end(&mut Vec::new()).expect("standard input can be read");
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().expect("the loop does not panic");
    }
}

/// A client with these properties; a fault in them is a fault of this file.
fn client(kind: sys::rd_kafka_type_t, bootstrap: &str, own: &[(&str, &str)]) -> *mut sys::rd_kafka_t {
    let mut error = [0 as c_char; 512];
    // SAFETY: every text ends with a NUL and outlives its call; the configuration becomes the client's.
    unsafe {
        let configuration = sys::rd_kafka_conf_new();
        for (key, value) in [("bootstrap.servers", bootstrap)].iter().chain(own) {
            let (key, value) = (CString::new(*key).expect("no NUL"), CString::new(*value).expect("no NUL"));
            sys::rd_kafka_conf_set(configuration, key.as_ptr(), value.as_ptr(), error.as_mut_ptr(), error.len());
        }
        if matches!(kind, sys::rd_kafka_type_t::RD_KAFKA_PRODUCER) {
            sys::rd_kafka_conf_set_dr_msg_cb(configuration, Some(not_delivered));
        }
        let client = sys::rd_kafka_new(kind, configuration, error.as_mut_ptr(), error.len());
        assert!(!client.is_null(), "{}", CStr::from_ptr(error.as_ptr()).to_string_lossy());
        client
    }
}

/// A call about a transaction that fails is a fault of this file.
fn check(error: *mut sys::rd_kafka_error_t) {
    if !error.is_null() {
        // SAFETY: the error is alive and its text belongs to it.
        let text = unsafe { CStr::from_ptr(sys::rd_kafka_error_string(error)) };
        panic!("{}", text.to_string_lossy());
    }
}

unsafe extern "C" fn not_delivered(_: *mut sys::rd_kafka_t, _: *const sys::rd_kafka_message_t, _: *mut c_void) {
    // Only failures are reported.
    eprintln!("a record was not delivered");
    std::process::abort();
}

struct Loop {
    consumer: *mut sys::rd_kafka_t,
    queue: *mut sys::rd_kafka_queue_t,
    producer: *mut sys::rd_kafka_t,
    sink: *mut sys::rd_kafka_topic_t,
    source: CString,
    partitions: i32,
    work: Work,
    batch: usize,
    commit_interval: Duration,
    transactions: bool,
    in_transaction: bool,
    group: CString,
    next: [i64; PARTITIONS_MAX],
    value: Vec<u8>,
    counts: HashMap<Vec<u8>, u64>,
}

impl Loop {
    fn new(arguments: &Arguments, number: usize, partitions: Vec<i32>) -> Self {
        let source = CString::new(arguments.source.as_str()).expect("no NUL");
        let sink = CString::new(arguments.sink.as_str()).expect("no NUL");
        let own: Vec<_> = CONSUMER.iter().copied().chain([("group.id", arguments.group.as_str())]).collect();
        let consumer = client(sys::rd_kafka_type_t::RD_KAFKA_CONSUMER, &arguments.bootstrap, &own);
        let id = format!("{}-{number}", arguments.group);
        let own: Vec<_> = match arguments.transactions {
            true => {
                let kept = PRODUCER.iter().copied().filter(|(key, _)| *key != "message.timeout.ms");
                kept.chain([("transactional.id", &*id), ("transaction.timeout.ms", "15000")]).collect()
            }
            false => PRODUCER.to_vec(),
        };
        let producer = client(sys::rd_kafka_type_t::RD_KAFKA_PRODUCER, &arguments.bootstrap, &own);
        if arguments.transactions {
            // SAFETY: the producer is alive.
            check(unsafe { sys::rd_kafka_init_transactions(producer, 60_000) });
        }
        // SAFETY: clients and names are alive; the list is copied.
        unsafe {
            sys::rd_kafka_poll_set_consumer(consumer);
            let topics = sys::rd_kafka_topic_partition_list_new(1);
            for partition in partitions {
                let entry = sys::rd_kafka_topic_partition_list_add(topics, source.as_ptr(), partition);
                (*entry).offset = i64::from(sys::RD_KAFKA_OFFSET_BEGINNING);
            }
            assert_eq!(sys::rd_kafka_assign(consumer, topics), RD_KAFKA_RESP_ERR_NO_ERROR);
            sys::rd_kafka_topic_partition_list_destroy(topics);
            Self {
                queue: sys::rd_kafka_queue_get_consumer(consumer),
                sink: sys::rd_kafka_topic_new(producer, sink.as_ptr(), ptr::null_mut()),
                consumer,
                producer,
                source,
                partitions: arguments.partitions,
                work: arguments.work,
                batch: arguments.batch,
                commit_interval: Duration::from_millis(arguments.commit_interval_ms),
                transactions: arguments.transactions,
                in_transaction: false,
                group: CString::new(arguments.group.as_str()).expect("no NUL"),
                next: [-1; PARTITIONS_MAX],
                value: Vec::with_capacity(4096),
                counts: HashMap::new(),
            }
        }
    }

    fn run(mut self, stop: &AtomicBool) {
        let mut taken: Vec<*mut sys::rd_kafka_message_t> = Vec::with_capacity(self.batch);
        let mut committed = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            self.take(&mut taken, 50, 1);
            if !taken.is_empty() {
                self.take(&mut taken, 0, self.batch - 1);
            }
            if self.transactions && !self.in_transaction && !taken.is_empty() {
                // SAFETY: the producer is alive.
                check(unsafe { sys::rd_kafka_begin_transaction(self.producer) });
                self.in_transaction = true;
            }
            for message in taken.drain(..) {
                self.process(message);
            }
            // SAFETY: the producer is alive.
            unsafe { sys::rd_kafka_poll(self.producer, 0) };
            if committed.elapsed() >= self.commit_interval {
                self.commit();
                committed = Instant::now();
            }
        }
        self.commit();
        // SAFETY: closes the consumer; both clients end with the process.
        unsafe { sys::rd_kafka_consumer_close(self.consumer) };
    }

    fn take(&self, taken: &mut Vec<*mut sys::rd_kafka_message_t>, wait_ms: i32, count: usize) {
        let room = &mut taken.spare_capacity_mut()[..count];
        // SAFETY: librdkafka writes at most `count` pointers into the room and says how many.
        unsafe {
            let more = sys::rd_kafka_consume_batch_queue(self.queue, wait_ms, room.as_mut_ptr().cast(), count);
            taken.set_len(taken.len() + usize::try_from(more).unwrap_or(0));
        }
    }

    fn process(&mut self, message: *mut sys::rd_kafka_message_t) {
        // SAFETY: the message was taken and is destroyed once, at the end; pointers with lengths are its own.
        unsafe {
            let record = &*message;
            assert_eq!(record.err, RD_KAFKA_RESP_ERR_NO_ERROR, "the source cannot be read");
            self.next[usize::try_from(record.partition).expect("a partition")] = record.offset + 1;
            let value = std::slice::from_raw_parts(record.payload.cast::<u8>(), record.len);
            let key = std::slice::from_raw_parts(record.key.cast::<u8>(), record.key_len);
            let timestamp = sys::rd_kafka_message_timestamp(message, ptr::null_mut());
            self.value.clear();
            match self.work {
                Work::ValueLength => {
                    let text = std::str::from_utf8(value).expect("text");
                    self.value.extend_from_slice(text.as_bytes());
                    write!(self.value, ",{}", text.len()).expect("a vector takes everything");
                }
                Work::KeyedCount => {
                    let count = match self.counts.get_mut(key) {
                        Some(count) => count,
                        None => self.counts.entry(key.to_vec()).or_insert(0),
                    };
                    *count += 1;
                    write!(self.value, "{count}").expect("a vector takes everything");
                }
            }
            self.send(partition::choose(Some(key), record.partition, self.partitions), key, timestamp);
            sys::rd_kafka_message_destroy(message);
        }
    }

    fn send(&self, partition: i32, key: &[u8], timestamp: i64) {
        loop {
            // SAFETY: pairs of type and value as documented, ended by END; key and value are copied.
            let result = unsafe {
                sys::rd_kafka_producev(
                    self.producer,
                    vtype::RD_KAFKA_VTYPE_RKT,
                    self.sink,
                    vtype::RD_KAFKA_VTYPE_PARTITION,
                    partition,
                    vtype::RD_KAFKA_VTYPE_MSGFLAGS,
                    sys::RD_KAFKA_MSG_F_COPY,
                    vtype::RD_KAFKA_VTYPE_VALUE,
                    self.value.as_ptr().cast_mut().cast::<c_void>(),
                    self.value.len(),
                    vtype::RD_KAFKA_VTYPE_KEY,
                    key.as_ptr().cast_mut().cast::<c_void>(),
                    key.len(),
                    vtype::RD_KAFKA_VTYPE_TIMESTAMP,
                    timestamp,
                    vtype::RD_KAFKA_VTYPE_END,
                )
            };
            match result {
                RD_KAFKA_RESP_ERR_NO_ERROR => return,
                // SAFETY: the producer is alive.
                RD_KAFKA_RESP_ERR__QUEUE_FULL => unsafe {
                    sys::rd_kafka_poll(self.producer, 5);
                },
                other => panic!("a record was not taken: {other:?}"),
            }
        }
    }

    fn commit(&mut self) {
        // SAFETY: clients, names and the list are alive; the list is destroyed once.
        unsafe {
            assert_eq!(sys::rd_kafka_flush(self.producer, 60_000), RD_KAFKA_RESP_ERR_NO_ERROR);
            let offsets = sys::rd_kafka_topic_partition_list_new(4);
            for (partition, next) in (0..).zip(&mut self.next) {
                if *next >= 0 {
                    let entry = sys::rd_kafka_topic_partition_list_add(offsets, self.source.as_ptr(), partition);
                    (*entry).offset = *next;
                    *next = -1;
                }
            }
            if self.in_transaction {
                // Without a membership: nothing moves here, and nobody is fenced.
                let group = sys::rd_kafka_consumer_group_metadata_new(self.group.as_ptr());
                check(sys::rd_kafka_send_offsets_to_transaction(self.producer, offsets, group, 60_000));
                sys::rd_kafka_consumer_group_metadata_destroy(group);
                check(sys::rd_kafka_commit_transaction(self.producer, 60_000));
                self.in_transaction = false;
            } else if (*offsets).cnt > 0 {
                assert_eq!(sys::rd_kafka_commit(self.consumer, offsets, 0), RD_KAFKA_RESP_ERR_NO_ERROR);
            }
            sys::rd_kafka_topic_partition_list_destroy(offsets);
        }
    }
}
