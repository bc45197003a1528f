//! The metrics that a worker thread writes, looked up once.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::commit::Tasks;
use super::outbox::Outbox;
use super::plan::Plan;
use super::task::Task;
use crate::engine::Instance;
use crate::kafka::TopicPartition;
use crate::kafka::clients::Kafka;
use crate::metrics::{Metrics, PartitionLabels, PipelineLabels, TaskLabels, TopicLabels, TransformLabels};
use crate::record::Batch;

/// The metrics of one thread.
pub(super) struct Counters {
    pipeline: String,
    metrics: Arc<Metrics>,
    topics: Vec<String>,
    taken: Vec<Counter>,
    sent: Vec<Counter>,
    rejected: Vec<Counter>,
    failed: Vec<Counter>,
    failed_calls: Vec<Counter>,
    dead_letters: Vec<Counter>,
    batches: Vec<Histogram>,
    transforms: Vec<String>,
}

impl Counters {
    pub(super) fn new(plan: &Plan, metrics: &Arc<Metrics>) -> Self {
        let topic = |topic: &str| TopicLabels { pipeline: plan.pipeline.clone(), topic: topic.to_owned() };
        let transform = |name: &str| TransformLabels { pipeline: plan.pipeline.clone(), transform: name.to_owned() };
        let names: Vec<String> = plan.transforms.iter().map(|transform| transform.name.clone()).collect();
        let each = |family: &Family<TransformLabels, Counter>| {
            names.iter().map(|name| family.get_or_create_owned(&transform(name))).collect()
        };
        Self {
            taken: plan
                .sources
                .iter()
                .map(|source| metrics.records_in.get_or_create_owned(&topic(&source.topic)))
                .collect(),
            sent: plan.sinks.iter().map(|sink| metrics.records_out.get_or_create_owned(&topic(&sink.topic))).collect(),
            rejected: each(&metrics.records_rejected),
            failed: each(&metrics.records_failed),
            failed_calls: each(&metrics.guest_failures),
            dead_letters: each(&metrics.dead_letters),
            batches: names.iter().map(|name| metrics.batch_duration.get_or_create_owned(&transform(name))).collect(),
            topics: plan.sources.iter().map(|source| source.topic.clone()).collect(),
            transforms: names,
            pipeline: plan.pipeline.clone(),
            metrics: Arc::clone(metrics),
        }
    }

    pub(super) fn taken(&self, batch: &Batch) {
        for run in &batch.runs {
            self.taken[run.input as usize].inc_by(u64::from(run.count));
        }
    }

    pub(super) fn sent<K: Kafka>(&self, outbox: &mut Outbox<K>) {
        outbox.take_sent().for_each(|(sink, count)| {
            self.sent[sink].inc_by(count);
        });
    }

    pub(super) fn rejected(&self, transform: usize) -> u64 {
        self.rejected[transform].inc() + 1
    }

    pub(super) fn failed(&self, transform: usize) -> u64 {
        self.failed[transform].inc() + 1
    }

    pub(super) fn call_failed(&self, transform: usize) {
        self.failed_calls[transform].inc();
    }

    pub(super) fn dead_letters(&self, transform: usize, count: usize) {
        self.dead_letters[transform].inc_by(count as u64);
    }

    pub(super) fn processed(&self, transform: usize, time: Duration) {
        self.batches[transform].observe(time.as_secs_f64());
    }

    pub(super) fn aborted(&self) {
        let labels = PipelineLabels { pipeline: self.pipeline.clone() };
        self.metrics.transactions_aborted.get_or_create(&labels).inc();
    }

    pub(super) fn retried(&self, transform: usize) {
        let labels = TransformLabels { pipeline: self.pipeline.clone(), transform: self.transforms[transform].clone() };
        self.metrics.guest_retries.get_or_create(&labels).inc();
    }

    pub(super) fn lag(&self, lag: &[(TopicPartition, u64)]) {
        for (at, records) in lag {
            let (Some(topic), Ok(partition)) = (self.topics.get(at.input as usize), u32::try_from(at.partition)) else {
                continue;
            };
            let labels = PartitionLabels { pipeline: self.pipeline.clone(), topic: topic.clone(), partition };
            self.metrics.lag.get_or_create(&labels).set(i64::try_from(*records).unwrap_or(i64::MAX));
        }
    }

    fn labels(&self) -> PipelineLabels {
        PipelineLabels { pipeline: self.pipeline.clone() }
    }

    pub(super) fn tasks(&self, before: (usize, usize), now: (usize, usize)) {
        let change = |before: usize, now: usize| now as i64 - before as i64;
        self.metrics.tasks_assigned.get_or_create(&self.labels()).inc_by(change(before.0, now.0));
        self.metrics.tasks_running.get_or_create(&self.labels()).inc_by(change(before.1, now.1));
    }

    pub(super) fn rebalanced(&self) {
        self.metrics.rebalances.get_or_create(&self.labels()).inc();
    }

    pub(super) fn restored(&self, took: Duration) {
        self.metrics.restore_duration.get_or_create(&self.labels()).observe(took.as_secs_f64());
    }

    pub(super) fn delay(&self, delay: Duration) {
        if !delay.is_zero() {
            self.metrics.commit_delay.get_or_create(&self.labels()).inc_by(delay.as_secs_f64());
        }
    }

    pub(super) fn held_up(&self, time: Duration) {
        self.metrics.commit_held_up.get_or_create(&self.labels()).inc_by(time.as_secs_f64());
    }

    fn task_labels(&self, task: &Task) -> TaskLabels {
        TaskLabels { pipeline: self.pipeline.clone(), task: task.partition }
    }

    pub(super) fn task(&self, task: &Task) {
        let labels = self.task_labels(task);
        let set = |family: &Family<TaskLabels, Gauge>, value: u64| {
            family.get_or_create(&labels).set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&self.metrics.guest_memory, task.instances.iter().map(Instance::memory_bytes).sum());
        if let Some(durable) = &task.durable {
            set(&self.metrics.state_keys, task.state.len() as u64);
            set(&self.metrics.state_bytes, task.state.bytes());
            set(&self.metrics.state_chunks, durable.ledger.chunks() as u64);
        }
    }

    /// A task has gone elsewhere: its gauges go with it.
    pub(super) fn forget_task(&self, task: &Task) {
        let labels = self.task_labels(task);
        for family in [
            &self.metrics.guest_memory,
            &self.metrics.state_keys,
            &self.metrics.state_bytes,
            &self.metrics.state_chunks,
        ] {
            family.remove(&labels);
        }
        for topic in &self.topics {
            let (pipeline, topic) = (self.pipeline.clone(), topic.clone());
            self.metrics.lag.remove(&PartitionLabels { pipeline, topic, partition: task.partition });
        }
    }

    pub(super) fn forget(&self, tasks: &Tasks) {
        tasks.iter().flatten().for_each(|task| self.forget_task(task));
    }
}
