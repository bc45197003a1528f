//! What a user of Kafka hears who lacks a right: which one, on what.

use super::{KAFKA_PASSWORD, Site, output, run};
use crate::restarts::{COUNT, records};

#[test]
fn a_user_without_rights_hears_which_to_grant_one_after_the_other() {
    let site = Site::get();
    let deployment = site.deployment("guest", COUNT);
    deployment.produce("in", records(30, 3));
    let (input, sink, group) = (deployment.topic("in"), deployment.topic("out"), deployment.group());
    let refused = |words: &[&str]| deployment.spawn(run(&deployment)).wait_for_end().expect(1, words);

    let doctor = || output(deployment.command(&["doctor", "pipeline.toml"]).env("KAFKA_PASSWORD", KAFKA_PASSWORD));
    let (code, said) = doctor();
    assert_eq!(code, Some(1), "{said}");
    for missing in [
        "source: this user may not see it; grant this user `Describe` and `Read` on the topic",
        "sink: this user may not see it; grant this user `Describe` and `Write` on the topic",
        "grant this user `Read` on the group",
        "grant this user `Describe` and `Write` on all transactional ids",
    ] {
        assert!(said.contains(missing), "{missing} is missing in\n{said}");
    }

    refused(&[&format!("topic `{input}`"), "authorization failed", "grant this user `Describe` and `Read`"]);
    site.grant("guest", "Describe", &["--topic", &input]);
    refused(&[&format!("topic `{sink}`"), "authorization failed", "`Describe` and `Write` on sinks"]);
    site.grant("guest", "Describe", &["--topic", &sink]);
    refused(&["transactional id", &format!("`{group}/a/"), "grant this user `Describe` and `Write`"]);
    site.grant("guest", "Write", &["--transactional-id", &group]);
    refused(&[&format!("group `{group}`"), "grant this user `Read` on the group"]);
    site.grant("guest", "Read", &["--group", &group]);
    let (_, said) = doctor();
    assert!(said.contains("source: this user may not read it; grant this user `Read` on the topic"), "{said}");
    assert!(said.contains("sink: this user may not write it; grant this user `Write` on the topic"), "{said}");
    refused(&[&input, "authorization failed", "`Read` on source topics"]);
    site.grant("guest", "Read", &["--topic", &input]);
    refused(&[&sink, "authorization failed", "`Write` on sinks"]);
    site.grant("guest", "Write", &["--topic", &sink]);

    let (code, said) = doctor();
    assert_eq!(code, Some(0), "{said}");
    let mut node = deployment.spawn(run(&deployment));
    deployment.wait_until_done(&mut node);
    node.stop();
    assert_eq!(deployment.read("out").len(), 30);
}
