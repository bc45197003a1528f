//! What needs no server; the rest is in the end-to-end suite.

use super::*;

fn parse(connect: &str, namespace: &str) -> Result<(String, String), String> {
    let target = Target::parse(&ZooKeeperOptions::new(connect, namespace));
    target.map(|target| (target.hosts, target.root)).map_err(|error| error.to_string())
}

#[test]
fn the_namespace_lies_below_the_chroot_of_the_connect_string() {
    let hosts = |root: &str| Ok(("a:1,b:2".into(), root.into()));
    assert_eq!(parse("a:1,b:2", "/sluicegate"), hosts("/sluicegate"));
    assert_eq!(parse("a:1, b:2/apps", "sluicegate/x"), hosts("/apps/sluicegate/x"));
    assert_eq!(parse("a:1,b:2/", "/"), hosts("/"));
}

#[test]
fn options_that_make_no_sense_are_refused() {
    assert!(parse("", "/a").unwrap_err().contains("host:port"));
    assert!(parse("a:1,,b:2", "/a").unwrap_err().contains("host:port"));
    assert!(parse("a:1", "/a/..").unwrap_err().contains(".."));
    assert!(parse("a:1", &"x".repeat(80)).unwrap_err().contains("longer than 64"));
}

#[test]
fn a_secret_is_not_shown() {
    let auth = Some(ZooKeeperAuth { scheme: "digest".into(), secret: "me:hunter2".into() });
    let options = ZooKeeperOptions { auth, ..ZooKeeperOptions::new("a:1", "/a") };
    let shown = format!("{options:?}");
    assert!(shown.contains("digest") && !shown.contains("hunter2"), "{shown}");
}

#[tokio::test]
async fn a_server_that_is_away_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let options =
        ZooKeeperOptions { session_timeout: Duration::from_millis(300), ..ZooKeeperOptions::new(&address, "/a") };
    let error = ZooKeeper::connect(options).await.unwrap_err();
    assert!(error.is_outage() && !error.may_have_happened(), "{error:?}");
    assert!(error.to_string().contains(&address), "{error}");
}
