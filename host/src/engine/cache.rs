//! Compiled plugins on disk, so that a start does not compile again.
//!
//! A file holds a magic number, the SHA-256 of the code, and the code; its name is the plugin's digest and the hash of
//! everything that compiled code depends on (wasmtime's version, settings, CPU features). A file that is damaged, foreign
//! or from another version is a miss. Nothing here fails: without a cache the host is slower, not wrong.

use std::fs;
use std::hash::{Hash, Hasher};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use tracing::{debug, warn};

/// Also the version of the file's layout.
const MAGIC: &[u8; 8] = b"SLUICEC1";
const CHECKSUM_BYTES: usize = 32;
/// Files kept; the oldest go first. A file is some MB.
const FILES_MAX: usize = 256;

/// A directory of compiled plugins.
#[derive(Debug)]
pub(super) struct Cache {
    directory: PathBuf,
    compatibility: String,
}

impl Cache {
    /// `compatibility` is what `Engine::precompile_compatibility_hash` returns.
    pub(super) fn new(directory: PathBuf, compatibility: impl Hash) -> Self {
        let mut hasher = Sha256Hasher(Sha256::new());
        compatibility.hash(&mut hasher);
        Self { directory, compatibility: hex::encode(&hasher.0.finalize()[..8]) }
    }

    /// Where the code of the plugin `digest` is or would be.
    pub(super) fn path(&self, digest: &str) -> PathBuf {
        self.directory.join(format!("{digest}-{}.cwasm", self.compatibility))
    }

    /// The code of a plugin, if it is there and whole.
    pub(super) fn read(&self, digest: &str) -> Option<Vec<u8>> {
        let path = self.path(digest);
        let mut file = match fs::read(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                warn!(path = %path.display(), %error, "cannot read compiled plugin: compiling again");
                return None;
            }
        };
        if is_whole(&file) {
            debug!(path = %path.display(), "compiled plugin found");
            Some(file.split_off(MAGIC.len() + CHECKSUM_BYTES))
        } else {
            warn!(path = %path.display(), "compiled plugin is damaged: compiling again");
            None
        }
    }

    /// Keeps the code of a plugin. Readers see the whole file or none.
    pub(super) fn write(&self, digest: &str, code: &[u8]) {
        let path = self.path(digest);
        let kept = self.create_directory().and_then(|()| write_whole(&path, code)).and_then(|()| self.prune(&path));
        if let Err(error) = kept {
            warn!(path = %path.display(), %error, "cannot keep compiled plugin: the next start compiles it again");
        }
    }

    #[cfg(unix)]
    fn create_directory(&self) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)
    }

    #[cfg(not(unix))]
    fn create_directory(&self) -> io::Result<()> {
        fs::create_dir_all(&self.directory)
    }

    fn prune(&self, newest: &Path) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            // Another process may prune at the same time: a file that is gone needs no room.
            let Ok(modified) = fs::metadata(&path).and_then(|metadata| metadata.modified()) else { continue };
            if path.extension().is_some_and(|extension| extension == "cwasm") && path != newest {
                files.push((modified, path));
            }
        }
        files.sort_by_key(|(modified, _): &(SystemTime, PathBuf)| *modified);
        let surplus = (files.len() + 1).saturating_sub(FILES_MAX);
        for (_, path) in files.drain(..surplus) {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

fn is_whole(file: &[u8]) -> bool {
    let Some((magic, rest)) = file.split_at_checked(MAGIC.len()) else { return false };
    let Some((checksum, code)) = rest.split_at_checked(CHECKSUM_BYTES) else { return false };
    magic == MAGIC && checksum == Sha256::digest(code).as_slice()
}

fn write_whole(path: &Path, code: &[u8]) -> io::Result<()> {
    let unique = format!("{}-{:?}", std::process::id(), std::thread::current().id());
    let partial = path.with_extension(format!("partial-{}", unique.replace(['(', ')'], "")));
    let mut file = fs::File::create(&partial)?;
    let written = file
        .write_all(MAGIC)
        .and_then(|()| file.write_all(&Sha256::digest(code)))
        .and_then(|()| file.write_all(code))
        .and_then(|()| fs::rename(&partial, path));
    if written.is_err() {
        // Best effort: the first error is the one to report.
        drop(fs::remove_file(&partial));
    }
    written
}

/// A hasher whose result is the same in every process.
struct Sha256Hasher(Sha256);

impl Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest = self.0.clone().finalize();
        let (first, _) = digest.split_at(8);
        first.iter().fold(0, |value, &byte| value << 8 | u64::from(byte))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::new(directory.path().join("deep/cache"), "this engine");
        (directory, cache)
    }

    #[test]
    fn what_was_written_is_read() {
        let (_directory, cache) = cache();
        assert_eq!(cache.read("d"), None);
        cache.write("d", b"code");
        assert_eq!(cache.read("d").as_deref(), Some(&b"code"[..]));
    }

    #[test]
    fn every_damage_is_a_miss() {
        let (_directory, cache) = cache();
        cache.write("d", b"some code");
        let whole = fs::read(cache.path("d")).unwrap();
        for cut in 0..whole.len() {
            fs::write(cache.path("d"), &whole[..cut]).unwrap();
            assert_eq!(cache.read("d"), None, "cut at {cut}");
            let mut flipped = whole.clone();
            flipped[cut] ^= 1;
            fs::write(cache.path("d"), &flipped).unwrap();
            assert_eq!(cache.read("d"), None, "flipped at {cut}");
        }
    }

    #[test]
    fn another_engine_does_not_see_it() {
        let (_directory, cache) = cache();
        cache.write("d", b"code");
        assert_eq!(Cache::new(cache.directory.clone(), "another engine").read("d"), None);
    }

    #[test]
    fn the_oldest_files_go() {
        let (_directory, cache) = cache();
        for index in 0..FILES_MAX + 5 {
            cache.write(&format!("d{index}"), b"code");
        }
        assert_eq!(fs::read_dir(&cache.directory).unwrap().count(), FILES_MAX);
        assert!(cache.read(&format!("d{}", FILES_MAX + 4)).is_some());
    }
}
