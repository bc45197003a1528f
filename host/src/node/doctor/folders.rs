//! Whether a folder can be written to, and how much is in it. Leaves nothing behind.

use std::io;
use std::path::Path;

use super::finding::Finding;

/// A folder that is made when it is missing.
pub(super) fn examine(subject: &str, folder: &Path, advice: &str) -> Finding {
    let shown = folder.display();
    let (there, is_there) = nearest(folder);
    // Without a name from the beginning, or until it is dropped.
    if let Err(error) = tempfile::tempfile_in(there) {
        return Finding::problem(subject, format!("`{shown}` cannot be written to: {error}")).help(advice);
    }
    if !is_there {
        return Finding::ok(subject, format!("`{shown}` can be made"));
    }
    match size(folder) {
        Ok(bytes) => Finding::ok(subject, format!("`{shown}` has {}", bytesize::ByteSize(bytes))),
        Err(error) => Finding::warning(subject, format!("`{shown}` cannot be looked through: {error}")).help(advice),
    }
}

/// The folder, or the nearest above it that is there, and whether it is the folder itself.
fn nearest(folder: &Path) -> (&Path, bool) {
    let mut at = folder;
    while !at.exists() {
        match at.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => at = parent,
            _ => return (Path::new("."), false),
        }
    }
    (at, at == folder)
}

fn size(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { size(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn a_folder_that_is_missing_can_be_made_where_one_above_it_can_be_written_to() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), [0; 2048]).unwrap();
        let there = examine("cache", folder.path(), "");
        assert_eq!(there.level, Level::Ok);
        assert!(there.finding.ends_with("has 2.0 KiB"), "{}", there.finding);
        let missing = examine("cache", &folder.path().join("b/c"), "");
        assert!(missing.level == Level::Ok && missing.finding.ends_with("can be made"), "{}", missing.finding);
        assert!(!folder.path().join("b").exists(), "nothing is left behind");
    }

    #[test]
    fn a_file_in_place_of_a_folder_is_a_problem() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        std::fs::write(&file, "").unwrap();
        let found = examine("cache", &file, "name another");
        assert_eq!((found.level, found.help.as_deref()), (Level::Problem, Some("name another")));
    }
}
