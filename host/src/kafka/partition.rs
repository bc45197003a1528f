//! Which partition of a sink a record goes to: the one Kafka's own Java client would choose, so that several writers of a topic
//! agree and joins of co-partitioned topics work.
//!
//! Pure. The hash is that of `org.apache.kafka.common.utils.Utils.murmur2`.

/// The partition, of `count`, for a record. Records with a key (an empty one too) go by its hash. Records without one keep the
/// number of the partition they come from, so that their order holds.
///
/// `count` is at least 1: topics have a partition.
#[inline]
#[must_use]
pub fn choose(key: Option<&[u8]>, source_partition: i32, count: i32) -> i32 {
    let number = match key {
        Some(key) => to_positive(murmur2(key)),
        None => source_partition,
    };
    number.rem_euclid(count.max(1))
}

fn to_positive(number: i32) -> i32 {
    number & 0x7fff_ffff
}

/// 32-bit murmur2 as Kafka's Java client computes it.
#[inline]
#[must_use]
pub fn murmur2(data: &[u8]) -> i32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;
    // Java arrays are shorter than 2^31; a longer key cannot come from Kafka.
    let mut hash = SEED ^ (data.len() as u32);
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> R;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    (hash ^ (hash >> 15)).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_java_client() {
        // From Kafka's UtilsTest.testMurmur2.
        let cases: [(&[u8], i32); 6] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"abc", 479_470_107),
        ];
        for (data, hash) in cases {
            assert_eq!(murmur2(data), hash, "{data:?}");
        }
    }

    #[test]
    fn a_key_decides_alone() {
        assert_eq!(choose(Some(b"foobar"), 0, 7), choose(Some(b"foobar"), 5, 7));
        assert_eq!(choose(Some(b"foobar"), 3, 1000), (-790_332_482 & 0x7fff_ffff) % 1000);
        assert_ne!(choose(Some(b""), 3, 1000), 3, "an empty key is a key");
    }

    #[test]
    fn without_a_key_the_source_decides() {
        assert_eq!(choose(None, 5, 8), 5);
        assert_eq!(choose(None, 5, 4), 1);
    }
}
