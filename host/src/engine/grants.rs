//! What a pipeline lets a plugin have of the real world. Everything else is virtual.

use thiserror::Error;

/// Things of the real world, granted by a pipeline. Written `clocks`, `random`, `env:NAME`, as manifests ask for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// WASI clocks run during a call. `context.now` stands still all the same.
    pub clocks: bool,
    /// WASI random comes from the system.
    pub random: bool,
    /// Variables of the host's environment that the guest sees, if they are set.
    pub env: Vec<String>,
}

/// A text that is no grant.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("`{0}` is not a grant: there are `clocks`, `random` and `env:NAME`")]
pub struct UnknownGrant(pub String);

impl Grants {
    /// Reads grants as a pipeline writes them.
    ///
    /// # Errors
    /// The first that is none.
    pub fn parse<'a>(grants: impl IntoIterator<Item = &'a str>) -> Result<Self, UnknownGrant> {
        let mut parsed = Self::default();
        for grant in grants {
            match (grant, grant.strip_prefix("env:")) {
                ("clocks", _) => parsed.clocks = true,
                ("random", _) => parsed.random = true,
                (_, Some(name)) if !name.is_empty() => parsed.env.push(name.into()),
                _ => return Err(UnknownGrant(grant.into())),
            }
        }
        Ok(parsed)
    }

    /// What a manifest asks for and these grants do not give.
    #[must_use]
    pub fn missing(&self, wants: &[String]) -> Vec<String> {
        let given = |want: &str| match (want, want.strip_prefix("env:")) {
            ("clocks", _) => self.clocks,
            ("random", _) => self.random,
            (_, Some(name)) => self.env.iter().any(|given| given == name),
            _ => false,
        };
        wants.iter().filter(|want| !given(want)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_granted_is_missing() {
        let grants = Grants::parse(["clocks", "env:REGION"]).unwrap();
        let wants = ["clocks", "random", "env:REGION", "env:SECRET", "moon"].map(String::from);
        assert_eq!(grants.missing(&wants), ["random", "env:SECRET", "moon"]);
    }

    #[test]
    fn what_is_no_grant_is_refused() {
        assert_eq!(Grants::parse(["env:"]), Err(UnknownGrant("env:".into())));
        assert_eq!(Grants::parse(["net"]), Err(UnknownGrant("net".into())));
    }
}
