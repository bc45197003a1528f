//! Looks whether everything is there that a cluster, and a pipeline on it, need.
//!
//! What is asked and tried stands here and in the modules of the services; what to think of it is pure, in `kafka` and
//! `zookeeper`. Invariant: nothing that it makes stays, but that Kafka remembers a transactional id for a while.

mod finding;
mod folders;
mod kafka;
mod zookeeper;

pub use self::finding::{Finding, Level};
use self::kafka::Needs;
use super::load::{group, kafka_settings};
use super::store;
use crate::cluster::pipelines::{self, Desired, PipelineRecord};
use crate::config::{self, Cluster, Guarantee, Pipeline};
use crate::kafka::settings::KafkaSettings;
use crate::kafka::survey::{Questions, Survey, survey, try_transactions};
use crate::meta::layout::Segment;
use crate::meta::zookeeper::{Examination, ZooKeeper};
use crate::meta::{Coordination as _, MetaError};

/// Looks at everything. An outage of one service does not hide what is to be said of the others.
pub async fn examine(cluster: &Cluster, pipeline: Option<&Pipeline>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut record = None;
    let mut of_store = match &cluster.zookeeper {
        Some(ensemble) => {
            let (found, known) = ask_zookeeper(ensemble, pipeline).await;
            record = known;
            zookeeper::judge(&ensemble.connect, ensemble.session_timeout, &found)
        }
        None => {
            let advice = "let this user write there, or name another folder with --local-path";
            vec![folders::examine("local store", &cluster.local_path, advice)]
        }
    };
    let incarnation = record.as_ref().map_or(1, |record| record.incarnation);
    let needs = pipeline.map(|pipeline| {
        let group = group(cluster, pipeline.name.as_str(), incarnation);
        Needs::new(pipeline, group, record.map(|record| record.specification.partitions))
    });
    findings.extend(ask_kafka(cluster, pipeline, needs).await);
    findings.append(&mut of_store);
    let advice = "let this user write there, or name another folder with --cache-path";
    findings.push(folders::examine("plugin cache", &cluster.cache_path, advice));
    findings
}

/// What was measured, and what is recorded of the pipeline.
async fn ask_zookeeper(
    ensemble: &config::ZooKeeper,
    pipeline: Option<&Pipeline>,
) -> (Result<Examination, MetaError>, Option<PipelineRecord>) {
    let session = match ZooKeeper::connect(store::options(ensemble)).await {
        Ok(session) => session,
        Err(error) => return (Err(error), None),
    };
    let name = pipeline.and_then(|pipeline| Segment::new(pipeline.name.as_str()).ok());
    let known = match name {
        Some(name) => pipelines::read(&session, &name).await,
        None => Ok(None),
    };
    let examined = session.examine().await;
    session.close().await;
    match known {
        Ok(known) => {
            let record = known.map(|known| known.record).filter(|record| record.desired != Desired::Gone);
            (examined, record)
        }
        Err(error) => (Err(error), None),
    }
}

async fn ask_kafka(cluster: &Cluster, pipeline: Option<&Pipeline>, needs: Option<Needs>) -> Vec<Finding> {
    let settings = kafka_settings(cluster);
    let questions = needs.as_ref().map_or_else(Questions::default, |needs| Questions {
        topics: needs.topics(),
        group: Some(needs.group().to_owned()),
    });
    let transactional = pipeline.is_none_or(|pipeline| pipeline.delivery.guarantee == Guarantee::ExactlyOnce);
    // What stands behind the group's name is the name of a thread: rights are given by that prefix.
    let id = needs.as_ref().map_or_else(|| group(cluster, "doctor", 1), |needs| format!("{}/doctor", needs.group()));
    let servers = settings.common.get("bootstrap.servers").cloned().unwrap_or_default();
    let found = blocking(settings.clone(), move |settings| survey(settings, &questions)).await;
    let survey: Survey = match found {
        Ok(survey) => survey,
        Err(reason) => return vec![Finding::problem("kafka", format!("at {servers}: {reason}"))],
    };
    let mut findings = kafka::judge(&survey, needs.as_ref());
    if transactional {
        let tried = {
            let id = id.clone();
            blocking(settings, move |settings| try_transactions(settings, &id)).await
        };
        findings.push(kafka::transactions(&id, needs.is_some(), &tried));
    }
    findings
}

/// librdkafka blocks.
async fn blocking<T: Send + 'static>(
    settings: KafkaSettings,
    work: impl FnOnce(&KafkaSettings) -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(move || work(&settings)).await;
    done.map_err(|error| error.to_string())?
}
