//! Files that appear whole or not at all.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Writes files of which all appear, or none: each is on disk under another name before the first gets its own.
///
/// # Errors
/// [`Error::Io`] naming the file that cannot be written; earlier files are then as they were.
pub fn write_whole(files: &[(&Path, &str)]) -> Result<()> {
    let parts: Vec<PathBuf> = files.iter().map(|(path, _)| part_of(path)).collect();
    if let Some((path, _)) = files.iter().find(|(path, _)| path.is_dir()) {
        return Err(Error::io(path)(ErrorKind::IsADirectory.into()));
    }
    let write = || {
        for ((path, text), part) in files.iter().zip(&parts) {
            File::create(part)
                .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
                .map_err(Error::io(path))?;
        }
        files
            .iter()
            .zip(&parts)
            .try_for_each(|((path, _), part)| fs::rename(part, path).map_err(Error::io(path)))
    };
    write().inspect_err(|_| {
        for part in &parts {
            // An unfinished file is useless; that it cannot be removed changes nothing.
            let _ = fs::remove_file(part);
        }
    })
}

/// The name of a file while it is written, beside its own.
fn part_of(path: &Path) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_that_cannot_be_written_leaves_all_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("none/two"));
        fs::write(&one, "old").unwrap();
        let error = write_whole(&[(&one, "new"), (&two, "new")]).unwrap_err().to_string();
        assert!(error.starts_with(&two.display().to_string()), "{error}");
        assert_eq!(fs::read_to_string(&one).unwrap(), "old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        fs::create_dir_all(&two).unwrap();
        assert!(write_whole(&[(&one, "new"), (&two, "new")]).is_err());
        assert_eq!(fs::read_to_string(&one).unwrap(), "old");
        fs::remove_dir(&two).unwrap();
        write_whole(&[(&one, "new"), (&two, "new")]).unwrap();
        assert_eq!([one, two].map(|path| fs::read_to_string(path).unwrap()), ["new", "new"]);
    }
}
