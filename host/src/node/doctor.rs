//! Looks whether everything is there that a cluster, and a pipeline on it, need.
//!
//! What is asked and tried stands here, in `folders` and `recorded`, and in the modules of the services; what to think of
//! servers is pure, in `kafka` and `zookeeper`. Invariant: nothing that it makes stays, but that Kafka remembers a transactional id for a while.

mod finding;
mod folders;
mod kafka;
mod recorded;
mod zookeeper;

use std::sync::Arc;

pub use self::finding::{Finding, Level};
use self::kafka::Needs;
use super::load::{group, kafka_settings};
use super::store;
use crate::config::{self, Cluster, Guarantee, Pipeline};
use crate::kafka::settings::KafkaSettings;
use crate::kafka::survey::{Questions, Survey, survey, try_transactions};
use crate::meta::zookeeper::ZooKeeper;
use crate::meta::{Coordination as _, MetaStore};

/// Looks at everything. An outage of one service does not hide what is to be said of the others.
pub async fn examine(cluster: &Cluster, pipeline: Option<&Pipeline>) -> Vec<Finding> {
    let (mut of_store, session) = match &cluster.zookeeper {
        Some(ensemble) => ask_zookeeper(ensemble).await,
        None => {
            let advice = "let this user write there, or name another folder with --local-path";
            (vec![folders::examine("local store", &cluster.local_path, advice)], None)
        }
    };
    let store = session.clone().map(|session| session as Arc<dyn MetaStore>);
    let mut record = None;
    if let Some(pipeline) = pipeline {
        if let Some(store) = &store {
            match recorded::record(&**store, pipeline).await {
                Ok(found) => record = found,
                Err(error) => of_store.push(Finding::problem("pipeline", error.to_string())),
            }
        }
        of_store.extend(recorded::plugins(store.as_ref(), pipeline, &cluster.trusted_keys).await);
    }
    if let Some(session) = session {
        session.close().await;
    }
    let needs = pipeline.map(|pipeline| {
        let incarnation = record.as_ref().map_or(1, |record| record.incarnation);
        let group = group(cluster, pipeline.name.as_str(), incarnation);
        Needs::new(pipeline, group, record.map(|record| record.specification.partitions))
    });
    let mut findings = ask_kafka(cluster, pipeline, needs).await;
    findings.append(&mut of_store);
    let advice = "let this user write there, or name another folder with --cache-path";
    findings.push(folders::examine("plugin cache", &cluster.cache_path, advice));
    findings
}

/// What is to be said of it, and a session for what else is asked of it.
async fn ask_zookeeper(ensemble: &config::ZooKeeper) -> (Vec<Finding>, Option<Arc<ZooKeeper>>) {
    let judge = |found| zookeeper::judge(&ensemble.connect, ensemble.session_timeout, found);
    match ZooKeeper::connect(store::options(ensemble)).await {
        Ok(session) => (judge(&session.examine().await), Some(Arc::new(session))),
        Err(error) => (judge(&Err(error)), None),
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
