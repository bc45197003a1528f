//! Several processes of one pipeline: who joins takes over partitions with their state, who leaves or dies gives them back, and a
//! process that only stood still finds out that it has lost them.
#![allow(clippy::unwrap_used)]

use crate::deployment::{Deployment, Servers};
use crate::node::Node;
use crate::restarts::{COUNT, check_exact, commits, records, under_load};

fn running(node: &Node) -> u64 {
    node.metric("sluicegate_tasks_running") as u64
}

/// Two processes, `a` and `b`, that share four partitions and have committed.
fn two(deployment: &Deployment) -> (Node, Node) {
    let mut a = deployment.start();
    a.wait_for("all tasks", |a| (running(a) == 4 && commits(a) > 0.0).then_some(()));
    let mut b = deployment.spawn(deployment.run_command("b"));
    b.wait_for("its share of the tasks", |b| (running(b) > 0 && commits(b) > 0.0).then_some(()));
    a.wait_for("its share of the tasks", |a| (running(a) < 4).then_some(()));
    (a, b)
}

#[test]
fn who_joins_takes_over_tasks_with_their_state_and_gives_them_back() {
    let deployment = Deployment::on(Servers::shared(), 4, COUNT);
    let mut a = under_load(&deployment, 200, || {
        let (mut a, b) = two(&deployment);
        b.stop();
        a.wait_for("all tasks back", |a| (running(a) == 4).then_some(()));
        let before = commits(&a);
        a.wait_for("more commits", |a| (commits(a) > before + 3.0).then_some(()));
        a
    });
    deployment.wait_until_done(&mut a);
    a.stop();
    check_exact(&deployment);
}

#[test]
fn who_is_killed_loses_nothing_to_the_other() {
    let deployment = Deployment::on(Servers::shared(), 4, COUNT);
    let mut b = under_load(&deployment, 200, || {
        let (a, mut b) = two(&deployment);
        a.kill();
        b.wait_for("all tasks", |b| (running(b) == 4).then_some(()));
        b
    });
    deployment.wait_until_done(&mut b);
    b.stop();
    check_exact(&deployment);
}

#[test]
fn a_process_that_stood_still_while_another_took_over_counts_nothing_twice() {
    let deployment = Deployment::on(Servers::shared(), 4, COUNT);
    let (mut a, mut b) = under_load(&deployment, 200, || {
        let (mut a, mut b) = two(&deployment);
        a.signal(libc::SIGSTOP);
        b.wait_for("all tasks", |b| (running(b) == 4).then_some(()));
        let before = commits(&b);
        b.wait_for("more commits", |b| (commits(b) > before + 3.0).then_some(()));
        // It wakes up with tasks, outputs and a session that are no longer its own.
        a.signal(libc::SIGCONT);
        a.wait_for("tasks of its own", |a| (running(a) > 0 && running(a) < 4).then_some(()));
        let before = commits(&a);
        a.wait_for("more commits", |a| (commits(a) > before + 3.0).then_some(()));
        (a, b)
    });
    deployment.wait_until_done(&mut a);
    deployment.wait_until_done(&mut b);
    a.stop();
    b.stop();
    check_exact(&deployment);
}

#[test]
fn a_second_process_of_the_same_name_is_refused_and_the_first_goes_on() {
    let deployment = Deployment::new(COUNT);
    deployment.produce("in", records(30, 30));
    let mut first = deployment.start_ready();
    deployment.start().wait_for_end().expect(1, &["a node named `a` is running already", "--node-name"]);
    deployment.produce("in", records(30, 30));
    deployment.wait_until_done(&mut first);
    first.stop();
    check_exact(&deployment);
}

#[test]
fn a_changed_pipeline_is_a_new_revision_that_keeps_its_state() {
    let deployment = Deployment::new(COUNT);
    deployment.produce("in", records(30, 30));
    deployment.run_through();
    deployment.change(&COUNT.replace("50ms", "70ms"));
    deployment.produce("in", records(30, 30));
    let mut node = deployment.start();
    node.wait_for_log("revision=2");
    deployment.wait_until_done(&mut node);
    node.stop();
    check_exact(&deployment);
}
