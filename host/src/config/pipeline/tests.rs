//! Right pipeline files and what they mean; the wrong ones are in the goldens.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::manifest::Manifest;

fn parse(text: &str) -> Pipeline {
    Pipeline::parse(Path::new("folder/pipeline.toml"), text).unwrap_or_else(|errors| panic!("{errors}"))
}

fn manifest(more: Value) -> Manifest {
    let mut json = json!({ "name": "p", "version": "0.1.0", "interface": "0.1.0" });
    json.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Manifest::parse(json.to_string().as_bytes()).unwrap()
}

fn ports(names: &[&str]) -> Value {
    names.iter().map(|name| json!({ "name": name })).collect()
}

const SMALL: &str = r#"
name = "value-length"
[[source]]
topic = "test"
[[transform]]
name = "length"
plugin = "value-length@0.1.0"
[[sink]]
topic = "lengths"
"#;

const LARGE: &str = r#"
name = "large"
source = [
    { topic = "a", start = "latest", input = "right" },
    { topic = "b", start = 2026-01-31T12:00:00Z },
]
[[transform]]
name = "join"
plugin = "../join.wasm"
config = { paths = ["x", "y"], deep = { number = 1.5, time = 2026-01-31 } }
grants = ["env:B", "clocks", "clocks"]
limits = { memory = "128MiB", state-bytes = 1048576 }
[[transform]]
name = "second"
plugin = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
[[sink]]
topic = "out"
[[sink]]
topic = "late"
transform = "join"
output = "late"
[[sink]]
topic = "tap"
transform = "join"
[[discard]]
transform = "second"
output = "rest"
[delivery]
guarantee = "at-least-once"
commit-interval = "250ms"
commit-bytes = "8MiB"
provenance-headers = true
[errors]
on-error = "skip"
give-up-after = 7
[limits]
time-per-batch = "2s"
batch-records = 500
batch-bytes = "2MiB"
"#;

#[test]
fn what_is_left_out_has_its_default() {
    let pipeline = parse(SMALL);
    assert_eq!(pipeline.name.as_str(), "value-length");
    assert_eq!(pipeline.sources, [Source { topic: "test".into(), start: Start::Earliest, input: None }]);
    assert_eq!(pipeline.sinks, [Sink { topic: "lengths".into(), transform: 0, output: None }]);
    assert_eq!(pipeline.delivery.commit_interval, Duration::from_millis(100));
    assert_eq!(pipeline.delivery.guarantee, Guarantee::ExactlyOnce);
    assert_eq!(pipeline.delivery.commit_bytes, 256 << 20);
    assert_eq!((pipeline.on_error, pipeline.give_up_after), (OnError::Stop, 100));
    assert_eq!(pipeline.batches, BatchLimits { records: 1000, bytes: 1 << 20 });
    let transform = &pipeline.transforms[0];
    assert_eq!(transform.plugin, PluginReference::Registry { name: "value-length".into(), version: "0.1.0".into() });
    assert_eq!(transform.config, json!({}));
    assert_eq!(transform.limits.memory, 64 << 20);
    assert_eq!(transform.limits.time_per_batch, Duration::from_secs(1));
}

#[test]
fn everything_that_is_written_is_read() {
    let pipeline = parse(LARGE);
    let (guarantee, commit_interval) = (Guarantee::AtLeastOnce, Duration::from_millis(250));
    assert_eq!(
        pipeline.delivery,
        Delivery { guarantee, commit_interval, commit_bytes: 8 << 20, provenance_headers: true }
    );
    assert_eq!(pipeline.sources[0].start, Start::Latest);
    assert_eq!(pipeline.sources[1].start, Start::Timestamp(1_769_860_800_000));
    let join = &pipeline.transforms[0];
    assert_eq!(join.plugin, PluginReference::Path("folder/../join.wasm".into()));
    assert_eq!(join.config, json!({ "paths": ["x", "y"], "deep": { "number": 1.5, "time": "2026-01-31" } }));
    assert_eq!(join.grants, [Grant::Clocks, Grant::Environment("B".into())]);
    assert_eq!((join.limits.memory, join.limits.state_bytes), (128 << 20, 1 << 20));
    assert_eq!(join.limits.time_per_batch, Duration::from_secs(2));
    assert_eq!(pipeline.transforms[1].limits.memory, 64 << 20);
    assert_eq!(
        pipeline.transforms[1].plugin,
        PluginReference::Digest(format!("sha256:{}", "0".repeat(64)).parse().unwrap())
    );
    let sinks: Vec<_> = pipeline.sinks.iter().map(|sink| (sink.topic.as_str(), sink.transform)).collect();
    assert_eq!(sinks, [("out", 1), ("late", 0), ("tap", 0)]);
    assert_eq!(pipeline.discards, [Discard { transform: 1, output: "rest".into() }]);
    assert_eq!((pipeline.on_error, pipeline.give_up_after), (OnError::Skip, 7));
    assert_eq!(pipeline.batches, BatchLimits { records: 500, bytes: 2 << 20 });
}

#[test]
fn a_topic_for_dead_letters_is_enough() {
    let dead = OnError::DeadLetter("dead".into());
    assert_eq!(parse(&format!("{SMALL}[errors]\ndead-letter-topic = \"dead\"\n")).on_error, dead);
    let both = "[errors]\non-error = \"dead-letter\"\ndead-letter-topic = \"dead\"\n";
    assert_eq!(parse(&format!("{SMALL}{both}")).on_error, dead);
}

#[test]
fn start_may_be_milliseconds_or_a_string() {
    for (written, expected) in [
        ("1769860800000", Start::Timestamp(1_769_860_800_000)),
        ("'2026-01-31T13:00:00+01:00'", Start::Timestamp(1_769_860_800_000)),
        ("0", Start::Timestamp(0)),
        ("'earliest'", Start::Earliest),
    ] {
        let pipeline = parse(&SMALL.replace("\"test\"", &format!("\"test\"\nstart = {written}")));
        assert_eq!(pipeline.sources[0].start, expected, "{written}");
    }
}

#[test]
fn outputs_go_on_to_sinks_and_nowhere_as_the_file_says() {
    let join = manifest(json!({
        "inputs": ports(&["left", "right"]), "outputs": ports(&["main", "late"]), "wants": ["clocks", "env:B"],
    }));
    let second =
        manifest(json!({ "outputs": [{ "name": "main" }, { "name": "rest" }, { "name": "x", "optional": true }] }));
    let bound = parse(LARGE).bind(&[join, second]).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(bound.source_inputs, [1, 0]);
    assert_eq!(bound.transforms[0].inputs, ["left", "right"]);
    let outlet = |name: &str, goes_on, sinks: &[usize]| Outlet { name: name.into(), goes_on, sinks: sinks.to_vec() };
    assert_eq!(bound.transforms[0].outlets, [outlet("main", true, &[2]), outlet("late", false, &[1])]);
    assert_eq!(
        bound.transforms[1].outlets,
        [outlet("main", false, &[0]), outlet("rest", false, &[]), outlet("x", false, &[])]
    );
    assert!(bound.transforms[1].outlets[1].is_discarded());
}

#[test]
fn a_plugin_with_dynamic_outputs_gets_every_outlet_that_is_bound() {
    let text = format!("{SMALL}output = \"anything\"\n[[sink]]\ntopic = \"rest\"\n[[discard]]\noutput = \"noise\"\n");
    let bound = parse(&text).bind(&[manifest(json!({ "dynamic-outputs": true }))]).unwrap();
    let outlets: Vec<_> =
        bound.transforms[0].outlets.iter().map(|outlet| (outlet.name.as_str(), outlet.sinks.as_slice())).collect();
    assert_eq!(outlets, [("main", &[1][..]), ("anything", &[0]), ("noise", &[])]);
}

#[test]
fn a_sink_and_a_discard_of_the_first_output_by_position_and_by_name_clash() {
    let text = format!("{SMALL}[[discard]]\noutput = \"main\"\n");
    let errors = parse(&text).bind(&[manifest(json!({}))]).unwrap_err().to_string();
    assert!(errors.contains("discarded and used"), "{errors}");
}

#[test]
fn a_plugins_complaint_is_shown_at_the_line_of_the_value() {
    let pipeline = parse(LARGE);
    let message = pipeline.config_error(0, "paths[1]", "not a JSON path").to_string();
    assert!(message.contains("folder/pipeline.toml:10:26"), "{message}");
    assert!(message.contains("^^^ not a JSON path"), "{message}");
    let message = pipeline.config_error(1, "separator", "is missing").to_string();
    assert!(message.contains("folder/pipeline.toml:13:1"), "{message}");
    let message = pipeline.plugin_error(1, "no such plugin", "push it").to_string();
    assert!(message.contains("folder/pipeline.toml:15:10"), "{message}");
}

#[test]
fn the_digest_is_that_of_the_meaning() {
    let digests = ["d".to_owned()];
    let digest = |text: &str| parse(text).digest(&digests);
    let same = "# a comment\n[delivery]\ncommit-interval = '100ms 0us'\n[limits]\nmemory = '64MiB'\n".to_owned();
    let same = SMALL.replacen("[[source]]", &format!("{same}[[source]]"), 1);
    assert_eq!(digest(SMALL), digest(&same));
    assert_ne!(digest(SMALL), digest(&SMALL.replace("lengths", "others")));
    assert_ne!(digest(SMALL), parse(SMALL).digest(&["e".to_owned()]));
    let headers = format!("{SMALL}\n[delivery]\nprovenance-headers = ");
    assert_eq!(digest(SMALL), digest(&format!("{headers}false")));
    assert_ne!(digest(SMALL), digest(&format!("{headers}true")));
    let by_path = SMALL.replace("value-length@0.1.0", "a.wasm");
    let elsewhere = Pipeline::parse(Path::new("/else/where.toml"), &by_path).unwrap();
    assert_eq!(parse(&by_path).digest(&digests), elsewhere.digest(&digests));
}

/// Stored in ZooKeeper: must not change by an upgrade of a library.
#[test]
fn the_canonical_form_is_frozen() {
    let json = concat!(
        r#"{"delivery":{"commit-bytes":268435456,"commit-interval-ms":100,"guarantee":"exactly-once"},"discard":[],"errors":{"dead-let"#,
        r#"ter-topic":null,"give-up-after":100,"on-error":"stop"},"limits":{"batch-bytes":1048576,"batch-records":1000},"name":"value-length","sink":[{"outp"#,
        r#"ut":null,"topic":"lengths","transform":"length"}],"source":[{"input":null,"start":"earliest","topic""#,
        r#":"test"}],"transform":[{"config":{},"digest":"d","grants":[],"limits":{"memory":67108864,"output-byt"#,
        r#"es":67108864,"state-bytes":268435456,"time-per-batch-ms":1000},"name":"length","plugin":"value-lengt"#,
        r#"h@0.1.0"}]}"#,
    );
    assert_eq!(parse(SMALL).canonical_json(&["d".to_owned()]), json);
    let hash = "f89c88c4b8cad5dd7659fb2987373098b768f11b82bed82cf47e3ed291bedfd5";
    assert_eq!(parse(SMALL).config_hash(0).unwrap(), hash);
    assert_eq!(parse(SMALL).config_hash(1), None);
}

#[test]
fn the_config_hash_follows_configuration_and_limits_of_its_transform_alone() {
    let hash = |text: &str| parse(text).config_hash(0);
    assert_ne!(hash(LARGE), hash(&LARGE.replace("\"y\"", "\"z\"")));
    assert_ne!(hash(LARGE), hash(&LARGE.replace("128MiB", "129MiB")));
    assert_ne!(hash(LARGE), hash(&LARGE.replace("env:B", "env:C")));
    assert_eq!(hash(LARGE), hash(&LARGE.replace("topic = \"out\"", "topic = \"others\"")));
}
