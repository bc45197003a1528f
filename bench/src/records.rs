//! The records that go in: the same in every run, in an order without pattern.

/// Bytes of a value.
pub const VALUE_BYTES: usize = 100;
/// Bytes of a key.
pub const KEY_BYTES: usize = 16;
/// Distinct keys.
pub const KEYS: u64 = 100_000;

/// Makes one record after the other.
pub struct Records {
    random: u64,
    key: [u8; KEY_BYTES],
    value: [u8; VALUE_BYTES],
}

impl Default for Records {
    fn default() -> Self {
        Self { random: 0x9e37_79b9_7f4a_7c15, key: *b"key-000000000000", value: [0; VALUE_BYTES] }
    }
}

impl Records {
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// The next key and value: one of [`KEYS`] keys, and random lower-case letters.
    pub fn make(&mut self) -> (&[u8], &[u8]) {
        let mut number = self.random() % KEYS;
        for digit in self.key[4..].iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
        for at in (0..VALUE_BYTES).step_by(10) {
            let mut random = self.random();
            for letter in &mut self.value[at..(at + 10).min(VALUE_BYTES)] {
                *letter = b'a' + (random % 26) as u8;
                random /= 26;
            }
        }
        (&self.key, &self.value)
    }
}
