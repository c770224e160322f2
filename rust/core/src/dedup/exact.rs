//! Texts that are equal but for case, spaces and the spelling of characters.

use rayon::prelude::*;
use rustc_hash::FxHashMap;
use xxhash_rust::xxh3::xxh3_128;

use crate::text::fold;
use crate::{Monitor, Result};

/// 128 bits that name a text as [`fold`] spells it.
pub fn content_hash(text: &str) -> u128 {
    xxh3_128(fold(text).as_bytes())
}

/// For each text the place of the first one with the same content. The monitor counts bytes of text.
///
/// # Errors
/// [`crate::Error::Interrupted`] if the monitor is cancelled.
pub fn exact_duplicates<T: AsRef<str> + Sync>(texts: &[T], monitor: &Monitor) -> Result<Vec<usize>> {
    let hash = |text: &T| monitor.advance(text.as_ref().len() as u64).map(|()| content_hash(text.as_ref()));
    let hashes = texts.par_iter().map(hash).collect::<Result<Vec<u128>>>()?;
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
        assert_eq!(exact_duplicates(&texts, &Monitor::default()).unwrap(), [0, 0, 2, 3, 4, 4]);
    }
}
