//! The learner as `tokenizers` has it, which the fast one is tested against: whole words are scanned, all pairs
//! are counted.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rustc_hash::FxHashMap;

use super::super::gpt2::BYTES_BY_ID;
use super::super::merges::Merge;
use super::learn::Limits;

type Pair = (u32, u32);

/// A pair that may be merged next: ordered by count, then smaller ids first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    /// The count when it was queued or last corrected.
    count: u64,
    pair: Reverse<Pair>,
    /// The words in which it occurred when it was queued.
    words: Vec<u32>,
}

pub(super) struct Learner {
    pub(super) tokens: Vec<Vec<u8>>,
    ids: FxHashMap<Vec<u8>, u32>,
    pub(super) merges: Vec<Merge>,
    limits: Limits,
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
    pub(super) fn new(pieces: &[(Vec<u8>, u64)], limits: Limits) -> Self {
        let mut id_of_byte = [0; 256];
        for (id, &byte) in BYTES_BY_ID.iter().enumerate() {
            id_of_byte[byte as usize] = id as u32;
        }
        let tokens: Vec<Vec<u8>> = BYTES_BY_ID.iter().map(|&byte| vec![byte]).collect();
        let mut learner = Self {
            ids: tokens.iter().enumerate().map(|(id, token)| (token.clone(), id as u32)).collect(),
            tokens,
            merges: Vec::new(),
            limits,
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
            for left in start..start + piece.len() - 1 {
                learner.appear((learner.symbols[left], learner.symbols[left + 1]), *count, word);
            }
        }
        learner.queue_appeared();
        learner
    }

    /// Merges the best pair; false if none is frequent enough.
    pub(super) fn step(&mut self) -> bool {
        let Some(Candidate { pair: Reverse(pair), words, .. }) = self.best() else {
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

    fn best(&mut self) -> Option<Candidate> {
        loop {
            let mut top = self.queue.pop()?;
            let count = self.counts.get(&top.pair.0).copied().unwrap_or_default();
            if top.count == count {
                return (count >= self.limits.min_frequency).then_some(top);
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
        let mut symbols = self.symbols[start..start + len as usize].to_vec();
        let mut at = 0;
        while at + 1 < symbols.len() {
            if (symbols[at], symbols[at + 1]) == pair {
                symbols.splice(at..at + 2, [new]);
                if at > 0 {
                    self.vanish((symbols[at - 1], pair.0), count);
                    self.appear((symbols[at - 1], new), count, word);
                }
                if let Some(&after) = symbols.get(at + 1) {
                    self.vanish((pair.1, after), count);
                    self.appear((new, after), count, word);
                }
            }
            at += 1;
        }
        self.symbols[start..start + symbols.len()].copy_from_slice(&symbols);
        self.words[word as usize].len = symbols.len() as u32;
    }

    fn queue_appeared(&mut self) {
        for (pair, words) in self.appeared.drain() {
            let count = self.counts.get(&pair).copied().unwrap_or_default();
            if count > 0 {
                self.queue.push(Candidate { count, pair: Reverse(pair), words });
            }
        }
    }

    fn appear(&mut self, pair: Pair, count: u64, word: u32) {
        if self.tokens[pair.0 as usize].len() + self.tokens[pair.1 as usize].len()
            > self.limits.max_len as usize
        {
            return;
        }
        *self.counts.entry(pair).or_default() += count;
        let words = self.appeared.entry(pair).or_default();
        if words.last() != Some(&word) {
            words.push(word);
        }
    }

    fn vanish(&mut self, pair: Pair, count: u64) {
        if let Some(known) = self.counts.get_mut(&pair) {
            *known -= count;
        }
    }
}
