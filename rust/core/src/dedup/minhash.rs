//! `MinHash` signatures (Broder 1997): the share of equal entries estimates the Jaccard similarity.

use crate::rng;

/// Random stream of the hash functions.
const FUNCTIONS: u64 = u64::from_be_bytes(*b"minhash_");
/// Hash functions whose state fits in registers while the shingles pass by.
const LANES: usize = 32;

/// A family of hash functions `x -> a x + b` on 32 bits, of which a signature keeps the minima.
///
/// The shingles are mixed before, so their 32 bits are as good as random and a linear function is enough to
/// give each of them the same chance to be the smallest.
#[derive(Debug, Clone)]
pub struct MinHash {
    multipliers: Vec<u32>,
    addends: Vec<u32>,
    num_hashes: usize,
}

impl MinHash {
    /// `num_hashes` functions that depend on the seed alone.
    pub fn new(num_hashes: usize, seed: u64) -> Self {
        // Whole groups of lanes are computed; the surplus is cut from the signature.
        let lanes = num_hashes.next_multiple_of(LANES);
        let draw = |i: usize| rng::bits(seed, FUNCTIONS, i as u64);
        Self {
            multipliers: (0..lanes).map(|i| draw(i)[0] | 1).collect(),
            addends: (0..lanes).map(|i| draw(i)[1]).collect(),
            num_hashes,
        }
    }

    /// Length of a signature.
    pub fn num_hashes(&self) -> usize {
        self.num_hashes
    }

    /// The signature of a set of shingles; repeated shingles do not matter. All ones for an empty set.
    pub fn sign(&self, shingles: &[u64]) -> Vec<u32> {
        let mut signature = vec![u32::MAX; self.multipliers.len()];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has the feature that the function is compiled for.
            unsafe { sign_avx2(shingles, &self.multipliers, &self.addends, &mut signature) };
            signature.truncate(self.num_hashes);
            return signature;
        }
        sign_portable(shingles, &self.multipliers, &self.addends, &mut signature);
        signature.truncate(self.num_hashes);
        signature
    }
}

/// Share of equal entries of two signatures of the same length.
pub fn agreement(a: &[u32], b: &[u32]) -> f64 {
    debug_assert_eq!(a.len(), b.len());
    let equal: u32 = a.iter().zip(b).map(|(a, b)| u32::from(a == b)).sum();
    f64::from(equal) / a.len().max(1) as f64
}

/// The same code as [`sign_portable`], compiled for 256-bit registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sign_avx2(shingles: &[u64], multipliers: &[u32], addends: &[u32], signature: &mut [u32]) {
    sign_portable(shingles, multipliers, addends, signature);
}

#[inline]
fn sign_portable(shingles: &[u64], multipliers: &[u32], addends: &[u32], signature: &mut [u32]) {
    let (multipliers, _) = multipliers.as_chunks::<LANES>();
    let (addends, _) = addends.as_chunks::<LANES>();
    let (signature, _) = signature.as_chunks_mut::<LANES>();
    for ((multipliers, addends), minima) in multipliers.iter().zip(addends).zip(signature) {
        let mut smallest = *minima;
        for shingle in shingles {
            let x = (shingle >> 32) as u32;
            for lane in 0..LANES {
                let hash = x.wrapping_mul(multipliers[lane]).wrapping_add(addends[lane]);
                smallest[lane] = smallest[lane].min(hash);
            }
        }
        *minima = smallest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random_shingles(seed: u64, start: u64, stop: u64) -> Vec<u64> {
        (start..stop).map(|i| rng::bits64(seed, 0, i)).collect()
    }

    #[test]
    fn entries_are_the_minima_of_the_linear_functions() {
        let (minhash, shingles) = (MinHash::new(40, 7), random_shingles(1, 0, 100));
        let expected: Vec<u32> = (0..40)
            .map(|i| {
                let [a, b, ..] = rng::bits(7, FUNCTIONS, i);
                let hash = |x: &u64| ((x >> 32) as u32).wrapping_mul(a | 1).wrapping_add(b);
                shingles.iter().map(hash).min().unwrap()
            })
            .collect();
        assert_eq!(minhash.sign(&shingles), expected);
        assert_eq!(minhash.sign(&[]), [u32::MAX; 40]);
    }

    #[test]
    fn agreement_estimates_the_jaccard_similarity() {
        for (shared, own) in [(900, 50), (300, 350), (20, 5)] {
            let expected = shared as f64 / (shared + 2 * own) as f64;
            let mean: f64 = (0..40u64)
                .map(|seed| {
                    let minhash = MinHash::new(128, seed);
                    let (a, b) = (shared + own, shared + 2 * own);
                    let first = random_shingles(seed, 0, a);
                    let second = [random_shingles(seed, 0, shared), random_shingles(seed, a, b)].concat();
                    agreement(&minhash.sign(&first), &minhash.sign(&second))
                })
                .sum::<f64>()
                / 40.0;
            // 40 x 128 draws: four standard errors of a share.
            let tolerance = 4.0 * (expected * (1.0 - expected) / 5120.0).sqrt();
            assert!((mean - expected).abs() < tolerance, "{mean} for {expected}");
        }
    }
}
