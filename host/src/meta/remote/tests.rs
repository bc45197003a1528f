use std::sync::Arc;

use super::*;
use crate::http::meta_api;
use crate::meta::conformance;

/// A node: it has the store open, says where, and serves it.
struct Serving {
    dir: tempfile::TempDir,
    node: NodeFile,
    store: Arc<LocalStore>,
}

async fn serving() -> Serving {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(LocalStore::open(dir.path()).await.unwrap());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let node = NodeFile::new(listener.local_addr().unwrap());
    let router = meta_api::router(store.clone(), &node.token);
    tokio::spawn(async move { axum::serve(listener, router).await });
    node.write(dir.path()).unwrap();
    Serving { dir, node, store }
}

#[tokio::test]
async fn it_keeps_the_promises_of_a_store() {
    let serving = serving().await;
    conformance::store(Arc::new(RemoteStore::new(&serving.node))).await.unwrap();
}

#[tokio::test]
async fn a_command_reaches_the_store_of_a_running_node() {
    let serving = serving().await;
    let command = open_local(serving.dir.path()).await.unwrap();
    command.ensure("/from-the-command").await.unwrap();
    assert!(serving.store.get("/from-the-command").await.unwrap().is_some());
}

#[tokio::test]
async fn a_command_opens_the_file_itself_when_no_node_runs() {
    let dir = tempfile::tempdir().unwrap();
    open_local(dir.path()).await.unwrap().ensure("/a").await.unwrap();
    // One after the other, and at the same time: they wait for each other.
    let (one, other) = tokio::join!(async { open_local(dir.path()).await.unwrap().get("/a").await.unwrap() }, async {
        open_local(dir.path()).await.unwrap().get("/a").await.unwrap()
    },);
    assert!(one.is_some() && other.is_some());
}

#[tokio::test]
async fn whoever_does_not_know_the_token_is_refused() {
    let serving = serving().await;
    let stranger = RemoteStore::new(&NodeFile { token: "guess".into(), ..serving.node.clone() });
    for refused in [stranger.get("/format").await.unwrap_err(), stranger.ensure("/a").await.unwrap_err()] {
        assert!(matches!(refused, MetaError::Denied { .. }), "{refused:?}");
    }
    assert_eq!(serving.store.get("/a").await.unwrap(), None);
}

#[tokio::test]
async fn a_command_has_no_ephemeral_nodes() {
    let serving = serving().await;
    let create = Write::Create { path: "/a".into(), data: "".into(), ephemeral: true };
    let refused = RemoteStore::new(&serving.node).multi(vec![create]).await.unwrap_err();
    assert!(refused.to_string().contains("session"), "{refused}");
}

#[tokio::test]
async fn a_node_that_is_gone_is_an_outage() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = RemoteStore::new(&NodeFile::new(listener.local_addr().unwrap()));
    drop(listener);
    let error = gone.ensure("/a").await.unwrap_err();
    assert!(matches!(error, MetaError::Away { .. }), "{error:?}");
}
