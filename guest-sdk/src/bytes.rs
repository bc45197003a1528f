//! Copying and checking short byte strings, which is most of what a transform does per record.
//!
//! WebAssembly's `memory.copy` is a call out of the guest's code, dear for a hundred bytes, and the UTF-8 check of the
//! standard library goes four bytes at a time there. Both have a vector path here. On other targets the standard
//! library's are used.

/// Appends `bytes` to `out`.
#[inline(always)]
pub(crate) fn append(out: &mut Vec<u8>, bytes: &[u8]) {
    #[cfg(target_family = "wasm")]
    simd::append(out, bytes);
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

/// Every engine that runs components has 128-bit vectors; a plugin needs no compiler flag for them.
#[cfg(target_family = "wasm")]
#[expect(unsafe_code, reason = "vector loads and stores take pointers")]
mod simd {
    use core::arch::wasm32::{u8x16_bitmask, v128, v128_load, v128_or, v128_store};

    /// Longer byte strings are worth the call.
    const INLINE_MAX: usize = 512;

    #[inline]
    #[target_feature(enable = "simd128")]
    pub(super) fn append(out: &mut Vec<u8>, bytes: &[u8]) {
        let count = bytes.len();
        if !(16..=INLINE_MAX).contains(&count) {
            return append_other(out, bytes);
        }
        out.reserve(count);
        let before = out.len();
        // SAFETY: `reserve` made room for `count` bytes behind `before`. Every load and store is of 16 bytes that end at or
        // before `count`, which is at least 16; the last overlaps the one before it. The two do not overlap, since `out` is
        // borrowed exclusively. All `count` bytes are written before the length is set.
        unsafe {
            let source = bytes.as_ptr();
            let target = out.as_mut_ptr().add(before);
            let mut at = 0;
            while at + 16 <= count {
                v128_store(target.add(at).cast::<v128>(), v128_load(source.add(at).cast::<v128>()));
                at += 16;
            }
            let last = count - 16;
            v128_store(target.add(last).cast::<v128>(), v128_load(source.add(last).cast::<v128>()));
            out.set_len(before + count);
        }
    }

    #[inline]
    fn append_other(out: &mut Vec<u8>, bytes: &[u8]) {
        if bytes.len() < 16 {
            out.reserve(16);
            for &byte in bytes {
                out.push(byte);
            }
        } else {
            out.extend_from_slice(bytes);
        }
    }

    #[inline]
    #[target_feature(enable = "simd128")]
    pub(super) fn is_ascii(bytes: &[u8]) -> bool {
        let count = bytes.len();
        if count < 16 {
            return bytes.iter().fold(0, |all, byte| all | byte) < 0x80;
        }
        // SAFETY: every load is of 16 bytes that end at or before `count`, which is at least 16.
        unsafe {
            let source = bytes.as_ptr();
            let mut all = v128_load(source.add(count - 16).cast::<v128>());
            let mut at = 0;
            while at + 16 <= count {
                all = v128_or(all, v128_load(source.add(at).cast::<v128>()));
                at += 16;
            }
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
