use anyhow::bail;
use clap::Parser;
use futures::FutureExt;

use super::*;
use crate::meta::local::LocalStore;
use crate::signing::{PrivateKey, PublicKey};

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
    trusted: TrustedKeys,
}

impl Fixture {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(LocalStore::open(dir.path()).await.unwrap());
        Self { dir, store, used: BTreeMap::new(), trusted: TrustedKeys::default() }
    }

    fn file(&self, name: &str, manifest: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, manifest).unwrap();
        path.to_string_lossy().into_owned()
    }

    /// A private key in a file, and its public key.
    fn key(&self, name: &str, seed: u8) -> (String, PublicKey) {
        let key = PrivateKey::from_seed(&[seed; 32]);
        (self.file(name, &key.to_pem()), key.public())
    }

    async fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let command =
            Cli::try_parse_from(["plugin"].iter().chain(arguments)).map_err(|error| error.to_string())?.command;
        let store = |_| async { Ok(self.store.clone()) }.boxed();
        let inspect = |bytes: &[u8]| {
            if bytes.is_empty() {
                bail!("it is empty");
            }
            Ok(Outline {
                manifest: Manifest::parse(bytes)?,
                world: "sluicegate:transform@0.1.0".into(),
                imports: vec!["wasi:io/streams@0.2.6".into()],
                provenance: Provenance {
                    languages: vec!["Rust".into()],
                    tools: vec!["rustc 1.95.0".into()],
                    revision: "1234-dirty".into(),
                    ..Provenance::default()
                },
            })
        };
        let users = |_| async { Ok(self.used.clone()) }.boxed();
        let mut out = Vec::new();
        let trusted = |_: &ClusterArgs| Ok(self.trusted.clone());
        let around = Surroundings { store: &store, trusted: &trusted, inspect: &inspect, users: &users };
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
        for part in
            ["count@1.0.0", "counts", &digest, "n (schema 2)", "wasi:io/streams@0.2.6", "rustc 1.95.0", "1234-dirty"]
        {
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
    assert_eq!(listed[0]["provenance"]["languages"][0], "Rust");
    assert_eq!(listed[0]["signatures"], serde_json::json!([]));
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

#[tokio::test]
async fn a_plugin_that_no_trusted_key_has_signed_is_refused_before_anything_is_stored() {
    let mut fixture = Fixture::new().await;
    let file = fixture.file("count.wasm", MANIFEST);
    let (ada, ada_public) = fixture.key("ada.key", 1);
    let (grace, grace_public) = fixture.key("grace.key", 2);
    let ids = [ada_public, grace_public].map(|key| key.id().to_string());
    fixture.trusted = TrustedKeys::new(vec![ada_public]);
    let digest = Digest::of(MANIFEST.as_bytes()).to_string();

    let refused = fixture.run(&["push", &file]).await.unwrap_err();
    for part in ["64: plugin count@1.0.0", &digest, "it has no signature", &ids[0], "plugin sign", &file] {
        assert!(refused.contains(part), "{part} is missing in {refused}");
    }
    let refused = fixture.run(&["push", &file, "--key", &grace]).await.unwrap_err();
    assert!(refused.starts_with("64: ") && refused.contains(&format!("signed only by {}", ids[1])), "{refused}");
    assert!(fixture.run(&["list"]).await.unwrap().starts_with("no plugins"));
    let blobs = fixture.store.children(crate::meta::layout::BLOBS).await.unwrap();
    assert!(blobs.is_empty(), "{blobs:?}");

    fixture.run(&["push", &file, "--key", &ada]).await.unwrap();
    // Signed where it is now: nothing need come along.
    assert!(fixture.run(&["push", &file]).await.unwrap().contains("already"));
}

#[tokio::test]
async fn signatures_go_along_with_a_file_into_the_registry_and_out_again() {
    let mut fixture = Fixture::new().await;
    let file = fixture.file("count.wasm", MANIFEST);
    let [(ada, ada_public), (grace, grace_public)] = [("ada.key", 1), ("grace.key", 2)].map(|(n, s)| fixture.key(n, s));
    fixture.trusted = TrustedKeys::new(vec![ada_public]);
    let said = fixture.run(&["sign", &file, "--key", &grace]).await.unwrap();
    assert!(said.contains(&grace_public.id().to_string()) && said.contains("1 signature in"), "{said}");
    let said = fixture.run(&["sign", &file, "--key", &ada]).await.unwrap();
    assert!(said.contains("2 signatures in") && said.contains("count.wasm.sig"), "{said}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), MANIFEST, "signing changes no plugin");
    fixture.run(&["push", &file]).await.unwrap();

    let shown = fixture.run(&["inspect", "count@1"]).await.unwrap();
    assert!(shown.contains(&format!("signed by  {} (trusted)", ada_public.id())), "{shown}");
    assert!(shown.contains(&format!("signed by  {} (not among the trusted keys)", grace_public.id())), "{shown}");
    assert_eq!(fixture.run(&["inspect", &file]).await.unwrap(), shown);
    let listed: serde_json::Value = serde_json::from_str(&fixture.run(&["list", "--json"]).await.unwrap()).unwrap();
    let standing = |key: &PublicKey| {
        let signatures = listed[0]["signatures"].as_array().unwrap();
        let signature = signatures.iter().find(|signature| signature["key"] == key.id().to_string()).unwrap();
        signature["standing"].as_str().unwrap().to_owned()
    };
    assert_eq!([ada_public, grace_public].map(|key| standing(&key)), ["trusted", "unknown"]);

    let pulled = fixture.dir.path().join("pulled.wasm").to_string_lossy().into_owned();
    fixture.run(&["pull", "count@1", "-o", &pulled]).await.unwrap();
    assert_eq!(std::fs::read(format!("{pulled}.sig")).unwrap(), std::fs::read(format!("{file}.sig")).unwrap());
}

#[tokio::test]
async fn one_of_the_registry_is_signed_there() {
    let mut fixture = Fixture::new().await;
    fixture.run(&["push", &fixture.file("count.wasm", MANIFEST)]).await.unwrap();
    let (ada, public) = fixture.key("ada.key", 1);
    fixture.trusted = TrustedKeys::new(vec![public]);
    let said = fixture.run(&["sign", "count@1", "--key", &ada]).await.unwrap();
    assert!(said.starts_with("count@1.0.0 signed by ") && said.contains("1 signature in the registry"), "{said}");
    assert!(fixture.run(&["inspect", "count@1"]).await.unwrap().contains("(trusted)"));
    let refused = fixture.run(&["sign", "other@1", "--key", &ada]).await.unwrap_err();
    assert!(refused.starts_with("64: no plugin other@1"), "{refused}");
}

#[tokio::test]
async fn what_was_changed_after_it_was_signed_is_refused_until_it_is_signed_again() {
    let mut fixture = Fixture::new().await;
    let file = fixture.file("count.wasm", MANIFEST);
    let (ada, public) = fixture.key("ada.key", 1);
    fixture.trusted = TrustedKeys::new(vec![public]);
    fixture.run(&["sign", &file, "--key", &ada]).await.unwrap();
    let changed = fixture.file("count.wasm", &MANIFEST.replace("counts", "counts more"));
    assert!(fixture.run(&["push", &changed]).await.unwrap_err().starts_with("64: "));
    let said = fixture.run(&["sign", &changed, "--key", &ada]).await.unwrap();
    assert!(said.contains("1 signature in"), "those of other contents are gone: {said}");
    fixture.run(&["push", &changed]).await.unwrap();
}

#[tokio::test]
async fn keys_and_signatures_that_are_none_are_named_and_not_shown() {
    let fixture = Fixture::new().await;
    let file = fixture.file("count.wasm", MANIFEST);
    let broken = fixture.file("broken.key", "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n");
    let (ada, public) = fixture.key("ada.key", 1);
    let public = fixture.file("ada.pub", &public.to_pem());
    for (key, says) in [(&broken, "no Ed25519 key"), (&public, "this is a public key"), (&file, "no Ed25519 key")] {
        let refused = fixture.run(&["sign", &file, "--key", key]).await.unwrap_err();
        assert!(refused.starts_with("64: ") && refused.contains(key) && refused.contains(says), "{refused}");
        assert!(!refused.contains("hunter"), "{refused}");
    }
    let other = fixture.file("other.txt", "");
    assert!(fixture.run(&["sign", &other, "--key", &ada]).await.unwrap_err().starts_with("64: "));
    std::fs::write(format!("{file}.sig"), b"\xff garbage").unwrap();
    for command in [&["push", file.as_str()][..], &["sign", &file, "--key", &ada], &["inspect", &file]] {
        let refused = fixture.run(command).await.unwrap_err();
        assert!(refused.starts_with("64: ") && refused.contains("count.wasm.sig"), "{refused}");
    }
}

#[test]
fn a_pair_of_keys_is_made_and_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("release.key");
    let make = |path: &std::path::Path| {
        #[derive(Parser)]
        struct Keygen {
            #[command(flatten)]
            args: keygen::KeygenArgs,
        }
        let args = Keygen::parse_from(["keygen", "--out", path.to_str().unwrap()]).args;
        let mut out = Vec::new();
        keygen::run(&args, &mut out).map(|()| String::from_utf8(out).unwrap())
    };
    let said = make(&path).unwrap_or_else(|_| panic!("it is refused"));
    let pem = std::fs::read_to_string(&path).unwrap();
    let key = PrivateKey::from_pem(&pem).unwrap();
    let public = std::fs::read_to_string(dir.path().join("release.pub")).unwrap();
    assert_eq!(PublicKey::from_pem(&public).unwrap(), key.public());
    assert!(said.contains(&key.public().id().to_string()) && said.contains(&public), "{said}");
    assert!(!said.contains("PRIVATE"), "{said}");
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).unwrap());
        assert_eq!(mode & 0o777, 0o600);
    }
    let refused = |path: &std::path::Path| match make(path) {
        Err(CommandError::BadInput(message)) => message,
        _ => panic!("it is not refused"),
    };
    assert!(refused(&path).contains("not overwritten"));
    // The private key alone is there: no public one is left behind.
    std::fs::remove_file(dir.path().join("release.pub")).unwrap();
    assert!(refused(&path).contains("not overwritten"));
    assert!(!dir.path().join("release.pub").exists());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), pem);
    assert!(refused(&dir.path().join("no/such.key")).contains("no such folder"));
    assert!(refused(&dir.path().join("release.pub")).contains("another ending"));
}
