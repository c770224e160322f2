//! A linear classifier of texts: hashed n-grams of words and characters, logistic regression, calibrated.
//!
//! A text of `n` n-grams has a feature for each bucket that `c` of them fall to, with the value `c / sqrt(n)`. A score
//! is the sum of values times weights. Of two labels the first has a score, and the logistic function of a line through it
//! is its probability; of more, each has a score, and the softmax of their multiples are the probabilities. The
//! result of training is a function of texts, labels and settings, for any number of threads.

mod calibrate;
mod file;
mod train;

use rayon::prelude::*;

use crate::dedup::{Shingler, Shingles, Unit};
use crate::{Error, Monitor, Result};

pub use calibrate::{Quality, quality};
pub use train::{Training, train};

/// Which n-grams are features.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// Buckets are 2 to this power.
    pub bits: u32,
    /// Words in the longest n-gram; one word is always a feature.
    pub word_ngram: usize,
    /// Characters in an n-gram of characters; none if zero.
    pub char_ngram: usize,
    /// Bytes in the middle of a text that are looked at; all if zero.
    pub max_bytes: usize,
}

impl Default for Features {
    fn default() -> Self {
        Self { bits: 20, word_ngram: 2, char_ngram: 0, max_bytes: 0 }
    }
}

impl Features {
    fn check(&self) -> Result<()> {
        let ranges = [
            ("bits", self.bits as usize, 1..=28),
            ("word_ngram", self.word_ngram, 1..=8),
            ("char_ngram", self.char_ngram, 0..=32),
        ];
        for (name, value, range) in ranges {
            if !range.contains(&value) {
                let (first, last) = (range.start(), range.end());
                return Err(Error::value(format!("{name} must be {first} to {last}, got {value}")));
            }
        }
        Ok(())
    }

    fn num_buckets(&self) -> usize {
        1 << self.bits
    }

    /// The bucket that a hash falls to.
    fn bucket(&self, hash: u64) -> usize {
        (hash >> (64 - self.bits)) as usize
    }

    /// The part of a text that is looked at.
    fn middle<'t>(&self, text: &'t str) -> &'t str {
        if self.max_bytes == 0 || text.len() <= self.max_bytes {
            return text;
        }
        let end = usize::midpoint(text.len(), self.max_bytes);
        let is_boundary = |&at: &usize| text.is_char_boundary(at);
        let start = (end - self.max_bytes..end).find(is_boundary).unwrap_or(end);
        &text[start..(start..=end).rfind(is_boundary).unwrap_or(start)]
    }

    /// The hashes of a text's n-grams, those of each kind together, and how many there are.
    fn for_each_kind(&self, text: &str, shingles: &mut Shingles, mut visit: impl FnMut(&[u64])) -> usize {
        let text = self.middle(text);
        let (mut total, mut num_words) = (0, usize::MAX);
        let words = (1..=self.word_ngram).map(|ngram| (Unit::Words, ngram));
        let chars = (self.char_ngram > 0).then_some((Unit::Characters, self.char_ngram));
        for (unit, ngram) in words.chain(chars) {
            if unit == Unit::Words && ngram > num_words {
                continue;
            }
            // Each kind of n-gram has hashes of its own.
            let seed = (unit as u64) << 32 | ngram as u64;
            let hashes = shingles.of(text, Shingler { unit, ngram, seed });
            if ngram == 1 && unit == Unit::Words {
                num_words = hashes.len();
            }
            total += hashes.len();
            visit(hashes);
        }
        total
    }

    /// The features of a text by bucket: (bucket, value).
    ///
    /// # Errors
    /// [`Error::Value`] if a setting is out of range.
    pub fn of(&self, text: &str) -> Result<Vec<(u32, f32)>> {
        self.check()?;
        let mut buckets = Vec::new();
        let total = self.for_each_kind(text, &mut Shingles::default(), |hashes| {
            buckets.extend(hashes.iter().map(|&hash| self.bucket(hash) as u32));
        });
        buckets.sort_unstable();
        let scale = 1.0 / (total.max(1) as f32).sqrt();
        Ok(buckets.chunk_by(|a, b| a == b).map(|run| (run[0], run.len() as f32 * scale)).collect())
    }
}

/// A trained classifier.
#[derive(Debug, Clone, PartialEq)]
pub struct Classifier {
    features: Features,
    labels: Vec<String>,
    /// Slope and intercept of the log-odds over the score.
    line: [f64; 2],
    /// One for each score.
    bias: Vec<f32>,
    /// A row for each bucket: one for each score, then zeros to the width of a row.
    weights: Vec<f32>,
}

/// Scores of a text with so many labels.
fn num_scores(labels: usize) -> usize {
    if labels == 2 { 1 } else { labels }
}

/// The width of a row of so many weights: whole vectors.
fn row_width(scores: usize) -> usize {
    match scores {
        1 => 1,
        2..=4 => 4,
        5..=8 => 8,
        _ => scores.next_multiple_of(16),
    }
}

/// N-grams whose weights are added up in single precision.
const SINGLE: usize = 256;

/// Buffers that are used again from text to text.
#[derive(Debug, Default)]
pub struct Scratch {
    shingles: Shingles,
    /// Scores, one for each column of the weights.
    sums: Vec<f64>,
    /// Scores, then probabilities.
    values: Vec<f64>,
}

impl Classifier {
    /// What it tells apart.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// The probability of each label, in the order of [`Classifier::labels`].
    pub fn judge<'s>(&self, text: &str, scratch: &'s mut Scratch) -> &'s [f64] {
        self.score(text, scratch);
        self.calibrate(&mut scratch.values);
        &scratch.values
    }

    /// The probabilities of each text, one text after the other. The monitor counts bytes.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the monitor is cancelled.
    pub fn probabilities<T: AsRef<str> + Sync>(&self, texts: &[T], monitor: &Monitor) -> Result<Vec<f64>> {
        let judge = |scratch: &mut Scratch, text: &T| {
            monitor.advance(text.as_ref().len() as u64)?;
            Ok(self.judge(text.as_ref(), scratch).to_vec())
        };
        let each: Vec<Vec<f64>> =
            texts.par_iter().map_init(Scratch::default, judge).collect::<Result<_>>()?;
        Ok(each.concat())
    }

    fn new(
        features: Features,
        labels: Vec<String>,
        line: [f64; 2],
        bias: Vec<f32>,
        weights: impl Iterator<Item = f32>,
    ) -> Self {
        let width = row_width(bias.len());
        let mut rows = vec![0.0; width * features.num_buckets()];
        let places = rows.chunks_exact_mut(width).flat_map(|row| &mut row[..bias.len()]);
        for (place, weight) in places.zip(weights) {
            *place = weight;
        }
        Self { features, labels, line, bias, weights: rows }
    }

    fn score<'s>(&self, text: &str, scratch: &'s mut Scratch) -> &'s [f64] {
        let Scratch { shingles, sums, values } = scratch;
        let width = row_width(self.bias.len());
        sums.clear();
        sums.resize(width, 0.0);
        let total = self.features.for_each_kind(text, shingles, |hashes| {
            for hashes in hashes.chunks(SINGLE) {
                match width {
                    1 => self.add::<1>(hashes, sums),
                    4 => self.add::<4>(hashes, sums),
                    8 => self.add::<8>(hashes, sums),
                    _ => self.add::<16>(hashes, sums),
                }
            }
        });
        let norm = (total.max(1) as f64).sqrt();
        values.clear();
        values.extend(sums.iter().zip(&self.bias).map(|(sum, &bias)| sum / norm + f64::from(bias)));
        values
    }

    /// Adds the weights of n-grams up, `W` columns at once, which stay in registers.
    fn add<const W: usize>(&self, hashes: &[u64], sums: &mut [f64]) {
        let (rows, width) = (self.weights.as_chunks::<W>().0, sums.len() / W);
        for (at, sums) in sums.as_chunks_mut::<W>().0.iter_mut().enumerate() {
            let mut single = [0f32; W];
            for &hash in hashes {
                let row = &rows[self.features.bucket(hash) * width + at];
                (0..W).for_each(|i| single[i] += row[i]);
            }
            (0..W).for_each(|i| sums[i] += f64::from(single[i]));
        }
    }

    /// Makes scores the probabilities of the labels.
    fn calibrate(&self, values: &mut Vec<f64>) {
        let [slope, intercept] = self.line;
        if let &[score] = &values[..] {
            values[0] = logistic(slope * score + intercept);
            values.push(1.0 - values[0]);
        } else {
            softmax(values, slope);
        }
    }
}

/// Makes values the probabilities that are proportional to the exponentials of `slope` times each.
fn softmax(values: &mut [f64], slope: f64) {
    let most = values.iter().fold(f64::NEG_INFINITY, |most, &value| most.max(slope * value));
    let mut total = 0.0;
    for value in values.iter_mut() {
        *value = (slope * *value - most).exp();
        total += *value;
    }
    for value in values {
        *value /= total;
    }
}

fn logistic(log_odds: f64) -> f64 {
    1.0 / (1.0 + (-log_odds).exp())
}

#[cfg(test)]
mod tests;
