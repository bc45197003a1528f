use super::*;

const TASKS: u32 = 4;

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}

fn version(plugin: &str) -> Version {
    Version { reference: format!("{plugin}@1.0.0"), plugin: plugin.to_owned(), config: "c".to_owned() }
}

pub(crate) fn rollout(canary: Option<&str>) -> Rollout {
    let text = String::new;
    Rollout {
        number: 3,
        candidate: Specification {
            file: text(),
            canonical: text(),
            digest: text(),
            plugins: Vec::new(),
            partitions: TASKS,
        },
        revision: 8,
        transform: "mask".to_owned(),
        from: version("a"),
        to: version("b"),
        strategy: Strategy {
            canary: canary.map(|canary| canary.parse().unwrap()),
            probation_ms: 60_000,
            max_errors_ppm: 1000,
            max_slowdown: 5,
            shadow: None,
            max_differences_ppm: None,
            no_return: false,
        },
        converts: false,
        shadowed: None,
        watched: None,
        phase: Phase::Prepare,
        watched_since: None,
        reason: None,
        held: None,
        promoted_by: None,
        started_at: at(0),
        started_by: "me@here".to_owned(),
        switched: BTreeMap::new(),
    }
}

pub(super) fn report(prepared: bool, tasks: &[(u32, bool)]) -> NodeReport {
    let task = |&(partition, switched): &(u32, bool)| {
        let offsets = BTreeMap::from([("in".to_owned(), i64::from(partition) * 10)]);
        let switched = switched.then_some(Switched { offsets, pause_us: 7 });
        (partition, TaskReport { committed: switched.is_some(), switched, ..TaskReport::default() })
    };
    NodeReport { number: 3, prepared, problem: None, shadowed: None, tasks: tasks.iter().map(task).collect() }
}

fn next(rollout: &Rollout, reports: &[(&str, NodeReport)], now: Timestamp) -> Next {
    let placed: Vec<&str> = reports.iter().map(|(node, _)| *node).collect();
    rollout.next(&placed, &reports.iter().map(|(node, report)| (*node, report)).collect(), now)
}

fn go(next: Next) -> Rollout {
    match next {
        Next::Go(rollout) => *rollout,
        other => panic!("{other:?}"),
    }
}

#[test]
fn tasks_go_over_when_every_node_has_loaded_it_and_the_end_comes_after_the_probation() {
    let rollout = rollout(None);
    let half = [("x", report(true, &[])), ("y", report(false, &[]))];
    assert_eq!(next(&rollout, &half, at(1)), Next::Wait);
    assert!((0..TASKS).all(|task| !rollout.wants(task)));
    let both = [("x", report(true, &[(0, false), (1, false)])), ("y", report(true, &[(2, false), (3, false)]))];
    let everywhere = go(next(&rollout, &both, at(2)));
    assert_eq!(everywhere.phase, Phase::Everywhere);
    assert!((0..TASKS).all(|task| everywhere.wants(task)));
    let some = [("x", report(true, &[(0, true), (1, false)])), ("y", report(true, &[(2, true), (3, true)]))];
    assert_eq!(next(&everywhere, &some, at(3)), Next::Wait, "one is missing");
    let all = [("x", report(true, &[(0, true), (1, true)])), ("y", report(true, &[(2, true), (3, true)]))];
    let watched = go(next(&everywhere, &all, at(4)));
    assert_eq!((watched.watched_since, watched.switched.len()), (Some(at(4)), 4));
    assert_eq!(next(&watched, &all, at(63)), Next::Wait);
    let mut unsaid = all.clone();
    unsaid[0].1.tasks.get_mut(&1).unwrap().committed = false;
    assert_eq!(go(next(&watched, &unsaid, at(64))).watched_since, None, "a crash would find it on the version before");
    // A task is on another node now, which does not run it there yet.
    let moved = [("x", all[0].1.clone()), ("y", all[1].1.clone()), ("z", report(true, &[(0, false)]))];
    assert_eq!(go(next(&watched, &moved, at(64))).watched_since, None);
    // A node is gone, and its tasks are not up again yet: nobody says that it is done.
    assert_eq!(go(next(&watched, &all[..1], at(70))).watched_since, None);
    let Next::End(ended, Outcome::Done) = next(&watched, &all, at(64)) else { panic!("it has passed") };
    assert_eq!(ended.switched[&3].offsets["in"], 30);
    assert_eq!(ended.watched, Some(Counted::default()), "no record came");
}

#[test]
fn a_canary_goes_first_and_the_others_when_its_probation_has_passed() {
    let rollout = rollout(Some("50%"));
    let canary = go(next(&rollout, &[("x", report(true, &[]))], at(1)));
    assert_eq!((0..TASKS).map(|task| canary.wants(task)).collect::<Vec<_>>(), [true, true, false, false]);
    let first = [("x", report(true, &[(0, true), (1, true), (2, false), (3, false)]))];
    let watched = go(next(&canary, &first, at(2)));
    let everywhere = go(next(&watched, &first, at(62)));
    assert_eq!((everywhere.phase, everywhere.watched_since), (Phase::Everywhere, None));
}

#[test]
fn everything_that_can_be_said_of_a_strategy_has_its_key() {
    let strategy = Strategy {
        canary: Some(Share::Tasks(1)),
        shadow: Some(Extent::Records(1)),
        max_differences_ppm: Some(1),
        no_return: true,
        ..Strategy::default()
    };
    let keys: Vec<String> = serde_json::to_value(&strategy).unwrap().as_object().unwrap().keys().cloned().collect();
    let mut known = Strategy::KEYS.to_vec();
    known.sort_unstable();
    assert_eq!(keys, known);
    assert_eq!(serde_json::from_str::<Strategy>("{}").unwrap(), Strategy::default());
}

#[test]
fn what_a_share_comes_to() {
    let of = |share: &str, tasks| share.parse::<Share>().unwrap().of(tasks);
    assert_eq!([of("1", 8), of("25%", 8), of("1%", 8), of("100%", 8), of("9", 8), of("1", 1)], [1, 2, 1, 7, 7, 1]);
    for wrong in ["0", "0%", "101%", "-1", "x", "", "%"] {
        assert_eq!(wrong.parse::<Share>(), Err(ShareError), "{wrong}");
    }
}

#[test]
fn a_node_that_cannot_load_it_and_a_task_that_fails_on_it_call_it_off() {
    let mut reports = [("x", report(true, &[])), ("y", report(false, &[]))];
    reports[1].1.problem = Some("it does not compile".to_owned());
    let off = go(next(&rollout(None), &reports, at(1)));
    assert_eq!(off.phase, Phase::Return);
    assert_eq!(off.reason.as_deref(), Some("node y cannot run it: it does not compile"));

    let everywhere = Rollout { phase: Phase::Everywhere, ..rollout(None) };
    let mut reports = [("x", report(true, &[(0, true), (1, false)]))];
    reports[0].1.tasks.get_mut(&1).unwrap().refused = Some("it traps".to_owned());
    let off = go(next(&everywhere, &reports, at(1)));
    assert_eq!(off.reason.as_deref(), Some("task 1 on node x: it traps"));
    assert!(!off.wants(0));
    // Task 0 runs it still.
    assert_eq!(next(&off, &reports, at(2)), Next::Wait);
    let back = [("x", report(true, &[(0, false), (1, false)]))];
    assert!(matches!(next(&off, &back, at(3)), Next::End(_, Outcome::Returned)));
    // A node that is to run the pipeline and has not said anything may have tasks that run it.
    assert_eq!(off.next(&["x", "y"], &BTreeMap::from([("x", &back[0].1)]), at(3)), Next::Wait);
}

#[test]
fn a_rollout_that_nobody_can_prepare_ends_by_itself() {
    let rollout = rollout(None);
    assert_eq!(rollout.next(&[], &BTreeMap::new(), at(299)), Next::Wait);
    let off = go(rollout.next(&[], &BTreeMap::new(), at(301)));
    assert!(off.reason.unwrap().contains("no node runs the pipeline"));
    let off = go(next(&rollout, &[("x", report(false, &[]))], at(301)));
    assert!(off.reason.unwrap().ends_with(": x"));
    assert!(matches!(off_ends(&rollout), Next::End(_, Outcome::Returned)));
}

fn off_ends(rollout: &Rollout) -> Next {
    rollout.called_off("enough").next(&[], &BTreeMap::new(), at(400))
}

/// A node with all tasks in the shadow, that has compared so many records.
fn shadowing(records: u64, different: u64) -> NodeReport {
    let counts = Counts { records, same: records - different, different, ..Counts::default() };
    let mut report = report(true, &[(0, false), (1, false), (2, false), (3, false)]);
    report.tasks.values_mut().for_each(|task| task.shadow = Some(InShadow::Sees));
    NodeReport { shadowed: Some(Shadowed { counts, examples: Vec::new() }), ..report }
}

fn in_shadow(shadow: &str, max_differences_ppm: Option<u32>) -> Rollout {
    let plain = rollout(Some("50%"));
    let strategy = Strategy { shadow: Some(shadow.parse().unwrap()), max_differences_ppm, ..plain.strategy.clone() };
    let next = go(next(&Rollout { strategy, ..plain }, &[("x", report(true, &[]))], at(1)));
    assert_eq!(next.phase, Phase::Shadow);
    assert!((0..TASKS).all(|task| !next.wants(task)), "nobody runs it");
    next
}

#[test]
fn a_candidate_stays_in_the_shadow_for_so_many_records_of_all_nodes_and_then_tasks_go_over() {
    let rollout = go(next(&in_shadow("1000", None), &[("x", shadowing(10, 3))], at(1)));
    assert_eq!((rollout.phase, rollout.watched_since), (Phase::Shadow, Some(at(1))));
    let both = |second| [("x", shadowing(600, 3)), ("y", shadowing(second, 0))];
    assert_eq!(next(&rollout, &both(399), at(500)), Next::Wait);
    let over = go(next(&rollout, &both(400), at(501)));
    assert_eq!((over.phase, over.watched_since), (Phase::Canary, None));
    let counts = over.shadowed.unwrap().counts;
    assert_eq!((counts.records, counts.same, counts.different), (1000, 997, 3), "differences are only shown");
}

#[test]
fn a_time_in_the_shadow_begins_when_all_tasks_have_it_there() {
    let rollout = in_shadow("10s", None);
    let mut some = [("x", shadowing(10, 0))];
    some[0].1.tasks.get_mut(&3).unwrap().shadow = None;
    assert_eq!(next(&rollout, &some, at(100)), Next::Wait);
    let all = [("x", shadowing(10, 0))];
    let watched = go(next(&rollout, &all, at(100)));
    assert_eq!(watched.watched_since, Some(at(100)));
    assert_eq!(next(&watched, &all, at(109)), Next::Wait);
    assert_eq!(go(next(&watched, &all, at(110))).phase, Phase::Canary);
}

#[test]
fn a_shadow_that_no_task_goes_on_with_is_over() {
    let mut all = [("x", shadowing(10, 0))];
    all[0].1.tasks.values_mut().for_each(|task| task.shadow = Some(InShadow::GivenUp));
    assert_eq!(go(next(&in_shadow("1000", None), &all, at(2))).phase, Phase::Canary);
}

#[test]
fn what_goes_wrong_in_the_shadow_and_more_differences_than_allowed_call_it_off() {
    let rollout = in_shadow("5000", Some(1000));
    let watched = Rollout { watched_since: Some(at(1)), ..rollout.clone() };
    assert_eq!(next(&watched, &[("x", shadowing(2000, 2))], at(2)), Next::Wait);
    assert_eq!(next(&watched, &[("x", shadowing(900, 900))], at(2)), Next::Wait, "of few nothing can be said");
    let off = go(next(&watched, &[("x", shadowing(2000, 3))], at(2)));
    assert_eq!((off.phase, off.shadowed.as_ref().unwrap().counts.different), (Phase::Return, 3));
    assert!(off.reason.unwrap().contains("of 2000 records too much is different: 1997 the same, 3 different"));
    let few = in_shadow("500", Some(0));
    assert_eq!(go(next(&few, &[("x", shadowing(500, 1))], at(2))).phase, Phase::Return, "when it is over, few count");
    let mut failing = [("x", shadowing(10, 0))];
    failing[0].1.tasks.get_mut(&2).unwrap().shadow = Some(InShadow::Failed("in the shadow: it traps".to_owned()));
    assert_eq!(go(next(&rollout, &failing, at(2))).reason.unwrap(), "task 2 on node x: in the shadow: it traps");
}

#[test]
fn a_shadow_without_return_is_called_off_like_any_other() {
    let rollout = in_shadow("5000", None);
    let strategy = Strategy { no_return: true, ..rollout.strategy.clone() };
    let rollout = Rollout { strategy, ..rollout };
    assert!(rollout.can_be_called_off(), "no task has gone over");
    let mut failing = [("x", shadowing(10, 0))];
    failing[0].1.tasks.get_mut(&2).unwrap().shadow = Some(InShadow::Failed("it traps".to_owned()));
    let off = go(next(&rollout, &failing, at(2)));
    assert_eq!((off.phase, off.held), (Phase::Return, None));
}

fn counted(records: u64, errors: u64, busy_us: u64) -> Counted {
    Counted { records, errors, busy_us }
}

fn verdict(before: Counted, after: Counted) -> Option<String> {
    let everywhere = Rollout { phase: Phase::Everywhere, ..rollout(None) };
    let mut reports = [("x", report(true, &[(0, true), (1, true), (2, true), (3, true)]))];
    let task = reports[0].1.tasks.get_mut(&0).unwrap();
    (task.before, task.after) = (before, after);
    go(next(&everywhere, &reports, at(1))).reason
}

#[test]
fn more_errors_than_the_version_before_and_the_limit_allow_call_it_off() {
    // The limit is 0.1 %.
    assert_eq!(verdict(counted(5000, 0, 0), counted(100_000, 90, 0)), None);
    assert!(verdict(counted(5000, 0, 0), counted(100_000, 110, 0)).unwrap().contains("110 of 100000"));
    // The version before had as many.
    assert_eq!(verdict(counted(100_000, 500, 0), counted(100_000, 590, 0)), None);
    // One of few says nothing; two of few are more than a thousand may have.
    assert_eq!(verdict(counted(5000, 0, 0), counted(10, 1, 0)), None);
    assert!(verdict(counted(5000, 0, 0), counted(10, 2, 0)).is_some());
    // Nobody knows what the version before would have done.
    assert_eq!(verdict(counted(20, 0, 0), counted(5000, 50, 0)), None);
    assert!(verdict(counted(20, 0, 0), counted(5000, 600, 0)).is_some());
}

#[test]
fn a_version_that_takes_many_times_as_long_is_called_off() {
    assert_eq!(verdict(counted(2000, 0, 20_000), counted(2000, 0, 90_000)), None);
    assert_eq!(verdict(counted(2000, 0, 2000), counted(2000, 0, 40_000)), None, "fast enough, whatever it was before");
    assert!(verdict(counted(2000, 0, 20_000), counted(2000, 0, 110_000)).unwrap().contains("55.0 us a record"));
    assert_eq!(verdict(counted(2000, 0, 2000), counted(10, 0, 110_000)), None, "of ten records nothing can be said");
}

#[test]
fn reports_of_another_rollout_say_nothing() {
    let rollout = rollout(None);
    let stale = NodeReport { number: 2, problem: Some("old".to_owned()), ..report(true, &[]) };
    assert_eq!(next(&rollout, &[("x", stale)], at(1)), Next::Wait);
}

#[test]
fn the_first_reason_stays() {
    let off = rollout(None).called_off("one").called_off("two");
    assert_eq!(off.reason.as_deref(), Some("one"));
}

#[test]
fn without_a_way_back_what_exceeds_a_limit_is_held_until_a_person_lets_it_go_on() {
    let mut one_way = rollout(Some("50%"));
    one_way.strategy.no_return = true;
    let broken = NodeReport { problem: Some("it does not compile".to_owned()), ..report(false, &[]) };
    let off = go(next(&one_way, &[("x", broken)], at(1)));
    assert_eq!(off.phase, Phase::Return, "nothing has gone over yet");

    let canary = go(next(&one_way, &[("x", report(true, &[]))], at(1)));
    assert!(!canary.can_be_called_off());
    let mut reports = [("x", report(true, &[(0, true), (1, true), (2, false), (3, false)]))];
    reports[0].1.tasks.get_mut(&0).unwrap().after = counted(5000, 5000, 0);
    let held = go(next(&canary, &reports, at(2)));
    assert!(held.awaits_decision().unwrap().contains("it rejects 5000 of 5000 records"), "{held:?}");
    assert_eq!((held.phase, held.wants(0), held.wants(2)), (Phase::Canary, true, false), "everybody stays where it is");
    assert_eq!(next(&held, &reports, at(1000)), Next::Wait, "time decides nothing");

    let promoted = held.promoted("me@here".to_owned()).unwrap();
    assert!((0..TASKS).all(|task| promoted.wants(task)) && promoted.promoted("you@here".to_owned()).is_none());
    assert_eq!(next(&promoted, &reports, at(1001)), Next::Wait, "some have not gone over");
    let mut all = [("x", report(true, &[(0, true), (1, true), (2, true), (3, true)]))];
    all[0].1.tasks.get_mut(&0).unwrap().after = counted(5000, 5000, 0);
    let Next::End(ended, Outcome::Done) = next(&promoted, &all, at(1001)) else { panic!("all have gone over") };
    assert_eq!((ended.held, ended.switched.len()), (held.held, 4), "why it was held stays");
}
