//! What two versions of a transform have in common and what not, for people who are about to swap them. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use utoipa::ToSchema;

use crate::cluster::rollout::{Extent, Strategy};
use crate::manifest::{Manifest, Port, StoreDeclaration};
use crate::worker::plan::TransformPlan;

/// How a finding is meant.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Worth a thought.
    Warning,
    /// It cannot be swapped.
    Refused,
}

/// Something that was looked at.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, ToSchema)]
pub struct Finding {
    /// How it is meant.
    pub level: Level,
    /// What was looked at.
    pub subject: String,
    /// What was found.
    pub finding: String,
}

/// By store of another schema version, whether its entries can be converted, and back.
pub(super) type Ways = BTreeMap<String, (Result<(), String>, Result<(), String>)>;

/// Compares two versions that the pipeline takes, both open already.
pub(super) fn compare(before: &TransformPlan, after: &TransformPlan, ways: &Ways, no_return: bool) -> Vec<Finding> {
    let mut findings = manifests(before.plugin.manifest(), after.plugin.manifest(), ways, no_return);
    let config = match before.identity.config == after.identity.config {
        true => "the same, and accepted",
        false => "another one, and accepted",
    };
    findings.push(finding(Level::Ok, "configuration", config));
    findings
}

/// How it will be watched.
pub(super) fn strategy(strategy: &Strategy) -> Finding {
    let probation = humantime::format_duration(std::time::Duration::from_millis(strategy.probation_ms));
    let errors = f64::from(strategy.max_errors_ppm) / 1e4;
    let times = strategy.max_slowdown;
    let canary = strategy.canary.map_or_else(String::new, |share| format!("; {share} of the tasks go first"));
    let limits = format!("{probation}, at most {errors}% more errors and {times} times the time a record{canary}");
    finding(Level::Ok, "probation", limits)
}

/// What comes before, in the shadow of the version that runs. What it wants of the real world would be done twice.
pub(super) fn shadow(strategy: &Strategy, manifest: &Manifest) -> Option<Finding> {
    const SUBJECT: &str = "shadow";
    let what = match strategy.shadow? {
        Extent::Records(records) => format!("the next {records} records"),
        Extent::Time(time) => format!("the records of {}", humantime::format_duration(time)),
    };
    if !manifest.wants.is_empty() {
        let (name, version, wants) = (&manifest.name, &manifest.version, manifest.wants.join(", "));
        return Some(finding(
            Level::Refused,
            SUBJECT,
            format!("{name}@{version} wants {wants}, which would be done twice for each record: leave --shadow out"),
        ));
    }
    let limit = strategy.max_differences_ppm.map_or_else(
        || "differences are shown, and nothing more".to_owned(),
        |limit| format!("at most {}% of them different", f64::from(limit) / 1e4),
    );
    Some(finding(Level::Ok, SUBJECT, format!("{what} first; {limit}")))
}

fn manifests(before: &Manifest, after: &Manifest, ways: &Ways, no_return: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let version = |manifest: &Manifest| format!("{}@{}", manifest.name, manifest.version);
    let same_name = before.name == after.name;
    findings.push(finding(
        if same_name { Level::Ok } else { Level::Warning },
        "plugin",
        format!("{} -> {}{}", version(before), version(after), if same_name { "" } else { ": another plugin" }),
    ));
    findings.push(finding(Level::Ok, "interface", after.interface.clone()));
    findings.push(outputs(before, after));
    findings.extend(stores(before, after, ways, no_return));
    let wants: Vec<&str> = after.wants.iter().map(String::as_str).collect();
    let grants = if wants.is_empty() { "wants nothing".to_owned() } else { format!("{}: granted", wants.join(", ")) };
    findings.push(finding(Level::Ok, "grants", grants));
    findings
}

fn outputs(before: &Manifest, after: &Manifest) -> Finding {
    let names = |ports: &[Port]| ports.iter().map(|port| port.name.clone()).collect::<BTreeSet<_>>();
    let (old, new) = (names(&before.outputs), names(&after.outputs));
    let list = |names: Vec<&String>| names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let fewer: Vec<&String> = old.difference(&new).collect();
    let more: Vec<&String> = new.difference(&old).collect();
    match (fewer.is_empty(), more.is_empty()) {
        (true, true) => finding(Level::Ok, "outputs", "the same"),
        (true, false) => finding(Level::Ok, "outputs", format!("new: {}, which need not be bound", list(more))),
        (false, _) => finding(Level::Warning, "outputs", format!("gone: {}", list(fewer))),
    }
}

fn stores(before: &Manifest, after: &Manifest, ways: &Ways, no_return: bool) -> Vec<Finding> {
    let store = |manifest: &Manifest, name: &str| manifest.stores.iter().find(|store| store.name == name).cloned();
    let names: BTreeSet<&str> = before.stores.iter().chain(&after.stores).map(|store| store.name.as_str()).collect();
    let of = |name: &str| {
        let subject = format!("store `{name}`");
        match (store(before, name), store(after, name)) {
            (Some(old), Some(new)) if old.schema != new.schema => {
                let schemas = format!("schema {} -> {}", old.schema, new.schema);
                match ways.get(name) {
                    Some((Ok(()), Ok(()))) => {
                        let what = format!("{schemas}: converted beside the version that runs, and back if need be");
                        finding(Level::Ok, subject, what)
                    }
                    Some((Ok(()), Err(problem))) if no_return => {
                        let what =
                            format!("{schemas}: converted beside the version that runs, and not back: {problem}");
                        finding(Level::Warning, subject, what)
                    }
                    Some((Ok(()), Err(problem))) => {
                        let what = format!(
                            "{schemas}: there would be no way back without loss: {problem}; let its `migrate` know both ways, or swap with --no-return"
                        );
                        finding(Level::Refused, subject, what)
                    }
                    Some((Err(problem), _)) => finding(Level::Refused, subject, format!("{schemas}: {problem}")),
                    None => {
                        let what = format!("{schemas}: the entries that there are would be misread");
                        finding(Level::Refused, subject, what)
                    }
                }
            }
            (Some(old), Some(new)) => match other_format(&old, &new) {
                Some(formats) => {
                    let what =
                        format!("{formats} under schema {}: entries would be misread; raise the schema", new.schema);
                    finding(Level::Refused, subject, what)
                }
                None => finding(Level::Ok, subject, format!("schema {}, found in place", new.schema)),
            },
            (None, _) => finding(Level::Ok, subject, "new"),
            (_, None) => finding(Level::Warning, subject, "gone: its entries are kept until `sluicegate state drop`"),
        }
    };
    let mut findings: Vec<Finding> = names.into_iter().map(of).collect();
    let stateless = findings.is_empty();
    if stateless {
        findings.push(finding(Level::Ok, "state", "none"));
    }
    let is_one_way = ways.values().any(|(there, back)| there.is_ok() && back.is_err());
    let is_refused = findings.iter().any(|finding| finding.level == Level::Refused);
    if no_return && !is_one_way && !is_refused {
        let what = "there is one without loss, and --no-return would do nothing: leave it out";
        findings.push(finding(Level::Refused, "return", what));
    } else if is_one_way && !is_refused {
        let what = "none by itself: what goes wrong holds the rollout for a person to decide; the state stays as it is now until `sluicegate state drop`, and going back to it forgets what comes since";
        findings.push(finding(Level::Warning, "return", what));
    } else if !stateless && !is_refused {
        let why = match ways.is_empty() {
            true => "both versions read the same state",
            false => "both forms of the state are kept until it has passed",
        };
        findings.push(finding(Level::Ok, "return", format!("loses nothing: {why}")));
    }
    findings
}

/// What says that the same schema is written in another way.
fn other_format(old: &StoreDeclaration, new: &StoreDeclaration) -> Option<String> {
    let formats = [("keys", &old.key_format, &new.key_format), ("values", &old.value_format, &new.value_format)];
    let differs = |(_, old, new): &(_, &String, &String)| !old.is_empty() && !new.is_empty() && old != new;
    formats.into_iter().find(differs).map(|(what, old, new)| format!("{what} are `{new}`, and were `{old}`,"))
}

pub(super) fn finding(level: Level, subject: impl Into<String>, finding: impl Into<String>) -> Finding {
    Finding { level, subject: subject.into(), finding: finding.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(text: &str) -> Manifest {
        let base = serde_json::json!({ "name": "count", "version": "1.0.0", "interface": "0.1.0" });
        let mut value = base;
        let more: serde_json::Value = serde_json::from_str(text).unwrap();
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(value).unwrap()
    }

    fn found(before: &str, after: &str) -> Vec<(Level, String)> {
        found_with(before, after, &Ways::new(), false)
    }

    fn found_with(before: &str, after: &str, ways: &Ways, no_return: bool) -> Vec<(Level, String)> {
        let findings = manifests(&manifest(before), &manifest(after), ways, no_return);
        findings.into_iter().map(|it| (it.level, format!("{}: {}", it.subject, it.finding))).collect()
    }

    fn worst(before: &str, after: &str, word: &str) -> Level {
        let found = found(before, after);
        found.iter().find(|(_, text)| text.contains(word)).unwrap_or_else(|| panic!("no `{word}` in {found:?}")).0
    }

    #[test]
    fn the_same_plugin_with_a_higher_version_is_all_right() {
        let stores = r#"{ "stores": [{ "name": "counts", "schema": 1 }] }"#;
        assert!(found(stores, stores).iter().all(|(level, _)| *level == Level::Ok));
        assert_eq!(worst(stores, stores, "loses nothing"), Level::Ok);
    }

    #[test]
    fn a_state_that_is_not_converted_back_takes_a_flag_which_does_nothing_else() {
        let stores = |schema: u32| format!(r#"{{ "stores": [{{ "name": "counts", "schema": {schema} }}] }}"#);
        let ways = |back: Result<(), String>| Ways::from([("counts".to_owned(), (Ok(()), back))]);
        let one_way = ways(Err("it knows no step from 2 to 1".to_owned()));
        let found = |ways: &Ways, no_return| found_with(&stores(1), &stores(2), ways, no_return);
        let has = |found: &[(Level, String)], level: Level, words: &[&str]| {
            let it = found.iter().any(|(of, text)| *of == level && words.iter().all(|word| text.contains(word)));
            assert!(it, "no {level:?} with {words:?} in {found:?}");
        };
        let without = found(&one_way, false);
        has(&without, Level::Refused, &["store `counts`", "no step from 2 to 1", "--no-return"]);
        assert!(without.iter().all(|(_, text)| !text.contains("loses nothing")), "{without:?}");
        let with = found(&one_way, true);
        assert!(with.iter().all(|(level, _)| *level != Level::Refused), "{with:?}");
        has(&with, Level::Warning, &["store `counts`", "and not back"]);
        has(&with, Level::Warning, &["return: none by itself", "state drop"]);
        has(&found(&ways(Ok(())), true), Level::Refused, &["return", "leave it out"]);
        has(&found_with("{}", "{}", &Ways::new(), true), Level::Refused, &["return", "leave it out"]);
        has(&found(&ways(Ok(())), false), Level::Ok, &["return: loses nothing"]);
    }

    #[test]
    fn other_stores_are_refused_and_fewer_outputs_are_a_warning() {
        let stores = |schema: u32| format!(r#"{{ "stores": [{{ "name": "counts", "schema": {schema} }}] }}"#);
        assert_eq!(worst(&stores(1), &stores(2), "schema 1 -> 2"), Level::Refused);
        let typed = |format: &str| {
            format!(r#"{{ "stores": [{{ "name": "counts", "schema": 1, "value-format": "{format}" }}] }}"#)
        };
        assert_eq!(worst(&typed("postcard:u64"), &typed("json"), "raise the schema"), Level::Refused);
        assert_eq!(worst("{}", &stores(1), "new"), Level::Ok);
        assert_eq!(worst(&stores(1), "{}", "gone"), Level::Warning);
        let outputs = r#"{ "outputs": [{ "name": "main" }, { "name": "late" }] }"#;
        assert_eq!(worst(outputs, "{}", "gone: `late`"), Level::Warning);
        assert_eq!(worst("{}", r#"{ "name": "other" }"#, "another plugin"), Level::Warning);
    }

    #[test]
    fn what_wants_the_real_world_has_no_shadow() {
        let strategy = Strategy {
            shadow: Some(Extent::Records(500)),
            max_differences_ppm: Some(10_000),
            ..crate::cluster::rollout::tests::rollout(None).strategy
        };
        let finding = |text: &str| shadow(&strategy, &manifest(text)).map(|it| (it.level, it.finding));
        let first = (Level::Ok, "the next 500 records first; at most 1% of them different".to_owned());
        assert_eq!(finding("{}"), Some(first));
        let (level, text) = finding(r#"{ "wants": ["clocks"] }"#).unwrap();
        assert!(
            level == Level::Refused && text.starts_with("count@1.0.0 wants clocks, which would be done twice"),
            "{text}"
        );
        assert_eq!(shadow(&Strategy { shadow: None, ..strategy.clone() }, &manifest("{}")), None);
    }
}
