//! Where a plugin comes from, as it says itself: nobody vouches for it but who has signed the plugin.
//!
//! Pure. Finding the sections in a component is the engine's business, what is kept of them is decided here. All of it may be
//! missing, and what cannot be read counts as missing: it is for people, and nothing depends on it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Name of the custom section with the repository.
pub const SOURCE: &str = "source";
/// Name of the custom section with the revision.
pub const REVISION: &str = "revision";
/// What stands behind a revision when files were changed since.
pub const DIRTY: &str = "-dirty";
/// Entries of a list: components are put together of parts that each have some.
const ENTRIES_MAX: usize = 16;
/// Characters of a text: the record of a plugin is one node of the metadata store.
const CHARACTERS_MAX: usize = 256;

/// What made a plugin, and from which sources. All of it may be missing.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Provenance {
    /// Programming languages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub languages: Vec<String>,
    /// Compilers and other tools, with their versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
    /// Name and version of the SDK.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sdk: String,
    /// The repository of its sources.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Which revision of them; with `-dirty` behind it when files were changed since.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub revision: String,
}

impl Provenance {
    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes in an entry of a section `producers`.
    pub fn produced(&mut self, field: &str, name: &str, version: &str) {
        let named = text(format!("{name} {version}").as_bytes());
        match field {
            "language" => add(&mut self.languages, named),
            "processed-by" => add(&mut self.tools, named),
            "sdk" if self.sdk.is_empty() => self.sdk = named,
            _ => {}
        }
    }
}

fn add(list: &mut Vec<String>, entry: String) {
    if list.len() < ENTRIES_MAX && !entry.is_empty() && !list.contains(&entry) {
        list.push(entry);
    }
}

/// What is kept of a text in a component; nothing if it is none.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    text.chars().filter(|character| !character.is_control()).take(CHARACTERS_MAX).collect::<String>().trim().to_owned()
}

/// The address of a repository as others may see it: without user and password. Nothing for a folder on somebody's machine.
#[must_use]
pub fn public_address(remote: &str) -> Option<String> {
    let remote = remote.trim();
    let (scheme, rest) = match remote.split_once("://") {
        Some((scheme @ ("http" | "https" | "ssh" | "git"), rest)) => (scheme, rest.to_owned()),
        Some(_) => return None,
        // As scp has it: `git@host:path`.
        None => {
            let (host, path) = remote.split_once(':').filter(|(host, _)| !host.contains('/') && host.len() > 1)?;
            ("ssh", format!("{host}/{}", path.trim_start_matches('/')))
        }
    };
    // A token may stand behind these too.
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.split_once('/')?;
    let host = authority.rsplit('@').next().unwrap_or_default();
    let is_whole = !host.is_empty() && !path.is_empty() && !remote.contains(char::is_whitespace);
    is_whole.then(|| format!("{scheme}://{host}/{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_no_secret_and_is_nobodys_folder() {
        for (remote, address) in [
            ("https://example.org/a/b.git", Some("https://example.org/a/b.git")),
            ("https://ada:hunter2@example.org/a/b?token=hunter2#x\n", Some("https://example.org/a/b")),
            ("https://ada:hun@ter2@example.org:8443/a", Some("https://example.org:8443/a")),
            ("git@example.org:a/b.git", Some("ssh://example.org/a/b.git")),
            ("example.org:/a/b", Some("ssh://example.org/a/b")),
            ("ssh://git@example.org:22/a/b", Some("ssh://example.org:22/a/b")),
            ("/home/ada/b", None),
            ("../b", None),
            ("file:///home/ada/b", None),
            ("C:\\b", None),
            ("https://example.org", None),
            ("", None),
        ] {
            assert_eq!(public_address(remote).as_deref(), address, "{remote}");
        }
    }

    #[test]
    fn what_is_kept_has_bounds_and_no_control_characters() {
        assert_eq!(text("\u{1b}[31mred\n".as_bytes()), "[31mred");
        assert_eq!(text(b"\xff"), "");
        assert_eq!(text("x".repeat(1000).as_bytes()).len(), CHARACTERS_MAX);
        let mut provenance = Provenance::default();
        for nth in 0..100 {
            provenance.produced("processed-by", "tool", &(nth / 2).to_string());
        }
        assert_eq!(provenance.tools.len(), ENTRIES_MAX);
        assert_eq!(provenance.tools[..2], ["tool 0", "tool 1"]);
    }

    #[test]
    fn nothing_known_is_written_as_nothing() {
        let nothing = Provenance::default();
        assert_eq!(serde_json::to_string(&nothing).unwrap(), "{}");
        assert_eq!(serde_json::from_str::<Provenance>("{}").unwrap(), nothing);
    }
}
