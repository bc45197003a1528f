use anyhow::bail;
use clap::Parser;
use futures::FutureExt;

use super::*;
use crate::meta::local::LocalStore;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: RegistryCommand,
}

/// A directory with a store and plugin files. A plugin here is its manifest.
struct Fixture {
    dir: tempfile::TempDir,
    store: Arc<dyn MetaStore>,
    used: BTreeMap<Digest, String>,
}

impl Fixture {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(LocalStore::open(dir.path()).await.unwrap());
        Self { dir, store, used: BTreeMap::new() }
    }

    fn file(&self, name: &str, manifest: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, manifest).unwrap();
        path.to_string_lossy().into_owned()
    }

    async fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let command =
            Cli::try_parse_from(["plugin"].iter().chain(arguments)).map_err(|error| error.to_string())?.command;
        let store = |_| async { Ok(self.store.clone()) }.boxed();
        let inspect = |bytes: &[u8]| {
            if bytes.is_empty() {
                bail!("it is empty");
            }
            let imports = vec!["wasi:io/streams@0.2.6".into()];
            Ok(Outline { manifest: Manifest::parse(bytes)?, world: "sluicegate:transform@0.1.0".into(), imports })
        };
        let users = |_| async { Ok(self.used.clone()) }.boxed();
        let mut out = Vec::new();
        let around = Surroundings { store: &store, inspect: &inspect, users: &users };
        let shown = |error| match command_error(error) {
            CommandError::Config(errors) => format!("64: {}", errors[0]),
            CommandError::BadInput(message) => format!("64: {message}"),
            CommandError::Failed(message) => format!("1: {message}"),
            CommandError::Unread => "0".to_owned(),
        };
        run(command, around, &mut out).await.map_err(shown)?;
        Ok(String::from_utf8(out).unwrap())
    }
}

const MANIFEST: &str = r#"{"name":"count","version":"1.0.0","interface":"0.1.0","description":"counts","stores":[{"name":"n","schema":2}]}"#;

#[tokio::test]
async fn a_plugin_is_pushed_listed_inspected_and_removed() {
    let fixture = Fixture::new().await;
    assert!(fixture.run(&["list"]).await.unwrap().contains("plugin push FILE"));
    let file = fixture.file("count.wasm", MANIFEST);
    let digest = Digest::of(MANIFEST.as_bytes()).to_string();

    let pushed = fixture.run(&["push", &file]).await.unwrap();
    assert!(pushed.starts_with("count@1.0.0 pushed:") && pushed.contains(&digest), "{pushed}");
    assert!(fixture.run(&["push", &file]).await.unwrap().contains("already, with the same contents"));

    let listed = fixture.run(&["list"]).await.unwrap();
    let mut lines = listed.lines();
    assert!(lines.next().unwrap().starts_with("NAME   VERSION  SIZE"), "{listed}");
    assert!(lines.next().unwrap().starts_with("count  1.0.0 "), "{listed}");

    for plugin in [file.as_str(), "count@1", &digest] {
        let shown = fixture.run(&["inspect", plugin]).await.unwrap();
        for part in ["count@1.0.0", "counts", &digest, "n (schema 2)", "wasi:io/streams@0.2.6"] {
            assert!(shown.contains(part), "{part} is missing in {shown}");
        }
    }
    assert_eq!(fixture.run(&["remove", "count@1.0.0"]).await.unwrap(), "removed count@1.0.0\n");
    assert!(fixture.run(&["inspect", "count@1"]).await.unwrap_err().contains("no plugin count@1"));
}

#[tokio::test]
async fn a_plugin_is_pulled_to_a_file_and_nothing_is_overwritten() {
    let fixture = Fixture::new().await;
    fixture.run(&["push", &fixture.file("count.wasm", MANIFEST)]).await.unwrap();
    let path = fixture.dir.path().join("pulled.wasm");
    let file = path.to_string_lossy().into_owned();
    let digest = Digest::of(MANIFEST.as_bytes()).to_string();
    for reference in ["count@1", &digest] {
        let said = fixture.run(&["pull", reference, "-o", &file]).await.unwrap();
        assert!(said.starts_with(&format!("{file} written: ")) && said.contains(&digest), "{said}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), MANIFEST);
        assert!(fixture.run(&["pull", reference, "-o", &file]).await.unwrap().contains("is there already"));
        std::fs::remove_file(&path).unwrap();
    }
    std::fs::write(&path, "mine").unwrap();
    let refused = fixture.run(&["pull", "count@1", "-o", &file]).await.unwrap_err();
    assert!(refused.starts_with("64: ") && refused.contains("with other contents"), "{refused}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    let nowhere = fixture.dir.path().join("no/such/folder.wasm").to_string_lossy().into_owned();
    let refused = fixture.run(&["pull", "count@1", "-o", &nowhere]).await.unwrap_err();
    assert!(refused.starts_with("1: cannot write"), "{refused}");
    assert!(fixture.run(&["pull", "other@1", "-o", &nowhere]).await.unwrap_err().contains("no plugin other@1"));
    assert!(fixture.run(&["pull", "count", "-o", &nowhere]).await.unwrap_err().starts_with("64: nothing is pulled"));
}

#[tokio::test]
async fn json_has_the_fields_that_scripts_need() {
    let fixture = Fixture::new().await;
    let file = fixture.file("count.wasm", MANIFEST);
    let json = async |arguments: &[&str]| -> serde_json::Value {
        serde_json::from_str(&fixture.run(arguments).await.unwrap()).unwrap()
    };
    let digest = Digest::of(MANIFEST.as_bytes()).to_string();
    let pushed = json(&["push", "--json", &file]).await;
    assert_eq!((&pushed["name"], &pushed["was-there"]), (&"count".into(), &false.into()));
    assert_eq!(pushed["digest"], digest);
    let listed = json(&["list", "--json"]).await;
    assert_eq!(listed[0]["version"], "1.0.0");
    assert_eq!(listed[0]["size"], MANIFEST.len());
    let shown = json(&["inspect", "--json", "count@1.0.0"]).await;
    assert_eq!(shown["manifest"]["stores"][0]["schema"], 2);
    assert_eq!(shown["digest"], digest);
    let pulled = fixture.dir.path().join("pulled.wasm").to_string_lossy().into_owned();
    let pulled = json(&["pull", "--json", "count@1", "-o", &pulled]).await;
    assert_eq!((&pulled["digest"], &pulled["was-there"]), (&digest.as_str().into(), &false.into()));
    assert_eq!(json(&["remove", "--json", "count@1.0.0"]).await["name"], "count");
}

#[tokio::test]
async fn mistakes_are_answered_with_what_to_do() {
    let mut fixture = Fixture::new().await;
    let file = fixture.file("count.wasm", MANIFEST);
    fixture.run(&["push", &file]).await.unwrap();
    let fails = async |fixture: &Fixture, arguments: &[&str], parts: &[&str]| {
        let error = fixture.run(arguments).await.unwrap_err();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    };
    fails(&fixture, &["push", "nowhere.wasm"], &["64: cannot read nowhere.wasm"]).await;
    fails(
        &fixture,
        &["push", &fixture.file("empty.wasm", "")],
        &["64: ", "empty.wasm cannot be pushed", "it is empty"],
    )
    .await;
    let other = fixture.file("other.wasm", &MANIFEST.replace("counts", "counts differently"));
    fails(&fixture, &["push", &other], &["64: count@1.0.0", "raise the version"]).await;
    fails(&fixture, &["inspect", "nowhere.wasm"], &["64: there is no file nowhere.wasm", "name@1.2.3"]).await;
    fails(&fixture, &["remove", "count@1"], &["64: ", "in full"]).await;
    fails(&fixture, &["remove", "count"], &["64: ", "it has no version"]).await;
    fixture.used.insert(Digest::of(MANIFEST.as_bytes()), "pipeline orders".into());
    fails(&fixture, &["remove", "count@1.0.0"], &["64: ", "used by pipeline orders"]).await;
}
