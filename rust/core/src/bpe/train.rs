//! Learning merges from text.
//!
//! Counts of unique pieces are gathered first, from texts handed in as they come; a whole text is one document,
//! so pieces that contain line ends are learned too. Merges equal those of the `BpeTrainer` of `tokenizers` with
//! the byte alphabet as initial alphabet: the most frequent pair first, of equally frequent pairs the one
//! with the smaller ids. Counts have 64 bits.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rustc_hash::{FxHashMap, FxHashSet};

use super::gpt2::BYTES_BY_ID;
use super::merges::Merge;
use super::parallel;
use super::pretokenize::Pattern;
use super::tokenizer::{Parts, Tokenizer};
use crate::{Error, Monitor, Result};

/// How often each piece occurred in the texts added so far.
#[derive(Debug)]
pub struct PieceCounts {
    pattern: Pattern,
    /// One table a thread; joined at the end.
    tables: Vec<FxHashMap<Box<[u8]>, u64>>,
}

impl PieceCounts {
    /// Starts at zero; `num_threads` is one for each processor if `None`.
    ///
    /// # Errors
    /// [`Error::Value`] if `num_threads` is zero or the pattern is not one that merges are learned for.
    pub fn new(pattern: Pattern, num_threads: Option<usize>) -> Result<Self> {
        if pattern == Pattern::Characters {
            return Err(Error::value("the characters pattern has no merges to learn: use from_characters"));
        }
        Ok(Self { pattern, tables: vec![FxHashMap::default(); parallel::threads(num_threads)?] })
    }

    /// Counts the pieces of texts; each is cut on its own. The monitor counts bytes.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if cancelled.
    pub fn add<T: AsRef<str> + Sync>(&mut self, texts: &[T], monitor: &Monitor) -> Result<()> {
        let pattern = self.pattern;
        let num_threads = self.tables.len().min(texts.len());
        parallel::for_each(&mut self.tables[..num_threads], texts.len(), |table, i| {
            let text = texts[i].as_ref();
            for piece in pattern.pieces(text) {
                if let Some(count) = table.get_mut(piece) {
                    *count += 1;
                } else {
                    table.insert(piece.into(), 1);
                }
            }
            monitor.advance(text.len() as u64)
        })
    }

    /// The pieces in byte order with their counts.
    fn finish(self) -> Vec<(Box<[u8]>, u64)> {
        let mut tables = self.tables.into_iter();
        let mut all = tables.next().unwrap_or_default();
        for (piece, count) in tables.flatten() {
            *all.entry(piece).or_default() += count;
        }
        let mut pieces: Vec<_> = all.into_iter().collect();
        pieces.sort_unstable();
        pieces
    }
}

/// What to learn.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    /// Number of ids: 256 bytes, the merged tokens, the specials. Smaller if no pair is left to merge.
    pub vocab_size: usize,
    /// Pairs that occur less often are not merged.
    pub min_frequency: u64,
    /// Names of the special tokens, which get the last ids.
    pub specials: Vec<String>,
}

/// Learns a tokenizer from counted pieces. The monitor counts merges.
///
/// # Errors
/// [`Error::Value`] if the vocabulary cannot hold the bytes and specials, or no text was counted;
/// [`Error::Interrupted`] if cancelled.
pub fn train(counts: PieceCounts, options: &TrainOptions, monitor: &Monitor) -> Result<Tokenizer> {
    let TrainOptions { vocab_size, min_frequency, specials } = options;
    let fixed = BYTES_BY_ID.len() + specials.len();
    if *vocab_size < fixed {
        return Err(Error::value(format!(
            "vocab_size must be at least {fixed} for 256 bytes and {} special tokens, got {vocab_size}",
            specials.len()
        )));
    }
    let pattern = counts.pattern;
    let pieces = counts.finish();
    if pieces.is_empty() {
        return Err(Error::value("there is no text to train on"));
    }
    let mut learner = Learner::new(&pieces);
    drop(pieces);
    while learner.tokens.len() < vocab_size - specials.len() && learner.step(*min_frequency) {
        monitor.advance(1)?;
    }
    let Learner { tokens, merges, .. } = learner;
    let parts =
        Parts { pattern, tokens, merges: last_of_each(merges), specials: vec![], ignore_merges: false };
    Tokenizer::new(parts.with_specials(specials)?)
}

/// A pair can be learned twice, when one of its tokens came about in a second way in between. The later
/// place counts, as it does in `tokenizers`.
fn last_of_each(mut merges: Vec<Merge>) -> Vec<Merge> {
    let mut seen = FxHashSet::default();
    merges.reverse();
    merges.retain(|merge| seen.insert((merge.left, merge.right)));
    merges.reverse();
    merges
}

type Pair = (u32, u32);

/// A pair that may be merged next: ordered by count, then smaller ids first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    /// At least the true count: counts only fall while a candidate waits.
    count: u64,
    pair: Reverse<Pair>,
    /// The words in which it occurred when it was queued.
    words: Vec<u32>,
}

struct Learner {
    tokens: Vec<Vec<u8>>,
    ids: FxHashMap<Vec<u8>, u32>,
    merges: Vec<Merge>,
    /// The ids of all words, one after the other; a word shrinks in place.
    symbols: Vec<u32>,
    words: Vec<Word>,
    counts: FxHashMap<Pair, u64>,
    queue: BinaryHeap<Candidate>,
    /// Pairs that appeared during a step, with the words they appeared in.
    appeared: FxHashMap<Pair, Vec<u32>>,
}

#[derive(Debug, Clone, Copy)]
struct Word {
    start: usize,
    len: u32,
    count: u64,
}

impl Learner {
    fn new(pieces: &[(Box<[u8]>, u64)]) -> Self {
        let mut id_of_byte = [0; 256];
        for (id, &byte) in BYTES_BY_ID.iter().enumerate() {
            id_of_byte[byte as usize] = id as u32;
        }
        let tokens: Vec<Vec<u8>> = BYTES_BY_ID.iter().map(|&byte| vec![byte]).collect();
        let mut learner = Self {
            ids: tokens.iter().enumerate().map(|(id, token)| (token.clone(), id as u32)).collect(),
            tokens,
            merges: Vec::new(),
            symbols: Vec::with_capacity(pieces.iter().map(|(piece, _)| piece.len()).sum()),
            words: Vec::with_capacity(pieces.len()),
            counts: FxHashMap::default(),
            queue: BinaryHeap::new(),
            appeared: FxHashMap::default(),
        };
        for (piece, count) in pieces {
            let word = learner.words.len() as u32;
            let start = learner.symbols.len();
            learner.symbols.extend(piece.iter().map(|&byte| id_of_byte[byte as usize]));
            learner.words.push(Word { start, len: piece.len() as u32, count: *count });
            for pair in learner.symbols[start..].windows(2) {
                appear(&mut learner.counts, &mut learner.appeared, (pair[0], pair[1]), *count, word);
            }
        }
        learner.queue_appeared();
        learner
    }

    /// Merges the best pair; false if none is frequent enough.
    fn step(&mut self, min_frequency: u64) -> bool {
        let Some(Candidate { pair: Reverse(pair), words, .. }) = self.best(min_frequency.max(1)) else {
            return false;
        };
        let new = self.token(pair);
        self.merges.push(Merge { left: pair.0, right: pair.1, new });
        for word in words {
            self.merge_in(word, pair, new);
        }
        self.queue_appeared();
        true
    }

    fn best(&mut self, min_frequency: u64) -> Option<Candidate> {
        loop {
            let mut top = self.queue.pop()?;
            let count = self.counts.get(&top.pair.0).copied().unwrap_or_default();
            if top.count == count {
                return (count >= min_frequency).then_some(top);
            }
            top.count = count;
            self.queue.push(top);
        }
    }

    /// The token of both halves; it may exist, made from other halves.
    fn token(&mut self, (left, right): Pair) -> u32 {
        let bytes = [self.tokens[left as usize].as_slice(), &self.tokens[right as usize]].concat();
        let next = self.tokens.len() as u32;
        let id = *self.ids.entry(bytes.clone()).or_insert(next);
        if id == next {
            self.tokens.push(bytes);
        }
        id
    }

    /// Replaces the pair in one word, from left to right, and keeps the counts of its neighbours.
    fn merge_in(&mut self, word: u32, pair: Pair, new: u32) {
        let Word { start, len, count } = self.words[word as usize];
        let symbols = &mut self.symbols[start..start + len as usize];
        let (mut kept, mut next) = (0, 0);
        while next < symbols.len() {
            let is_pair = next + 1 < symbols.len() && (symbols[next], symbols[next + 1]) == pair;
            if !is_pair {
                symbols[kept] = symbols[next];
                (kept, next) = (kept + 1, next + 1);
                continue;
            }
            if kept > 0 {
                let before = symbols[kept - 1];
                vanish(&mut self.counts, (before, pair.0), count);
                appear(&mut self.counts, &mut self.appeared, (before, new), count, word);
            }
            symbols[kept] = new;
            (kept, next) = (kept + 1, next + 2);
            if let Some(&after) = symbols.get(next) {
                vanish(&mut self.counts, (pair.1, after), count);
                appear(&mut self.counts, &mut self.appeared, (new, after), count, word);
            }
        }
        self.words[word as usize].len = kept as u32;
    }

    fn queue_appeared(&mut self) {
        for (pair, words) in self.appeared.drain() {
            let count = self.counts.get(&pair).copied().unwrap_or_default();
            if count > 0 {
                self.queue.push(Candidate { count, pair: Reverse(pair), words });
            }
        }
    }
}

fn appear(
    counts: &mut FxHashMap<Pair, u64>,
    appeared: &mut FxHashMap<Pair, Vec<u32>>,
    pair: Pair,
    count: u64,
    word: u32,
) {
    *counts.entry(pair).or_default() += count;
    let words = appeared.entry(pair).or_default();
    if words.last() != Some(&word) {
        words.push(word);
    }
}

fn vanish(counts: &mut FxHashMap<Pair, u64>, pair: Pair, count: u64) {
    if let Some(known) = counts.get_mut(&pair) {
        *known -= count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_beyond_32_bits_decide_the_order() {
        let pieces = [(b"ab".as_slice().into(), (1 << 32) + 1), (b"cd".as_slice().into(), 3 << 32)];
        let mut learner = Learner::new(&pieces);
        while learner.step(2) {}
        let learned: Vec<_> = learner.tokens[256..].iter().map(Vec::as_slice).collect();
        assert_eq!(learned, [b"cd", b"ab"]);
    }

    #[test]
    fn a_pair_learned_twice_counts_at_its_later_place() {
        let rule = |left, right, new| Merge { left, right, new };
        let merges = vec![rule(0, 1, 2), rule(2, 0, 3), rule(0, 1, 2)];
        assert_eq!(last_of_each(merges), [rule(2, 0, 3), rule(0, 1, 2)]);
    }
}
