//! Small files that are read as a whole: a name of the kind, a checksum of the rest, the rest.

use std::path::Path;

use xxhash_rust::xxh3::xxh3_128;

use crate::{Error, Result};

const CHECKSUM_BYTES: usize = 16;

/// Names a kind of file.
pub(crate) type Magic = [u8; 8];

/// The bytes of a file with this content.
pub(crate) fn seal(magic: Magic, content: &[u8]) -> Vec<u8> {
    [&magic, &xxh3_128(content).to_le_bytes()[..], content].concat()
}

/// The content of a file that [`seal`] has made.
///
/// # Errors
/// [`Error::Io`] if it cannot be read, [`Error::Format`] if it is truncated, altered or not `kind`.
pub(crate) fn unseal(path: &Path, magic: Magic, kind: &str) -> Result<Vec<u8>> {
    let wrong = |reason: &str| Error::format(path, format!("{reason}; train it again"));
    let mut bytes = std::fs::read(path).map_err(Error::io(path))?;
    let rest = bytes.strip_prefix(&magic).ok_or_else(|| wrong(&format!("not {kind}")))?;
    let is_whole = rest
        .split_at_checked(CHECKSUM_BYTES)
        .is_some_and(|(checksum, content)| checksum == xxh3_128(content).to_le_bytes());
    if !is_whole {
        return Err(wrong("the checksum does not match: truncated or altered"));
    }
    bytes.drain(..magic.len() + CHECKSUM_BYTES);
    Ok(bytes)
}
