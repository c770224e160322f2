//! A random order without a table: a keyed permutation of `0..n`.
//!
//! The permutation is a Feistel network over the next even power of two, walked until it lands inside `0..n`.
//! Any place can be asked for alone, in less than a microsecond, for any `n` up to 2^62.

use crate::rng;

/// Rounds of the network. Four make a pseudo-random permutation of a large set; more cost little and mix small ones.
const ROUNDS: u64 = 8;

/// The element at place `index` of the permutation of `0..n` that `(seed, stream)` names.
pub fn permute(index: u64, n: u64, seed: u64, stream: u64) -> u64 {
    debug_assert!(index < n && n <= 1 << 62);
    let half_bits = (u64::BITS - (n - 1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1u64 << half_bits) - 1;
    let mut element = index;
    loop {
        let (mut left, mut right) = (element >> half_bits, element & mask);
        for round in 0..ROUNDS {
            let mixed = rng::bits64(seed, stream, round << 32 | right);
            (left, right) = (right, left ^ (mixed & mask));
        }
        element = left << half_bits | right;
        if element < n {
            return element;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_element_has_one_place(n in 1u64..2000, seed: u64, stream: u64) {
            let mut elements: Vec<u64> = (0..n).map(|index| permute(index, n, seed, stream)).collect();
            elements.sort_unstable();
            prop_assert!(elements.into_iter().eq(0..n));
        }
    }

    #[test]
    fn every_element_is_as_likely_at_every_place() {
        let (n, trials) = (7u64, 7000u64);
        for index in 0..n {
            let mut counts = [0f64; 7];
            (0..trials).for_each(|seed| counts[permute(index, n, seed, 3) as usize] += 1.0);
            let expected = trials as f64 / n as f64;
            let chi2: f64 = counts.iter().map(|count| (count - expected).powi(2) / expected).sum();
            assert!(chi2 < 26.1, "place {index}: chi2 {chi2} has probability below 0.0002 with 6 degrees");
        }
    }

    #[test]
    fn large_sets_work() {
        assert_ne!(permute(0, 1 << 62, 1, 0), permute(1, 1 << 62, 1, 0));
        assert_eq!(permute(0, 1, 5, 5), 0);
    }
}
