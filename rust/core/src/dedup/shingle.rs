//! What two texts have in common: hashes of their overlapping n-grams.

use crate::masks::{Classify, Work, best};
use crate::rng;
use crate::text::{fold, for_each_run, for_each_word, mix, spell_words};
use crate::{Error, Result};

/// Random stream of the seed's part in a hash.
const SEEDED: u64 = u64::from_be_bytes(*b"shingle_");
/// Odd multiplier of the combination of hashes.
const BASE: u64 = 0xf1da_2c8b_57e3_9a4d;
/// Hash of a character before it is combined.
const CHARACTER: u64 = 0xe703_7ed1_a0b4_28db;

/// What n-grams are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// The words of [`for_each_word`]: case and punctuation do not count, and in scripts without spaces each
    /// character is a word.
    Words,
    /// What stands between white space, as it is written.
    Runs,
    /// Characters, composed and in lower case, one space for each run of white space.
    Characters,
}

impl Unit {
    /// All units.
    pub const ALL: [Self; 3] = [Self::Words, Self::Runs, Self::Characters];

    /// The name used in arguments.
    pub fn name(self) -> &'static str {
        match self {
            Self::Words => "words",
            Self::Runs => "runs",
            Self::Characters => "characters",
        }
    }

    /// The unit of that name.
    ///
    /// # Errors
    /// [`Error::Value`] if there is none.
    pub fn from_name(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|unit| unit.name() == name)
            .ok_or_else(|| Error::value(format!("unknown unit {name:?}; expected words, runs or characters")))
    }
}

/// How texts become shingles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shingler {
    /// What is counted.
    pub unit: Unit,
    /// Units in a shingle.
    pub ngram: usize,
    /// Chooses the hash function.
    pub seed: u64,
}

/// Buffers that are used again from text to text.
#[derive(Debug, Default)]
pub struct Shingles {
    units: Vec<u64>,
    hashes: Vec<u64>,
    spare: Vec<u64>,
}

impl Shingles {
    /// Hashes of the `ngram` consecutive units at each place of a text, in order.
    ///
    /// A text with fewer units than `ngram` has the shingles of its characters instead, and one with fewer
    /// characters a single shingle. A text without words has none.
    pub fn of(&mut self, text: &str, shingler: Shingler) -> &[u64] {
        self.units.clear();
        match shingler.unit {
            Unit::Words => for_each_word(text, |word| self.units.push(word.hash)),
            Unit::Runs => for_each_run(text, |run| self.units.push(run.hash)),
            Unit::Characters => push_chars(&fold(text), &mut self.units),
        }
        if self.units.len() < shingler.ngram && shingler.unit != Unit::Characters {
            let spelled = match shingler.unit {
                Unit::Words => spell_words(text).join(" "),
                _ => text.split_whitespace().collect::<Vec<_>>().join(" "),
            };
            self.units.clear();
            push_chars(&spelled, &mut self.units);
        }
        let len = shingler.ngram.min(self.units.len());
        let seed = rng::bits64(shingler.seed, SEEDED, 0);
        best(Windows { units: &self.units, len, seed, out: &mut self.hashes, spare: &mut self.spare });
        &self.hashes
    }
}

/// The distinct shingles of a text in increasing order.
pub fn shingle_set(text: &str, shingler: Shingler) -> Vec<u64> {
    let mut set = Shingles::default().of(text, shingler).to_vec();
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

fn push_chars(text: &str, units: &mut Vec<u64>) {
    units.extend(text.chars().map(|char| mix(u64::from(char) | 1 << 32, CHARACTER)));
}

/// A hash of each window of `len` units: a polynomial of their hashes, then mixed.
///
/// Windows of twice the length are made of two neighbours, so the cost grows with the logarithm of `len`, and
/// each step treats many windows at once.
struct Windows<'a> {
    units: &'a [u64],
    len: usize,
    seed: u64,
    out: &'a mut Vec<u64>,
    spare: &'a mut Vec<u64>,
}

impl Work for Windows<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<C: Classify>(self) {
        let Self { units, len, seed, out, spare } = self;
        out.clear();
        if len == 0 {
            return;
        }
        out.extend_from_slice(units);
        spare.resize(units.len().max(spare.len()), 0);
        let mut have = 1;
        for bit in (0..len.ilog2()).rev() {
            let count = units.len() + 1 - 2 * have;
            let shift = BASE.wrapping_pow(have as u32);
            let (first, second) = (&out[..count], &out[have..have + count]);
            for ((window, first), second) in spare[..count].iter_mut().zip(first).zip(second) {
                *window = first.wrapping_mul(shift).wrapping_add(*second);
            }
            std::mem::swap(out, spare);
            have *= 2;
            if len >> bit & 1 != 0 {
                for (window, unit) in out.iter_mut().zip(&units[have..]) {
                    *window = window.wrapping_mul(BASE).wrapping_add(*unit);
                }
                have += 1;
            }
        }
        out.truncate(units.len() + 1 - len);
        for window in out {
            let mixed = (*window ^ *window >> 32).wrapping_mul(seed | 1);
            let mixed = (mixed ^ mixed >> 29).wrapping_mul(BASE);
            *window = mixed ^ mixed >> 32;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shingler(unit: Unit, ngram: usize) -> Shingler {
        Shingler { unit, ngram, seed: 0 }
    }

    fn words(text: &str, ngram: usize) -> Vec<u64> {
        Shingles::default().of(text, shingler(Unit::Words, ngram)).to_vec()
    }

    proptest! {
        #[test]
        fn equal_windows_have_equal_shingles_and_others_differ(
            units in prop::collection::vec("[ab]{1,2}", 13..40),
            ngram in 1..14usize,
        ) {
            let text = units.join(" ");
            let windows: Vec<&[String]> = units.windows(ngram).collect();
            for unit in [Unit::Words, Unit::Runs] {
                let mut shingles = Shingles::default();
                let shingles = shingles.of(&text, shingler(unit, ngram));
                prop_assert_eq!(shingles.len(), windows.len());
                for (i, j) in (0..windows.len()).flat_map(|i| (0..i).map(move |j| (i, j))) {
                    prop_assert_eq!(shingles[i] == shingles[j], windows[i] == windows[j]);
                }
            }
        }

        #[test]
        fn character_shingles_are_those_of_the_letters(text in "[aAbé \n]{13,60}", ngram in 1..14usize) {
            let lower = text.to_lowercase();
            let chars: Vec<char> = lower.split_whitespace().collect::<Vec<_>>().join(" ").chars().collect();
            let windows: Vec<&[char]> = chars.windows(ngram.min(chars.len()).max(1)).collect();
            let mut shingles = Shingles::default();
            let shingles = shingles.of(&text, shingler(Unit::Characters, ngram));
            prop_assert_eq!(shingles.len(), windows.len());
            for (i, j) in (0..windows.len()).flat_map(|i| (0..i).map(move |j| (i, j))) {
                prop_assert_eq!(shingles[i] == shingles[j], windows[i] == windows[j]);
            }
        }

        #[test]
        fn the_same_for_all_instruction_sets(units in prop::collection::vec(any::<u64>(), 0..70), ngram in 1..20usize) {
            let len = ngram.min(units.len());
            let (mut best_out, mut plain_out) = (Vec::new(), Vec::new());
            best(Windows { units: &units, len, seed: 3, out: &mut best_out, spare: &mut Vec::new() });
            // SAFETY: it needs no instructions.
            unsafe { Windows { units: &units, len, seed: 3, out: &mut plain_out, spare: &mut vec![7; 9] }.run::<crate::masks::Portable>() };
            prop_assert_eq!(best_out, plain_out);
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
    fn case_spaces_composition_and_punctuation_do_not_count() {
        assert_eq!(words("The quick, brown FOX  jumps!", 5), words("the quick brown fox\njumps", 5));
        assert_eq!(words("a cafe\u{301} b", 2), words("a café b", 2));
    }

    #[test]
    fn texts_of_few_words_are_compared_by_characters() {
        assert_eq!(words("good morning", 5).len(), "good morning".len() - 4);
        assert_eq!(words("ok", 5).len(), 1);
        assert_ne!(words("ok", 5), words("no", 5));
        assert!(words(" -- ", 5).is_empty());
        let set = |text| shingle_set(text, shingler(Unit::Words, 5));
        assert!(jaccard(&set("good morning"), &set("good evening")) < 0.5);
    }

    #[test]
    fn unspaced_scripts_have_a_shingle_for_each_character() {
        assert_eq!(words("今日は天気がいいです。散歩", 5).len(), 12 - 4);
    }
}
