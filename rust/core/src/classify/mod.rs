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
}

impl Default for Features {
    fn default() -> Self {
        Self { bits: 20, word_ngram: 2, char_ngram: 0 }
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

    /// The buckets of a text's n-grams, one for each, and how many there are.
    fn for_each_bucket(&self, text: &str, shingles: &mut Shingles, mut visit: impl FnMut(usize)) -> usize {
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
            for hash in hashes {
                visit((hash >> (64 - self.bits)) as usize);
            }
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
        let total =
            self.for_each_bucket(text, &mut Shingles::default(), |bucket| buckets.push(bucket as u32));
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
    /// One for each score, bucket after bucket.
    weights: Vec<f32>,
}

/// Scores of a text with so many labels.
fn num_scores(labels: usize) -> usize {
    if labels == 2 { 1 } else { labels }
}

/// Buffers that are used again from text to text.
#[derive(Debug, Default)]
pub struct Scratch {
    shingles: Shingles,
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

    fn score<'s>(&self, text: &str, scratch: &'s mut Scratch) -> &'s [f64] {
        let scores = &mut scratch.values;
        scores.clear();
        scores.resize(self.bias.len(), 0.0);
        let total = self.features.for_each_bucket(text, &mut scratch.shingles, |bucket| {
            let weights = &self.weights[bucket * scores.len()..][..scores.len()];
            scores.iter_mut().zip(weights).for_each(|(score, &weight)| *score += f64::from(weight));
        });
        let norm = (total.max(1) as f64).sqrt();
        scores.iter_mut().zip(&self.bias).for_each(|(score, &bias)| *score = *score / norm + f64::from(bias));
        scores
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
