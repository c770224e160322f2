//! From counts to probabilities: interpolated modified Kneser-Ney (Chen and Goodman, 1998, section 3), with n-grams left
//! out.
//!
//! With `c` the adjusted count of an n-gram, `N` the sum of those with the same context and `D` the discount,
//! `p(w | context) = (c - D(c)) / N + backoff(context) p(w | shorter context)`. What discounts and n-grams that were left
//! out free is the back-off: `backoff(context) = (sum of D of those kept + sum of c of those left out) / N`. The adjusted
//! count of a longest n-gram, or one at the beginning of a text, is its count; of the others, it is the number of
//! different words before them. Below one word stands the uniform distribution over known words and the unknown one.
//! An unknown word is one of those that training saw too seldom or one more, all equally probable: without that, a text
//! of nothing but unknown words would be a very probable one.

use rayon::prelude::*;

use super::table::{Entry, Table};
use super::train::{Ngram, Training, Words};
use super::{BEGIN, UNKNOWN};

/// Discounts of counts 1, 2 and above where there is too little text to estimate them.
const FALLBACK: [f64; 3] = [0.5, 1.0, 1.5];

/// What follows a context.
#[derive(Debug, Default, Clone, Copy)]
struct Context {
    /// Sum of the adjusted counts.
    total: f64,
    /// Weight of the shorter context.
    backoff: f64,
}

/// N-grams of one length.
struct Level<'a> {
    ngrams: &'a [Ngram],
    adjusted: Vec<u32>,
    discounts: [f64; 3],
    /// By the hash of all words but the last.
    contexts: ByHash<Context>,
}

/// The probabilities and back-offs of n-grams, those of each length in order of their hashes. So many different words are
/// the unknown one.
pub(super) fn estimate(words: &Words, ngrams: &[Vec<Ngram>], num_rare: usize, settings: &Training) -> Table {
    let levels: Vec<Level<'_>> = (1..=ngrams.len())
        .map(|length| {
            let (own, longer) = (&ngrams[length - 1], ngrams.get(length));
            let adjusted =
                longer.map_or_else(|| counts(own), |longer| continuations(words, length, own, longer));
            Level::new(words, length, own, adjusted, settings)
        })
        .collect();
    let kept = levels
        .iter()
        .enumerate()
        .map(|(i, level)| level.ngrams.iter().filter(|ngram| !settings.drops(i + 1, ngram.count)).count());
    let mut table = Table::with_capacity(kept.sum::<usize>() + 2);
    let backoff = |length: usize, hash: u64| {
        levels.get(length).and_then(|longer| longer.contexts.get(hash)).map_or(1.0, |context| context.backoff)
    };
    let is_unknown_seen = levels[0].ngrams.iter().any(|ngram| ngram.hash == UNKNOWN);
    let uniform = 1.0 / (levels[0].ngrams.len() + usize::from(!is_unknown_seen)) as f64;
    // Nothing predicts the beginning.
    table.insert(BEGIN, Entry::new(BEGIN, 1.0, backoff(1, BEGIN)));
    if !is_unknown_seen {
        let p = levels[0].contexts.get(0).map_or(1.0, |context| context.backoff) * uniform;
        table.insert(UNKNOWN, Entry::new(UNKNOWN, p, 1.0));
    }
    let mut shorter: ByHash<f64> = ByHash::new(Vec::new());
    for (i, level) in levels.iter().enumerate() {
        let length = i + 1;
        let probability = |(at, ngram): (usize, &Ngram)| {
            let spelled = words.ending(ngram.end, length);
            let context = level.contexts.get(context_of(spelled)).unwrap_or_default();
            let below = if length == 1 { Some(uniform) } else { shorter.get(Words::hash(&spelled[1..])) };
            let adjusted = level.adjusted[at];
            let own = (f64::from(adjusted) - level.discount(adjusted)) / context.total;
            let is_unknown = spelled.last() == Some(&UNKNOWN);
            (ngram.hash, own + context.backoff * below.unwrap_or_default(), is_unknown)
        };
        let kept: Vec<(u64, f64, bool)> = level
            .ngrams
            .par_iter()
            .enumerate()
            .filter(|(_, ngram)| !settings.drops(length, ngram.count))
            .map(probability)
            .collect();
        for &(hash, p, is_unknown) in &kept {
            let alike = if is_unknown { num_rare + 1 } else { 1 };
            table.insert(hash, Entry::new(hash, p / alike as f64, backoff(length, hash)));
        }
        shorter = ByHash::new(kept.into_iter().map(|(hash, p, _)| (hash, p)).collect());
    }
    table
}

/// The hash of all words but the last; 0 if there is none.
fn context_of(words: &[u64]) -> u64 {
    Words::hash(&words[..words.len() - 1])
}

fn counts(ngrams: &[Ngram]) -> Vec<u32> {
    ngrams.iter().map(|ngram| ngram.count).collect()
}

/// The number of different words before each n-gram; its count if it begins a text.
fn continuations(words: &Words, length: usize, ngrams: &[Ngram], longer: &[Ngram]) -> Vec<u32> {
    let end_of = |ngram: &Ngram| Words::hash(words.ending(ngram.end, length));
    let mut ends: Vec<u64> = longer.par_iter().map(end_of).collect();
    ends.par_sort_unstable();
    let mut ends = ends.chunk_by(|a, b| a == b).peekable();
    let adjusted = ngrams.iter().map(|ngram| {
        let different = ends.next_if(|same| same[0] == ngram.hash).map_or(0, |same| same.len() as u32);
        let begins = words.ending(ngram.end, length)[0] == BEGIN;
        if begins { ngram.count } else { different }
    });
    adjusted.collect()
}

impl<'a> Level<'a> {
    fn new(
        words: &Words,
        length: usize,
        ngrams: &'a [Ngram],
        adjusted: Vec<u32>,
        settings: &Training,
    ) -> Self {
        let discounts = discounts(&adjusted);
        let mut level = Self { ngrams, adjusted, discounts, contexts: ByHash::new(Vec::new()) };
        let mut parts: Vec<(u64, u32, bool)> = ngrams
            .par_iter()
            .zip(&level.adjusted)
            .map(|(ngram, &adjusted)| {
                let context = context_of(words.ending(ngram.end, length));
                (context, adjusted, settings.drops(length, ngram.count))
            })
            .collect();
        parts.par_sort_unstable();
        let contexts = parts.chunk_by(|a, b| a.0 == b.0).map(|same| {
            let total: f64 = same.iter().map(|part| f64::from(part.1)).sum();
            let free = |&(_, adjusted, is_left_out): &(u64, u32, bool)| {
                if is_left_out { f64::from(adjusted) } else { level.discount(adjusted) }
            };
            (same[0].0, Context { total, backoff: same.iter().map(free).sum::<f64>() / total })
        });
        level.contexts = ByHash::new(contexts.collect());
        level
    }

    fn discount(&self, adjusted: u32) -> f64 {
        match adjusted {
            0 => 0.0,
            1..=3 => self.discounts[adjusted as usize - 1],
            _ => self.discounts[2],
        }
    }
}

/// The discounts of counts 1, 2 and above, from how many n-grams have counts 1 to 4.
fn discounts(adjusted: &[u32]) -> [f64; 3] {
    let mut of = [0usize; 5];
    for &count in adjusted.iter().filter(|&&count| count <= 4) {
        of[count as usize] += 1;
    }
    let of = of.map(|number| number as f64);
    let share = of[1] / (of[1] + 2.0 * of[2]);
    let estimated = [1, 2, 3].map(|i| i as f64 - (i + 1) as f64 * share * of[i + 1] / of[i]);
    let is_sound = estimated.iter().zip([1.0, 2.0, 3.0]).all(|(&d, count)| d > 0.0 && d < count);
    if is_sound { estimated } else { FALLBACK }
}

/// Values in increasing order of their hashes, found by the leading bits.
struct ByHash<T> {
    items: Vec<(u64, T)>,
    /// Where the hashes with each value of the leading bits start.
    starts: Vec<u32>,
    bits: u32,
}

impl<T: Copy> ByHash<T> {
    fn new(items: Vec<(u64, T)>) -> Self {
        let bits = items.len().max(2).ilog2();
        let mut starts = vec![0; (1 << bits) + 1];
        for &(hash, _) in &items {
            starts[(hash >> (64 - bits)) as usize + 1] += 1;
        }
        for i in 1..starts.len() {
            starts[i] += starts[i - 1];
        }
        Self { items, starts, bits }
    }

    fn get(&self, hash: u64) -> Option<T> {
        let bucket = (hash >> (64 - self.bits)) as usize;
        let near = &self.items[self.starts[bucket] as usize..self.starts[bucket + 1] as usize];
        near.iter().find(|item| item.0 == hash).map(|item| item.1)
    }
}
