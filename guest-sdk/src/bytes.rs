//! Copying and checking short byte strings, which is most of what a transform does per record.
//!
//! WebAssembly's `memory.copy` is a call out of the guest's code, dear for a hundred bytes, and the UTF-8 check of the
//! standard library goes four bytes at a time there. Both have a vector path here. On other targets the standard
//! library's are used.

/// Appends `bytes` to `out`.
#[inline(always)]
pub(crate) fn append(out: &mut Vec<u8>, bytes: &[u8]) {
    #[cfg(target_family = "wasm")]
    match bytes.len() {
        0..16 => short::append(out, bytes),
        16..=simd::INLINE_MAX => simd::append(out, bytes),
        _ => out.extend_from_slice(bytes),
    }
    #[cfg(not(target_family = "wasm"))]
    out.extend_from_slice(bytes);
}

/// The bytes as text.
#[inline]
pub(crate) fn text(bytes: &[u8]) -> Result<&str, std::str::Utf8Error> {
    #[cfg(target_family = "wasm")]
    if simd::is_ascii(bytes) {
        return Ok(simd::ascii_text(bytes));
    }
    std::str::from_utf8(bytes)
}

/// Whether two keys are equal, eight bytes at a time: the standard library's comparison is a call, and goes byte by byte.
#[inline(always)]
pub(crate) fn same(a: &[u8], b: &[u8]) -> bool {
    let (a_words, a_rest) = a.as_chunks::<8>();
    let (b_words, b_rest) = b.as_chunks::<8>();
    a.len() == b.len()
        && a_words.iter().zip(b_words).all(|(a, b)| u64::from_le_bytes(*a) == u64::from_le_bytes(*b))
        && a_rest.iter().zip(b_rest).all(|(a, b)| a == b)
}

/// Appends of fewer than 16 bytes: two words that overlap, instead of a loop.
#[cfg(target_family = "wasm")]
#[expect(unsafe_code, reason = "unaligned loads and stores take pointers")]
mod short {
    #[inline(always)]
    pub(super) fn append(out: &mut Vec<u8>, bytes: &[u8]) {
        let count = bytes.len();
        out.reserve(16);
        let before = out.len();
        // SAFETY: `reserve` made room for 16 bytes behind `before`. Every load and store lies within the first `count` bytes of
        // its side, because of the case it stands in; together they cover all of them before the length is set.
        unsafe {
            let (source, target) = (bytes.as_ptr(), out.as_mut_ptr().add(before));
            match count {
                8.. => ends::<u64>(source, target, count),
                4.. => ends::<u32>(source, target, count),
                2.. => ends::<u16>(source, target, count),
                1 => *target = *source,
                0 => {}
            }
            out.set_len(before + count);
        }
    }

    /// Copies the first and the last word of `count` bytes, which have to be at least one word and at most two.
    #[inline(always)]
    unsafe fn ends<Word>(source: *const u8, target: *mut u8, count: usize) {
        let last = count - size_of::<Word>();
        // SAFETY: promised by the caller.
        unsafe {
            target.cast::<Word>().write_unaligned(source.cast::<Word>().read_unaligned());
            target.add(last).cast::<Word>().write_unaligned(source.add(last).cast::<Word>().read_unaligned());
        }
    }
}

/// Every engine that runs components has 128-bit vectors; a plugin needs no compiler flag for them.
///
/// Up to 128 bytes there is no loop: each turn of one pays for the host's look at the deadline. Lengths between two multiples of
/// 16 are covered by vectors that overlap.
#[cfg(target_family = "wasm")]
#[expect(unsafe_code, reason = "vector loads and stores take pointers")]
mod simd {
    use core::arch::wasm32::{u8x16_bitmask, v128, v128_load, v128_or, v128_store};

    /// Longer byte strings are worth the call of `memory.copy`.
    pub(super) const INLINE_MAX: usize = 512;
    /// Bytes of one turn of a loop.
    const TURN: usize = 64;

    /// `bytes` must have 16 to [`INLINE_MAX`] bytes.
    #[inline]
    #[target_feature(enable = "simd128")]
    pub(super) fn append(out: &mut Vec<u8>, bytes: &[u8]) {
        let count = bytes.len();
        debug_assert!((16..=INLINE_MAX).contains(&count));
        out.reserve(count);
        let before = out.len();
        // SAFETY: `reserve` made room for `count` bytes behind `before`; the two do not overlap, since `out` is borrowed
        // exclusively. `cover` visits offsets that leave 16 bytes before `count`, and all bytes before it returns.
        unsafe {
            let (source, target) = (bytes.as_ptr(), out.as_mut_ptr().add(before));
            cover(count, |at| v128_store(target.add(at).cast::<v128>(), v128_load(source.add(at).cast::<v128>())));
            out.set_len(before + count);
        }
    }

    /// Calls `at` with offsets of 16 bytes each that together cover `count` bytes, at least 16, and nothing beyond.
    #[inline(always)]
    fn cover(count: usize, mut at: impl FnMut(usize)) {
        let mut first = 0;
        while count - first > 2 * TURN {
            (0..TURN).step_by(16).for_each(|step| at(first + step));
            first += TURN;
        }
        let rest = count - first;
        at(first);
        at(count - 16);
        if rest > 32 {
            at(first + 16);
            at(count - 32);
        }
        if rest > 64 {
            at(first + 32);
            at(first + 48);
            at(count - 64);
            at(count - 48);
        }
    }

    #[inline]
    #[target_feature(enable = "simd128")]
    pub(super) fn is_ascii(bytes: &[u8]) -> bool {
        let count = bytes.len();
        if count < 16 {
            return bytes.iter().fold(0, |all, byte| all | byte) < 0x80;
        }
        let source = bytes.as_ptr();
        // SAFETY: `count` is at least 16, and `cover` visits offsets that leave 16 bytes before it.
        unsafe {
            let mut all = v128_load(source.cast::<v128>());
            cover(count, |at| all = v128_or(all, v128_load(source.add(at).cast::<v128>())));
            u8x16_bitmask(all) == 0
        }
    }

    /// `bytes` must be ASCII.
    #[inline]
    pub(super) fn ascii_text(bytes: &[u8]) -> &str {
        debug_assert!(bytes.is_ascii());
        // SAFETY: ASCII is UTF-8; the only caller has just checked.
        unsafe { std::str::from_utf8_unchecked(bytes) }
    }
}
