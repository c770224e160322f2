//! Near duplicates: signatures, bands, then exact comparison.
//!
//! 1. Each text gets a `MinHash` signature of its shingles.
//! 2. Texts whose signatures are equal in all rows of a band, and similar as a whole, join one cluster.
//! 3. Within a cluster, texts are taken in order. A text is dropped if its shingles are at least as similar as
//!    the threshold to those of a text that was kept before it.
//!
//! So a dropped text always has a kept one at or above the threshold, compared exactly: chains of texts that are
//! each similar to the next do not pull in the unlike. Pairs at similarity `s` are found with the probability
//! [`collision_probability`].

use rayon::prelude::*;

use super::minhash::{MinHash, agreement};
use super::shingle::{jaccard, shingle_set, shingles};
use super::union_find::UnionFind;
use crate::text::mix;
use crate::{Error, Monitor, Result};

/// How near duplicates are found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NearOptions {
    /// Smallest Jaccard similarity of duplicates.
    pub threshold: f64,
    /// Words in a shingle.
    pub ngram: usize,
    /// Bands of a signature; more find more pairs.
    pub bands: usize,
    /// Signature entries in a band; more find fewer dissimilar candidates.
    pub rows: usize,
    /// Chooses the hash functions.
    pub seed: u64,
}

impl Default for NearOptions {
    fn default() -> Self {
        Self { threshold: 0.8, ngram: 5, bands: 16, rows: 8, seed: 0 }
    }
}

impl NearOptions {
    fn check(&self) -> Result<()> {
        if !(self.threshold > 0.0 && self.threshold <= 1.0) {
            return Err(Error::value(format!("threshold must be in (0, 1], got {}", self.threshold)));
        }
        for (name, value, most) in
            [("ngram", self.ngram, 1 << 10), ("bands", self.bands, 1 << 10), ("rows", self.rows, 1 << 10)]
        {
            if value == 0 || value > most {
                return Err(Error::value(format!("{name} must be in 1..={most}, got {value}")));
            }
        }
        Ok(())
    }

    /// Agreement of two signatures below which a pair is not looked at: four standard errors under the threshold,
    /// where 3 in 100,000 pairs of exactly that similarity fall.
    fn least_agreement(&self) -> f64 {
        let variance = self.threshold * (1.0 - self.threshold) / (self.bands * self.rows) as f64;
        self.threshold - 4.0 * variance.sqrt()
    }
}

/// Probability that two texts of a given similarity agree in at least one band: `1 - (1 - s^rows)^bands`.
pub fn collision_probability(similarity: f64, bands: usize, rows: usize) -> f64 {
    1.0 - (1.0 - similarity.powi(rows as i32)).powi(bands as i32)
}

/// For each text the place of the kept text that it duplicates, or its own. The monitor counts bytes of text
/// while they are signed.
///
/// # Errors
/// [`Error::Value`] if an option is out of range or there are 2^32 texts or more, [`Error::Interrupted`] if the
/// monitor is cancelled.
pub fn near_duplicates<T: AsRef<str> + Sync>(
    texts: &[T],
    options: &NearOptions,
    monitor: &Monitor,
) -> Result<Vec<usize>> {
    options.check()?;
    let count =
        u32::try_from(texts.len()).map_err(|_| Error::value("at most 2^32 - 1 texts can be compared"))?;
    let minhash = MinHash::new(options.bands * options.rows, options.seed);
    let signatures = Signatures::of(texts, &minhash, options.ngram, monitor)?;
    let mut clusters = UnionFind::new(count);
    for band in 0..options.bands {
        signatures.join_band(band, options, &mut clusters, monitor)?;
    }
    let kept = members(&mut clusters, count)
        .par_iter()
        .map(|cluster| keep_first(cluster, texts, &signatures, options, monitor))
        .collect::<Result<Vec<_>>>()?;
    let mut first: Vec<usize> = (0..texts.len()).collect();
    for (duplicate, original) in kept.into_iter().flatten() {
        first[duplicate as usize] = original as usize;
    }
    Ok(first)
}

/// The signatures of all texts, one after the other, and which texts have one.
struct Signatures {
    num_hashes: usize,
    values: Vec<u32>,
    has_words: Vec<bool>,
}

impl Signatures {
    fn of<T: AsRef<str> + Sync>(
        texts: &[T],
        minhash: &MinHash,
        ngram: usize,
        monitor: &Monitor,
    ) -> Result<Self> {
        let num_hashes = minhash.num_hashes();
        let mut signatures = Self {
            num_hashes,
            values: vec![0; texts.len() * num_hashes],
            has_words: vec![false; texts.len()],
        };
        let rows = signatures.values.par_chunks_mut(num_hashes).zip(&mut signatures.has_words);
        rows.zip(texts).try_for_each(|((signature, has_words), text)| {
            let shingles = shingles(text.as_ref(), ngram);
            *has_words = !shingles.is_empty();
            signature.copy_from_slice(&minhash.sign(&shingles));
            monitor.advance(text.as_ref().len() as u64)
        })?;
        Ok(signatures)
    }

    fn get(&self, text: u32) -> &[u32] {
        &self.values[text as usize * self.num_hashes..][..self.num_hashes]
    }

    /// Joins the texts that agree in one band and are not yet in one cluster.
    fn join_band(
        &self,
        band: usize,
        options: &NearOptions,
        clusters: &mut UnionFind,
        monitor: &Monitor,
    ) -> Result<()> {
        let rows = band * options.rows..(band + 1) * options.rows;
        let mut keys: Vec<(u64, u32)> = (0..self.has_words.len() as u32)
            .into_par_iter()
            .filter(|&text| self.has_words[text as usize])
            .map(|text| (band_key(&self.get(text)[rows.clone()]), text))
            .collect();
        keys.par_sort_unstable();
        let groups: Vec<&[(u64, u32)]> =
            keys.chunk_by(|a, b| a.0 == b.0).filter(|group| group.len() > 1).collect();
        // The clusters that the bands before have made; what this band adds is joined below, so that the set of
        // pairs does not depend on which group comes first.
        let known = &*clusters;
        let pairs = groups
            .par_iter()
            .map(|group| self.similar_pairs(group, known, options.least_agreement(), monitor))
            .collect::<Result<Vec<_>>>()?;
        pairs.into_iter().flatten().for_each(|(a, b)| clusters.join(a, b));
        Ok(())
    }

    /// Pairs that connect the texts of a group where their signatures are similar.
    fn similar_pairs(
        &self,
        group: &[(u64, u32)],
        known: &UnionFind,
        least: f64,
        monitor: &Monitor,
    ) -> Result<Vec<(u32, u32)>> {
        let mut pairs = Vec::new();
        let mut components: Vec<Component> = Vec::new();
        for &(_, text) in group {
            monitor.advance(0)?;
            let root = known.peek(text);
            let mut own = Component { roots: vec![root], texts: vec![text] };
            components.retain_mut(|other| {
                let is_joined = other.roots.contains(&root) || {
                    let signature = self.get(text);
                    let similar =
                        other.texts.iter().find(|&&text| agreement(signature, self.get(text)) >= least);
                    pairs.extend(similar.map(|&similar| (similar, text)));
                    similar.is_some()
                };
                if is_joined {
                    own.absorb(other);
                }
                !is_joined
            });
            components.push(own);
        }
        Ok(pairs)
    }
}

/// Texts of one group that are connected, and the clusters they were in before.
struct Component {
    roots: Vec<u32>,
    texts: Vec<u32>,
}

impl Component {
    /// Takes over another one; the smaller moves, so that large groups stay cheap.
    fn absorb(&mut self, other: &mut Self) {
        if self.texts.len() < other.texts.len() {
            std::mem::swap(self, other);
        }
        self.texts.append(&mut other.texts);
        self.roots.append(&mut other.roots);
        self.roots.sort_unstable();
        self.roots.dedup();
    }
}

fn band_key(rows: &[u32]) -> u64 {
    rows.iter().fold(0x5851_f42d_4c95_7f2d, |key, &row| mix(key ^ u64::from(row), 0x1405_7b7e_f767_814f))
}

/// The clusters of two and more texts, each in order.
fn members(clusters: &mut UnionFind, count: u32) -> Vec<Vec<u32>> {
    let mut places: Vec<(u32, u32)> = (0..count).map(|text| (clusters.find(text), text)).collect();
    places.sort_unstable();
    let groups = places.chunk_by(|a, b| a.0 == b.0).filter(|group| group.len() > 1);
    groups.map(|group| group.iter().map(|&(_, text)| text).collect()).collect()
}

/// The (duplicate, kept text) pairs of one cluster.
fn keep_first<T: AsRef<str>>(
    cluster: &[u32],
    texts: &[T],
    signatures: &Signatures,
    options: &NearOptions,
    monitor: &Monitor,
) -> Result<Vec<(u32, u32)>> {
    let mut kept: Vec<(u32, Vec<u64>)> = Vec::new();
    let mut duplicates = Vec::new();
    for &text in cluster {
        monitor.advance(0)?;
        let set = shingle_set(texts[text as usize].as_ref(), options.ngram);
        let original = kept.iter().find(|(candidate, other)| {
            agreement(signatures.get(text), signatures.get(*candidate)) >= options.least_agreement()
                && jaccard(&set, other) >= options.threshold
        });
        match original {
            Some(&(original, _)) => duplicates.push((text, original)),
            None => kept.push((text, set)),
        }
    }
    Ok(duplicates)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;

    /// Texts of random words, each followed by copies with more and more words replaced.
    fn corpus(num_texts: u64, copies: u64) -> Vec<String> {
        let word = |stream: u64, i: u64| format!("w{}", rng::below(5000, 1, stream, i));
        let mut texts = Vec::new();
        for text in 0..num_texts {
            let len = 40 + rng::below(200, 2, 0, text);
            for copy in 0..=copies {
                let changed = |i: u64| rng::uniform(3, text * 100 + copy, i) < 0.02 * copy as f64;
                let words: Vec<_> = (0..len)
                    .map(|i| if changed(i) { word(1 << 40 | text << 8 | copy, i) } else { word(text, i) })
                    .collect();
                texts.push(words.join(" "));
            }
        }
        texts
    }

    /// The definition of the result with every pair compared exactly.
    fn brute_force(texts: &[String], options: &NearOptions) -> Vec<usize> {
        let sets: Vec<Vec<u64>> = texts.iter().map(|text| shingle_set(text, options.ngram)).collect();
        let mut first: Vec<usize> = Vec::new();
        for (i, set) in sets.iter().enumerate() {
            let original = (0..i).find(|&j| first[j] == j && jaccard(set, &sets[j]) >= options.threshold);
            first.push(original.unwrap_or(i));
        }
        first
    }

    #[test]
    fn enough_bands_give_the_brute_force_result() {
        let (texts, options) = (corpus(60, 4), NearOptions { bands: 64, rows: 3, ..NearOptions::default() });
        let found = near_duplicates(&texts, &options, &Monitor::default()).unwrap();
        let expected = brute_force(&texts, &options);
        assert_eq!(found, expected);
        assert!(expected.iter().enumerate().filter(|&(i, &first)| i != first).count() > 50);
    }

    #[test]
    fn one_and_four_threads_agree() {
        let (texts, options) = (corpus(100, 5), NearOptions::default());
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| near_duplicates(&texts, &options, &Monitor::default()).unwrap())
        };
        assert_eq!(run(1), run(4));
    }

    #[test]
    fn candidates_are_as_frequent_as_the_s_curve_says() {
        // Two sets of shingles with a known similarity, many times; agreement in a band is what LSH sees.
        let options = NearOptions::default();
        for (shared, own) in [(80, 10), (60, 10), (50, 25)] {
            let similarity = shared as f64 / (shared + 2 * own) as f64;
            let trials = 600;
            let found = (0..trials)
                .filter(|&trial| {
                    let minhash = MinHash::new(128, trial);
                    let draw = |range: std::ops::Range<u64>| {
                        range.map(|i| rng::bits64(trial, 9, i)).collect::<Vec<_>>()
                    };
                    let a = minhash.sign(&draw(0..shared + own));
                    let b = minhash.sign(&[draw(0..shared), draw(1000..1000 + own)].concat());
                    a.chunks(options.rows).zip(b.chunks(options.rows)).any(|(a, b)| a == b)
                })
                .count() as f64;
            let expected = collision_probability(similarity, options.bands, options.rows);
            let error = 4.0 * (expected * (1.0 - expected) / trials as f64).sqrt() + 1e-9;
            assert!(
                (found / trials as f64 - expected).abs() < error,
                "{} for {expected}",
                found / trials as f64
            );
        }
    }

    #[test]
    fn a_chain_keeps_the_texts_that_are_unlike_the_first() {
        let words: Vec<String> = (0..60).map(|i| format!("w{i}")).collect();
        let texts: Vec<String> = (0..6).map(|step| words[step * 4..40 + step * 4 - step].join(" ")).collect();
        let options = NearOptions { threshold: 0.7, bands: 64, rows: 2, ..NearOptions::default() };
        let found = near_duplicates(&texts, &options, &Monitor::default()).unwrap();
        assert_eq!(found, brute_force(&texts, &options));
        assert!(found.iter().enumerate().filter(|&(i, &first)| i == first).count() > 1);
    }

    #[test]
    fn texts_without_words_are_all_kept() {
        let found =
            near_duplicates(&["--", "--", "", "!"], &NearOptions::default(), &Monitor::default()).unwrap();
        assert_eq!(found, [0, 1, 2, 3]);
    }

    #[test]
    fn options_out_of_range_are_refused() {
        let good = NearOptions::default();
        for options in [
            NearOptions { threshold: 0.0, ..good },
            NearOptions { threshold: f64::NAN, ..good },
            NearOptions { ngram: 0, ..good },
            NearOptions { bands: 0, ..good },
            NearOptions { rows: 5000, ..good },
        ] {
            assert!(near_duplicates(&[""], &options, &Monitor::default()).is_err());
        }
    }
}
