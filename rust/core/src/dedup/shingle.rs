//! What two texts have in common: hashes of their overlapping word n-grams.

use crate::text::{for_each_word, mix, spell_words};

/// Odd multiplier of the rolling combination.
const BASE: u64 = 0xf1da_2c8b_57e3_9a4d;
const FINAL: u64 = 0xa076_1d64_78bd_642f;
/// Hash of a character before it is combined.
const CHARACTER: u64 = 0xe703_7ed1_a0b4_28db;

/// Hashes of the `ngram` consecutive words at each place of a text, in order.
///
/// Words are those of [`for_each_word`]: case and punctuation do not count, and in scripts without spaces each
/// character is a word. A text with fewer words than `ngram` has the shingles of its characters instead, and
/// one with fewer characters a single shingle. A text without words has none.
pub fn shingles(text: &str, ngram: usize) -> Vec<u64> {
    let mut words = Vec::with_capacity(text.len() / 5);
    for_each_word(text, |word| words.push(word.hash));
    if words.len() < ngram {
        words.clear();
        let spelled = spell_words(text).join(" ");
        words.extend(spelled.chars().map(|char| mix(u64::from(char) | 1 << 32, CHARACTER)));
    }
    rolling(&words, ngram.min(words.len()))
}

/// The distinct shingles in increasing order.
pub fn shingle_set(text: &str, ngram: usize) -> Vec<u64> {
    let mut set = shingles(text, ngram);
    set.sort_unstable();
    set.dedup();
    set
}

/// Size of the intersection over size of the union of two sets in increasing order; 0 if both are empty.
pub fn jaccard(a: &[u64], b: &[u64]) -> f64 {
    let (mut i, mut j, mut common) = (0, 0, 0usize);
    while i < a.len() && j < b.len() {
        common += usize::from(a[i] == b[j]);
        let (step_a, step_b) = (a[i] <= b[j], b[j] <= a[i]);
        i += usize::from(step_a);
        j += usize::from(step_b);
    }
    let union = a.len() + b.len() - common;
    if union == 0 { 0.0 } else { common as f64 / union as f64 }
}

/// A polynomial over each window of `len` hashes, then mixed.
fn rolling(hashes: &[u64], len: usize) -> Vec<u64> {
    if len == 0 {
        return Vec::new();
    }
    let leaving = BASE.wrapping_pow(len as u32);
    let mut sum = hashes[..len].iter().fold(0u64, |sum, hash| sum.wrapping_mul(BASE).wrapping_add(*hash));
    let mut out = Vec::with_capacity(hashes.len() - len + 1);
    out.push(mix(sum ^ FINAL, BASE));
    for (old, new) in hashes.iter().zip(&hashes[len..]) {
        sum = sum.wrapping_mul(BASE).wrapping_add(*new).wrapping_sub(old.wrapping_mul(leaving));
        out.push(mix(sum ^ FINAL, BASE));
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn equal_windows_have_equal_shingles_and_others_differ(words in prop::collection::vec("[ab]{1,2}", 5..40)) {
            let shingles = shingles(&words.join(" "), 3);
            let windows: Vec<&[String]> = words.windows(3).collect();
            prop_assert_eq!(shingles.len(), windows.len());
            for (i, j) in (0..windows.len()).flat_map(|i| (0..i).map(move |j| (i, j))) {
                prop_assert_eq!(shingles[i] == shingles[j], windows[i] == windows[j]);
            }
        }

        #[test]
        fn jaccard_is_that_of_the_sets(a in prop::collection::btree_set(0u64..40, 0..30), b in prop::collection::btree_set(0u64..40, 0..30)) {
            let (union, common) = (a.union(&b).count(), a.intersection(&b).count());
            let expected = if union == 0 { 0.0 } else { common as f64 / union as f64 };
            let sorted = |set: &std::collections::BTreeSet<u64>| set.iter().copied().collect::<Vec<_>>();
            prop_assert!((jaccard(&sorted(&a), &sorted(&b)) - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn case_spaces_and_punctuation_do_not_count() {
        assert_eq!(shingles("The quick, brown FOX  jumps!", 5), shingles("the quick brown fox\njumps", 5));
    }

    #[test]
    fn texts_of_few_words_are_compared_by_characters() {
        assert_eq!(shingles("good morning", 5).len(), "good morning".len() - 4);
        assert_eq!(shingles("ok", 5).len(), 1);
        assert_ne!(shingles("ok", 5), shingles("no", 5));
        assert!(shingles(" -- ", 5).is_empty());
        assert!(jaccard(&shingle_set("good morning", 5), &shingle_set("good evening", 5)) < 0.5);
    }

    #[test]
    fn unspaced_scripts_have_a_shingle_for_each_character() {
        assert_eq!(shingles("今日は天気がいいです。散歩", 5).len(), 12 - 4);
    }
}
