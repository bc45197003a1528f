//! Goldens, the reference pages against the known keys, and that no input panics the loaders.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use proptest::prelude::*;

use super::Errors;
use super::cluster::{Cluster, ClusterArgs};
use super::manifest::parse_manifest;
use super::pipeline::Pipeline;
use super::section::Shape;
use crate::manifest::Manifest;

/// Folder of the cases: `*.toml` with the message beside it in `*.stderr`.
const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/config/goldens");

fn cases(kind: &str) -> Vec<PathBuf> {
    let mut cases: Vec<PathBuf> = fs::read_dir(Path::new(GOLDENS).join(kind))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    cases.sort();
    assert!(!cases.is_empty(), "no cases in {kind}");
    cases
}

/// Compares what `read` says about each file of a folder with the `.stderr` beside it; with `BLESS=1` writes that.
fn messages(kind: &str, read: impl Fn(&Path, &str) -> Result<(), Errors>) {
    let mut wrong = Vec::new();
    for case in cases(kind) {
        let name = case.file_name().unwrap();
        let found = match read(Path::new(name), &fs::read_to_string(&case).unwrap()) {
            Ok(()) => "accepted\n".to_owned(),
            Err(errors) => format!("{errors}\n"),
        };
        let expected = case.with_extension("stderr");
        if std::env::var_os("BLESS").is_some() {
            fs::write(&expected, &found).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != found {
            wrong.push(format!("{}\n{found}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "other messages than in the .stderr files (BLESS=1 writes them):\n{}", wrong.join("\n"));
}

#[test]
fn wrong_pipelines_are_refused_with_these_messages() {
    messages("pipeline", |origin, text| Pipeline::parse(origin, text).map(drop));
}

#[test]
fn wrong_clusters_are_refused_with_these_messages() {
    messages("cluster", |origin, text| Cluster::parse(origin, text, &ClusterArgs::default()).map(drop));
}

#[test]
fn wrong_manifests_are_refused_with_these_messages() {
    messages("manifest", |origin, text| parse_manifest(origin, text).map(drop));
}

#[test]
fn no_message_shows_a_secret() {
    for kind in ["pipeline", "cluster"] {
        for case in cases(kind) {
            let message = fs::read_to_string(case.with_extension("stderr")).unwrap();
            assert!(!message.contains("hunter"), "{}", case.display());
        }
    }
}

/// The manifests stand in comments of the file, one JSON object in each line that begins with `#{`.
#[test]
fn pipelines_that_do_not_fit_their_plugins_are_refused_with_these_messages() {
    messages("bind", |origin, text| {
        let json = text.lines().filter_map(|line| line.strip_prefix('#')).filter(|line| line.starts_with('{'));
        let manifests: Vec<Manifest> = json.map(|json| Manifest::parse(json.as_bytes()).unwrap()).collect();
        let pipeline = Pipeline::parse(origin, text).unwrap();
        assert_eq!(manifests.len(), pipeline.transforms.len(), "one manifest for each transform: {}", origin.display());
        pipeline.bind(&manifests).map(drop)
    });
}

/// Each key of a shape must stand in the section of the page that is headed by the table's name.
fn page_has_every_key(page: &str, shapes: &[&Shape]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(page);
    let text = fs::read_to_string(&path).unwrap();
    for shape in shapes {
        let heading =
            if shape.heading.is_empty() { "## Top level".to_owned() } else { format!("## `{}`", shape.heading) };
        let section = text.split("\n## ").find(|section| format!("## {section}").starts_with(&heading));
        let Some(section) = section else { panic!("{page} has no section {heading}") };
        for key in shape.keys {
            assert!(
                section.contains(&format!("| `{key}` |")),
                "{page}: `{key}` is missing in the table under {heading}"
            );
        }
    }
}

#[test]
fn the_reference_pages_have_every_key() {
    page_has_every_key("pipeline-reference.md", super::pipeline::SHAPES);
    page_has_every_key("cluster-reference.md", super::cluster::SHAPES);
}

#[test]
fn the_cluster_page_has_every_flag_and_its_variable() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cluster-reference.md");
    let text = fs::read_to_string(path).unwrap();
    let command = ClusterArgs::augment_args(clap::Command::new("test"));
    for argument in command.get_arguments() {
        let (flag, variable) = (argument.get_long().unwrap(), argument.get_env().unwrap().to_str().unwrap());
        assert!(text.contains(&format!("| `--{flag} ")), "--{flag} is missing");
        assert!(text.contains(&format!("| `{variable}` |")), "{variable} is missing");
    }
}

/// What is in the `toml` blocks of a page; blocks of a page are whole files or single tables.
fn examples(page: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(page);
    let text = fs::read_to_string(&path).unwrap();
    text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).map(ToOwned::to_owned).collect()
}

#[test]
fn the_examples_of_the_reference_pages_are_right() {
    let pipelines = examples("pipeline-reference.md");
    assert!(pipelines.len() > 1);
    for example in pipelines {
        Pipeline::parse(Path::new("example.toml"), &example).unwrap_or_else(|errors| panic!("{errors}"));
    }
    let manifests = examples("commands.md");
    assert!(!manifests.is_empty());
    for example in manifests {
        parse_manifest(Path::new("example.toml"), &example).unwrap_or_else(|errors| panic!("{errors}"));
    }
    let clusters = examples("cluster-reference.md");
    assert!(clusters.len() > 1);
    for example in clusters {
        let arguments = ClusterArgs::default();
        Cluster::parse(Path::new("example.toml"), &example, &arguments).unwrap_or_else(|errors| panic!("{errors}"));
    }
}

#[test]
fn a_manifest_says_in_toml_what_its_json_says() {
    let text = r#"
        name = "split"
        version = "1.2.0"
        description = "splits"
        wants = ["clocks", "env:REGION"]
        dynamic-outputs = true

        [[inputs]]
        name = "orders"

        [[outputs]]
        name = "main"

        [[outputs]]
        name = "large"
        optional = true

        [[stores]]
        name = "seen"
        schema = 3
        key-format = "utf8"

        [config]
        type = "object"
    "#;
    let json = r#"{"name":"split","version":"1.2.0","interface":"0.1.0","description":"splits","inputs":[{"name":"orders"}],
        "outputs":[{"name":"main"},{"name":"large","optional":true}],"dynamic-outputs":true,"wants":["clocks","env:REGION"],
        "stores":[{"name":"seen","schema":3,"key-format":"utf8"}],"config":{"type":"object"}}"#;
    let written = parse_manifest(Path::new("plugin.toml"), text).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(written, Manifest::parse(json.as_bytes()).unwrap());
    let least = parse_manifest(Path::new("plugin.toml"), "name = 'a'\nversion = '1.0.0'").unwrap();
    assert_eq!(least, Manifest::parse(br#"{"name":"a","version":"1.0.0","interface":"0.1.0"}"#).unwrap());
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let errors = Pipeline::load(Path::new("no/such/file.toml")).unwrap_err().to_string();
    assert!(errors.starts_with("error: cannot read the pipeline file `no/such/file.toml`: "), "{errors}");
}

#[test]
fn a_file_that_is_not_text_is_refused_by_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.toml");
    fs::write(&path, b"name = \"a\"\n\xff").unwrap();
    let errors = Pipeline::load(&path).unwrap_err().to_string();
    assert!(errors.ends_with("line 2 is not UTF-8 text"), "{errors}");
}

#[test]
fn a_file_of_another_format_has_a_bounded_message() {
    let text = "a_key = 1\n".replace("a_key", "k");
    let many: String = (0..500).map(|nth| text.replace('k', &format!("key{nth}"))).collect();
    let message = Pipeline::parse(Path::new("a.toml"), &many).unwrap_err().to_string();
    assert!(message.ends_with("more"), "{message}");
    assert!(message.lines().count() < 400);
}

/// All loaders and the rendering of what they say.
fn load_all(text: &str) {
    for error in [
        Pipeline::parse(Path::new("a.toml"), text).err(),
        Cluster::parse(Path::new("a.toml"), text, &ClusterArgs::default()).err(),
    ]
    .into_iter()
    .flatten()
    {
        assert!(!error.render(true).is_empty());
        assert!(!error.to_string().is_empty());
    }
    if let Err(error) = parse_manifest(Path::new("a.toml"), text) {
        assert!(!error.to_string().is_empty());
    }
    if let Ok(pipeline) = Pipeline::parse(Path::new("a.toml"), text) {
        pipeline.config_error(0, "a[1].b", "wrong").to_string();
        assert!(!pipeline.canonical_json(&[]).is_empty());
    }
}

/// A file of the goldens with some pieces cut out, doubled or replaced.
fn mutated() -> impl Strategy<Value = String> {
    let files: Vec<String> = ["pipeline", "cluster", "bind", "manifest"]
        .into_iter()
        .flat_map(cases)
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let pieces = [
        "",
        "[",
        "]",
        "\"",
        "=",
        "\n",
        "{",
        "}",
        ".",
        "'''",
        "\"\"\"",
        "é",
        "\u{0}",
        "-1",
        "1e999",
        "99999999999999999999",
        "2026-01-01T00:00:00",
        "\"1s\"",
        "\"9999999999999y\"",
        "\"1e400GiB\"",
        "[[source]]\n",
        "\r",
        "#",
        "\\u12",
    ];
    let edit = (any::<prop::sample::Index>(), 0_usize..12, prop::sample::select(pieces.to_vec()));
    (prop::sample::select(files), prop::collection::vec(edit, 1..6)).prop_map(|(file, edits)| {
        let mut characters: Vec<char> = file.chars().collect();
        for (at, length, piece) in edits {
            let start = at.index(characters.len() + 1);
            let end = (start + length).min(characters.len());
            characters.splice(start..end, piece.chars());
        }
        characters.into_iter().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_mutation_of_a_file_panics_the_loaders(text in mutated()) {
        load_all(&text);
    }

    #[test]
    fn no_text_panics_the_loaders(text in any::<String>()) {
        load_all(&text);
    }
}
