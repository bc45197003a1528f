//! Swaps that a pipeline file does not have.
//!
//! What a rollout has changed stands in the record of its pipeline, and not in the file that the pipeline was deployed from.
//! Whoever comes with that file again takes the swaps back: `deploy` says so, and `run` refuses, because nobody may have meant it.
//! Does not look at plugins: what a file has was loaded before.

use std::fmt;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;
use tracing::warn;
use utoipa::ToSchema;

use super::NodeError;
use crate::cluster::pipelines::{self, Desired, PipelineRecord, Specification};
use crate::cluster::rollout::{Ended, Outcome, Rollout, Version};
use crate::config::{Difference, Errors, Pipeline, differences};
use crate::meta::MetaStore;
use crate::meta::layout::Segment;

/// A transform that a file takes back to what it ran before a swap.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TakenBack {
    /// Its name.
    pub transform: String,
    /// What it runs, by the record.
    pub runs: Version,
    /// Since which rollout.
    pub rollout: u64,
    /// What the file has.
    pub file: Version,
}

/// A file from before the swaps of a pipeline.
#[derive(Clone, Debug)]
pub struct FromBefore {
    pipeline: String,
    /// The one that has the swaps.
    revision: u64,
    transforms: Vec<TakenBack>,
    /// From what runs to what the file has.
    differences: Vec<Difference>,
}

impl fmt::Display for FromBefore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pipeline, revision, transforms, differences } = self;
        writeln!(f, "pipeline `{pipeline}` was changed by swaps since it was deployed, and the file is from before:")?;
        for TakenBack { transform, runs, rollout, file } in transforms {
            writeln!(f, "  transform `{transform}`: the file has {file}; since rollout {rollout} it runs {runs}")?;
            let place = place(transform);
            for difference in differences {
                let Some(key) = difference.at.strip_prefix(&place).filter(|key| key.starts_with("config.")) else {
                    continue;
                };
                let value =
                    |value: &Option<Value>| value.as_ref().map_or_else(|| "nothing".to_owned(), Value::to_string);
                writeln!(f, "    {key}: {} in the file, {} runs", value(&difference.after), value(&difference.before))?;
            }
        }
        write!(
            f,
            "`sluicegate revisions {pipeline} --show {revision} > FILE` takes what runs into the file; \
             `sluicegate deploy FILE` makes the file win, and then `sluicegate undeploy {pipeline} --keep-state` lets `run` have it"
        )
    }
}

/// Where the differences of a transform are.
fn place(transform: &str) -> String {
    format!("transform[{transform}].")
}

/// The rollouts that made the revisions since the pipeline was deployed last, the newest first. Pure.
fn swaps(revision: u64, ended: &[Ended]) -> Vec<&Rollout> {
    let mut made = revision;
    let mut swaps = Vec::new();
    for Ended { rollout, outcome, .. } in ended.iter().rev() {
        if *outcome == Outcome::Done && rollout.revision == made {
            swaps.push(rollout);
            made -= 1;
        }
    }
    swaps
}

/// The transforms that the specification takes back to a version before a swap since the last deployment. Pure.
///
/// # Errors
/// The specification has no pipeline file.
pub fn taken_back(
    known: &PipelineRecord,
    ended: &[Ended],
    specification: &Specification,
) -> Result<Vec<TakenBack>, Errors> {
    let swaps = swaps(known.revision, ended);
    let pipeline = Pipeline::parse(Path::new("recorded"), &specification.file)?;
    let mut taken = Vec::new();
    for (at, (transform, plugin)) in pipeline.transforms.iter().zip(&specification.plugins).enumerate() {
        let file = Version {
            reference: transform.plugin.to_string(),
            plugin: plugin.clone(),
            config: pipeline.config_hash(at).unwrap_or_default(),
        };
        let of: Vec<&&Rollout> = swaps.iter().filter(|swap| swap.transform == transform.name).collect();
        if let Some(last) = of.first().filter(|last| !last.to.is_same(&file))
            && of.iter().any(|swap| swap.from.is_same(&file))
        {
            let (transform, runs) = (transform.name.clone(), last.to.clone());
            taken.push(TakenBack { transform, runs, rollout: last.number, file });
        }
    }
    Ok(taken)
}

/// Refuses a file that differs from the record by nothing but swaps since the last deployment.
///
/// # Errors
/// [`NodeError::FromBefore`]; those of the store.
pub(super) async fn refuse(
    store: &dyn MetaStore,
    name: &Segment,
    specification: &Specification,
) -> Result<(), NodeError> {
    let Some(known) = pipelines::read(store, name).await?.map(|known| known.record) else { return Ok(()) };
    // What is deployed is refused for that, and what is gone begins anew.
    let goes_on = matches!(known.desired, Desired::ByItself | Desired::StateKept);
    if !goes_on || known.specification.digest == specification.digest {
        return Ok(());
    }
    let ended = pipelines::rollouts(store, name).await?;
    let transforms = taken_back(&known, &ended, specification).map_err(NodeError::Config)?;
    let differences = differences(&known.specification.canonical, &specification.canonical);
    let is_swapped = |it: &Difference| transforms.iter().any(|taken| it.at.starts_with(&place(&taken.transform)));
    if transforms.is_empty() {
        return Ok(());
    }
    if !differences.iter().all(is_swapped) {
        // Somebody has changed the file since.
        for TakenBack { transform, runs, rollout, file } in transforms {
            warn!(pipeline = %name, transform, "the file takes back the swap of rollout {rollout}: from {runs} to {file}");
        }
        return Ok(());
    }
    let pipeline = name.to_string();
    Err(NodeError::FromBefore(Box::new(FromBefore { pipeline, revision: known.revision, transforms, differences })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::rollout::tests::rollout;

    /// The pipeline with a separator for each of its transforms.
    fn specification(separators: [&str; 2], more: &str) -> Specification {
        let transform = |name: &str, separator: &str| {
            format!(
                "[[transform]]\nname = \"{name}\"\nplugin = \"value-length@0.1.0\"\nconfig = {{ separator = \"{separator}\" }}\n"
            )
        };
        let [first, second] = separators;
        let file = format!(
            "name = \"orders\"\n[[source]]\ntopic = \"in\"\n{}{}[[sink]]\ntopic = \"out\"\n{more}",
            transform("first", first),
            transform("second", second)
        );
        let pipeline = Pipeline::parse(Path::new("test"), &file).unwrap();
        let plugins = vec!["a".repeat(64), "b".repeat(64)];
        Specification {
            canonical: pipeline.canonical_json(&plugins),
            digest: pipeline.digest(&plugins),
            plugins,
            partitions: 4,
            file,
        }
    }

    fn version(specification: &Specification, at: usize) -> Version {
        let pipeline = Pipeline::parse(Path::new("test"), &specification.file).unwrap();
        Version {
            reference: pipeline.transforms[at].plugin.to_string(),
            plugin: specification.plugins[at].clone(),
            config: pipeline.config_hash(at).unwrap(),
        }
    }

    /// A swap of the transform `at` that made this revision, or came back from it.
    fn swap(revision: u64, at: usize, [before, after]: [&Specification; 2], outcome: Outcome) -> Ended {
        let rollout = Rollout {
            number: 10 + revision,
            revision,
            transform: ["first", "second"][at].to_owned(),
            from: version(before, at),
            to: version(after, at),
            ..rollout(None)
        };
        Ended { ended_at: rollout.started_at, rollout, outcome }
    }

    fn record(specification: &Specification, revision: u64) -> PipelineRecord {
        PipelineRecord { revision, ..PipelineRecord::first(specification.clone(), Desired::StateKept) }
    }

    fn taken(known: &PipelineRecord, ended: &[Ended], file: &Specification) -> Vec<(String, u64)> {
        let taken = taken_back(known, ended, file).unwrap();
        taken.into_iter().map(|taken| (taken.transform, taken.rollout)).collect()
    }

    #[test]
    fn a_file_from_before_a_swap_takes_it_back_and_one_that_has_it_or_a_third_version_does_not() {
        let [old, new] = [specification([",", ","], ""), specification([";", ","], "")];
        let known = record(&new, 4);
        let history = [swap(4, 0, [&old, &new], Outcome::Done)];
        assert_eq!(taken(&known, &history, &old), [("first".to_owned(), 14)]);
        assert_eq!(taken(&known, &history, &new), []);
        assert_eq!(taken(&known, &history, &specification(["|", ","], "")), [], "it is a change of its own");
    }

    #[test]
    fn of_several_swaps_each_transform_is_named_with_its_last_one() {
        let [a, b] = [specification([",", ","], ""), specification([";", ","], "")];
        let [c, d] = [specification([";", "|"], ""), specification(["/", "|"], "")];
        let returned = swap(5, 1, [&d, &a], Outcome::Returned);
        let history = [
            swap(2, 0, [&a, &b], Outcome::Done),
            swap(3, 1, [&b, &c], Outcome::Done),
            swap(4, 0, [&c, &d], Outcome::Done),
            returned,
        ];
        let known = record(&d, 4);
        assert_eq!(taken(&known, &history, &a), [("first".to_owned(), 14), ("second".to_owned(), 13)]);
        assert_eq!(taken(&known, &history, &b), [("first".to_owned(), 14), ("second".to_owned(), 13)]);
        assert_eq!(taken(&known, &history, &c), [("first".to_owned(), 14)]);
    }

    #[test]
    fn what_was_deployed_after_a_swap_is_what_a_file_is_compared_with() {
        let [old, new] = [specification([",", ","], ""), specification([";", ","], "")];
        let history = [swap(2, 0, [&old, &new], Outcome::Done)];
        assert_eq!(taken(&record(&new, 3), &history, &old), [], "revision 3 was deployed");
    }

    async fn refused(desired: Desired, file: &Specification) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::meta::local::LocalStore::open(dir.path()).await.unwrap();
        let name = Segment::new("orders").unwrap();
        let [old, new] = [specification([",", ","], ""), specification([";", ","], "")];
        let swap = swap(2, 0, [&old, &new], Outcome::Done).rollout;
        let swapping = PipelineRecord { rollout: Some(swap.clone()), ..record(&old, 1) };
        let swapping = pipelines::change(&store, &name, |_| Ok::<_, NodeError>(Some(swapping.clone())));
        swapping.await.unwrap();
        let ended = Rollout { candidate: new, ..swap.clone() };
        pipelines::end_rollout(&store, &name, &swap, &ended, Outcome::Done).await.unwrap();
        let wanted = |known: Option<&PipelineRecord>| {
            Ok::<_, NodeError>(known.map(|known| PipelineRecord { desired, ..known.clone() }))
        };
        pipelines::change(&store, &name, wanted).await.unwrap();
        match refuse(&store, &name, file).await {
            Ok(()) => None,
            Err(error) => {
                assert!(error.is_bad_input());
                Some(error.to_string())
            }
        }
    }

    #[tokio::test]
    async fn a_file_that_differs_by_swaps_alone_is_refused_with_the_difference_and_both_ways_on() {
        let old = specification([",", ","], "");
        let said = refused(Desired::StateKept, &old).await.unwrap();
        for part in [
            "transform `first`: the file has value-length@0.1.0 configuration ",
            "; since rollout 12 it runs value-length@0.1.0 configuration ",
            "config.separator: \",\" in the file, \";\" runs",
            "`sluicegate revisions orders --show 2 > FILE`",
            "`sluicegate deploy FILE`",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(!said.contains("second"), "{said}");
        let changed = specification([",", ","], "[delivery]\ncommit-interval = \"1s\"\n");
        assert_eq!(refused(Desired::StateKept, &changed).await, None, "it was changed on purpose");
        assert_eq!(refused(Desired::StateKept, &specification([";", ","], "")).await, None);
        assert_eq!(refused(Desired::Gone, &old).await, None, "it begins anew");
    }
}
