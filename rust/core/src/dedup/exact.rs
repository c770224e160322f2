//! Texts that are equal, as they are written or but for case, spaces and the spelling of characters.

use rayon::prelude::*;
use rustc_hash::FxHashMap;
use xxhash_rust::xxh3::xxh3_128;

use crate::prefetch::prefetch;
use crate::text::Folder;
use crate::{Error, Monitor, Result};

/// When two texts are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Equality {
    /// Byte by byte.
    Bytes,
    /// After [`crate::text::fold`].
    Folded,
}

impl Equality {
    /// The equality of that name.
    ///
    /// # Errors
    /// [`Error::Value`] if there is none.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "bytes" => Ok(Self::Bytes),
            "folded" => Ok(Self::Folded),
            _ => Err(Error::value(format!("unknown equality {name:?}; expected bytes or folded"))),
        }
    }

    fn hash(self, text: &str, folder: &mut Folder) -> u128 {
        match self {
            Self::Bytes => xxh3_128(text.as_bytes()),
            Self::Folded => xxh3_128(folder.fold(text)),
        }
    }
}

/// 128 bits that name a text as [`crate::text::fold`] spells it.
pub fn content_hash(text: &str) -> u128 {
    Equality::Folded.hash(text, &mut Folder::default())
}

/// Texts that one task hashes.
const CHUNK: usize = 256;
/// Bytes of the next text that are fetched while one is hashed: processors find out by themselves what comes next
/// within a text, but not where the next one starts.
const FETCHED: usize = 4 << 10;

/// Asks for the cache lines that a text starts with.
fn prefetch_start(text: &[u8]) {
    for line in text[..text.len().min(FETCHED)].chunks(64) {
        prefetch(line, 0);
    }
}

/// For each text the place of the first one that is equal. The monitor counts bytes of text.
///
/// # Errors
/// [`Error::Interrupted`] if the monitor is cancelled.
pub fn exact_duplicates<T: AsRef<str> + Sync>(
    texts: &[T],
    equality: Equality,
    monitor: &Monitor,
) -> Result<Vec<usize>> {
    let hashes = texts.par_chunks(CHUNK).map(|chunk| {
        let mut folder = Folder::default();
        let hash = |(i, text): (usize, &T)| {
            if let Some(next) = chunk.get(i + 1) {
                prefetch_start(next.as_ref().as_bytes());
            }
            monitor.advance(text.as_ref().len() as u64).map(|()| equality.hash(text.as_ref(), &mut folder))
        };
        chunk.iter().enumerate().map(hash).collect::<Result<Vec<u128>>>()
    });
    let hashes = hashes.collect::<Result<Vec<_>>>()?.concat();
    let mut first = FxHashMap::default();
    first.reserve(hashes.len());
    Ok(hashes.into_iter().enumerate().map(|(place, hash)| *first.entry(hash).or_insert(place)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_spaces_and_composition_do_not_count_but_punctuation_does() {
        let texts = ["Café  au\nlait", "cafe\u{301} AU lait ", "cafe au lait", "café au lait.", "", " \n"];
        let found = |equality| exact_duplicates(&texts, equality, &Monitor::default()).unwrap();
        assert_eq!(found(Equality::Folded), [0, 0, 2, 3, 4, 4]);
        assert_eq!(found(Equality::Bytes), [0, 1, 2, 3, 4, 5]);
        let twice = [texts, texts].concat();
        let found = exact_duplicates(&twice, Equality::Bytes, &Monitor::default()).unwrap();
        assert_eq!(found[6..], [0, 1, 2, 3, 4, 5]);
    }
}
