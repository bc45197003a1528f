//! `--wait`, with a time or without.

use std::time::Duration;

/// The time behind `--wait`. Without one the next word is taken for it, whatever it is.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}: write a time such as 30s behind it, or put --wait last"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_time_is_told_where_it_belongs() {
        assert_eq!(parse("30s"), Ok(Duration::from_secs(30)));
        assert!(parse("orders").is_err_and(|error| error.contains("--wait last")));
    }
}
