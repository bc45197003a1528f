//! What a node of a cluster runs: what is deployed, in as many threads as the leader has placed here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use super::Services;
use super::hosted::{Hosted, OnFailure, Wanted, draining};
use crate::cluster::contents::decode;
use crate::cluster::pipelines::{Desired, PipelineRecord};
use crate::cluster::placement::Placement;
use crate::cluster::watching::Watching;
use crate::meta::MetaError;
use crate::meta::layout::{self, Segment};
use crate::worker::control::Control;

/// Without a change, everything is looked at again after so long.
const LOOK: Duration = Duration::from_secs(60);
/// Pause after a failure.
const AGAIN: Duration = Duration::from_millis(500);

/// Does what is wanted until `control` drains; returns when everything is committed.
pub(super) async fn host(services: &Arc<Services>, control: &Arc<Control>) {
    let mut hosted: BTreeMap<Segment, Running> = BTreeMap::new();
    while !control.is_draining() {
        let mut watching = Watching::new(&*services.store);
        match wanted(&mut watching, services.node.as_str()).await {
            Ok(wanted) => {
                bring_about(services, control, wanted, &mut hosted);
                tokio::select! {
                    () = watching.changed(LOOK) => {}
                    () = draining(control) => {}
                }
            }
            Err(error) => {
                debug!("what is wanted cannot be read, what runs goes on: {error}");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
    for (_, running) in hosted {
        drop(running.wanted);
        if let Err(error) = running.task.await {
            warn!("a pipeline ended by a defect of sluicegate: {error}");
        }
    }
}

/// A pipeline that runs here, or did.
struct Running {
    wanted: watch::Sender<Option<Wanted>>,
    task: JoinHandle<()>,
}

async fn wanted(watching: &mut Watching<'_>, node: &str) -> Result<BTreeMap<Segment, Wanted>, MetaError> {
    let mut wanted = BTreeMap::new();
    for name in watching.children(layout::PIPELINES).await? {
        let Ok(name) = Segment::new(&name) else { continue };
        let (path, placement_path) = (layout::pipeline(&name), layout::placement(&name));
        let (record, placement) = (watching.get(&path).await?, watching.get(&placement_path).await?);
        let (Some(record), Some(placement)) = (record, placement) else { continue };
        // One that cannot be read keeps the others from nothing.
        let read = decode::<PipelineRecord>(&path, &record.data)
            .and_then(|record| Ok((record, decode::<Placement>(&placement_path, &placement.data)?)));
        match read {
            Ok((record, placement)) => {
                let threads = placement.get(node).map_or(0, |threads| *threads as usize);
                if record.desired == Desired::Running && threads > 0 {
                    wanted.insert(name, Wanted { record, threads });
                }
            }
            Err(error) => warn!("{error}"),
        }
    }
    Ok(wanted)
}

fn bring_about(
    services: &Arc<Services>,
    control: &Arc<Control>,
    mut wanted: BTreeMap<Segment, Wanted>,
    hosted: &mut BTreeMap<Segment, Running>,
) {
    for (name, running) in hosted.iter() {
        let now = wanted.get(name).cloned();
        running.wanted.send_if_modified(|before| std::mem::replace(before, now.clone()) != now);
    }
    wanted.retain(|name, _| !hosted.contains_key(name));
    for (name, now) in wanted {
        let (sender, receiver) = watch::channel(Some(now));
        let (services, control, pipeline) = (Arc::clone(services), Arc::clone(control), name.clone());
        let task = tokio::spawn(async move {
            let hosted = Hosted::new(services, &pipeline, control, receiver, OnFailure::Retry);
            if let Err(error) = hosted.run(None).await {
                warn!(pipeline = %pipeline, "{error}");
            }
        });
        hosted.insert(name, Running { wanted: sender, task });
    }
}
