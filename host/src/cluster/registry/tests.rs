use std::sync::Mutex;

use super::*;
use crate::meta::Version as NodeVersion;
use crate::meta::local::LocalStore;
use crate::signing::{PrivateKey, SIGNATURES_MAX};

/// A registry in a store of its own.
struct Fixture {
    registry: Registry,
    store: Arc<dyn MetaStore>,
    _dir: tempfile::TempDir,
}

async fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn MetaStore> = Arc::new(LocalStore::open(dir.path()).await.unwrap());
    Fixture { registry: Registry::new(store.clone()), store, _dir: dir }
}

fn plugin(name: &str, version: &str) -> Description {
    Description {
        name: name.into(),
        version: Version::parse(version).unwrap(),
        interface: "0.1.0".into(),
        description: "for a test".into(),
        provenance: Provenance { revision: "1234".into(), ..Provenance::default() },
    }
}

/// Bytes of a few chunks, different for each seed.
fn bytes(seed: u8) -> Vec<u8> {
    (0..blob::CHUNK_BYTES * 5 / 2).map(|index| (index % 251) as u8 ^ seed).collect()
}

fn unsigned(bytes: &[u8]) -> Signatures {
    Signatures::none(Digest::of(bytes))
}

fn signed(bytes: &[u8], seed: u8) -> Signatures {
    let mut signatures = unsigned(bytes);
    signatures.sign(&PrivateKey::from_seed(&[seed; 32])).unwrap();
    signatures
}

fn reference(text: &str) -> RegistryReference {
    text.parse().unwrap()
}

fn nobody(_: &Digest) -> Option<String> {
    None
}

impl Fixture {
    async fn push(&self, name: &str, version: &str, bytes: &[u8]) -> Result<Pushed, RegistryError> {
        self.registry.push(&plugin(name, version), bytes, &unsigned(bytes), |_| {}).await
    }

    async fn remove(&self, name: &str, version: &str) -> Result<PluginEntry, RegistryError> {
        self.registry.remove(name, &Version::parse(version).unwrap(), nobody).await
    }

    async fn set(&self, path: &str, data: &[u8]) {
        let version = self.store.get(path).await.unwrap().unwrap().version;
        let set = Write::Set { path: path.into(), data: data.to_vec().into(), version };
        self.store.multi(vec![set]).await.unwrap();
    }
}

#[tokio::test]
async fn what_was_pushed_is_fetched_by_name_and_by_digest() {
    let fixture = fixture().await;
    let told = Mutex::new(Vec::new());
    let progress = |stored| told.lock().unwrap().push(stored);
    let pushed = fixture.registry.push(&plugin("a", "1.0.0"), &bytes(1), &unsigned(&bytes(1)), progress).await.unwrap();
    assert!(!pushed.was_there);
    let told = told.into_inner().unwrap();
    assert!(told.is_sorted() && told.len() >= 3 && told.last() == Some(&(bytes(1).len() as u64)), "{told:?}");

    let digest = fixture.registry.resolve(&reference("a@1.0.0")).await.unwrap();
    assert_eq!(digest, Digest::of(&bytes(1)));
    assert_eq!(fixture.registry.fetch(&digest).await.unwrap(), bytes(1));
    assert_eq!(fixture.registry.resolve(&reference(&digest.to_string())).await.unwrap(), digest);
}

#[tokio::test]
async fn the_same_bytes_again_change_nothing_and_others_are_refused() {
    let fixture = fixture().await;
    let first = fixture.push("a", "1.0.0", &bytes(1)).await.unwrap();
    let again = fixture.push("a", "1.0.0", &bytes(1)).await.unwrap();
    assert!(again.was_there && again.entry == first.entry);
    let refused = fixture.push("a", "1.0.0", &bytes(2)).await.unwrap_err();
    assert!(matches!(refused, RegistryError::Immutable { .. }));
    assert!(refused.to_string().contains("raise the version"), "{refused}");
    assert_eq!(fixture.registry.list().await.unwrap(), [first.entry]);
}

#[tokio::test]
async fn a_short_version_is_the_highest_release_that_begins_like_it() {
    let fixture = fixture().await;
    for (index, version) in ["1.2.0", "1.10.0", "1.9.9", "2.0.0", "2.1.0-rc.1"].iter().enumerate() {
        fixture.push("a", version, &[index as u8]).await.unwrap();
    }
    let find = async |text: &str| {
        fixture.registry.find(&reference(text)).await.map(|entry| entry.version.to_string()).map_err(|e| e.to_string())
    };
    assert_eq!(find("a@1").await.unwrap(), "1.10.0");
    assert_eq!(find("a@1.9").await.unwrap(), "1.9.9");
    assert_eq!(find("a@2").await.unwrap(), "2.0.0");
    assert_eq!(find("a@2.1.0-rc.1").await.unwrap(), "2.1.0-rc.1");
    assert!(find("a@3").await.unwrap_err().contains("the last version of a is 2.1.0-rc.1"));
    assert!(find("b@1").await.unwrap_err().contains("plugin list"));
}

#[tokio::test]
async fn plugins_are_listed_by_name_and_version() {
    let fixture = fixture().await;
    for (name, version) in [("b", "1.0.0"), ("a", "1.10.0"), ("a", "1.9.0")] {
        fixture.push(name, version, b"same").await.unwrap();
    }
    let listed: Vec<String> = fixture
        .registry
        .list()
        .await
        .unwrap()
        .iter()
        .map(|entry| format!("{}@{}", entry.name, entry.version))
        .collect();
    assert_eq!(listed, ["a@1.9.0", "a@1.10.0", "b@1.0.0"]);
}

#[tokio::test]
async fn a_push_that_was_interrupted_is_not_fetched_and_goes_on_where_it_stopped() {
    let fixture = fixture().await;
    let digest = Digest::of(&bytes(1));
    // As a push leaves it that ended after the second of three chunks.
    fixture.store.ensure(&layout::blob(&digest)).await.unwrap();
    for index in 0..2 {
        let data = bytes(1)[index * blob::CHUNK_BYTES..][..blob::CHUNK_BYTES].to_vec().into();
        let create = Write::Create { path: layout::blob_chunk(&digest, index), data, ephemeral: false };
        fixture.store.multi(vec![create]).await.unwrap();
    }
    assert!(matches!(fixture.registry.fetch(&digest).await, Err(RegistryError::Unknown { .. })));
    assert_eq!(fixture.registry.store_blob(&bytes(1), &unsigned(&bytes(1))).await.unwrap(), digest);
    assert_eq!(fixture.registry.fetch(&digest).await.unwrap(), bytes(1));
    let first = fixture.store.get(&layout::blob_chunk(&digest, 0)).await.unwrap().unwrap();
    assert_eq!(first.version, NodeVersion(0), "what was stored is stored again");
}

#[tokio::test]
async fn damage_is_found_and_pushing_again_heals_it() {
    let fixture = fixture().await;
    let digest = fixture.push("a", "1.0.0", &bytes(1)).await.unwrap().entry.record.digest;
    fixture.set(&layout::blob_chunk(&digest, 1), b"nonsense").await;
    let damaged = fixture.registry.fetch(&digest).await.unwrap_err();
    assert!(matches!(damaged, RegistryError::Damaged { .. }) && damaged.to_string().contains("push the plugin again"));
    assert!(fixture.push("a", "1.0.0", &bytes(1)).await.unwrap().was_there);
    assert_eq!(fixture.registry.fetch(&digest).await.unwrap(), bytes(1));

    let missing = Write::Delete { path: layout::blob_chunk(&digest, 2), version: None };
    fixture.store.multi(vec![missing]).await.unwrap();
    assert!(fixture.registry.fetch(&digest).await.unwrap_err().to_string().contains("missing"));
    fixture.registry.store_blob(&bytes(1), &unsigned(&bytes(1))).await.unwrap();
    assert_eq!(fixture.registry.fetch(&digest).await.unwrap(), bytes(1));
}

#[tokio::test]
async fn bytes_stay_until_their_last_version_is_removed() {
    let fixture = fixture().await;
    let digest = fixture.push("a", "1.0.0", &bytes(1)).await.unwrap().entry.record.digest;
    fixture.push("b", "1.0.0", &bytes(1)).await.unwrap();
    fixture.remove("a", "1.0.0").await.unwrap();
    assert_eq!(fixture.registry.fetch(&digest).await.unwrap(), bytes(1));
    fixture.remove("b", "1.0.0").await.unwrap();
    assert!(matches!(fixture.registry.fetch(&digest).await, Err(RegistryError::Unknown { .. })));
    assert!(fixture.store.children(&layout::blob(&digest)).await.unwrap().is_empty());
    assert!(matches!(fixture.remove("b", "1.0.0").await, Err(RegistryError::Unknown { .. })));
    // Its name is free again, for other bytes, too.
    fixture.push("b", "1.0.0", &bytes(2)).await.unwrap();
    fixture.push("a", "1.0.0", &bytes(1)).await.unwrap();
    assert_eq!(fixture.registry.fetch(&digest).await.unwrap(), bytes(1));
}

#[tokio::test]
async fn what_is_used_is_not_removed() {
    let fixture = fixture().await;
    let digest = fixture.push("a", "1.0.0", b"x").await.unwrap().entry.record.digest;
    let user = |used: &Digest| (*used == digest).then(|| "pipeline orders".to_owned());
    let refused = fixture.registry.remove("a", &Version::new(1, 0, 0), user).await.unwrap_err();
    assert!(refused.to_string().contains("a@1.0.0 is used by pipeline orders"), "{refused}");
    assert_eq!(fixture.registry.fetch(&digest).await.unwrap(), b"x");
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_and_removals_at_the_same_time_leave_no_version_without_bytes() {
    let fixture = fixture().await;
    for round in 0..20 {
        let data = bytes(round);
        fixture.push("old", "1.0.0", &data).await.unwrap();
        let version = format!("1.0.{round}");
        let outcomes = tokio::join!(
            fixture.push("new", &version, &data),
            fixture.remove("old", "1.0.0"),
            fixture.push("newer", &version, &data),
        );
        outcomes.0.unwrap();
        outcomes.1.unwrap();
        outcomes.2.unwrap();
    }
    for entry in fixture.registry.list().await.unwrap() {
        fixture.registry.fetch(&entry.record.digest).await.unwrap();
    }
}

#[tokio::test]
async fn signatures_stand_beside_the_bytes_and_go_with_them() {
    let fixture = fixture().await;
    let digest = Digest::of(&bytes(1));
    let registry = &fixture.registry;
    assert!(registry.signatures(&digest).await.unwrap().is_empty());
    let nowhere = registry.add_signatures(&signed(&bytes(1), 1)).await.unwrap_err();
    assert!(matches!(nowhere, RegistryError::Unknown { .. }), "{nowhere}");
    registry.push(&plugin("a", "1.0.0"), &bytes(1), &signed(&bytes(1), 1), |_| {}).await.unwrap();
    // Pushed again by somebody else, and signed by a third one.
    registry.push(&plugin("a", "1.0.0"), &bytes(1), &signed(&bytes(1), 2), |_| {}).await.unwrap();
    registry.add_signatures(&signed(&bytes(1), 3)).await.unwrap();
    assert_eq!(registry.signatures(&digest).await.unwrap().iter().count(), 3);
    assert_eq!(registry.fetch(&digest).await.unwrap(), bytes(1), "they are no chunk");
    fixture.remove("a", "1.0.0").await.unwrap();
    assert!(registry.signatures(&digest).await.unwrap().is_empty());
    registry.store_blob(&bytes(1), &signed(&bytes(1), 4)).await.unwrap();
    assert_eq!(registry.signatures(&digest).await.unwrap(), signed(&bytes(1), 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_those_who_sign_at_the_same_time_none_is_lost() {
    let fixture = fixture().await;
    fixture.push("a", "1.0.0", b"x").await.unwrap();
    let sign = async |seed| fixture.registry.add_signatures(&signed(b"x", seed)).await.unwrap();
    tokio::join!(sign(1), sign(2), sign(3), sign(4));
    assert_eq!(fixture.registry.signatures(&Digest::of(b"x")).await.unwrap().iter().count(), 4);
}

#[tokio::test]
async fn damaged_signatures_are_an_error_and_written_anew_by_who_signs() {
    let fixture = fixture().await;
    let digest = Digest::of(b"x");
    fixture.registry.push(&plugin("a", "1.0.0"), b"x", &signed(b"x", 1), |_| {}).await.unwrap();
    for garbage in [&b""[..], b"\xff\xfe", b"{}", &signed(b"y", 1).encode()] {
        fixture.set(&layout::blob_signatures(&digest), garbage).await;
        let damaged = fixture.registry.signatures(&digest).await.unwrap_err();
        assert!(damaged.is_bad_input() && damaged.to_string().contains("plugin sign"), "{damaged}");
        fixture.registry.add_signatures(&signed(b"x", 2)).await.unwrap();
        assert_eq!(fixture.registry.signatures(&digest).await.unwrap(), signed(b"x", 2));
    }
    // What a newer version has written is not written over.
    let newer = String::from_utf8(signed(b"x", 1).encode()).unwrap().replace("\"format\": 1", "\"format\": 2");
    fixture.set(&layout::blob_signatures(&digest), newer.as_bytes()).await;
    let refused = fixture.registry.add_signatures(&signed(b"x", 2)).await.unwrap_err().to_string();
    assert!(refused.contains("format version 2") && refused.contains(&digest.to_string()), "{refused}");
}

#[tokio::test]
async fn there_is_room_for_so_many_signatures() {
    let fixture = fixture().await;
    fixture.push("a", "1.0.0", b"x").await.unwrap();
    for seed in 0..SIGNATURES_MAX as u8 {
        fixture.registry.add_signatures(&signed(b"x", seed)).await.unwrap();
    }
    let full = fixture.registry.add_signatures(&signed(b"x", 200)).await.unwrap_err().to_string();
    assert!(full.contains("which is the most"), "{full}");
}

#[tokio::test]
async fn a_record_without_provenance_is_read() {
    let fixture = fixture().await;
    let entry = fixture.push("a", "1.0.0", b"x").await.unwrap().entry;
    assert_eq!(entry.record.provenance.revision, "1234");
    let path = layout::plugin_version(&Segment::new("a").unwrap(), &entry.version);
    let mut record = serde_json::to_value(&entry.record).unwrap();
    record.as_object_mut().unwrap().remove("provenance").unwrap();
    fixture.set(&path, record.to_string().as_bytes()).await;
    assert!(fixture.registry.list().await.unwrap()[0].record.provenance.is_empty());
}
