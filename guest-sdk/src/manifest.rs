//! Joins the manifest's parts while the plugin is compiled. For the attribute's code.

/// How many bytes the parts have.
#[must_use]
pub const fn length(parts: &[&str]) -> usize {
    let mut sum = 0;
    let mut at = 0;
    while at < parts.len() {
        sum += parts[at].len();
        at += 1;
    }
    sum
}

/// The parts one after the other.
#[must_use]
pub const fn join<const LENGTH: usize>(parts: &[&str]) -> [u8; LENGTH] {
    let mut joined = [0; LENGTH];
    let mut end = 0;
    let mut at = 0;
    while at < parts.len() {
        let part = parts[at].as_bytes();
        let mut byte = 0;
        while byte < part.len() {
            joined[end] = part[byte];
            end += 1;
            byte += 1;
        }
        at += 1;
    }
    joined
}

/// The joined parts as text.
#[must_use]
pub const fn text(joined: &'static [u8]) -> &'static str {
    match std::str::from_utf8(joined) {
        Ok(text) => text,
        Err(_) => panic!("the parts of a manifest are text"),
    }
}
