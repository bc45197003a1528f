use std::sync::Arc;

use super::*;
use crate::meta::conformance;

async fn open(dir: &Path) -> LocalStore {
    LocalStore::open(dir).await.unwrap()
}

fn create(path: &str, ephemeral: bool) -> Vec<Write> {
    vec![Write::Create { path: path.into(), data: "x".into(), ephemeral }]
}

#[tokio::test]
async fn it_keeps_the_promises_of_a_store() {
    let dir = tempfile::tempdir().unwrap();
    conformance::store(Arc::new(open(dir.path()).await)).await.unwrap();
}

#[tokio::test]
async fn it_keeps_the_promises_of_a_session() {
    let dir = tempfile::tempdir().unwrap();
    let again = || async { Ok(Arc::new(LocalStore::open(dir.path()).await?) as Arc<dyn Coordination>) };
    conformance::coordination(Arc::new(open(dir.path()).await), again).await.unwrap();
}

#[tokio::test]
async fn what_was_answered_is_there_when_it_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    store.multi(create("/a", false)).await.unwrap();
    store.multi(create("/b", true)).await.unwrap();
    // Dropped without being closed, as after a crash: the ephemeral node is still in the file.
    drop(store);
    let store = open(dir.path()).await;
    assert!(store.get("/a").await.unwrap().is_some());
    assert!(store.get("/b").await.unwrap().is_none());
}

#[tokio::test]
async fn a_second_process_is_told_who_has_it_open() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let refused = LocalStore::open(dir.path()).await.err().unwrap();
    assert!(refused.to_string().contains("in use by another process"), "{refused}");

    let node = NodeFile::new("127.0.0.1:4321".parse().unwrap());
    node.write(dir.path()).unwrap();
    let Err(LocalError::InUse { holder, .. }) = LocalStore::open(dir.path()).await else { panic!("opened twice") };
    assert_eq!(holder, Some(node.clone()));
    let text = LocalStore::open(dir.path()).await.err().unwrap().to_string();
    assert!(text.contains("127.0.0.1:4321") && !text.contains(&node.token), "{text}");

    store.close().await;
    open(dir.path()).await;
    assert_eq!(NodeFile::read(dir.path()), None, "a note of a node that is gone stays behind");
}

#[tokio::test]
async fn a_node_waits_for_a_command_and_not_for_another_node() {
    let dir = tempfile::tempdir().unwrap();
    let command = open(dir.path()).await;
    let waiting = LocalStore::open_within(dir.path(), Duration::from_secs(60));
    let (_, node) = tokio::join!(command.close(), waiting);
    let node = node.unwrap();
    NodeFile::new("127.0.0.1:1".parse().unwrap()).write(dir.path()).unwrap();
    let started = Instant::now();
    let refused = LocalStore::open_within(dir.path(), Duration::from_secs(60)).await.err().unwrap();
    assert!(
        matches!(refused, LocalError::InUse { holder: Some(_), .. }) && started.elapsed() < Duration::from_secs(30)
    );
    drop(node);
}

#[cfg(unix)]
#[test]
fn only_its_owner_reads_where_a_node_is() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let node = NodeFile::new("127.0.0.1:1".parse().unwrap());
    node.write(dir.path()).unwrap();
    let mode = std::fs::metadata(dir.path().join("node.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!format!("{node:?}").contains(&node.token));
}

#[tokio::test]
async fn another_layout_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let newer = Write::Set { path: "/format".into(), data: "2".into(), version: Version(0) };
    store.multi(vec![newer]).await.unwrap();
    drop(store);
    let refused = LocalStore::open(dir.path()).await.err().unwrap().to_string();
    assert!(refused.contains("`2`") && refused.contains("knows 1"), "{refused}");
}

#[tokio::test]
async fn a_file_that_is_no_store_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(FILE_NAME), vec![b'x'; 10_000]).unwrap();
    let refused = LocalStore::open(dir.path()).await.err().unwrap();
    assert!(matches!(refused, LocalError::Damaged { .. } | LocalError::File { .. }), "{refused:?}");
    assert!(refused.to_string().contains(&*dir.path().to_string_lossy()), "{refused}");
}
