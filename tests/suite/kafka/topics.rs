//! Topics and brokers that are not there yet.

use std::time::Duration;

use sluicegate::kafka::topics::{TopicsError, wait_for_topics};
use sluicegate_harness::ports::Port;

use super::settings;
use crate::shared::{create_topic, kafka, topic, unique};

#[test]
fn a_topic_that_is_missing_is_waited_for() {
    let bootstrap = kafka().bootstrap();
    let settings = settings(&bootstrap);
    let (there, later) = (topic(&bootstrap, "there", 3), unique("later"));
    let topics = [there.clone(), later.clone()];
    let error = wait_for_topics(&settings, &topics, Some(Duration::from_millis(300)), || false).unwrap_err();
    assert!(matches!(&error, TopicsError::TimedOut { reason, .. } if reason.contains(&later)), "{error}");
    assert!(!error.to_string().contains(&there), "{error}");

    let mut asked = 0;
    let counts = wait_for_topics(&settings, &topics, None, || {
        asked += 1;
        if asked == 2 {
            create_topic(&bootstrap, &later, 5);
        }
        false
    })
    .unwrap();
    assert_eq!(counts, [(there, 3), (later, 5)].into());
}

#[test]
fn waiting_for_a_broker_can_be_cancelled_and_says_what_it_waits_for() {
    let nobody = Port::free().unwrap();
    let settings = settings(&nobody.address());
    let topics = ["t".to_owned()];
    let error = wait_for_topics(&settings, &topics, Some(Duration::from_secs(1)), || false).unwrap_err();
    assert!(error.to_string().contains("no broker answers"), "{error}");
    let error = wait_for_topics(&settings, &topics, None, || true).unwrap_err();
    assert!(matches!(error, TopicsError::Cancelled), "{error}");
}

#[test]
fn a_name_that_is_none_is_refused() {
    let settings = settings(&kafka().bootstrap());
    let topics = ["no topic name!".to_owned()];
    let error = wait_for_topics(&settings, &topics, None, || false).unwrap_err();
    assert!(matches!(error, TopicsError::Refused { .. }), "{error}");
}
