//! Word n-grams that occur more than once in a text.

use super::share;
use crate::text::{for_each_word, mix};
use crate::unique::drop_unique;

/// Shortest and longest n-gram whose most frequent instance is measured.
pub(super) const TOP: [usize; 2] = [2, 4];
/// Shortest and longest n-gram whose repeated instances are measured.
pub(super) const DUPLICATE: [usize; 2] = [5, 10];
/// Odd, so that no word is lost when the next one joins its n-gram.
const MULTIPLIER: u64 = 0x9fb2_1c65_1e98_df25;

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
    let mut groups = Groups::default();
    // The hash of the n-gram at each place where one could repeat, in order.
    let mut grams: Vec<(u64, u32)> = hashes.iter().enumerate().map(|(at, &hash)| (hash, at as u32)).collect();
    for n in 2..=DUPLICATE[1] {
        grams.retain_mut(|(gram, at)| {
            let next = hashes.get(*at as usize + n - 1);
            next.inspect(|&&next| *gram = mix(*gram, MULTIPLIER) ^ next).is_some()
        });
        drop_unique(&mut grams);
        groups.fill(&grams);
        grams.retain(|&(gram, _)| groups.of(gram).count > 1);
        if (TOP[0]..=TOP[1]).contains(&n) {
            repeats.top[n - TOP[0]] = share(groups.top_chars(&ends, n), total);
        }
        if n >= DUPLICATE[0] {
            let again = grams.iter().filter(|&&(gram, at)| groups.of(gram).first != at);
            let places = again.map(|&(_, at)| at as usize);
            repeats.duplicate[n - DUPLICATE[0]] = share(covered_chars(places, &ends, n), total);
        }
        if grams.is_empty() {
            break;
        }
    }
    repeats
}

/// The instances of one n-gram.
#[derive(Clone, Copy, Default)]
struct Group {
    gram: u64,
    /// The first place.
    first: u32,
    /// Instances; 0 where the table has no n-gram.
    count: u32,
}

/// A table of n-grams: each in the first free slot from the one that its hash names.
#[derive(Default)]
struct Groups {
    slots: Vec<Group>,
}

impl Groups {
    /// Groups n-grams that are given with their places in order.
    fn fill(&mut self, grams: &[(u64, u32)]) {
        self.slots.clear();
        self.slots.resize((grams.len() * 2).next_power_of_two(), Group::default());
        for &(gram, at) in grams {
            let slot = self.slot(gram);
            let group = &mut self.slots[slot];
            if group.count == 0 {
                *group = Group { gram, first: at, count: 0 };
            }
            group.count += 1;
        }
    }

    fn of(&self, gram: u64) -> Group {
        self.slots[self.slot(gram)]
    }

    /// Where an n-gram is, or would be: at most every second slot is taken.
    fn slot(&self, gram: u64) -> usize {
        let mut slot = gram as usize;
        loop {
            slot &= self.slots.len() - 1;
            let group = &self.slots[slot];
            if group.count == 0 || group.gram == gram {
                return slot;
            }
            slot += 1;
        }
    }

    /// Characters in the instances of the n-gram that occurs most often, the longest of them if several do.
    fn top_chars(&self, ends: &[u64], n: usize) -> u64 {
        let chars = |group: &Group| ends[group.first as usize + n] - ends[group.first as usize];
        let repeated = self.slots.iter().filter(|group| group.count > 1);
        let best = repeated.map(|group| (u64::from(group.count), chars(group))).max();
        best.map_or(0, |(count, chars)| count * chars)
    }
}

/// Characters of the words in the n-grams at these places, which are in order.
fn covered_chars(places: impl Iterator<Item = usize>, ends: &[u64], n: usize) -> u64 {
    let (mut chars, mut covered) = (0, 0);
    for at in places {
        chars += ends[at + n] - ends[at.max(covered)];
        covered = at + n;
    }
    chars
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use proptest::prelude::*;

    use super::*;
    use crate::text::spell_words;

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
}
