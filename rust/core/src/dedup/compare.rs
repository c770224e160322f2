//! The exact similarity of one text to several others.

use super::shingle::{Shingler, Shingles};

/// The distinct shingles of one text in a table, with the buffers that comparing needs.
#[derive(Debug, Default)]
pub(super) struct Comparer {
    shingles: Shingles,
    /// Open addressing with linear probing, at most half full; zero where nothing is.
    slots: Vec<u64>,
    /// The last comparison that met each slot's shingle.
    met: Vec<u32>,
    num_distinct: usize,
    round: u32,
    /// Shingles of the other text that the first one lacks.
    own: Vec<u64>,
}

impl Comparer {
    /// Takes the text that others are compared with.
    pub(super) fn set(&mut self, text: &str, shingler: Shingler) {
        let shingles = self.shingles.of(text, shingler);
        let len = (shingles.len() * 2).next_power_of_two().max(2);
        self.slots.clear();
        self.slots.resize(len, 0);
        self.met.clear();
        self.met.resize(len, 0);
        (self.num_distinct, self.round) = (0, 0);
        for &shingle in shingles {
            let slot = find(&self.slots, shingle);
            self.num_distinct += usize::from(self.slots[slot] == 0);
            self.slots[slot] = shingle;
        }
    }

    /// The Jaccard similarity of the shingles of another text.
    pub(super) fn similarity(&mut self, text: &str, shingler: Shingler) -> f64 {
        self.round += 1;
        self.own.clear();
        let mut common = 0usize;
        for &shingle in self.shingles.of(text, shingler) {
            let slot = find(&self.slots, shingle);
            if self.slots[slot] == 0 {
                self.own.push(shingle);
            } else if self.met[slot] != self.round {
                self.met[slot] = self.round;
                common += 1;
            }
        }
        self.own.sort_unstable();
        self.own.dedup();
        let union = self.num_distinct + self.own.len();
        if union == 0 { 0.0 } else { common as f64 / union as f64 }
    }
}

/// The slot of a shingle, or the free one where it would be. The one shingle in 2^64 that is zero is never in.
#[inline(always)]
fn find(slots: &[u64], shingle: u64) -> usize {
    let mask = slots.len() - 1;
    let mut slot = shingle as usize & mask;
    while slots[slot] != shingle && slots[slot] != 0 {
        slot = (slot + 1) & mask;
    }
    slot
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dedup::{Unit, jaccard, shingle_set};

    proptest! {
        #[test]
        fn similarity_is_that_of_the_sets(texts in prop::collection::vec("([ab] ){0,40}", 1..5)) {
            let shingler = Shingler { unit: Unit::Words, ngram: 3, seed: 0 };
            let mut comparer = Comparer::default();
            comparer.set(&texts[0], shingler);
            for text in &texts {
                let expected = jaccard(&shingle_set(&texts[0], shingler), &shingle_set(text, shingler));
                prop_assert!((comparer.similarity(text, shingler) - expected).abs() < 1e-12);
            }
        }
    }
}
