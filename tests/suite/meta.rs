//! The metadata store on a real ZooKeeper: the promises of every store, and what only a server can do: be away, expire a
//! session, lose an answer, refuse a stranger.

pub(crate) mod proxy;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use sluicegate::cluster::registry::{Description, Registry};
use sluicegate::digest::Digest;
use sluicegate::meta::zookeeper::{ZooKeeper, ZooKeeperAuth, ZooKeeperOptions};
use sluicegate::meta::{Coordination, MetaError, MetaStore, Node, Session, SessionState, Version, Write, conformance};
use sluicegate::provenance::Provenance;
use sluicegate::signing::Signatures;
use sluicegate_harness::zookeeper::{ZooKeeper as Server, ZooKeeperOptions as ServerOptions};

use self::proxy::Proxy;

const DEADLINE: Duration = Duration::from_secs(30);
/// Short enough that the client gives a session up within the ten seconds of an outage (after 7/5 of it), long enough that a
/// server on a busy machine answers in time (within 2/5).
const SESSION_TIMEOUT: Duration = Duration::from_secs(5);

fn server() -> Result<Server> {
    Server::start(ServerOptions::default())
}

fn options(connect: &str) -> ZooKeeperOptions {
    ZooKeeperOptions {
        session_timeout: SESSION_TIMEOUT,
        away_wait: Duration::from_millis(300),
        ..ZooKeeperOptions::new(connect, "/sluicegate")
    }
}

async fn connect(address: &str) -> Result<ZooKeeper> {
    Ok(ZooKeeper::connect(options(address)).await?)
}

fn create(path: &str, data: &str, ephemeral: bool) -> Vec<Write> {
    vec![Write::Create { path: path.into(), data: data.to_owned().into(), ephemeral }]
}

/// Asks again until the answer is no outage.
async fn when_back<T, Asked>(mut ask: impl FnMut() -> Asked) -> Result<T>
where
    Asked: Future<Output = Result<T, MetaError>>,
{
    let deadline = Instant::now() + DEADLINE;
    loop {
        match ask().await {
            // `away_wait` paces this.
            Err(error) if error.is_outage() && Instant::now() < deadline => tokio::task::yield_now().await,
            answer => return Ok(answer?),
        }
    }
}

async fn session(store: &ZooKeeper, state: SessionState) -> Result<Session> {
    let mut session = store.session();
    Ok(*tokio::time::timeout(DEADLINE, session.wait_for(|session| session.state == state)).await??)
}

#[tokio::test(flavor = "multi_thread")]
async fn zookeeper_keeps_the_promises_of_a_store() -> Result<()> {
    let server = server()?;
    // The longest namespace there may be: what a request may hold must not depend on it.
    let namespace = format!("/{}", "n".repeat(sluicegate::meta::zookeeper::NAMESPACE_BYTES_MAX - 1));
    let open = || async {
        // With the usual times: nothing fails here, and the largest requests take a while on a busy machine.
        let options = ZooKeeperOptions::new(&server.connect(), &namespace);
        Ok(Arc::new(ZooKeeper::connect(options).await?) as Arc<dyn Coordination>)
    };
    let store = open().await?;
    conformance::store(store.clone()).await?;
    conformance::coordination(store, open).await
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_do_not_see_one_another() -> Result<()> {
    let server = server()?;
    let address = format!("{}/apps", server.connect());
    let store = connect(&address).await?;
    store.multi(create("/a", "", false)).await?;
    let beside = ZooKeeper::connect(ZooKeeperOptions { namespace: "other".into(), ..options(&address) }).await?;
    assert_eq!(beside.get("/a").await?, None);
    let above = ZooKeeper::connect(ZooKeeperOptions { namespace: "/".into(), ..options(&server.connect()) }).await?;
    assert_eq!(above.children("/apps").await?, ["other", "sluicegate"]);
    assert!(above.get("/apps/sluicegate/a").await?.is_some());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_layout_version_is_refused() -> Result<()> {
    let server = server()?;
    let store = connect(&server.connect()).await?;
    let newer = Write::Set { path: "/format".into(), data: "99".into(), version: Version(0) };
    store.multi(vec![newer]).await?;
    let refused = connect(&server.connect()).await.unwrap_err().to_string();
    assert!(refused.contains("`99`") && refused.contains("another namespace"), "{refused}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_away_for_ten_seconds_keeps_the_session() -> Result<()> {
    let mut server = server()?;
    let store = connect(&server.connect()).await?;
    store.multi(create("/kept", "1", false)).await?;
    store.multi(create("/mine", "", true)).await?;
    let (_, mut changes) = store.watch("/kept").await?;

    let stopped = Instant::now();
    server.stop()?;
    let away = session(&store, SessionState::Away).await?;
    assert_eq!(away.number, 1);
    let mut refused = 0;
    // Longer than the client keeps a session without a server by itself.
    while stopped.elapsed() < Duration::from_secs(10) {
        let error = store.get("/kept").await.unwrap_err();
        assert!(error.is_outage() && !error.may_have_happened(), "{error}");
        let error = store.multi(create("/never", "", false)).await.unwrap_err();
        assert!(matches!(error, MetaError::Away { .. }), "{error}");
        refused += 1;
    }
    assert!(refused > 10, "only {refused} requests in ten seconds: they must not wait for the server");

    server.restart()?;
    let node = when_back(|| store.get("/kept")).await?;
    assert_eq!(node.map(|node| node.data), Some("1".into()));
    assert_eq!(session(&store, SessionState::Connected).await?.number, 1, "the server still knew the session");
    assert!(store.get("/mine").await?.is_some());
    assert_eq!(store.get("/never").await?, None, "nothing that failed as not sent is sent later");
    tokio::time::timeout(DEADLINE, changes.changed()).await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_expired_is_replaced() -> Result<()> {
    let server = server()?;
    let proxy = Proxy::start(&server.connect()).await?;
    let store = connect(&proxy.address()).await?;
    let observer = connect(&server.connect()).await?;
    store.multi(create("/mine", "", true)).await?;
    store.multi(create("/kept", "", false)).await?;
    let (_, mut data) = store.watch("/kept").await?;
    let (_, mut children) = store.watch_children("/").await?;

    // Cut off until the server has given up the session.
    let (mine, mut gone) = observer.watch("/mine").await?;
    assert!(mine.is_some());
    proxy.hold();
    tokio::time::timeout(DEADLINE, gone.changed()).await??;
    assert_eq!(observer.get("/mine").await?, None);
    proxy.cut();
    proxy.forward();

    assert!(when_back(|| store.get("/kept")).await?.is_some());
    assert_eq!(session(&store, SessionState::Connected).await?.number, 2);
    tokio::time::timeout(DEADLINE, data.changed()).await??;
    tokio::time::timeout(DEADLINE, children.changed()).await??;
    // The new session is a whole one.
    store.multi(create("/mine", "again", true)).await?;
    let (_, mut changes) = store.watch("/kept").await?;
    observer.multi(vec![Write::Set { path: "/kept".into(), data: "x".into(), version: Version(0) }]).await?;
    tokio::time::timeout(DEADLINE, changes.changed()).await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_of_what_was_missed_while_the_connection_was_cut() -> Result<()> {
    let server = server()?;
    let proxy = Proxy::start(&server.connect()).await?;
    let store = connect(&proxy.address()).await?;
    let other = connect(&server.connect()).await?;
    store.multi(create("/a", "", false)).await?;
    let (_, mut data) = store.watch("/a").await?;
    let (_, mut children) = store.watch_children("/").await?;
    proxy.hold();
    other.multi(vec![Write::Set { path: "/a".into(), data: "x".into(), version: Version(0) }]).await?;
    other.multi(create("/b", "", false)).await?;
    proxy.cut();
    proxy.forward();
    tokio::time::timeout(DEADLINE, data.changed()).await??;
    tokio::time::timeout(DEADLINE, children.changed()).await??;
    assert_eq!(when_back(|| store.get("/a")).await?.map(|node| node.data), Some("x".into()));
    assert_eq!(store.session().borrow().number, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_was_lost_says_so_whether_it_was_applied_or_not() -> Result<()> {
    let server = server()?;
    let proxy = Proxy::start(&server.connect()).await?;
    let store = connect(&proxy.address()).await?;
    let observer = connect(&server.connect()).await?;

    // Applied, and the answer never comes.
    proxy.swallow_answers();
    let (_, mut made) = observer.watch("/applied").await?;
    let applied = tokio::spawn({
        let write = Arc::new(store);
        let store = write.clone();
        async move { (write.multi(create("/applied", "", false)).await, store) }
    });
    tokio::time::timeout(DEADLINE, made.changed()).await??;
    proxy.cut();
    proxy.forward();
    let (outcome, store) = applied.await?;
    let error = outcome.unwrap_err();
    assert!(error.may_have_happened(), "{error}");
    assert!(when_back(|| store.get("/applied")).await?.is_some(), "read back, it is there");

    // Sent, and it never arrives.
    proxy.hold();
    let mut held = proxy.held();
    let before = *held.borrow_and_update();
    let lost = tokio::spawn({
        let store = store.clone();
        async move { store.multi(create("/lost", &"x".repeat(10_000), false)).await }
    });
    tokio::time::timeout(DEADLINE, held.wait_for(|held| *held >= before + 10_000)).await??;
    proxy.cut();
    proxy.forward();
    let error = lost.await?.unwrap_err();
    assert!(error.may_have_happened(), "{error}");
    assert_eq!(when_back(|| store.get("/lost")).await?, None, "read back, it is not there");
    assert_eq!(store.session().borrow().number, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_under_writes_loses_none_that_it_answered() -> Result<()> {
    const WRITES: usize = 2_000;
    let mut server = server()?;
    let store = Arc::new(connect(&server.connect()).await?);
    store.multi(create("/w", "", false)).await?;
    let writes = tokio::spawn({
        let store = store.clone();
        async move {
            let write = |index: usize| {
                let store = store.clone();
                async move { store.multi(create(&format!("/w/{index}"), &"x".repeat(500), false)).await }
            };
            futures::future::join_all((0..WRITES).map(write)).await
        }
    });
    // As soon as some are there.
    when_back(|| async {
        match store.children("/w").await?.len() {
            0..20 => Err(MetaError::Away { reason: "too early".into() }),
            _ => Ok(()),
        }
    })
    .await?;
    server.kill()?;
    let outcomes = tokio::time::timeout(DEADLINE, writes).await??;
    server.restart()?;
    let found = when_back(|| store.children("/w")).await?;
    let found: std::collections::HashSet<&str> = found.iter().map(String::as_str).collect();
    for (index, outcome) in outcomes.iter().enumerate() {
        let there = found.contains(index.to_string().as_str());
        match outcome {
            Ok(_) => assert!(there, "write {index} was answered and is lost"),
            Err(error) if error.may_have_happened() => {}
            Err(error) => {
                assert!(error.is_outage() && !there, "write {index} failed with {error} and is there: {there}")
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_server_fails_what_is_in_flight_and_nothing_afterwards() -> Result<()> {
    let server = server()?;
    let store = connect(&server.connect()).await?;
    server.pause()?;
    let error = store.multi(create("/a", "", false)).await.unwrap_err();
    assert!(error.may_have_happened(), "{error}");
    let error = store.get("/a").await.unwrap_err();
    assert!(error.is_outage(), "{error}");
    server.resume()?;
    // The server may carry out what it has in its buffers: only a read after the connection is back tells.
    let made: Option<Node> = when_back(|| store.get("/a")).await?;
    let outcome = when_back(|| store.multi(create("/a", "", false))).await;
    assert!(
        made.is_some() || outcome.is_ok() || outcome.is_err_and(|error| error.to_string().contains("exists already"))
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_too_large_is_not_sent() -> Result<()> {
    let server = server()?;
    let store = connect(&server.connect()).await?;
    let large = vec![Write::Create { path: "/large".into(), data: vec![0; 1_100_000].into(), ephemeral: false }];
    let paths: Vec<String> = (0..100).map(|index| format!("/{index}")).collect();
    let others = futures::future::join_all(paths.iter().map(|path| store.multi(create(path, "", false))));
    let (others, refused) = tokio::join!(others, store.multi(large));
    assert!(matches!(refused, Err(MetaError::TooLarge { .. })), "{refused:?}");
    assert!(others.iter().all(Result::is_ok), "requests beside it failed");
    assert_eq!(*store.session().borrow(), Session { number: 1, state: SessionState::Connected });
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_those_who_know_the_secret_come_in() -> Result<()> {
    let server = server()?;
    let with = |secret: &str| ZooKeeperOptions {
        auth: Some(ZooKeeperAuth { scheme: "digest".into(), secret: secret.into() }),
        ..options(&server.connect())
    };
    let owner = ZooKeeper::connect(with("sluicegate:secret")).await?;
    owner.multi(create("/a", "", false)).await?;
    owner.multi(create("/mine", "", true)).await?;

    let stranger = ZooKeeper::connect(options(&server.connect())).await.unwrap_err();
    assert!(matches!(stranger, MetaError::Denied { .. }), "{stranger}");
    let wrong = ZooKeeper::connect(with("sluicegate:guess")).await.unwrap_err();
    assert!(matches!(wrong, MetaError::Denied { .. }), "{wrong}");
    assert!(!format!("{wrong} {wrong:?}").contains("guess"));
    let unknown = ZooKeeperAuth { scheme: "nonsense".into(), secret: "x".into() };
    let unknown = ZooKeeper::connect(ZooKeeperOptions { auth: Some(unknown), ..options(&server.connect()) }).await;
    assert!(matches!(unknown, Err(MetaError::Denied { .. })), "{unknown:?}");

    let second = ZooKeeper::connect(with("sluicegate:secret")).await?;
    assert!(second.get("/mine").await?.is_some());
    // What it makes after a reconnection belongs to it as before.
    owner.close().await;
    assert_eq!(second.get("/mine").await?, None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_of_many_chunks_goes_through_the_registry_and_back() -> Result<()> {
    let server = server()?;
    let registry = Registry::new(Arc::new(connect(&server.connect()).await?));
    let bytes: Vec<u8> = (0..20_000_000_u32).map(|index| (index % 251) as u8).collect();
    let plugin = Description {
        name: "large".into(),
        version: "1.0.0".parse()?,
        interface: "0.1.0".into(),
        description: String::new(),
        provenance: Provenance::default(),
    };
    let unsigned = Signatures::none(Digest::of(&bytes));
    let started = Instant::now();
    let pushed = registry.push(&plugin, &bytes, &unsigned, |_| {}).await?;
    let stored = started.elapsed();
    assert!(registry.fetch(&pushed.entry.record.digest).await? == bytes);
    println!("20 MB pushed and verified in {stored:?}, fetched in {:?}", started.elapsed() - stored);
    registry.remove("large", &plugin.version, |_| None).await?;
    assert!(registry.fetch(&pushed.entry.record.digest).await.is_err());
    Ok(())
}
