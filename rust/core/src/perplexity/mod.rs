//! How surprising a text is to an n-gram language model of words, smoothed by interpolated modified Kneser-Ney (Chen and
//! Goodman, 1998).
//!
//! A word is that of [`for_each_word`]: case and punctuation do not count, and in scripts without spaces each character
//! is one. Words that training saw too seldom are one unknown word. An n-gram is known by a hash of its words, so a
//! model keeps no text. The perplexity of a text is `exp(-mean ln p(word | words before))`, from the first word on.

mod estimate;
mod file;
mod table;
#[cfg(test)]
mod tests;
mod train;

use rayon::prelude::*;

use crate::text::{for_each_word, mix};
use crate::{Monitor, Result};
use table::{Entry, Table};

pub use train::{Training, train};

/// Words in the longest n-gram that a model may have.
pub const MAX_ORDER: usize = 6;

/// What stands before the first word of a text.
const BEGIN: u64 = u64::from_be_bytes(*b"__begin_");
/// Every word that training did not keep.
const UNKNOWN: u64 = u64::from_be_bytes(*b"_unknown");
/// For an n-gram's first word and for the rest of it.
const HASH_KEYS: [u64; 2] = [0x9d5c_1f8e_37b2_a6e5, 0x51ed_8c27_f94b_630f];
/// Words between the one that is looked up and the one whose slots are asked for.
const AHEAD: usize = 8;

/// The hash of an n-gram, from its first word and the hash of the others.
fn extend(first: u64, others: u64) -> u64 {
    mix(first ^ HASH_KEYS[0], others ^ HASH_KEYS[1])
}

/// A trained model.
#[derive(Debug, Clone, PartialEq)]
pub struct NgramModel {
    order: usize,
    table: Table,
}

/// How well a model predicts a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// Words of the text.
    pub num_words: usize,
    /// Minus the logarithm of the probability of all of them.
    pub nats: f64,
}

impl Score {
    /// One over the geometric mean of the probabilities of the words; infinite if there is none.
    pub fn perplexity(self) -> f64 {
        if self.num_words == 0 { f64::INFINITY } else { (self.nats / self.num_words as f64).exp() }
    }
}

/// Buffers that are used again from text to text.
#[derive(Debug, Default)]
pub struct Scratch {
    /// What comes before the text, then its words, unknown ones as such.
    words: Vec<u64>,
    /// What the model says of each by itself.
    alone: Vec<Entry>,
}

impl NgramModel {
    /// Words in its longest n-grams.
    pub fn order(&self) -> usize {
        self.order
    }

    /// N-grams of all lengths that it knows.
    pub fn num_ngrams(&self) -> usize {
        self.table.len()
    }

    /// How well it predicts a text.
    pub fn score(&self, text: &str, scratch: &mut Scratch) -> Score {
        let Scratch { words, alone } = scratch;
        words.clear();
        words.push(BEGIN);
        for_each_word(text, |word| words.push(word.hash));
        self.look_up(words, alone);
        // What the n-grams that end at the word before cost if they do not go on with the next one, by length.
        let mut backoffs = [0; MAX_ORDER + 1];
        backoffs[1] = alone[0].backoff();
        let mut steps = 0;
        for at in 1..words.len() {
            self.ask_for(at + AHEAD, words);
            let (mut length, mut surprise) = (1, alone[at].surprise());
            let mut next = [0; MAX_ORDER + 1];
            next[1] = alone[at].backoff();
            let mut hash = words[at];
            for longer in 2..=self.order.min(at + 1) {
                hash = extend(words[at + 1 - longer], hash);
                // If it is not known, nothing that ends in it is.
                let Some(found) = self.table.find(hash) else { break };
                (length, surprise) = (longer, found.surprise());
                next[longer] = found.backoff();
            }
            // The contexts that were too long for this word; those that are not known cost nothing.
            steps += surprise + backoffs[length..self.order].iter().sum::<u64>();
            backoffs = next;
        }
        Score { num_words: words.len() - 1, nats: table::nats(steps) }
    }

    /// Replaces words that are not known, and looks all of them up.
    fn look_up(&self, words: &mut [u64], alone: &mut Vec<Entry>) {
        let unknown = self.table.find(UNKNOWN).unwrap_or_default();
        alone.clear();
        for at in 0..words.len() {
            if let Some(&word) = words.get(at + AHEAD) {
                self.table.prefetch(word);
            }
            alone.push(self.table.find(words[at]).unwrap_or_else(|| {
                words[at] = UNKNOWN;
                unknown
            }));
        }
    }

    /// Asks for the slots of the n-grams that end at a word.
    fn ask_for(&self, end: usize, words: &[u64]) {
        let Some(&word) = words.get(end) else { return };
        let mut hash = word;
        for longer in 2..=self.order.min(end + 1) {
            hash = extend(words[end + 1 - longer], hash);
            self.table.prefetch(hash);
        }
    }

    /// How well it predicts each text. The monitor counts bytes.
    ///
    /// # Errors
    /// [`Error::Interrupted`](crate::Error::Interrupted) if the monitor is cancelled.
    pub fn scores<T: AsRef<str> + Sync>(&self, texts: &[T], monitor: &Monitor) -> Result<Vec<Score>> {
        let score = |scratch: &mut Scratch, text: &T| {
            monitor.advance(text.as_ref().len() as u64)?;
            Ok(self.score(text.as_ref(), scratch))
        };
        texts.par_iter().map_init(Scratch::default, score).collect()
    }
}
