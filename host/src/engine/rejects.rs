//! Takes back what was emitted for records that were rejected. Pure, and off the fast path: most calls reject nothing.

use std::collections::BTreeSet;

use crate::record::{Column, Emission, Entry, Headers, INHERIT, Output};

/// Drops every emitted record whose cause was rejected, before or after it was emitted. Rejects are left as they are.
pub(super) fn drop_rejected(output: &mut Output) {
    let rejected: BTreeSet<u32> = output.rejects.iter().map(|reject| reject.index).collect();
    if rejected.is_empty() {
        return;
    }
    for emission in &mut output.emissions {
        keep(emission, |cause| !rejected.contains(&cause));
    }
    output.emissions.retain(|emission| emission.count > 0);
}

fn keep(emission: &mut Emission, keep: impl Fn(u32) -> bool) {
    let causes = match emission.causes.take() {
        Some(causes) => causes,
        None => (0..u32::try_from(emission.count).unwrap_or(u32::MAX)).collect(),
    };
    let kept: Vec<bool> = causes.iter().map(|&cause| keep(cause)).collect();
    let filtered = |column: &Column| filter(column, kept.iter().copied());
    emission.keys = emission.keys.as_ref().map(filtered);
    emission.values = emission.values.as_ref().map(filtered);
    emission.headers = emission.headers.as_ref().map(|headers| filter_headers(headers, &kept));
    emission.timestamps = emission.timestamps.as_ref().map(|timestamps| {
        timestamps.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(timestamp, _)| *timestamp).collect()
    });
    let causes: Vec<u32> = causes.into_iter().zip(&kept).filter(|(_, kept)| **kept).map(|(cause, _)| cause).collect();
    emission.count = causes.len();
    emission.causes = Some(causes);
}

fn filter(column: &Column, kept: impl Iterator<Item = bool>) -> Column {
    let mut filtered = Column::default();
    for (entry, kept) in column.iter().zip(kept) {
        match entry {
            _ if !kept => {}
            Entry::Bytes(bytes) => filtered.push(Some(bytes)),
            Entry::Null => filtered.push(None),
            Entry::Inherit => filtered.lengths.push(INHERIT),
        }
    }
    filtered
}

fn filter_headers(headers: &Headers, kept: &[bool]) -> Headers {
    // One flag a header instead of one a record.
    let each = || headers.counts.iter().zip(kept).flat_map(|(&count, &kept)| (0..count.max(0)).map(move |_| kept));
    Headers {
        counts: headers.counts.iter().zip(kept).filter(|(_, kept)| **kept).map(|(count, _)| *count).collect(),
        names: filter(&headers.names, each()),
        values: filter(&headers.values, each()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Batch, Reject};

    #[test]
    fn what_a_rejected_record_caused_is_gone() {
        let mut batch = Batch::default();
        for offset in 0..3 {
            batch.push((0, 0, offset), offset, Some(b"k"), Some(b"v"), std::iter::empty());
        }
        let values: Column = [Some(&b"a"[..]), None, Some(b"cc")].into_iter().collect();
        let mut headers = Headers::default();
        headers.push([(&b"h"[..], Some(&b"0"[..]))].into_iter());
        headers.counts.push(INHERIT);
        headers.push([(&b"x"[..], None), (b"y", Some(&b"2"[..]))].into_iter());
        let each = Emission { values: Some(values), headers: Some(headers), ..Emission::default() };
        let none = Emission { causes: Some(vec![1, 1]), timestamps: Some(vec![5, 6]), ..Emission::default() };
        let mut output = Output {
            emissions: [each, none].map(|emission| emission.checked(3).unwrap()).into(),
            rejects: vec![Reject { index: 1, reason: "no".into() }, Reject { index: 1, reason: "still no".into() }],
        };
        drop_rejected(&mut output);
        let [emission] = output.emissions.as_slice() else { panic!("the second emission is empty") };
        let emission = emission.clone().checked(3).unwrap();
        let records: Vec<_> =
            emission.records(&batch).map(|record| (record.cause, record.value.map(<[u8]>::to_vec))).collect();
        assert_eq!(records, [(0, Some(b"a".to_vec())), (2, Some(b"cc".to_vec()))]);
        let headers = emission.headers.unwrap();
        assert_eq!((headers.counts, headers.names.bytes), (vec![1, 2], b"hxy".to_vec()));
    }
}
