//! Stretches of bytes that occur more than once, found from anchors instead of a suffix array.
//!
//! A stretch of `length` bytes inside one text is repeated if an equal one starts before it: earlier in the
//! same text or in an earlier text. The result is all bytes in repeated stretches, as ranges that are cut at the ends
//! of characters: what a suffix array gives, with about half a byte of memory for each byte of text.
//!
//! 1. Every stretch of that length holds an anchor, and copies hold equal ones ([`super::anchors`]).
//! 2. Places whose anchors have equal n-grams are compared byte by byte to both sides, as far as a stretch reaches.
//!    Places whose surroundings are the same as a whole are compared with the first of them alone; if many different ones
//!    are left, the stretches around them are grouped by hash, so that time stays linear.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use rustc_hash::FxHashMap;
use xxhash_rust::xxh3::xxh3_64;

use super::anchors::Winnower;
use crate::prefetch::prefetch;
use crate::text::mix;
use crate::unique::drop_unique;
use crate::{Error, Monitor, Result};

/// Bytes of text whose anchors are collected at once: enough work for all threads.
const CHUNK_BYTES: usize = 4 << 20;
/// Places whose groups one task compares.
const TASK: usize = 4096;
/// Places ahead whose text is fetched: it lies anywhere, and a place takes less time than memory.
const AHEAD: usize = 12;
/// Places of a group that are compared pair by pair at once.
const MAX_SMALL: usize = 4;
/// Different surroundings of one n-gram that are compared pair by pair.
const MAX_PAIRED: usize = 24;

/// The repeated stretches of each text as ranges of bytes, in order, without gaps or overlaps between them.
///
/// The monitor counts bytes of text.
///
/// # Errors
/// [`Error::Value`] if `length` is below 16 or a text has 2^32 bytes or more; [`Error::Interrupted`] if the monitor
/// is cancelled.
pub fn repeated_stretches<T: AsRef<str> + Sync>(
    texts: &[T],
    length: usize,
    monitor: &Monitor,
) -> Result<Vec<Vec<Range<usize>>>> {
    if length < 16 {
        return Err(Error::value(format!("length must be at least 16 bytes, got {length}")));
    }
    let is_long = |text: &T| u32::try_from(text.as_ref().len()).is_err();
    if texts.iter().any(is_long) || u32::try_from(texts.len()).is_err() {
        return Err(Error::value("there can be 2^32 - 1 texts of as many bytes at most"));
    }
    let mut places = anchored_places(texts, length, monitor)?;
    drop_unique(&mut places);
    places.par_sort_unstable();
    let search = Search { texts, length, ngram: Winnower::new(length).ngram(), marks: Marks::new(texts) };
    (0..places.len().div_ceil(TASK)).into_par_iter().try_for_each(|task| {
        search.compare_groups(&places, task * TASK);
        monitor.advance(0)
    })?;
    let ranges = |(i, text): (usize, &T)| search.marks.ranges(i, text.as_ref());
    Ok(texts.par_iter().enumerate().map(ranges).collect())
}

/// An anchor's n-gram as a hash, and its place.
type Anchor = (u64, Place);

/// A byte of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    text: u32,
    at: u32,
}

fn anchored_places<T: AsRef<str> + Sync>(
    texts: &[T],
    length: usize,
    monitor: &Monitor,
) -> Result<Vec<Anchor>> {
    let num_bytes: usize = texts.iter().map(|text| text.as_ref().len()).sum();
    let mut places = Vec::with_capacity(Winnower::new(length).expected(num_bytes) * 11 / 10);
    let mut start = 0;
    while start < texts.len() {
        let mut bytes = 0;
        let fits = |text: &&T| {
            let fits = bytes < CHUNK_BYTES;
            bytes += text.as_ref().len();
            fits
        };
        let chunk = &texts[start..][..texts[start..].iter().take_while(fits).count()];
        let found: Vec<Vec<Anchor>> = chunk
            .par_iter()
            .enumerate()
            .map_init(
                || Winnower::new(length),
                |winnower, (i, text)| {
                    let (text, bytes) = ((start + i) as u32, text.as_ref().as_bytes());
                    let mut own = Vec::with_capacity(winnower.expected(bytes.len()) + 16);
                    let ngram = winnower.ngram();
                    winnower.visit(bytes, |at| {
                        own.push((xxh3_64(&bytes[at..at + ngram]), Place { text, at: at as u32 }));
                    });
                    monitor.advance(bytes.len() as u64).map(|()| own)
                },
            )
            .collect::<Result<_>>()?;
        for own in &found {
            places.extend_from_slice(own);
        }
        start += chunk.len();
    }
    Ok(places)
}

struct Search<'a, T> {
    texts: &'a [T],
    length: usize,
    ngram: usize,
    marks: Marks,
}

impl<T: AsRef<str>> Search<'_, T> {
    fn bytes(&self, text: u32) -> &[u8] {
        self.texts[text as usize].as_ref().as_bytes()
    }

    /// All bytes of the stretches that hold the n-gram at a place.
    fn surroundings(&self, place: Place) -> Range<usize> {
        let at = place.at as usize;
        let reach = self.length - self.ngram;
        at.saturating_sub(reach)..(at + self.length).min(self.bytes(place.text).len())
    }

    /// Compares the groups that start among the [`TASK`] places from `start`.
    fn compare_groups(&self, places: &[Anchor], start: usize) {
        let is_new = |i: usize| i == 0 || places[i].0 != places[i - 1].0;
        let stop = places.len().min(start + TASK);
        let Some(mut first) = (start..stop).find(|&i| is_new(i)) else { return };
        while first < stop {
            let end = (first + 1..places.len()).find(|&i| is_new(i)).unwrap_or(places.len());
            self.compare(places, first..end);
            first = end;
        }
    }

    /// Asks for the text around a place.
    fn fetch(&self, place: Option<&Anchor>) {
        let Some(&(_, place)) = place else { return };
        let around = &self.bytes(place.text)[self.surroundings(place)];
        around.chunks(64).for_each(|line| prefetch(line, 0));
        prefetch(around, around.len().saturating_sub(1));
    }

    /// Marks what is repeated around the places of one group, which are in increasing order.
    fn compare(&self, places: &[Anchor], group: Range<usize>) {
        if group.len() <= MAX_SMALL {
            for i in group.clone() {
                self.fetch(places.get(i + AHEAD));
                places[group.start..i].iter().for_each(|before| self.mark_common(before.1, places[i].1));
            }
            return;
        }
        let mut first_of: FxHashMap<u64, Place> = FxHashMap::default();
        let mut different: Vec<Place> = Vec::new();
        for i in group {
            self.fetch(places.get(i + AHEAD));
            let place = places[i].1;
            let around = self.surroundings(place);
            let hash = xxh3_64(&self.bytes(place.text)[around.clone()])
                ^ around.start.abs_diff(place.at as usize) as u64;
            match first_of.get(&hash) {
                Some(&first) if self.is_same_around(first, place) => self.mark(place, around),
                _ => {
                    first_of.entry(hash).or_insert(place);
                    different.push(place);
                }
            }
        }
        if different.len() <= MAX_PAIRED {
            for (i, &place) in different.iter().enumerate() {
                different[..i].iter().for_each(|&before| self.mark_common(before, place));
            }
        } else {
            self.mark_stretches(&different);
        }
    }

    fn is_same_around(&self, a: Place, b: Place) -> bool {
        let (left, right) = (self.surroundings(a), self.surroundings(b));
        a.at as usize - left.start == b.at as usize - right.start
            && self.bytes(a.text)[left] == self.bytes(b.text)[right]
    }

    /// Marks what is equal around a place and one before it.
    fn mark_common(&self, before: Place, place: Place) {
        let (a, b) = (self.bytes(before.text), self.bytes(place.text));
        let (a_around, b_around) = (self.surroundings(before), self.surroundings(place));
        let (a_at, b_at) = (before.at as usize, place.at as usize);
        let left = common_suffix(&a[a_around.start..a_at], &b[b_around.start..b_at]);
        let right = common_prefix(&a[a_at..a_around.end], &b[b_at..b_around.end]);
        if left + right >= self.length {
            self.mark(place, b_at - left..b_at + right);
        }
    }

    /// Marks the repeated ones among all stretches around the places.
    fn mark_stretches(&self, places: &[Place]) {
        let mut stretches: Vec<(u64, Place)> = Vec::new();
        for &place in places {
            let around = self.surroundings(place);
            let bytes = &self.bytes(place.text)[around.clone()];
            let at = |offset: usize| Place { text: place.text, at: (around.start + offset) as u32 };
            stretches.extend(rolling(bytes, self.length).enumerate().map(|(i, hash)| (hash, at(i))));
        }
        drop_unique(&mut stretches);
        stretches.sort_unstable();
        stretches.dedup();
        let stretch = |place: Place| &self.bytes(place.text)[place.at as usize..][..self.length];
        for group in stretches.chunk_by(|a, b| a.0 == b.0) {
            // One, but for different stretches of the same hash.
            let mut different: Vec<Place> = Vec::new();
            for &(_, place) in group {
                if different.iter().any(|&other| stretch(other) == stretch(place)) {
                    let start = place.at as usize;
                    self.mark(place, start..start + self.length);
                } else {
                    different.push(place);
                }
            }
        }
    }

    fn mark(&self, place: Place, range: Range<usize>) {
        self.marks.set(place.text as usize, range);
    }
}

/// Bytes that two texts have in common at their starts.
fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let (a_words, b_words) = (a.as_chunks::<8>().0, b.as_chunks::<8>().0);
    let equal = a_words.iter().zip(b_words).take_while(|(a, b)| a == b).count() * 8;
    let rest = a[equal..].iter().zip(&b[equal..]).take(8);
    equal + rest.take_while(|(a, b)| a == b).count()
}

/// Bytes that two texts have in common at their ends.
fn common_suffix(a: &[u8], b: &[u8]) -> usize {
    let (a_words, b_words) = (a.as_rchunks::<8>().1, b.as_rchunks::<8>().1);
    let equal = a_words.iter().rev().zip(b_words.iter().rev()).take_while(|(a, b)| a == b).count() * 8;
    let rest = a[..a.len() - equal].iter().rev().zip(b[..b.len() - equal].iter().rev()).take(8);
    equal + rest.take_while(|(a, b)| a == b).count()
}

/// A hash of each `length` bytes in a row.
fn rolling(bytes: &[u8], length: usize) -> impl Iterator<Item = u64> {
    const BASE: u64 = 0xf1da_2c8b_57e3_9a4d;
    let leaving = BASE.wrapping_pow(length as u32);
    let add = |hash: u64, byte: u8| hash.wrapping_mul(BASE).wrapping_add(u64::from(byte) + 1);
    let count = (bytes.len() + 1).saturating_sub(length);
    let mut hash = bytes.iter().take(length).fold(0, |hash, &byte| add(hash, byte));
    (0..count).map(move |i| {
        if i > 0 {
            let old = (u64::from(bytes[i - 1]) + 1).wrapping_mul(leaving);
            hash = add(hash, bytes[i + length - 1]).wrapping_sub(old);
        }
        mix(hash ^ BASE, BASE)
    })
}

/// One bit for each byte of all texts. Bits are only ever set, so threads need no order among them.
struct Marks {
    bits: Vec<AtomicU64>,
    /// Where each text starts.
    starts: Vec<usize>,
}

impl Marks {
    fn new<T: AsRef<str>>(texts: &[T]) -> Self {
        let mut starts = vec![0];
        let mut end = 0;
        for text in texts {
            // Texts share no word, so a range of one is found without the others.
            end += text.as_ref().len().next_multiple_of(64);
            starts.push(end);
        }
        let mut bits = Vec::new();
        bits.resize_with(end / 64, AtomicU64::default);
        Self { bits, starts }
    }

    fn set(&self, text: usize, range: Range<usize>) {
        let (start, end) = (self.starts[text] + range.start, self.starts[text] + range.end);
        for word in start / 64..end.div_ceil(64) {
            let from = start.saturating_sub(word * 64);
            let to = (end - word * 64).min(64);
            let mask = (u64::MAX << from) & (u64::MAX >> (64 - to));
            // Reading first spares other threads the line when there is nothing to add.
            if self.bits[word].load(Ordering::Relaxed) & mask != mask {
                self.bits[word].fetch_or(mask, Ordering::Relaxed);
            }
        }
    }

    /// The marked ranges of a text, cut at the ends of characters.
    fn ranges(&self, number: usize, text: &str) -> Vec<Range<usize>> {
        let words = &self.bits[self.starts[number] / 64..self.starts[number + 1] / 64];
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for (i, word) in words.iter().enumerate() {
            let word = word.load(Ordering::Relaxed);
            let mut at = 0;
            while at < 64 && word >> at != 0 {
                let start = at + (word >> at).trailing_zeros() as usize;
                let end = start + (word >> start).trailing_ones() as usize;
                match ranges.last_mut() {
                    Some(last) if last.end == i * 64 + start => last.end = i * 64 + end,
                    _ => ranges.push(i * 64 + start..i * 64 + end),
                }
                at = end;
            }
        }
        for range in &mut ranges {
            while !text.is_char_boundary(range.start) {
                range.start += 1;
            }
            while !text.is_char_boundary(range.end) {
                range.end -= 1;
            }
        }
        ranges.retain(|range| !range.is_empty());
        ranges
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn found(texts: &[String], length: usize) -> Vec<Vec<Range<usize>>> {
        repeated_stretches(texts, length, &Monitor::default()).unwrap()
    }

    /// The definition: every stretch in a table.
    fn reference(texts: &[String], length: usize) -> Vec<Vec<Range<usize>>> {
        let mut first: HashMap<&[u8], (usize, usize)> = HashMap::new();
        let mut all = Vec::new();
        for (i, text) in texts.iter().enumerate() {
            let mut ranges: Vec<Range<usize>> = Vec::new();
            for (at, stretch) in text.as_bytes().windows(length).enumerate() {
                if *first.entry(stretch).or_insert((i, at)) != (i, at) {
                    match ranges.last_mut() {
                        Some(last) if last.end >= at => last.end = at + length,
                        _ => ranges.push(at..at + length),
                    }
                }
            }
            for range in &mut ranges {
                while !text.is_char_boundary(range.start) {
                    range.start += 1;
                }
                while !text.is_char_boundary(range.end) {
                    range.end -= 1;
                }
            }
            ranges.retain(|range| !range.is_empty());
            all.push(ranges);
        }
        all
    }

    /// Texts that are cut out of a few others, so that they share stretches of all lengths.
    fn texts() -> impl Strategy<Value = Vec<String>> {
        let source = prop_oneof![
            Just("ab".repeat(200)),
            Just("=".repeat(300)),
            "[a-z ]{200}",
            "[a-c漢é🙂]{150}",
            Just("All rights reserved. Terms of use. Privacy. 版权所有。 ".repeat(6)),
        ];
        prop::collection::vec(source, 1..4).prop_flat_map(|sources| {
            let part = (0..sources.len(), 0usize..200, 0usize..150).prop_map(move |(source, from, len)| {
                sources[source].chars().skip(from).take(len).collect::<String>()
            });
            prop::collection::vec(prop::collection::vec(part, 0..5).prop_map(|parts| parts.concat()), 0..8)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(600))]
        #[test]
        fn ranges_are_those_of_the_definition(texts in texts(), length in prop_oneof![Just(16usize), 17..60usize, Just(100)]) {
            prop_assert_eq!(found(&texts, length), reference(&texts, length));
        }
    }

    #[test]
    fn many_different_surroundings_are_grouped_by_hash() {
        let common = "this stretch of forty bytes is in them all ";
        let texts: Vec<String> =
            (0..300).map(|i| format!("{} {common}{} tail {}", i % 140, i % 90, i * 77)).collect();
        for length in [16, 40, 44, 46] {
            assert_eq!(found(&texts, length), reference(&texts, length));
        }
    }

    #[test]
    fn ranges_end_at_the_ends_of_characters() {
        // Equal bytes begin inside of a character: U+4E2D and U+4EAD end alike.
        let texts = ["中中中中中中中中中中".to_owned(), "亭中中中中中中中中中".to_owned()];
        for (text, ranges) in texts.iter().zip(found(&texts, 20)) {
            assert!(ranges.iter().all(|range| text.get(range.clone()).is_some()));
        }
        assert_eq!(found(&texts, 20), reference(&texts, 20));
    }

    #[test]
    fn short_lengths_are_refused() {
        assert!(repeated_stretches(&["x"], 15, &Monitor::default()).is_err());
    }
}
