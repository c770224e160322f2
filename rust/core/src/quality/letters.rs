//! The most frequent letter of a text.

use rustc_hash::FxHashMap;

use crate::text::traits::{self, lower};

/// Instances of the most frequent letter, where case does not count.
pub(super) fn most_frequent(text: &str) -> u64 {
    let (mut ascii, mut wide) = ([0; 128], FxHashMap::<char, u64>::default());
    for char in text.chars() {
        let lower = match traits::table().get(char as u32) {
            _ if char.is_ascii_alphabetic() => char.to_ascii_lowercase(),
            traits if traits & (traits::LETTER | traits::UPPER) == traits::LETTER => char,
            traits if traits & traits::LETTER != 0 => lower(char),
            _ => continue,
        };
        match ascii.get_mut(lower as usize) {
            Some(count) => *count += 1,
            None => *wide.entry(lower).or_default() += 1,
        }
    }
    ascii.into_iter().chain(wide.into_values()).max().unwrap_or(0)
}
