//! Signatures whose share of equal entries estimates the Jaccard similarity of two sets.
//!
//! One hash function serves all entries (Li, Owen and Zhang, "One permutation hashing", NIPS 2012): it sends each
//! shingle to one entry, which keeps the smallest value. An entry that no shingle reaches takes the minimum of
//! another function, its own, over all shingles. So every entry of two signatures is equal with exactly the
//! probability of the Jaccard similarity, for sets of any sizes, and a shingle of a long text costs one step
//! instead of one for each entry.

use crate::masks::{Classify, Work, best};
use crate::rng;

/// Random stream of the functions of single entries.
const FUNCTIONS: u64 = u64::from_be_bytes(*b"minhash_");
/// Most entries of a signature.
pub(super) const MAX_HASHES: usize = 4096;

/// Makes signatures of `num_hashes` entries from mixed shingles.
#[derive(Debug, Clone)]
pub struct Sketcher {
    /// An odd multiplier and an addend for each entry.
    functions: Vec<[u32; 2]>,
}

/// An entry that no shingle has reached. As a value it would have to be the smallest of its entry.
const EMPTY: u32 = u32::MAX;

impl Sketcher {
    /// `num_hashes` functions that depend on the seed alone.
    pub fn new(num_hashes: usize, seed: u64) -> Self {
        let draw = |i| rng::bits(seed, FUNCTIONS, i as u64);
        Self { functions: (0..num_hashes).map(|i| [draw(i)[0] | 1, draw(i)[1]]).collect() }
    }

    /// Length of a signature.
    pub fn num_hashes(&self) -> usize {
        self.functions.len()
    }

    /// The signature of a set of shingles; repeated shingles do not matter. 16 bits of each minimum are kept, so two
    /// different minima look equal once in 65,536 times. All ones for an empty set.
    pub fn sign(&self, shingles: &[u64], minima: &mut Vec<u32>, signature: &mut [u16]) {
        minima.clear();
        minima.resize(self.functions.len(), EMPTY);
        best(Sign { functions: &self.functions, shingles, minima });
        for (entry, minimum) in signature.iter_mut().zip(minima) {
            *entry = *minimum as u16;
        }
    }
}

/// Share of equal entries of two signatures of the same length.
pub fn agreement(a: &[u16], b: &[u16]) -> f64 {
    debug_assert_eq!(a.len(), b.len());
    let equal: u16 = a.iter().zip(b).map(|(a, b)| u16::from(a == b)).sum();
    f64::from(equal) / a.len().max(1) as f64
}

struct Sign<'a> {
    functions: &'a [[u32; 2]],
    shingles: &'a [u64],
    minima: &'a mut [u32],
}

impl Work for Sign<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<C: Classify>(self) {
        let count = self.minima.len() as u64;
        for &shingle in self.shingles {
            let entry = (((shingle >> 32) * count) >> 32) as usize;
            if let Some(minimum) = self.minima.get_mut(entry) {
                // Not below the mark of an empty entry: one value in four billion is moved by one.
                *minimum = (*minimum).min((shingle as u32).min(EMPTY - 1));
            }
        }
        for (minimum, &[factor, addend]) in self.minima.iter_mut().zip(self.functions) {
            if *minimum == EMPTY {
                let hash = |&shingle: &u64| (shingle as u32).wrapping_mul(factor).wrapping_add(addend);
                *minimum = self.shingles.iter().map(hash).fold(EMPTY, u32::min);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::masks::Portable;

    fn sign(sketcher: &Sketcher, shingles: &[u64]) -> Vec<u16> {
        let mut signature = vec![0; sketcher.num_hashes()];
        sketcher.sign(shingles, &mut Vec::new(), &mut signature);
        signature
    }

    fn random_shingles(seed: u64, start: u64, stop: u64) -> Vec<u64> {
        (start..stop).map(|i| rng::bits64(seed, 0, i)).collect()
    }

    /// The definition, entry by entry.
    fn reference(num_hashes: u64, seed: u64, shingles: &[u64]) -> Vec<u16> {
        let entry = |i: u64| {
            let own = shingles.iter().filter(|&&shingle| ((shingle >> 32) * num_hashes) >> 32 == i);
            let own = own.map(|&shingle| (shingle as u32).min(u32::MAX - 1)).min();
            let [a, b, ..] = rng::bits(seed, FUNCTIONS, i);
            let other = |x: &u64| (*x as u32).wrapping_mul(a | 1).wrapping_add(b);
            own.or(shingles.iter().map(other).min()).unwrap_or(u32::MAX) as u16
        };
        (0..num_hashes).map(entry).collect()
    }

    #[test]
    fn signatures_follow_the_definition() {
        for (num_hashes, len) in [(128, 0), (128, 1), (128, 40), (128, 1000), (100, 300), (1, 5), (512, 700)]
        {
            let (sketcher, shingles) = (Sketcher::new(num_hashes, 7), random_shingles(1, 0, len));
            let expected = reference(num_hashes as u64, 7, &shingles);
            assert_eq!(sign(&sketcher, &shingles), expected);
            let mut minima = vec![EMPTY; num_hashes];
            let work = Sign { functions: &sketcher.functions, shingles: &shingles, minima: &mut minima };
            // SAFETY: it needs no instructions.
            unsafe { work.run::<Portable>() };
            assert!(minima.iter().map(|&minimum| minimum as u16).eq(expected));
        }
    }

    #[test]
    fn agreement_estimates_the_jaccard_similarity_of_short_and_long_texts() {
        for (shared, own) in [(900, 50), (300, 350), (90, 20), (20, 5), (4, 1)] {
            let expected = shared as f64 / (shared + 2 * own) as f64;
            let mean: f64 = (0..100u64)
                .map(|seed| {
                    let sketcher = Sketcher::new(128, seed);
                    let (a, b) = (shared + own, shared + 2 * own);
                    let first = random_shingles(seed, 0, a);
                    let second = [random_shingles(seed, 0, shared), random_shingles(seed, a, b)].concat();
                    agreement(&sign(&sketcher, &first), &sign(&sketcher, &second))
                })
                .sum::<f64>()
                / 100.0;
            // 100 x 128 draws: four standard errors of a share.
            let tolerance = 4.0 * (expected * (1.0 - expected) / 12_800.0).sqrt();
            assert!((mean - expected).abs() < tolerance, "{mean} for {expected}");
        }
    }
}
