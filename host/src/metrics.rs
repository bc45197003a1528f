//! Every metric: its name, unit and meaning in one place. Prometheus text format, served at `/metrics`.

use std::sync::Mutex;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Labels of what belongs to a topic.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct TopicLabels {
    /// Name of the pipeline.
    pub pipeline: String,
    /// Name of the topic.
    pub topic: String,
}

/// Labels of what belongs to a partition of a topic.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct PartitionLabels {
    /// Name of the pipeline.
    pub pipeline: String,
    /// Name of the topic.
    pub topic: String,
    /// Number of the partition.
    pub partition: u32,
}

/// Labels of what belongs to a transform.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct TransformLabels {
    /// Name of the pipeline.
    pub pipeline: String,
    /// Name of the transform.
    pub transform: String,
}

/// Labels of what belongs to a task.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct TaskLabels {
    /// Name of the pipeline.
    pub pipeline: String,
    /// Partition number of the task.
    pub task: u32,
}

/// Labels of the process.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct BuildLabels {
    version: &'static str,
}

/// Labels of what belongs to a pipeline.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct PipelineLabels {
    /// Name of the pipeline.
    pub pipeline: String,
}

type HistogramFamily<L> = Family<L, Histogram, fn() -> Histogram>;

/// All metrics of a node.
pub struct Metrics {
    registry: Mutex<Registry>,
    /// `sluicegate_records_in_total`.
    pub records_in: Family<TopicLabels, Counter>,
    /// `sluicegate_records_out_total`.
    pub records_out: Family<TopicLabels, Counter>,
    /// `sluicegate_records_rejected_total`.
    pub records_rejected: Family<TransformLabels, Counter>,
    /// `sluicegate_records_failed_total`.
    pub records_failed: Family<TransformLabels, Counter>,
    /// `sluicegate_guest_failures_total`.
    pub guest_failures: Family<TransformLabels, Counter>,
    /// `sluicegate_dead_letters_total`.
    pub dead_letters: Family<TransformLabels, Counter>,
    /// `sluicegate_batch_duration_seconds`.
    pub batch_duration: HistogramFamily<TransformLabels>,
    /// `sluicegate_guest_retries_total`.
    pub guest_retries: Family<TransformLabels, Counter>,
    /// `sluicegate_guest_memory_bytes`.
    pub guest_memory: Family<TaskLabels, Gauge>,
    /// `sluicegate_lag_records`.
    pub lag: Family<PartitionLabels, Gauge>,
    /// `sluicegate_commit_duration_seconds`.
    pub commit_duration: HistogramFamily<PipelineLabels>,
    /// `sluicegate_commit_delay_seconds_total`.
    pub commit_delay: Family<PipelineLabels, Counter<f64, std::sync::atomic::AtomicU64>>,
    /// `sluicegate_commit_held_up_seconds_total`.
    pub commit_held_up: Family<PipelineLabels, Counter<f64, std::sync::atomic::AtomicU64>>,
    /// `sluicegate_commit_waits_total`.
    pub commit_waits: Family<PipelineLabels, Counter>,
    /// `sluicegate_transactions_aborted_total`.
    pub transactions_aborted: Family<PipelineLabels, Counter>,
    /// `sluicegate_checkpoint_bytes_total`.
    pub checkpoint_bytes: Family<PipelineLabels, Counter>,
    /// `sluicegate_state_keys`.
    pub state_keys: Family<TaskLabels, Gauge>,
    /// `sluicegate_state_bytes`.
    pub state_bytes: Family<TaskLabels, Gauge>,
    /// `sluicegate_state_chunks`.
    pub state_chunks: Family<TaskLabels, Gauge>,
    /// `sluicegate_last_commit_timestamp_seconds`.
    pub last_commit: Family<PipelineLabels, Gauge<f64, std::sync::atomic::AtomicU64>>,
    /// `sluicegate_rebalances_total`.
    pub rebalances: Family<PipelineLabels, Counter>,
    /// `sluicegate_restore_duration_seconds`.
    pub restore_duration: HistogramFamily<PipelineLabels>,
    /// `sluicegate_tasks_assigned`.
    pub tasks_assigned: Family<PipelineLabels, Gauge>,
    /// `sluicegate_tasks_running`.
    pub tasks_running: Family<PipelineLabels, Gauge>,
    /// `sluicegate_pipeline_failed`.
    pub pipeline_failed: Family<PipelineLabels, Gauge>,
}

fn batch_buckets() -> Histogram {
    // 10 µs to 10 s.
    Histogram::new(exponential_buckets(10e-6, 10f64.sqrt(), 13))
}

fn commit_buckets() -> Histogram {
    // 1 ms to 10 s.
    Histogram::new(exponential_buckets(1e-3, 10f64.sqrt(), 9))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("sluicegate");
        let metrics = Self {
            registry: Mutex::default(),
            records_in: Family::default(),
            records_out: Family::default(),
            records_rejected: Family::default(),
            records_failed: Family::default(),
            guest_failures: Family::default(),
            dead_letters: Family::default(),
            batch_duration: Family::new_with_constructor(batch_buckets),
            guest_retries: Family::default(),
            guest_memory: Family::default(),
            lag: Family::default(),
            commit_duration: Family::new_with_constructor(commit_buckets),
            commit_delay: Family::default(),
            commit_held_up: Family::default(),
            commit_waits: Family::default(),
            transactions_aborted: Family::default(),
            checkpoint_bytes: Family::default(),
            state_keys: Family::default(),
            state_bytes: Family::default(),
            state_chunks: Family::default(),
            last_commit: Family::default(),
            rebalances: Family::default(),
            restore_duration: Family::new_with_constructor(commit_buckets),
            tasks_assigned: Family::default(),
            tasks_running: Family::default(),
            pipeline_failed: Family::default(),
        };
        registry.register("records_in", "Records taken from source topics", metrics.records_in.clone());
        registry.register("records_out", "Records sent to sink topics", metrics.records_out.clone());
        registry.register("records_rejected", "Records that a transform rejected", metrics.records_rejected.clone());
        let failed = "Records that a transform fails on, or whose output Kafka refuses";
        registry.register("records_failed", failed, metrics.records_failed.clone());
        let failures = "Calls into a plugin that failed: traps, deadlines, limits";
        registry.register("guest_failures", failures, metrics.guest_failures.clone());
        let letters = "Records put into the dead-letter topic, also those of transactions that were aborted later";
        registry.register("dead_letters", letters, metrics.dead_letters.clone());
        let batch = "Time that a transform took for a batch";
        registry.register_with_unit("batch_duration", batch, Unit::Seconds, metrics.batch_duration.clone());
        let retries = "Times that a task went back to its last commit because a plugin asked for patience";
        registry.register("guest_retries", retries, metrics.guest_retries.clone());
        let memory = "Linear memory of a task's plugin instances";
        registry.register_with_unit("guest_memory", memory, Unit::Bytes, metrics.guest_memory.clone());
        registry.register("lag_records", "Records behind the end of a source partition", metrics.lag.clone());
        let commit = "Time from the beginning of a commit to its end";
        registry.register_with_unit("commit_duration", commit, Unit::Seconds, metrics.commit_duration.clone());
        let delay = "Time that commits were delayed beyond the interval to keep to the metadata store's byte budget";
        registry.register_with_unit("commit_delay", delay, Unit::Seconds, metrics.commit_delay.clone());
        let held_up = "Time that worker threads with records to process spent on commits instead";
        registry.register_with_unit("commit_held_up", held_up, Unit::Seconds, metrics.commit_held_up.clone());
        let waits = "Times that a commit had to wait for Kafka or the metadata store";
        registry.register("commit_waits", waits, metrics.commit_waits.clone());
        let aborted = "Transactions that did not end with a commit, whose records were processed again";
        registry.register("transactions_aborted", aborted, metrics.transactions_aborted.clone());
        let checkpoint = "Bytes of state and heads written to the metadata store";
        registry.register_with_unit("checkpoint", checkpoint, Unit::Bytes, metrics.checkpoint_bytes.clone());
        registry.register("state_keys", "Entries of a task's state", metrics.state_keys.clone());
        registry.register_with_unit(
            "state",
            "Keys and values of a task's state",
            Unit::Bytes,
            metrics.state_bytes.clone(),
        );
        registry.register("state_chunks", "Chunks that hold a task's state", metrics.state_chunks.clone());
        let last = "When a thread of this node ended a commit last, in seconds since 1970";
        registry.register_with_unit("last_commit_timestamp", last, Unit::Seconds, metrics.last_commit.clone());
        registry.register(
            "rebalances",
            "Times that the group took partitions away or gave some",
            metrics.rebalances.clone(),
        );
        let restore = "Time from the assignment of a task to its first record";
        registry.register_with_unit("restore_duration", restore, Unit::Seconds, metrics.restore_duration.clone());
        let build = Family::<BuildLabels, Gauge>::default();
        build.get_or_create(&BuildLabels { version: env!("CARGO_PKG_VERSION") }).set(1);
        registry.register("build", "1, with the version of this process", build);
        registry.register("tasks_assigned", "Tasks that Kafka assigned to this node", metrics.tasks_assigned.clone());
        registry.register("tasks_running", "Tasks of this node that process records", metrics.tasks_running.clone());
        let failed = "1 while the pipeline has failed on this node, whether or not it is tried again";
        registry.register("pipeline_failed", failed, metrics.pipeline_failed.clone());
        Self { registry: Mutex::new(registry), ..metrics }
    }
}

impl Metrics {
    /// Everything in the Prometheus text format.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        encode(&mut text, &registry).expect("writing into memory cannot fail");
        text
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::hash::Hash;

    use prometheus_client::metrics::family::MetricConstructor;

    use super::*;

    #[test]
    fn metrics_are_rendered_under_their_documented_names() {
        let metrics = Metrics::default();
        let pipeline = || "orders".to_owned();
        metrics.records_in.get_or_create(&TopicLabels { pipeline: pipeline(), topic: "t".into() }).inc_by(3);
        metrics.state_bytes.get_or_create(&TaskLabels { pipeline: pipeline(), task: 2 }).set(9);
        metrics.commit_delay.get_or_create(&PipelineLabels { pipeline: pipeline() }).inc_by(0.5);
        let text = metrics.render();
        for line in [
            "sluicegate_records_in_total{pipeline=\"orders\",topic=\"t\"} 3",
            "sluicegate_state_bytes{pipeline=\"orders\",task=\"2\"} 9",
            "sluicegate_commit_delay_seconds_total{pipeline=\"orders\"} 0.5",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }

    /// A family is served when it has a member.
    fn touch<L: Clone + Eq + Hash, M, C: MetricConstructor<M>>(family: &Family<L, M, C>, labels: &L) {
        drop(family.get_or_create(labels));
    }

    /// Every name that a node may serve, as Prometheus stores it.
    fn names() -> BTreeSet<String> {
        let metrics = Metrics::default();
        let of_topic = TopicLabels { pipeline: String::new(), topic: String::new() };
        let of_partition = PartitionLabels { pipeline: String::new(), topic: String::new(), partition: 0 };
        let of_transform = TransformLabels { pipeline: String::new(), transform: String::new() };
        let of_task = TaskLabels { pipeline: String::new(), task: 0 };
        let of_pipeline = PipelineLabels { pipeline: String::new() };
        // All of them by name: one that is new is missing here until it is added.
        let Metrics {
            registry: _,
            records_in,
            records_out,
            records_rejected,
            records_failed,
            guest_failures,
            dead_letters,
            batch_duration,
            guest_retries,
            guest_memory,
            lag,
            commit_duration,
            commit_delay,
            commit_held_up,
            commit_waits,
            transactions_aborted,
            checkpoint_bytes,
            state_keys,
            state_bytes,
            state_chunks,
            last_commit,
            rebalances,
            restore_duration,
            tasks_assigned,
            tasks_running,
            pipeline_failed,
        } = &metrics;
        [records_in, records_out].into_iter().for_each(|family| touch(family, &of_topic));
        let each = [records_rejected, records_failed, guest_failures, dead_letters, guest_retries];
        each.into_iter().for_each(|family| touch(family, &of_transform));
        let each = [guest_memory, state_keys, state_bytes, state_chunks];
        each.into_iter().for_each(|family| touch(family, &of_task));
        let each = [commit_waits, transactions_aborted, checkpoint_bytes, rebalances];
        each.into_iter().for_each(|family| touch(family, &of_pipeline));
        [commit_delay, commit_held_up].into_iter().for_each(|family| touch(family, &of_pipeline));
        [tasks_assigned, tasks_running, pipeline_failed].into_iter().for_each(|family| touch(family, &of_pipeline));
        [commit_duration, restore_duration].into_iter().for_each(|family| touch(family, &of_pipeline));
        touch(lag, &of_partition);
        touch(batch_duration, &of_transform);
        touch(last_commit, &of_pipeline);
        let text = metrics.render();
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples.filter_map(|line| line.split(['{', ' ']).next()).map(str::to_owned).collect()
    }

    /// Words that begin like one of the names.
    fn mentioned(text: &str) -> BTreeSet<&str> {
        let words = text.split(|c: char| !c.is_ascii_lowercase() && c != '_');
        words.filter(|word| word.starts_with("sluicegate_")).collect()
    }

    fn file(path: &str) -> String {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    #[test]
    fn dashboard_and_alerts_name_metrics_that_exist() {
        let names = names();
        for path in ["deploy/grafana-dashboard.json", "deploy/prometheus-rules.yml"] {
            let text = file(path);
            let unknown: Vec<&str> = mentioned(&text).into_iter().filter(|name| !names.contains(*name)).collect();
            assert_eq!(unknown, [""; 0], "in {path}, of {names:?}");
            assert!(mentioned(&text).len() > 5, "{path} names no metrics");
        }
        serde_json::from_str::<serde_json::Value>(&file("deploy/grafana-dashboard.json")).unwrap();
    }

    #[test]
    fn the_page_for_operators_has_every_metric_and_no_other() {
        let parts = ["_bucket", "_sum", "_count"];
        let whole = |name: &str| parts.iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name).to_owned();
        let names: BTreeSet<String> = names().iter().map(|name| whole(name)).collect();
        let page = file("docs/operating.md");
        let documented: BTreeSet<String> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `sluicegate_"))
            .filter_map(|rest| rest.split('`').next())
            .map(|name| format!("sluicegate_{name}"))
            .collect();
        assert_eq!(documented, names);
    }

    #[test]
    fn every_alert_has_a_section_that_says_what_to_do() {
        let (rules, page) = (file("deploy/prometheus-rules.yml"), file("docs/operating.md"));
        let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
        assert!(alerts.len() > 5);
        for alert in alerts {
            assert!(page.contains(&format!("\n### {alert}\n")), "{alert} has no section");
            let anchor = format!("runbook: docs/operating.md#{}\n", alert.to_lowercase());
            assert!(rules.contains(&anchor), "{alert} does not name its section");
        }
    }
}
