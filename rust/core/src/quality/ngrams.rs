//! Word n-grams that occur more than once in a text.
//!
//! [`Ngrams::bounds`] says in one pass over the words what the measures are at most, which is little in ordinary text;
//! [`Ngrams::top`] and [`Ngrams::duplicate`] are exact.

use std::ops::Range;

use super::share;
use crate::text::for_each_word;

/// Shortest and longest n-gram whose most frequent instance is measured.
pub(super) const TOP: [usize; 2] = [2, 4];
/// Shortest and longest n-gram whose repeated instances are measured.
pub(super) const DUPLICATE: [usize; 2] = [5, 10];
/// For each n of [`TOP`], the share of word characters in all instances of the most frequent n-gram, in 0..=1.
pub(super) type Top = [f64; TOP[1] - TOP[0] + 1];
/// For each n of [`DUPLICATE`], the share of word characters in any n-gram that occurred before.
pub(super) type Duplicate = [f64; NUM_DUPLICATE];
const NUM_DUPLICATE: usize = DUPLICATE[1] - DUPLICATE[0] + 1;

/// What no measure exceeds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bounds {
    /// For each n of [`TOP`].
    pub(super) top: Top,
    /// For each n of [`DUPLICATE`].
    pub(super) duplicate: Duplicate,
}

/// Odd, so that no word is lost when the next one joins its n-gram.
const MULTIPLIER: u64 = 0x9fb2_1c65_1e98_df25;
/// Most slots for pairs of words: few enough for the nearest cache.
const MAX_SLOTS: usize = 1 << 11;
/// Bits for each n-gram where new ones are to be told from repeated ones, so that few are taken for what they are not.
const BITS: usize = 32;

/// A word, or the end of the text behind the last one.
#[derive(Clone, Copy, Default)]
struct Word {
    hash: u64,
    /// Characters of all words before it.
    before: u64,
}

/// An n-gram: its hash, and where its first word is.
type Gram = (u64, u32);

/// The words of a text, and tables that are kept between texts.
#[derive(Default)]
pub(super) struct Ngrams {
    words: Words,
    pairs: Vec<u32>,
    fives: Filter,
    filter: Filter,
    grams: Vec<Gram>,
    groups: Groups,
}

impl Ngrams {
    /// Reads the words of a text.
    pub(super) fn read(&mut self, text: &str) {
        let (places, mut before) = (&mut self.words.places, 0);
        places.clear();
        for_each_word(text, |word| {
            places.push(Word { hash: word.hash, before });
            before += u64::from(word.num_chars);
        });
        places.push(Word { hash: 0, before });
    }

    /// What the measures are at most.
    pub(super) fn bounds(&mut self) -> Bounds {
        let most = self.most_in_a_slot();
        let pair = self.words.share(most);
        // Three or four words are two pairs, in which each word of theirs is.
        Bounds { top: [pair, 2.0 * pair, 2.0 * pair], duplicate: self.filter_fives() }
    }

    /// Counts the characters of all pairs of words by their hash, in few slots; the greatest count.
    fn most_in_a_slot(&mut self) -> u64 {
        let slots = (4 * self.words.places.len()).next_power_of_two().clamp(64, MAX_SLOTS);
        let shift = u64::BITS - slots.ilog2();
        self.pairs.clear();
        self.pairs.resize(slots, 0);
        let mut most = 0;
        for pair in self.words.places.windows(3) {
            let slot = &mut self.pairs[(join(pair[0].hash, pair[1].hash) >> shift) as usize];
            *slot = slot.saturating_add((pair[2].before - pair[0].before) as u32);
            most = most.max(*slot);
        }
        if most == u32::MAX { u64::MAX } else { most.into() }
    }

    /// Puts all n-grams of five words into the filter; the characters in repeated n-grams are at most those returned.
    ///
    /// Where a longer n-gram is repeated, so are the five words at each of its places.
    fn filter_fives(&mut self) -> Duplicate {
        const N: usize = DUPLICATE[0];
        self.fives.clear(BITS * self.words.places.len());
        let (mut covered, mut ends) = ([0; NUM_DUPLICATE], [0; NUM_DUPLICATE]);
        // A row of places in which all n-grams are repeated, as far as it goes.
        let mut row = 0..0;
        let mut cover = |row: &Range<usize>| {
            for longer in 0..NUM_DUPLICATE.min(row.len()) {
                covered[longer] += self.words.chars(row.start.max(ends[longer])..row.end + N - 1);
                ends[longer] = row.end + N - 1;
            }
        };
        for (hash, at) in self.words.fives() {
            if self.fives.insert(hash) {
                let at = at as usize;
                if at != row.end {
                    cover(&row);
                    row.start = at;
                }
                row.end = at + 1;
            }
        }
        cover(&row);
        covered.map(|chars| self.words.share(chars))
    }

    /// The measures of the most frequent n-grams.
    pub(super) fn top(&mut self) -> Top {
        let mut top = Top::default();
        self.grams.clear();
        self.grams.extend(self.words.all().iter().zip(0..).map(|(word, at)| (word.hash, at)));
        for (n, top) in (TOP[0]..).zip(&mut top) {
            self.lengthen(n);
            self.filter.keep_repeated(&mut self.grams);
            self.group(n);
            *top = self.words.share(self.groups.most_chars());
        }
        top
    }

    /// The measures of repeated n-grams; [`Ngrams::bounds`] has been called before.
    pub(super) fn duplicate(&mut self) -> Duplicate {
        let mut duplicate = Duplicate::default();
        self.grams.clear();
        self.grams.extend(self.words.fives().filter(|&(hash, _)| self.fives.is_repeated(hash)));
        for (n, duplicate) in (DUPLICATE[0]..).zip(&mut duplicate) {
            if n > DUPLICATE[0] {
                self.lengthen(n);
                self.filter.keep_repeated(&mut self.grams);
            }
            self.group(n);
            let (mut covered, mut end) = (0, 0);
            for &(gram, at) in &self.grams {
                if self.groups.of(gram).first != at {
                    let at = at as usize;
                    covered += self.words.chars(at.max(end)..at + n);
                    end = at + n;
                }
            }
            *duplicate = self.words.share(covered);
        }
        duplicate
    }

    /// Makes n-grams of those of n - 1 words.
    fn lengthen(&mut self, n: usize) {
        let words = self.words.all();
        self.grams.retain_mut(|(gram, at)| {
            let next = words.get(*at as usize + n - 1);
            next.inspect(|next| *gram = join(*gram, next.hash)).is_some()
        });
    }

    /// Groups the n-grams that are left, and drops those that occur once.
    ///
    /// An n-gram can only repeat where the n - 1 words it begins with repeat, so what is left is enough for the next n.
    fn group(&mut self, n: usize) {
        self.groups.fill(&self.grams, n, &self.words);
        self.grams.retain(|&(gram, _)| self.groups.of(gram).count > 1);
    }
}

/// The hash of an n-gram and the next word. The hashes of words are random in all bits, so these are as well.
#[inline(always)]
fn join(gram: u64, word: u64) -> u64 {
    gram.wrapping_mul(MULTIPLIER).wrapping_add(word)
}

/// The words of a text.
#[derive(Default)]
struct Words {
    /// One more than there are words, once a text was read.
    places: Vec<Word>,
}

impl Words {
    fn all(&self) -> &[Word] {
        self.places.split_last().map_or(&[], |(_, words)| words)
    }

    /// Characters of some words.
    fn chars(&self, range: Range<usize>) -> u64 {
        self.places[range.end].before - self.places[range.start].before
    }

    /// A part of the characters of all words.
    fn share(&self, chars: u64) -> f64 {
        share(chars, self.places.last().map_or(0, |end| end.before))
    }

    /// The n-grams of five words, each from the one before.
    #[inline(always)]
    fn fives(&self) -> impl Iterator<Item = Gram> {
        const N: usize = DUPLICATE[0];
        let words = self.all();
        let mut gram = words.iter().take(N - 1).fold(0, |gram, word| join(gram, word.hash));
        let weight = MULTIPLIER.wrapping_pow(N as u32 - 1);
        words.windows(N).zip(0..).map(move |(five, at)| {
            let hash = join(gram, five[N - 1].hash);
            gram = hash.wrapping_sub(five[0].hash.wrapping_mul(weight));
            (hash, at)
        })
    }
}

/// Tells hashes that were there before from new ones, but for a few new ones.
#[derive(Default)]
struct Filter {
    once: Vec<u64>,
    twice: Vec<u64>,
    shift: u32,
}

impl Filter {
    /// Makes room for at least so many bits.
    fn clear(&mut self, bits: usize) {
        let bits = bits.next_power_of_two().max(64);
        self.shift = u64::BITS - bits.ilog2();
        for table in [&mut self.once, &mut self.twice] {
            table.clear();
            table.resize(bits / 64, 0);
        }
    }

    /// The word and the bit of a hash.
    #[inline(always)]
    fn place(&self, hash: u64) -> (usize, u64) {
        let place = hash >> self.shift;
        ((place / 64) as usize, 1 << (place % 64))
    }

    /// Whether such a hash was inserted before.
    #[inline(always)]
    fn insert(&mut self, hash: u64) -> bool {
        let (word, bit) = self.place(hash);
        let is_again = self.once[word] & bit != 0;
        self.once[word] |= bit;
        if is_again {
            self.twice[word] |= bit;
        }
        is_again
    }

    /// Whether such a hash was inserted twice.
    #[inline(always)]
    fn is_repeated(&self, hash: u64) -> bool {
        let (word, bit) = self.place(hash);
        self.twice[word] & bit != 0
    }

    /// Drops most n-grams that occur once.
    fn keep_repeated(&mut self, grams: &mut Vec<Gram>) {
        self.clear(BITS * grams.len());
        for &(hash, _) in &*grams {
            self.insert(hash);
        }
        grams.retain(|&(hash, _)| self.is_repeated(hash));
    }
}

/// The instances of one n-gram.
#[derive(Clone, Copy, Default)]
struct Group {
    gram: u64,
    /// The first place.
    first: u32,
    /// Instances; 0 where the table has no n-gram.
    count: u32,
    /// Characters of the words in all instances.
    chars: u64,
}

/// A table of n-grams: each in the first free slot from the one that its hash names.
#[derive(Default)]
struct Groups {
    slots: Vec<Group>,
}

impl Groups {
    /// Groups n-grams of `n` words that are given with their places in order.
    fn fill(&mut self, grams: &[Gram], n: usize, words: &Words) {
        self.slots.clear();
        self.slots.resize((grams.len() * 2).next_power_of_two(), Group::default());
        for &(gram, at) in grams {
            let slot = self.slot(gram);
            let group = &mut self.slots[slot];
            if group.count == 0 {
                *group = Group { gram, first: at, ..Group::default() };
            }
            group.count += 1;
            group.chars += words.chars(at as usize..at as usize + n);
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
    fn most_chars(&self) -> u64 {
        let repeated = self.slots.iter().filter(|group| group.count > 1);
        repeated.map(|group| (group.count, group.chars)).max().map_or(0, |(_, chars)| chars)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use proptest::prelude::*;

    use super::*;
    use crate::text::spell_words;

    /// The definitions, word for word, on strings.
    fn reference(text: &str) -> (Top, Duplicate) {
        let words = spell_words(text);
        let lens: Vec<usize> = words.iter().map(|word| word.chars().count()).collect();
        let total = lens.iter().sum::<usize>().max(1) as f64;
        let (mut top, mut duplicate) = (Top::default(), Duplicate::default());
        for n in 2..=10 {
            let grams: Vec<&[String]> = words.windows(n).collect();
            let mut counts: HashMap<&[String], usize> = HashMap::new();
            for gram in &grams {
                *counts.entry(gram).or_default() += 1;
            }
            if n <= 4 {
                let chars = |gram: &[String]| gram.iter().map(|word| word.chars().count()).sum::<usize>();
                let most =
                    counts.iter().filter(|(_, count)| **count > 1).map(|(gram, &count)| (count, chars(gram)));
                top[n - 2] =
                    most.max().map_or(0.0, |(count, chars)| ((count * chars) as f64 / total).min(1.0));
            } else {
                let (mut seen, mut covered) = (HashSet::new(), HashSet::new());
                for (at, gram) in grams.iter().enumerate() {
                    if !seen.insert(gram) {
                        covered.extend(at..at + n);
                    }
                }
                duplicate[n - 5] = covered.into_iter().map(|at| lens[at]).sum::<usize>() as f64 / total;
            }
        }
        (top, duplicate)
    }

    /// The measures, which no bound is below.
    fn measured(ngrams: &mut Ngrams, text: &str) -> (Top, Duplicate) {
        ngrams.read(text);
        let bounds = ngrams.bounds();
        let (top, duplicate) = (ngrams.top(), ngrams.duplicate());
        assert!(top.iter().zip(bounds.top).all(|(&measure, bound)| measure <= bound));
        assert!(duplicate.iter().zip(bounds.duplicate).all(|(&measure, bound)| measure <= bound));
        (top, duplicate)
    }

    proptest! {
        #[test]
        fn ngrams_are_measured_as_defined(words in prop::collection::vec("[ab]|dog|漢", 0..80)) {
            let text = words.join(" ");
            prop_assert_eq!(measured(&mut Ngrams::default(), &text), reference(&text));
        }

        #[test]
        fn long_repeats_are_measured_as_defined(block in "[a-z]{1,3}( [a-z]{1,3}){3,14}", times in 1usize..4) {
            let text = vec![block; times].join(" . ");
            prop_assert_eq!(measured(&mut Ngrams::default(), &text), reference(&text));
        }
    }
}
