//! Items of evaluation sets inside training texts.
//!
//! Texts are compared word by word, as [`spell_words`](crate::text::spell_words) has them. A text and an item share
//! a span if the same words follow one another in both. A span counts if it has [`Overlap::ngram`] words, or is the
//! whole of an item that is shorter; items below [`Overlap::min_words`] are not looked for.
//!
//! Every span that counts has [`Overlap::min_words`] consecutive words in which the item is indexed: long items are at
//! every few words, so the index is a small fraction of them. Texts are passed once: a rolling hash of their words
//! asks a filter that fits the near cache, then the index. What both let through is compared as words, so that a
//! hash never decides.

use std::ops::Range;

use rayon::prelude::*;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::text::{for_each_word, spell_word, word_ranges};
use crate::{Error, Monitor, Result};

/// Odd multiplier of the rolling hash.
const BASE: u64 = 0x9e6c_63d0_876a_3f35;
/// Bits of the filter for each key, of which a key sets two: one key in 64 or fewer passes in vain.
const FILTER_BITS: usize = 16;

/// What counts as contamination.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Overlap {
    /// Words in a row that a text and an item must share, if the item has as many.
    pub ngram: usize,
    /// Items of fewer words are not looked for; those from here to `ngram` must be found whole.
    pub min_words: usize,
    /// Least words of the longest span that a text shares with an item.
    pub min_span: usize,
    /// Least share of an item's n-grams that a text has.
    pub min_share: f64,
}

impl Default for Overlap {
    fn default() -> Self {
        Self { ngram: 13, min_words: 8, min_span: 0, min_share: 0.0 }
    }
}

impl Overlap {
    fn check(&self) -> Result<()> {
        if self.ngram == 0 || self.ngram > 1024 {
            return Err(Error::value(format!("ngram must be 1 to 1024, got {}", self.ngram)));
        }
        if self.min_words == 0 || self.min_words > self.ngram {
            let (least, ngram) = (self.min_words, self.ngram);
            return Err(Error::value(format!("min_words must be 1 to ngram, {ngram}, got {least}")));
        }
        if !(0.0..=1.0).contains(&self.min_share) {
            return Err(Error::value(format!("min_share must be between 0 and 1, got {}", self.min_share)));
        }
        Ok(())
    }
}

/// An item that a text has.
#[derive(Debug, Clone, PartialEq)]
pub struct Contamination {
    /// Place of the item.
    pub item: usize,
    /// Words of the longest span that both share.
    pub span_words: usize,
    /// Share of the item's n-grams that the text has.
    pub share: f64,
    /// Bytes of the text that are the longest span, the first of several.
    pub span: Range<usize>,
    /// Words of the text in spans that both share, in order and apart from one another.
    words: Vec<Range<usize>>,
}

/// What one text shares with evaluation sets.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Verdict {
    /// The items it has, in their order.
    pub items: Vec<Contamination>,
    /// The bytes of all shared spans and of the words around them that are cut too, in order and apart.
    pub cuts: Vec<Range<usize>>,
}

/// The items of evaluation sets, ready to be looked for.
#[derive(Debug)]
pub struct EvalItems {
    overlap: Overlap,
    items: Vec<Item>,
    filter: Filter,
    /// The places that have an anchor's hash.
    anchors: FxHashMap<u64, Vec<Place>>,
}

#[derive(Debug, Default)]
struct Item {
    hashes: Vec<u64>,
    words: Vec<String>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    item: u32,
    word: u32,
}

impl EvalItems {
    /// Indexes items.
    ///
    /// # Errors
    /// [`Error::Value`] if an option is out of range or there are more than 2^32 items or words in one.
    pub fn new<T: AsRef<str> + Sync>(items: &[T], overlap: Overlap) -> Result<Self> {
        overlap.check()?;
        let items: Vec<Item> = items.par_iter().map(|text| Item::of(text.as_ref())).collect();
        let stride = overlap.ngram - overlap.min_words + 1;
        let mut anchors: FxHashMap<u64, Vec<Place>> = FxHashMap::default();
        for (number, item) in items.iter().enumerate() {
            let narrow =
                |value: usize| u32::try_from(value).map_err(|_| Error::value("evaluation set too large"));
            for (at, hash) in rolling(&item.hashes, overlap.min_words).enumerate().step_by(stride) {
                let place = Place { item: narrow(number)?, word: narrow(at)? };
                anchors.entry(hash).or_default().push(place);
            }
        }
        let mut filter = Filter::for_keys(anchors.len());
        for &key in anchors.keys() {
            filter.insert(key);
        }
        Ok(Self { overlap, items, filter, anchors })
    }

    /// Whether an item has enough words to be looked for.
    pub fn is_sought(&self, item: usize) -> bool {
        self.items.get(item).is_some_and(|item| item.words.len() >= self.overlap.min_words)
    }

    /// What each text shares with the items; cuts take `margin` more words on both sides. The monitor counts bytes.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the monitor is cancelled.
    pub fn find<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
        margin: usize,
        monitor: &Monitor,
    ) -> Result<Vec<Verdict>> {
        let judge = |hashes: &mut Vec<u64>, text: &T| {
            let verdict = self.judge(text.as_ref(), margin, hashes);
            monitor.advance(text.as_ref().len() as u64)?;
            Ok(verdict)
        };
        texts.par_iter().map_init(Vec::new, judge).collect()
    }

    /// What one text shares with the items. The hashes are used again for the next text.
    pub fn judge(&self, text: &str, margin: usize, hashes: &mut Vec<u64>) -> Verdict {
        hashes.clear();
        for_each_word(text, |word| hashes.push(word.hash));
        let mut candidates = rolling(hashes, self.overlap.min_words)
            .enumerate()
            .filter(|&(_, key)| self.filter.may_hold(key))
            .filter_map(|(at, key)| Some((at, self.anchors.get(&key)?)))
            .peekable();
        if candidates.peek().is_none() {
            return Verdict::default();
        }
        let words: Vec<Range<usize>> = word_ranges(text).collect();
        let spans = self.spans(&Candidate { text, words: &words, hashes }, candidates);
        let items: Vec<Contamination> =
            spans.chunk_by(|a, b| a.item == b.item).filter_map(|spans| self.weigh(spans, &words)).collect();
        let mut cut: Vec<Range<usize>> = items
            .iter()
            .flat_map(|item| &item.words)
            .map(|span| span.start.saturating_sub(margin)..(span.end + margin).min(words.len()))
            .collect();
        cut.sort_unstable_by_key(|range| range.start);
        let cuts = united(cut).into_iter().map(|range| bytes_of(&range, &words)).collect();
        Verdict { items, cuts }
    }

    /// The spans that count, by item and place.
    fn spans<'s>(
        &self,
        text: &Candidate,
        candidates: impl Iterator<Item = (usize, &'s Vec<Place>)>,
    ) -> Vec<Span> {
        let mut spans = Vec::new();
        // Where the last span ends for each item and each distance between its words and the text's: a span has many
        // anchors and is followed once.
        let mut ends: FxHashMap<(u32, i64), usize> = FxHashMap::default();
        for (at, places) in candidates {
            for place in places {
                let item = &self.items[place.item as usize];
                let in_item = place.word as usize;
                let end = ends.entry((place.item, at as i64 - in_item as i64)).or_default();
                if at < *end {
                    continue;
                }
                let same = |(i, j): &(usize, usize)| {
                    text.hashes[*i] == item.hashes[*j] && text.has(*i, &item.words[*j])
                };
                let before = (0..at).rev().zip((0..in_item).rev()).take_while(same).count();
                let after = (at..text.words.len()).zip(in_item..item.words.len()).take_while(same).count();
                *end = at + after;
                let span = Span {
                    item: place.item,
                    in_item: in_item - before,
                    start: at - before,
                    len: before + after,
                };
                if span.len >= self.overlap.ngram.min(item.words.len()) {
                    spans.push(span);
                }
            }
        }
        spans.sort_unstable();
        spans
    }

    /// All spans of one item in a text, if they are enough.
    fn weigh(&self, spans: &[Span], words: &[Range<usize>]) -> Option<Contamination> {
        let first = spans.first()?;
        let item = &self.items[first.item as usize];
        let ngram = self.overlap.ngram.min(item.words.len());
        let mut found = FxHashSet::default();
        found.extend(spans.iter().flat_map(|span| span.in_item..=span.in_item + span.len - ngram));
        let share = found.len() as f64 / (item.words.len() - ngram + 1) as f64;
        let longest = spans.iter().rev().max_by_key(|span| span.len)?;
        let enough = longest.len >= self.overlap.min_span && share >= self.overlap.min_share;
        enough.then(|| Contamination {
            item: first.item as usize,
            span_words: longest.len,
            share,
            span: bytes_of(&(longest.start..longest.start + longest.len), words),
            words: united(spans.iter().map(|span| span.start..span.start + span.len).collect()),
        })
    }
}

impl Item {
    fn of(text: &str) -> Self {
        let mut hashes = Vec::new();
        for_each_word(text, |word| hashes.push(word.hash));
        Self { hashes, words: crate::text::spell_words(text) }
    }
}

/// A text that may have items.
struct Candidate<'a> {
    text: &'a str,
    words: &'a [Range<usize>],
    hashes: &'a [u64],
}

impl Candidate<'_> {
    /// Whether the word at a place is spelled like this.
    fn has(&self, at: usize, spelled: &str) -> bool {
        spell_word(&self.text[self.words[at].clone()]).eq(spelled.chars())
    }
}

/// Words that a text and an item share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Span {
    item: u32,
    start: usize,
    in_item: usize,
    len: usize,
}

/// Ranges in the order of their starts, those that touch or overlap made one.
fn united(ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    let mut united: Vec<Range<usize>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match united.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => united.push(range),
        }
    }
    united
}

fn bytes_of(range: &Range<usize>, words: &[Range<usize>]) -> Range<usize> {
    words[range.start].start..words[range.end - 1].end
}

/// A hash of each window of `len` words, from the hashes of words.
#[inline(always)]
fn rolling(hashes: &[u64], len: usize) -> impl Iterator<Item = u64> + '_ {
    let leaving = BASE.wrapping_pow(len as u32);
    let push = |hash: u64, word: u64| hash.wrapping_mul(BASE).wrapping_add(word);
    let first = hashes.get(..len).map(|first| first.iter().fold(0, |hash, &word| push(hash, word)));
    let rest = hashes.get(len..).unwrap_or_default().iter().zip(hashes);
    let slide = move |hash: &mut u64, (&word, &left): (&u64, &u64)| {
        *hash = push(*hash, word.wrapping_sub(left.wrapping_mul(leaving)));
        Some(*hash)
    };
    first.into_iter().chain(rest.scan(first.unwrap_or(0), slide))
}

/// Which keys may be in a set: each sets two bits of one word.
#[derive(Debug)]
struct Filter {
    words: Vec<u64>,
    shift: u32,
}

impl Filter {
    fn for_keys(num_keys: usize) -> Self {
        let len = (num_keys * FILTER_BITS / 64).next_power_of_two().max(2);
        Self { words: vec![0; len], shift: 64 - len.ilog2() }
    }

    #[inline(always)]
    fn bits(key: u64) -> u64 {
        1 << (key & 63) | 1 << (key >> 6 & 63)
    }

    fn insert(&mut self, key: u64) {
        self.words[(key >> self.shift) as usize] |= Self::bits(key);
    }

    #[inline(always)]
    fn may_hold(&self, key: u64) -> bool {
        let bits = Self::bits(key);
        self.words[(key >> self.shift) as usize] & bits == bits
    }
}

#[cfg(test)]
mod tests;
