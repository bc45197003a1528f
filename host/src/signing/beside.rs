//! The file `PLUGIN.wasm.sig` beside a plugin. The one place of this module that reads a file.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::Signatures;
use super::set::BYTES_MAX;

/// What the name of such a file ends with.
const ENDING: &str = ".sig";

/// Why the file beside a plugin cannot be used.
#[derive(Clone, Debug, Error)]
#[error("the signatures in {} cannot be used: {problem}; remove the file, and sign the plugin again", path.display())]
pub struct BesideError {
    path: PathBuf,
    problem: String,
}

/// The file with the signatures of the plugin in the file `plugin`.
#[must_use]
pub fn path_beside(plugin: &Path) -> PathBuf {
    let mut name = plugin.as_os_str().to_owned();
    name.push(ENDING);
    name.into()
}

/// The signatures beside a plugin, if there are any; of what contents they are, they say.
///
/// # Errors
/// See [`BesideError`].
pub fn read_beside(plugin: &Path) -> Result<Option<Signatures>, BesideError> {
    let path = path_beside(plugin);
    let failed = |problem: String| BesideError { path: path.clone(), problem };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error.to_string())),
    };
    let mut bytes = Vec::new();
    file.take(BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(|error| failed(error.to_string()))?;
    Signatures::decode(&bytes).map(Some).map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_is_no_signature_and_garbage_is_an_error_that_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let plugin = folder.path().join("a.wasm");
        assert!(read_beside(&plugin).unwrap().is_none());
        for garbage in [&b""[..], b"\xff\x00", b"[]", &[b' '; 1 << 20]] {
            std::fs::write(folder.path().join("a.wasm.sig"), garbage).unwrap();
            let error = read_beside(&plugin).unwrap_err().to_string();
            assert!(error.contains("a.wasm.sig") && error.contains("sign the plugin again"), "{error}");
        }
    }
}
