//! Text for benches that is always there: the sources of this crate.

use std::fs;
use std::path::Path;

use tempa_core::{Error, Result};

/// The source files, whole, in sorted order.
pub(crate) fn sources() -> Result<Vec<String>> {
    below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
}

/// All files below a directory, in sorted order.
fn below(directory: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(directory).map_err(Error::io(directory))?;
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let mut texts = Vec::new();
    for path in &paths {
        if path.is_dir() {
            texts.extend(below(path)?);
        } else {
            texts.push(fs::read_to_string(path).map_err(Error::io(path))?);
        }
    }
    Ok(texts)
}
