//! Repetition inside one text: lines, paragraphs and word n-grams that occur more than once.

use rustc_hash::FxHashSet;
use xxhash_rust::xxh3::xxh3_64;

use super::words::{for_each_word, mix};

/// Shortest and longest n-gram whose most frequent instance is measured.
pub(super) const TOP: [usize; 2] = [2, 4];
/// Shortest and longest n-gram whose repeated instances are measured.
pub(super) const DUPLICATE: [usize; 2] = [5, 10];
/// Odd, so that no word is lost when the next one joins its n-gram.
const MULTIPLIER: u64 = 0x9fb2_1c65_1e98_df25;

/// Shares of a text that repeat what came before, each in 0..=1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct PieceRepeats {
    /// Pieces that occurred before.
    pub(super) pieces: f64,
    /// Characters in such pieces.
    pub(super) chars: f64,
}

/// Repetition among pieces of text; empty pieces do not count.
pub(super) fn piece_repeats<'a>(pieces: impl Iterator<Item = &'a str>) -> PieceRepeats {
    let mut seen = FxHashSet::default();
    let (mut count, mut chars, mut repeated, mut repeated_chars) = (0u64, 0u64, 0u64, 0u64);
    for piece in pieces.map(str::trim).filter(|piece| !piece.is_empty()) {
        let len = piece.chars().count() as u64;
        count += 1;
        chars += len;
        if !seen.insert(xxh3_64(piece.as_bytes())) {
            repeated += 1;
            repeated_chars += len;
        }
    }
    PieceRepeats { pieces: share(repeated, count), chars: share(repeated_chars, chars) }
}

/// For each n, the share of word characters in n-grams that repeat, in 0..=1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct NgramRepeats {
    /// In all instances of the most frequent n-gram, for each n of [`TOP`].
    pub(super) top: [f64; TOP[1] - TOP[0] + 1],
    /// In any n-gram that occurred before, for each n of [`DUPLICATE`].
    pub(super) duplicate: [f64; DUPLICATE[1] - DUPLICATE[0] + 1],
}

/// Repetition among the word n-grams of a text.
///
/// An n-gram can only repeat where the n-1 words it begins with repeat, so each n looks at the places left by
/// the one before, which in ordinary text are few.
pub(super) fn ngram_repeats(text: &str) -> NgramRepeats {
    let (mut hashes, mut ends) = (Vec::new(), vec![0u64]);
    for_each_word(text, |word| {
        hashes.push(word.hash);
        ends.push(ends[ends.len() - 1] + u64::from(word.num_chars));
    });
    let total = ends[ends.len() - 1];
    let mut repeats = NgramRepeats::default();
    // The hash of the n-gram at each place where one could repeat.
    let mut grams: Vec<(u64, u32)> = hashes.iter().enumerate().map(|(at, &hash)| (hash, at as u32)).collect();
    for n in 2..=DUPLICATE[1] {
        grams.retain_mut(|(gram, at)| {
            let next = hashes.get(*at as usize + n - 1);
            next.inspect(|&&next| *gram = mix(*gram, MULTIPLIER) ^ next).is_some()
        });
        drop_unique(&mut grams);
        grams.sort_unstable();
        if (TOP[0]..=TOP[1]).contains(&n) {
            repeats.top[n - TOP[0]] = share(top_chars(&grams, &ends, n), total);
        }
        if n >= DUPLICATE[0] {
            repeats.duplicate[n - DUPLICATE[0]] = share(duplicate_chars(&grams, &ends, n), total);
        }
        keep_repeated(&mut grams);
        if grams.is_empty() {
            break;
        }
    }
    repeats
}

/// Characters in the instances of the n-gram that occurs most often, the longest of them if several do.
fn top_chars(grams: &[(u64, u32)], ends: &[u64], n: usize) -> u64 {
    let best = grams
        .chunk_by(|a, b| a.0 == b.0)
        .filter(|group| group.len() > 1)
        .map(|group| (group.len() as u64, ends[group[0].1 as usize + n] - ends[group[0].1 as usize]))
        .max();
    best.map_or(0, |(count, chars)| count * chars)
}

/// Characters of the words that lie in an n-gram which occurred before.
fn duplicate_chars(grams: &[(u64, u32)], ends: &[u64], n: usize) -> u64 {
    let groups = grams.chunk_by(|a, b| a.0 == b.0);
    let mut places: Vec<usize> = groups.flat_map(|group| &group[1..]).map(|&(_, at)| at as usize).collect();
    places.sort_unstable();
    let (mut chars, mut covered) = (0, 0);
    for at in places {
        chars += ends[at + n] - ends[at.max(covered).min(at + n)];
        covered = at + n;
    }
    chars
}

/// Drops most of the hashes that occur once, so that few are left to sort: those alone in their slot of a table.
pub(crate) fn drop_unique<T>(hashes: &mut Vec<(u64, T)>) {
    let bits = (hashes.len() * 8).next_power_of_two().max(64);
    let slot = |hash: u64| ((hash >> 32) as usize) & (bits - 1);
    let (mut once, mut twice) = (vec![0u64; bits / 64], vec![0u64; bits / 64]);
    for (hash, _) in &*hashes {
        let (word, bit) = (slot(*hash) / 64, 1 << (slot(*hash) % 64));
        twice[word] |= once[word] & bit;
        once[word] |= bit;
    }
    hashes.retain(|(hash, _)| twice[slot(*hash) / 64] >> (slot(*hash) % 64) & 1 == 1);
}

fn keep_repeated(grams: &mut Vec<(u64, u32)>) {
    let kept = grams.chunk_by(|a, b| a.0 == b.0).filter(|group| group.len() > 1).flatten().copied().collect();
    *grams = kept;
}

fn share(part: u64, whole: u64) -> f64 {
    // Instances of one n-gram may overlap, so the count of their characters may exceed the text.
    if whole == 0 { 0.0 } else { (part as f64 / whole as f64).min(1.0) }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use proptest::prelude::*;

    use super::super::words::spell_words;
    use super::*;

    /// The definitions, word for word, on strings.
    fn reference(text: &str) -> NgramRepeats {
        let words = spell_words(text);
        let lens: Vec<usize> = words.iter().map(|word| word.chars().count()).collect();
        let total = lens.iter().sum::<usize>().max(1) as f64;
        let mut repeats = NgramRepeats::default();
        for n in 2..=10 {
            let grams: Vec<&[String]> = words.windows(n).collect();
            let mut counts: HashMap<&[String], usize> = HashMap::new();
            for gram in &grams {
                *counts.entry(gram).or_default() += 1;
            }
            if n <= 4 {
                let chars = |gram: &[String]| gram.iter().map(|word| word.chars().count()).sum::<usize>();
                let top =
                    counts.iter().filter(|(_, count)| **count > 1).map(|(gram, &count)| (count, chars(gram)));
                repeats.top[n - 2] =
                    top.max().map_or(0.0, |(count, chars)| ((count * chars) as f64 / total).min(1.0));
            } else {
                let (mut seen, mut covered) = (HashSet::new(), HashSet::new());
                for (at, gram) in grams.iter().enumerate() {
                    if !seen.insert(gram) {
                        covered.extend(at..at + n);
                    }
                }
                repeats.duplicate[n - 5] =
                    covered.into_iter().map(|at| lens[at]).sum::<usize>() as f64 / total;
            }
        }
        repeats
    }

    proptest! {
        #[test]
        fn ngrams_are_measured_as_defined(words in prop::collection::vec("[ab]|dog|漢", 0..80)) {
            let text = words.join(" ");
            prop_assert_eq!(ngram_repeats(&text), reference(&text));
        }

        #[test]
        fn long_repeats_are_measured_as_defined(block in "[a-z]{1,3}( [a-z]{1,3}){3,14}", times in 1usize..4) {
            let text = vec![block; times].join(" . ");
            prop_assert_eq!(ngram_repeats(&text), reference(&text));
        }
    }

    #[test]
    fn pieces_after_the_first_count_as_repeats() {
        let repeats = piece_repeats("abc\n\nx\nabc \nabc".split('\n'));
        assert_eq!(repeats, PieceRepeats { pieces: 0.5, chars: 0.6 });
        assert_eq!(piece_repeats("".split('\n')), PieceRepeats::default());
    }
}
