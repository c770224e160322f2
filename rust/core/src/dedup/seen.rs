//! What has been seen before, by 128-bit hashes: exactly, or in a Bloom filter of fixed size.

use crate::prefetch::prefetch;
use crate::{Error, Result};

/// Keys that are looked up together, so that their cache lines are fetched while others are worked on.
pub(super) const BATCH: usize = 16;

/// A set of hashes that grows as keys are added.
#[derive(Debug, Clone)]
pub enum Seen {
    /// Every key is known: 16 bytes for each slot, of which at most 7 in 8 are taken.
    Exact(KeySet),
    /// A key that is new is taken for a known one with a small probability; memory is fixed.
    Bloom(Bloom),
}

impl Seen {
    /// Marks each key that was there before it, in their order, and adds the others.
    pub fn insert_all(&mut self, keys: &[u128], mut known: impl FnMut(usize, bool)) {
        for (batch, keys) in keys.chunks(BATCH).enumerate() {
            match self {
                Self::Exact(set) => {
                    set.reserve(keys.len());
                    for &key in keys {
                        prefetch(&set.slots, set.slot_of(key));
                    }
                    for (i, &key) in keys.iter().enumerate() {
                        known(batch * BATCH + i, !set.insert(key));
                    }
                }
                Self::Bloom(bloom) => {
                    for &key in keys {
                        prefetch(&bloom.blocks, bloom.block_of(key));
                    }
                    for (i, &key) in keys.iter().enumerate() {
                        known(batch * BATCH + i, !bloom.insert(key));
                    }
                }
            }
        }
    }

    /// Bytes of memory.
    pub fn num_bytes(&self) -> usize {
        match self {
            Self::Exact(set) => std::mem::size_of_val(set.slots.as_slice()),
            Self::Bloom(bloom) => std::mem::size_of_val(bloom.blocks.as_slice()),
        }
    }
}

/// A slot for a hash: as a fraction of all hashes, so that any number of slots serves.
#[inline(always)]
fn scaled(key: u128, count: usize) -> usize {
    let high = (key >> 64) as u64;
    ((u128::from(high) * count as u128) >> 64) as usize
}

/// A hash set with linear probing. No key is zero.
#[derive(Debug, Clone, Default)]
pub struct KeySet {
    slots: Vec<u128>,
    len: usize,
}

impl KeySet {
    #[inline(always)]
    fn slot_of(&self, key: u128) -> usize {
        scaled(key, self.slots.len())
    }

    /// Makes room for more keys.
    fn reserve(&mut self, more: usize) {
        if (self.len + more) * 8 <= self.slots.len() * 7 {
            return;
        }
        let wanted = (self.slots.len() * 2).max((self.len + more) * 3 / 2).max(64);
        let old = std::mem::replace(&mut self.slots, vec![0; wanted]);
        for key in old.into_iter().filter(|&key| key != 0) {
            let slot = self.find(key);
            self.slots[slot] = key;
        }
    }

    /// The slot of a key, or the free one where it belongs.
    #[inline(always)]
    fn find(&self, key: u128) -> usize {
        let mut slot = self.slot_of(key);
        while self.slots[slot] != key && self.slots[slot] != 0 {
            slot = if slot + 1 == self.slots.len() { 0 } else { slot + 1 };
        }
        slot
    }

    /// Adds a key for which there is room; false if it was there.
    #[inline(always)]
    fn insert(&mut self, key: u128) -> bool {
        let key = key.max(1);
        let slot = self.find(key);
        let is_new = self.slots[slot] == 0;
        self.slots[slot] = key;
        self.len += usize::from(is_new);
        is_new
    }
}

/// A Bloom filter whose keys each set one bit in each of the eight words of one cache line (Putze, Sanders and Singler,
/// "Cache-, hash- and space-efficient Bloom filters", 2007).
#[derive(Debug, Clone)]
pub struct Bloom {
    blocks: Vec<Block>,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(align(64))]
struct Block([u64; WORDS]);

const WORDS: usize = 8;

impl Bloom {
    /// A filter that takes a new key for a known one with probability `false_positives` when it holds `capacity` keys.
    ///
    /// # Errors
    /// [`Error::Value`] if the probability is not between 0 and 1, or the filter would take more than 2^40 bytes.
    pub fn new(capacity: usize, false_positives: f64) -> Result<Self> {
        if !(false_positives > 0.0 && false_positives < 1.0) {
            return Err(Error::value(format!(
                "false_positives must be between 0 and 1, got {false_positives}"
            )));
        }
        // More keys a block are more false positives; the greatest load that has few enough.
        let (mut low, mut high) = (0.0, 512.0);
        for _ in 0..50 {
            let load = f64::midpoint(low, high);
            *(if false_positives_at(load) <= false_positives { &mut low } else { &mut high }) = load;
        }
        let num_blocks = (capacity as f64 / low).ceil().max(1.0);
        if num_blocks.is_nan() || num_blocks > (1u64 << 34) as f64 {
            return Err(Error::value(format!(
                "a filter for {capacity} keys with false_positives {false_positives} is too large"
            )));
        }
        Ok(Self { blocks: vec![Block::default(); num_blocks as usize] })
    }

    #[inline(always)]
    fn block_of(&self, key: u128) -> usize {
        scaled(key, self.blocks.len())
    }

    /// Adds a key; false if it was there, or seems so.
    #[inline(always)]
    fn insert(&mut self, key: u128) -> bool {
        let at = self.block_of(key);
        let block = &mut self.blocks[at].0;
        let bits: [u64; WORDS] = std::array::from_fn(|word| 1 << ((key as u64 >> (6 * word)) & 63));
        let mut missing = 0;
        for (word, bit) in block.iter_mut().zip(bits) {
            missing |= bit & !*word;
            *word |= bit;
        }
        missing != 0
    }
}

/// The probability that a new key seems known, with `load` keys a block on average.
fn false_positives_at(load: f64) -> f64 {
    // Keys fall on blocks as the Poisson distribution says.
    let (mut share, mut sum, mut keys) = ((-load).exp(), 0.0, 0);
    while f64::from(keys) < load + 12.0 * load.sqrt() + 12.0 {
        let set = 1.0 - (63.0f64 / 64.0).powi(keys);
        sum += share * set.powi(WORDS as i32);
        keys += 1;
        share *= load / f64::from(keys);
    }
    sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::collections::HashSet;

    use super::*;
    use crate::rng;

    fn key(seed: u64, i: u64) -> u128 {
        u128::from(rng::bits64(seed, 0, i)) << 64 | u128::from(rng::bits64(seed, 1, i))
    }

    fn known(seen: &mut Seen, keys: &[u128]) -> Vec<bool> {
        let mut all = vec![false; keys.len()];
        seen.insert_all(keys, |i, is_known| all[i] = is_known);
        all
    }

    proptest! {
        #[test]
        fn exact_sets_know_what_they_have_seen(draws in prop::collection::vec(0u64..200, 0..600), cut in 0usize..600) {
            let keys: Vec<u128> = draws.iter().map(|&i| if i == 0 { 0 } else { key(0, i) }).collect();
            let mut reference = HashSet::new();
            let expected: Vec<bool> = keys.iter().map(|key| !reference.insert(key)).collect();
            let mut seen = Seen::Exact(KeySet::default());
            let (first, second) = keys.split_at(cut.min(keys.len()));
            prop_assert_eq!([known(&mut seen, first), known(&mut seen, second)].concat(), expected);
        }
    }

    #[test]
    fn filters_know_every_key_and_few_others() {
        for rate in [1e-2, 1e-3, 1e-4] {
            let num_keys = 40_000;
            let mut seen = Seen::Bloom(Bloom::new(num_keys, rate).unwrap());
            let keys: Vec<u128> = (0..num_keys as u64).map(|i| key(1, i)).collect();
            known(&mut seen, &keys);
            assert!(known(&mut seen, &keys).iter().all(|&is_known| is_known));
            // Few enough others that they do not fill the filter.
            let others: Vec<u128> = (0..num_keys as u64).map(|i| key(2, i)).collect();
            let Seen::Bloom(bloom) = &seen else { unreachable!() };
            let wrong = others.iter().filter(|&&key| !bloom.clone_block_insert(key)).count() as f64;
            let expected = rate * num_keys as f64;
            assert!((wrong - expected).abs() < 5.0 * expected.sqrt() + 1.0, "{wrong} for {expected}");
        }
    }

    impl Bloom {
        /// [`Bloom::insert`] without adding.
        fn clone_block_insert(&self, key: u128) -> bool {
            let mut one = Self { blocks: vec![self.blocks[self.block_of(key)]] };
            one.insert(key)
        }
    }

    #[test]
    fn filters_that_cannot_be_are_refused() {
        for (capacity, rate) in [(10, 0.0), (10, 1.0), (10, f64::NAN), (usize::MAX, 1e-9)] {
            assert!(Bloom::new(capacity, rate).is_err());
        }
        assert_eq!(Seen::Bloom(Bloom::new(0, 0.5).unwrap()).num_bytes(), 64);
    }
}
