//! Guests that want to take the host down: bombs that go off when they are opened, hogs, and columns that say anything.

use proptest::prelude::*;

use super::*;
use crate::engine::rejects::drop_rejected;
use crate::record::{Column, Emission, Headers, Reject};

/// The guest of these tests with something more in it, at the level of the component.
fn with(more: &str) -> Result<Instance, OpenError> {
    let text = Script::default().text().replacen("  (core module $main", &format!("{more}\n  (core module $main"), 1);
    engine().load(&component(&text, MANIFEST)).unwrap().instantiate(options())
}

#[test]
fn bombs_do_not_go_off() {
    let refused = |more: &str| with(more).unwrap_err();
    let tables = refused("(core module $bomb (table 2000000 funcref)) (core instance (instantiate $bomb))");
    assert!(matches!(tables, OpenError::Call(_)), "{tables}");
    let memory = refused("(core module $bomb (memory 60000)) (core instance (instantiate $bomb))");
    assert!(matches!(memory, OpenError::Call(CallError::Memory { .. })), "{memory}");
    let many = "(core instance (instantiate $small))".repeat(200);
    let instances = refused(&format!("(core module $small) {many}"));
    assert!(matches!(instances, OpenError::Call(_)), "{instances}");
    let many = "(core instance (instantiate $small))".repeat(60);
    let memories = refused(&format!("(core module $small (memory 1) (memory 1)) {many}"));
    assert!(matches!(memories, OpenError::Call(_)), "{memories}");
    with("").unwrap();
}

#[test]
fn a_start_function_that_never_ends_is_ended() {
    let begin = Instant::now();
    let endless =
        "(core module $bomb (func $spin (loop $again (br $again))) (start $spin)) (core instance (instantiate $bomb))";
    let error = with(endless).unwrap_err();
    assert!(matches!(error, OpenError::Call(CallError::Deadline { .. })), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_table_does_not_grow_without_end() {
    let text = Script {
        process: "(loop $more (br_if $more (i32.ne (table.grow $hog (ref.null func) (i32.const 50000)) (i32.const -1))))",
        ..Script::default()
    };
    let text = text.text().replacen("(global $main", "(table $hog 1 funcref) (global $main", 1);
    let mut instance = engine().load(&component(&text, MANIFEST)).unwrap().instantiate(options()).unwrap();
    let (mut batch, mut state) = (Batch::default(), state());
    batch.push((0, 0, 0), 0, None, Some(b"x"), std::iter::empty());
    // It is told that there is no more, and goes on.
    instance.process(&mut batch, &mut state, NOW_MS).unwrap();
}

#[test]
fn much_code_is_compiled_and_nothing_else_happens() {
    let functions: String = (0..3000)
        .map(|number| {
            format!("(func $f{number} (param i32) (result i32) (i32.add (local.get 0) (i32.const {number})))")
        })
        .collect();
    with(&format!("(core module $large {functions}) (core instance (instantiate $large))")).unwrap();
}

fn column() -> impl Strategy<Value = Column> {
    let lengths = proptest::collection::vec(prop_oneof![-4..8i32, Just(i32::MAX), Just(i32::MIN)], 0..6);
    (proptest::collection::vec(any::<u8>(), 0..20), lengths).prop_map(|(bytes, lengths)| Column { bytes, lengths })
}

/// One whose lengths add up, which most of the code behind the checks gets to see.
fn honest_column(entries: usize) -> impl Strategy<Value = Column> {
    proptest::collection::vec(prop_oneof![-2..6i32], entries).prop_map(|lengths| {
        let bytes = lengths.iter().filter(|length| **length > 0).flat_map(|length| vec![b'x'; *length as usize]);
        Column { bytes: bytes.collect(), lengths }
    })
}

fn headers() -> impl Strategy<Value = Headers> {
    let counts = proptest::collection::vec(-3..4i32, 0..6);
    (counts, column(), column()).prop_map(|(counts, names, values)| Headers { counts, names, values })
}

fn emission() -> impl Strategy<Value = Emission> {
    let causes = proptest::option::of(proptest::collection::vec(0..6u32, 0..6));
    let timestamps = proptest::option::of(proptest::collection::vec(any::<i64>(), 0..6));
    let any = (
        causes,
        proptest::option::of(column()),
        proptest::option::of(column()),
        proptest::option::of(headers()),
        timestamps,
    );
    let any = any.prop_map(|(causes, keys, values, headers, timestamps)| Emission {
        causes,
        keys,
        values,
        headers,
        timestamps,
        ..Emission::default()
    });
    let honest = proptest::collection::vec(0..4u32, 0..6).prop_flat_map(|mut causes| {
        causes.sort_unstable();
        let count = causes.len();
        (honest_column(count), honest_column(count)).prop_map(move |(keys, values)| Emission {
            causes: Some(causes.clone()),
            keys: Some(keys),
            values: Some(values),
            ..Emission::default()
        })
    });
    prop_oneof![any, honest]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever a guest emits is refused, or is whole: every record that it stands for can be read, also when some are rejected.
    #[test]
    fn what_a_guest_emits_is_refused_or_whole(
        emission in emission(),
        records in 0..5usize,
        rejected in proptest::collection::vec(any::<u32>(), 0..4),
    ) {
        let mut batch = Batch::default();
        for offset in 0..records {
            let header = [(b"h".as_slice(), Some(b"v".as_slice()))];
            batch.push((0, 0, offset as i64), 7, Some(b"key"), Some(b"value"), header.into_iter());
        }
        let Ok(checked) = emission.checked(records) else { return Ok(()) };
        let mut next = Batch::default();
        next.append_emitted(&batch, &checked);
        prop_assert_eq!(checked.records(&batch).count(), checked.count);
        prop_assert_eq!(next.len(), checked.count);
        for record in next.records() {
            prop_assert_eq!(record.headers.count(), record.headers.size_hint().0);
        }
        let rejects: Vec<Reject> = rejected
            .iter()
            .filter(|_| records > 0)
            .map(|index| Reject { index: index % records as u32, reason: "no".to_owned() })
            .collect();
        let mut output = Output { emissions: vec![checked.clone()], rejects: rejects.clone() };
        drop_rejected(&mut output);
        let is_rejected = |cause: u32| rejects.iter().any(|reject| reject.index == cause);
        let kept: Vec<_> = checked.records(&batch).filter(|record| !is_rejected(record.cause)).map(|record| (record.cause, record.key.map(<[u8]>::to_vec), record.value.map(<[u8]>::to_vec))).collect();
        let found: Vec<_> = output.emissions.iter().flat_map(|emission| emission.records(&batch).collect::<Vec<_>>()).map(|record| (record.cause, record.key.map(<[u8]>::to_vec), record.value.map(<[u8]>::to_vec))).collect();
        prop_assert_eq!(kept, found);
        for emission in output.emissions {
            prop_assert!(emission.checked(records).is_ok());
        }
    }
}
