//! From texts to the counts of their n-grams.

use rayon::prelude::*;
use rustc_hash::FxHashSet;

use super::estimate::estimate;
use super::{BEGIN, MAX_ORDER, NgramModel, UNKNOWN, extend};
use crate::text::for_each_word;
use crate::{Error, Monitor, Result};

/// How a model is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Training {
    /// Words in the longest n-gram.
    pub order: usize,
    /// Words that were seen fewer times are unknown ones.
    pub min_word_count: u32,
    /// N-grams of three words and more that were seen fewer times are left out.
    pub min_ngram_count: u32,
}

impl Default for Training {
    fn default() -> Self {
        Self { order: 3, min_word_count: 2, min_ngram_count: 2 }
    }
}

impl Training {
    fn check(&self) -> Result<()> {
        if !(1..=MAX_ORDER).contains(&self.order) {
            return Err(Error::value(format!("order must be 1 to {MAX_ORDER}, got {}", self.order)));
        }
        for (name, value) in
            [("min_word_count", self.min_word_count), ("min_ngram_count", self.min_ngram_count)]
        {
            if value == 0 {
                return Err(Error::value(format!("{name} must be at least 1, got 0")));
            }
        }
        Ok(())
    }

    /// Whether an n-gram of this length that was seen so often is left out.
    pub(super) fn drops(&self, length: usize, count: u32) -> bool {
        length > 2 && count < self.min_ngram_count
    }
}

/// A distinct n-gram of the texts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ngram {
    pub(super) hash: u64,
    /// Where its last word is, the first time.
    pub(super) end: u32,
    pub(super) count: u32,
}

/// Words of texts, each text after [`BEGIN`].
pub(super) struct Words(Vec<u64>);

impl Words {
    /// The words of an n-gram that ends at a place.
    pub(super) fn ending(&self, end: u32, length: usize) -> &[u64] {
        &self.0[end as usize + 1 - length..=end as usize]
    }

    /// The hash of an n-gram's words.
    pub(super) fn hash(words: &[u64]) -> u64 {
        words.iter().copied().rev().reduce(|others, first| extend(first, others)).unwrap_or_default()
    }

    /// The distinct n-grams of a length in order of their hashes. Only the first word may be [`BEGIN`], and a single one
    /// not.
    pub(super) fn ngrams(&self, length: usize) -> Vec<Ngram> {
        let is_in_a_text = |end: &u32| {
            let words = self.ending(*end, length);
            !words[usize::from(length > 1)..].contains(&BEGIN)
        };
        let mut places: Vec<(u64, u32)> = (length as u32 - 1..self.0.len() as u32)
            .into_par_iter()
            .filter(is_in_a_text)
            .map(|end| (Self::hash(self.ending(end, length)), end))
            .collect();
        places.par_sort_unstable();
        let equal = places.chunk_by(|a, b| a.0 == b.0);
        equal.map(|same| Ngram { hash: same[0].0, end: same[0].1, count: same.len() as u32 }).collect()
    }
}

/// Trains a model on texts. It needs about 10 bytes of memory for each byte of English text. The monitor counts bytes,
/// once for each length of n-grams and once more.
///
/// # Errors
/// [`Error::Value`] if a setting is out of range or the texts have no words or more than 2^32 - 1;
/// [`Error::Interrupted`] if the monitor is cancelled.
pub fn train<T: AsRef<str>>(texts: &[T], settings: &Training, monitor: &Monitor) -> Result<NgramModel> {
    settings.check()?;
    let (mut words, mut num_bytes) = (Vec::new(), 0);
    for text in texts {
        let text = text.as_ref();
        words.push(BEGIN);
        for_each_word(text, |word| words.push(word.hash));
        num_bytes += text.len() as u64;
        monitor.advance(text.len() as u64)?;
    }
    if words.len() == texts.len() {
        return Err(Error::value(format!("the {} texts to train on have no words", texts.len())));
    }
    if u32::try_from(words.len()).is_err() {
        return Err(Error::value(format!(
            "{} words and beginnings of texts are too many to train on; give fewer than 2^32 texts' worth",
            words.len()
        )));
    }
    let num_rare = forget_rare(&mut words, settings.min_word_count);
    let words = Words(words);
    let mut ngrams = Vec::new();
    for length in 1..=settings.order {
        ngrams.push(words.ngrams(length));
        monitor.advance(num_bytes)?;
    }
    Ok(NgramModel { order: settings.order, table: estimate(&words, &ngrams, num_rare, settings) })
}

/// Makes words that occur fewer times than `least` unknown ones, and says how many different ones they were.
fn forget_rare(words: &mut [u64], least: u32) -> usize {
    let mut sorted = words.to_vec();
    sorted.par_sort_unstable();
    let (mut kept, mut num_rare) = (FxHashSet::from_iter([BEGIN]), 0);
    for same in sorted.chunk_by(|a, b| a == b) {
        if same.len() >= least as usize {
            kept.insert(same[0]);
        } else {
            num_rare += usize::from(same[0] != BEGIN);
        }
    }
    words.par_iter_mut().filter(|word| !kept.contains(word)).for_each(|word| *word = UNKNOWN);
    num_rare
}
