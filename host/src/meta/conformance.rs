//! What every store must do, as checks that run against any of them. The promises of [`super::MetaStore`] and
//! [`super::Coordination`] in executable form; nothing of one implementation.
//!
//! A library module, so that the suite that has a real ZooKeeper can run it. Each check works below a node of its own and
//! fails with what was promised.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};

use super::{Coordination, MetaError, MetaStore, REQUEST_BYTES_MAX, SessionState, Version, Write};

/// How long a notification may take.
const NOTIFIED_WITHIN: Duration = Duration::from_secs(10);

type Check<S> = fn(Arc<S>, String) -> BoxFuture<'static, Result<()>>;

macro_rules! checks {
    ($($name:ident),* $(,)?) => { [$((stringify!($name), (|store, root| $name(store, root).boxed()) as Check<_>)),*] };
}

/// Checks the promises of [`MetaStore`].
///
/// # Errors
/// The first promise that is broken.
pub async fn store(store: Arc<dyn MetaStore>) -> Result<()> {
    run(
        store,
        checks![
            a_created_node_is_read_back_with_version_zero,
            a_missing_node_is_none_and_has_no_children,
            a_node_is_not_created_twice,
            a_node_without_a_parent_is_refused,
            a_write_names_the_version_it_replaces,
            a_deleted_node_is_gone,
            a_node_with_children_is_not_deleted,
            children_are_sorted_and_direct,
            a_multi_happens_together_or_not_at_all,
            writes_of_a_multi_see_the_ones_before_them,
            a_check_guards_a_multi,
            an_error_names_the_node_it_failed_at,
            ensure_makes_parents_and_is_repeatable,
            a_request_that_is_too_large_is_refused_and_harms_nothing,
            a_request_of_the_largest_size_passes,
            requests_in_flight_all_get_their_answers,
            only_one_of_two_writers_of_a_version_wins,
            paths_that_are_none_are_refused,
        ],
    )
    .await
}

/// Checks the promises of [`Coordination`]. `again` opens the store a second time, after the first one was closed.
///
/// # Errors
/// The first promise that is broken.
pub async fn coordination<Opened>(store: Arc<dyn Coordination>, again: impl FnOnce() -> Opened) -> Result<()>
where
    Opened: Future<Output = Result<Arc<dyn Coordination>>>,
{
    let checks = checks![
        a_watch_tells_of_every_kind_of_change,
        a_watch_of_children_tells_of_those_that_come_and_go,
        an_ephemeral_node_has_no_children,
        the_session_is_connected,
    ];
    run(store.clone(), checks).await?;
    ephemeral_nodes_go_with_the_session(store, again).await.context("ephemeral_nodes_go_with_the_session")
}

async fn run<S: ?Sized + MetaStore, const N: usize>(
    store: Arc<S>,
    checks: [(&'static str, Check<S>); N],
) -> Result<()> {
    for (name, check) in checks {
        let root = format!("/conformance-{:08x}", rand::random::<u32>());
        create(&*store, &root, "").await.context(name)?;
        check(store.clone(), root).await.context(name)?;
    }
    Ok(())
}

async fn create<S: ?Sized + MetaStore>(store: &S, path: &str, data: &str) -> Result<Vec<Option<Version>>, MetaError> {
    store.multi(vec![new(path, data)]).await
}

fn new(path: &str, data: &str) -> Write {
    Write::Create { path: path.into(), data: Bytes::copy_from_slice(data.as_bytes()), ephemeral: false }
}

fn set(path: &str, data: &str, version: i32) -> Write {
    Write::Set { path: path.into(), data: Bytes::copy_from_slice(data.as_bytes()), version: Version(version) }
}

fn delete(path: &str, version: Option<i32>) -> Write {
    Write::Delete { path: path.into(), version: version.map(Version) }
}

async fn expect<S: ?Sized + MetaStore>(store: &S, path: &str, data: &str, version: i32) -> Result<()> {
    let node = store.get(path).await?.with_context(|| format!("{path} is missing"))?;
    ensure!(
        node.data == data && node.version == Version(version),
        "{path} is {node:?}, not {data:?} of version {version}"
    );
    Ok(())
}

type Store = Arc<dyn MetaStore>;

async fn a_created_node_is_read_back_with_version_zero(store: Store, root: String) -> Result<()> {
    let path = format!("{root}/a");
    ensure!(create(&*store, &path, "one").await? == [Some(Version(0))]);
    expect(&*store, &path, "one", 0).await?;
    let empty = format!("{root}/empty");
    create(&*store, &empty, "").await?;
    expect(&*store, &empty, "", 0).await
}

async fn a_missing_node_is_none_and_has_no_children(store: Store, root: String) -> Result<()> {
    ensure!(store.get(&format!("{root}/a/b")).await?.is_none());
    ensure!(store.children(&format!("{root}/a")).await?.is_empty());
    Ok(())
}

async fn a_node_is_not_created_twice(store: Store, root: String) -> Result<()> {
    let path = format!("{root}/a");
    create(&*store, &path, "one").await?;
    ensure!(create(&*store, &path, "two").await == Err(MetaError::Exists { path: path.clone() }));
    expect(&*store, &path, "one", 0).await
}

async fn a_node_without_a_parent_is_refused(store: Store, root: String) -> Result<()> {
    let path = format!("{root}/a/b");
    ensure!(create(&*store, &path, "").await == Err(MetaError::Missing { path: path.clone() }));
    Ok(())
}

async fn a_write_names_the_version_it_replaces(store: Store, root: String) -> Result<()> {
    let path = format!("{root}/a");
    create(&*store, &path, "0").await?;
    ensure!(store.multi(vec![set(&path, "1", 0)]).await? == [Some(Version(1))]);
    let stale = Err(MetaError::BadVersion { path: path.clone() });
    ensure!(store.multi(vec![set(&path, "x", 0)]).await == stale);
    ensure!(store.multi(vec![set(&path, "x", 2)]).await == stale);
    expect(&*store, &path, "1", 1).await?;
    let missing = format!("{root}/b");
    ensure!(store.multi(vec![set(&missing, "", 0)]).await == Err(MetaError::Missing { path: missing }));
    Ok(())
}

async fn a_deleted_node_is_gone(store: Store, root: String) -> Result<()> {
    let path = format!("{root}/a");
    create(&*store, &path, "").await?;
    ensure!(store.multi(vec![delete(&path, Some(7))]).await == Err(MetaError::BadVersion { path: path.clone() }));
    ensure!(store.multi(vec![delete(&path, Some(0))]).await? == [None]);
    ensure!(store.get(&path).await?.is_none());
    ensure!(store.children(&root).await?.is_empty());
    ensure!(store.multi(vec![delete(&path, None)]).await == Err(MetaError::Missing { path: path.clone() }));
    // Made again, it starts from version 0.
    ensure!(create(&*store, &path, "").await? == [Some(Version(0))]);
    ensure!(store.multi(vec![delete(&path, None)]).await? == [None]);
    Ok(())
}

async fn a_node_with_children_is_not_deleted(store: Store, root: String) -> Result<()> {
    create(&*store, &format!("{root}/a"), "").await?;
    ensure!(store.multi(vec![delete(&root, None)]).await == Err(MetaError::NotEmpty { path: root.clone() }));
    // In one multi, child first, it goes.
    store.multi(vec![delete(&format!("{root}/a"), None), delete(&root, None)]).await?;
    ensure!(store.get(&root).await?.is_none());
    Ok(())
}

async fn children_are_sorted_and_direct(store: Store, root: String) -> Result<()> {
    for name in ["b", "a", "a-b", "ab", "a/x", "a/y", "b/z"] {
        create(&*store, &format!("{root}/{name}"), "").await?;
    }
    ensure!(store.children(&root).await? == ["a", "a-b", "ab", "b"]);
    ensure!(store.children(&format!("{root}/a")).await? == ["x", "y"]);
    let top = root.trim_start_matches('/');
    ensure!(store.children("/").await?.iter().any(|name| name == top));
    Ok(())
}

async fn a_multi_happens_together_or_not_at_all(store: Store, root: String) -> Result<()> {
    let (a, b, c) = (format!("{root}/a"), format!("{root}/b"), format!("{root}/c"));
    create(&*store, &a, "0").await?;
    let writes = vec![set(&a, "1", 0), new(&b, ""), set(&c, "", 0)];
    ensure!(store.multi(writes).await == Err(MetaError::Missing { path: c.clone() }));
    expect(&*store, &a, "0", 0).await?;
    ensure!(store.children(&root).await? == ["a"]);
    let versions = store.multi(vec![set(&a, "1", 0), new(&b, ""), delete(&b, None)]).await?;
    ensure!(versions == [Some(Version(1)), Some(Version(0)), None]);
    ensure!(store.multi(Vec::new()).await? == []);
    Ok(())
}

async fn writes_of_a_multi_see_the_ones_before_them(store: Store, root: String) -> Result<()> {
    let (a, b) = (format!("{root}/a"), format!("{root}/a/b"));
    let versions = store.multi(vec![new(&a, ""), new(&b, "0"), set(&b, "1", 0), set(&b, "2", 1)]).await?;
    ensure!(versions == [Some(Version(0)), Some(Version(0)), Some(Version(1)), Some(Version(2))]);
    expect(&*store, &b, "2", 2).await
}

async fn a_check_guards_a_multi(store: Store, root: String) -> Result<()> {
    let (head, chunk) = (format!("{root}/head"), format!("{root}/chunk"));
    create(&*store, &head, "").await?;
    let check = |version| Write::Check { path: head.clone(), version: Version(version) };
    let refused = store.multi(vec![check(1), new(&chunk, "")]).await;
    ensure!(refused == Err(MetaError::BadVersion { path: head.clone() }), "{refused:?}");
    ensure!(store.get(&chunk).await?.is_none());
    ensure!(store.multi(vec![check(0), new(&chunk, "")]).await? == [None, Some(Version(0))]);
    // A check changes nothing.
    expect(&*store, &head, "", 0).await?;
    let nowhere = format!("{root}/nowhere");
    let missing = store.multi(vec![Write::Check { path: nowhere.clone(), version: Version(0) }]).await;
    ensure!(missing == Err(MetaError::Missing { path: nowhere }));
    Ok(())
}

async fn an_error_names_the_node_it_failed_at(store: Store, root: String) -> Result<()> {
    let (a, b, c) = (format!("{root}/a"), format!("{root}/b"), format!("{root}/c"));
    create(&*store, &b, "").await?;
    let refused = store.multi(vec![new(&a, ""), new(&b, ""), new(&c, "")]).await;
    ensure!(refused == Err(MetaError::Exists { path: b }), "{refused:?}");
    Ok(())
}

async fn ensure_makes_parents_and_is_repeatable(store: Store, root: String) -> Result<()> {
    let path = format!("{root}/a/b/c");
    store.ensure(&path).await?;
    expect(&*store, &path, "", 0).await?;
    store.ensure(&path).await?;
    store.ensure(&format!("{root}/a/b/d/e")).await?;
    ensure!(store.children(&format!("{root}/a/b")).await? == ["c", "d"]);
    Ok(())
}

async fn a_request_that_is_too_large_is_refused_and_harms_nothing(store: Store, root: String) -> Result<()> {
    let large = Bytes::from(vec![1; REQUEST_BYTES_MAX]);
    let (a, b) = (format!("{root}/a"), format!("{root}/b"));
    let writes = vec![Write::Create { path: a.clone(), data: large.clone(), ephemeral: false }];
    let (other, refused) = tokio::join!(create(&*store, &b, ""), store.multi(writes));
    ensure!(matches!(&refused, Err(MetaError::TooLarge { path, .. }) if *path == a), "{refused:?}");
    other.context("a request in flight beside it")?;
    // All writes of a multi count together.
    let half = large.slice(..REQUEST_BYTES_MAX / 2);
    let writes =
        ["c", "d"].map(|name| Write::Create { path: format!("{root}/{name}"), data: half.clone(), ephemeral: false });
    let refused = store.multi(writes.into()).await;
    ensure!(matches!(refused, Err(MetaError::TooLarge { .. })), "{refused:?}");
    ensure!(store.children(&root).await? == ["b"]);
    Ok(())
}

async fn a_request_of_the_largest_size_passes(store: Store, root: String) -> Result<()> {
    let path = format!("{root}/a");
    let empty = Write::Create { path: path.clone(), data: Bytes::new(), ephemeral: false };
    let data = Bytes::from(vec![7; REQUEST_BYTES_MAX - empty.request_bytes()]);
    store.multi(vec![Write::Create { path: path.clone(), data: data.clone(), ephemeral: false }]).await?;
    ensure!(store.get(&path).await?.is_some_and(|node| node.data == data));
    // Many small writes, at the limit of the estimate.
    let mut writes = Vec::new();
    let mut bytes = 0;
    loop {
        let write = new(&format!("{root}/{}", writes.len()), "");
        bytes += write.request_bytes();
        if bytes > REQUEST_BYTES_MAX {
            break;
        }
        writes.push(write);
    }
    let count = writes.len();
    ensure!(store.multi(writes).await?.len() == count);
    Ok(())
}

async fn requests_in_flight_all_get_their_answers(store: Store, root: String) -> Result<()> {
    let paths: Vec<String> = (0..200).map(|index| format!("{root}/{index}")).collect();
    for answer in join_all(paths.iter().map(|path| create(&*store, path, path))).await {
        answer?;
    }
    for (path, node) in paths.iter().zip(join_all(paths.iter().map(|path| store.get(path))).await) {
        ensure!(node?.is_some_and(|node| node.data == *path), "{path}");
    }
    Ok(())
}

async fn only_one_of_two_writers_of_a_version_wins(store: Store, root: String) -> Result<()> {
    let path = format!("{root}/a");
    create(&*store, &path, "").await?;
    let write = |data: &str| store.multi(vec![set(&path, data, 0)]);
    let outcomes = join_all([write("1"), write("2"), write("3")]).await;
    ensure!(outcomes.iter().filter(|outcome| outcome.is_ok()).count() == 1, "{outcomes:?}");
    ensure!(store.get(&path).await?.is_some_and(|node| node.version == Version(1)));
    Ok(())
}

async fn paths_that_are_none_are_refused(store: Store, root: String) -> Result<()> {
    for path in
        [String::new(), root.trim_start_matches('/').into(), format!("{root}/"), format!("{root}//a"), "/..".into()]
    {
        let refused = create(&*store, &path, "").await;
        ensure!(matches!(refused, Err(MetaError::Failed { .. })), "{path:?}: {refused:?}");
        let refused = store.get(&path).await;
        ensure!(matches!(refused, Err(MetaError::Failed { .. })), "{path:?}: {refused:?}");
    }
    Ok(())
}

type Live = Arc<dyn Coordination>;

async fn notified(mut changes: tokio::sync::watch::Receiver<()>) -> Result<()> {
    let told = tokio::time::timeout(NOTIFIED_WITHIN, changes.changed()).await;
    told.context("nobody was told of the change")?.context("the channel was closed without a word")
}

async fn a_watch_tells_of_every_kind_of_change(store: Live, root: String) -> Result<()> {
    let path = format!("{root}/a");
    let (node, changes) = store.watch(&path).await?;
    ensure!(node.is_none() && !changes.has_changed()?, "a change before there was one");
    create(&*store, &path, "0").await?;
    notified(changes).await.context("created")?;

    let (node, changes) = store.watch(&path).await?;
    ensure!(node.is_some_and(|node| node.data == "0"));
    store.multi(vec![set(&path, "1", 0)]).await?;
    notified(changes).await.context("set")?;

    let (node, changes) = store.watch(&path).await?;
    ensure!(node.is_some_and(|node| node.version == Version(1)));
    let (_, second) = store.watch(&path).await?;
    store.multi(vec![delete(&path, None)]).await?;
    notified(changes).await.context("deleted")?;
    notified(second).await.context("deleted, and two are watching")
}

async fn a_watch_of_children_tells_of_those_that_come_and_go(store: Live, root: String) -> Result<()> {
    let parent = format!("{root}/parent");
    let (names, changes) = store.watch_children(&parent).await?;
    ensure!(names.is_empty());
    create(&*store, &parent, "").await?;
    notified(changes).await.context("parent created")?;

    let (_, changes) = store.watch_children(&parent).await?;
    create(&*store, &format!("{parent}/a"), "").await?;
    notified(changes).await.context("child created")?;

    let (names, changes) = store.watch_children(&parent).await?;
    ensure!(names == ["a"]);
    store.multi(vec![delete(&format!("{parent}/a"), None)]).await?;
    notified(changes).await.context("child deleted")?;
    ensure!(store.watch_children(&parent).await?.0.is_empty());
    Ok(())
}

async fn an_ephemeral_node_has_no_children(store: Live, root: String) -> Result<()> {
    let path = format!("{root}/a");
    store.multi(vec![Write::Create { path: path.clone(), data: Bytes::new(), ephemeral: true }]).await?;
    let refused = create(&*store, &format!("{path}/b"), "").await;
    ensure!(matches!(refused, Err(MetaError::Failed { .. })), "{refused:?}");
    Ok(())
}

async fn the_session_is_connected(store: Live, _root: String) -> Result<()> {
    let session = *store.session().borrow();
    ensure!(session.state == SessionState::Connected && session.number == 1, "{session:?}");
    Ok(())
}

async fn ephemeral_nodes_go_with_the_session<Opened>(store: Live, again: impl FnOnce() -> Opened) -> Result<()>
where
    Opened: Future<Output = Result<Arc<dyn Coordination>>>,
{
    let root = format!("/conformance-{:08x}", rand::random::<u32>());
    let ephemeral = format!("{root}/ephemeral");
    let writes = vec![
        new(&root, ""),
        new(&format!("{root}/kept"), ""),
        Write::Create { path: ephemeral.clone(), data: "x".into(), ephemeral: true },
    ];
    store.multi(writes).await?;
    expect(&*store, &ephemeral, "x", 0).await?;
    let mut session = store.session();
    store.close().await;
    ensure!(session.borrow_and_update().state == SessionState::Closed);
    let refused = store.get(&root).await;
    ensure!(matches!(refused, Err(MetaError::Failed { .. })), "a closed store answers {refused:?}");
    store.close().await;
    drop(store);

    let store = again().await?;
    ensure!(store.children(&root).await? == ["kept"]);
    store.close().await;
    Ok(())
}
