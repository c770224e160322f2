//! Places of a text that depend on what stands around them alone, so that copies have them at the same places.
//!
//! Winnowing (Schleimer, Wilkerson and Aiken, SIGMOD 2003): of every window of consecutive n-grams, the one with the
//! smallest hash is an anchor, the last of several. Two equal stretches of `ngram + window - 1` bytes have an equal
//! anchor each, at the same distance from their starts.

use crate::masks::{Classify, Work, best};

/// Windows that are treated at once; what they need stays in the nearest cache.
const BLOCK: usize = 2048;
/// Most n-grams of a window.
const MAX_WINDOW: usize = 2048;
/// Bits of the place of an n-gram among those of a block.
const PLACE_BITS: u32 = 12;
const PLACE: u32 = (1 << PLACE_BITS) - 1;
/// N-grams of a block.
const GRAMS: usize = BLOCK + MAX_WINDOW - 1;
const MAX_NGRAM: usize = 32;
const BASE: u32 = 0x9e37_79b1;

/// Finds anchors; holds the buffers that it needs.
#[derive(Debug)]
pub(super) struct Winnower {
    /// Bytes of an n-gram, a power of two.
    ngram: usize,
    /// N-grams of a window.
    window: usize,
    buffers: [Vec<u32>; 2],
}

impl Winnower {
    /// Anchors for stretches of `length` bytes, which is at least 8.
    pub(super) fn new(length: usize) -> Self {
        let ngram = length.div_ceil(2).min(MAX_NGRAM);
        let ngram = 1 << ngram.max(1).ilog2();
        let window = (length + 1).saturating_sub(ngram).clamp(1, MAX_WINDOW);
        let buffers = std::array::from_fn(|_| vec![0; GRAMS + MAX_NGRAM]);
        Self { ngram, window, buffers }
    }

    pub(super) fn ngram(&self) -> usize {
        self.ngram
    }

    /// Anchors that a text of random bytes has.
    pub(super) fn expected(&self, num_bytes: usize) -> usize {
        num_bytes * 2 / (self.window + 1)
    }

    /// Calls `visit` with the place of each anchor, in increasing order.
    pub(super) fn visit(&mut self, text: &[u8], visit: impl FnMut(usize)) {
        best(Winnow { winnower: self, text, visit });
    }
}

struct Winnow<'a, V> {
    winnower: &'a mut Winnower,
    text: &'a [u8],
    visit: V,
}

impl<V: FnMut(usize)> Work for Winnow<'_, V> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<C: Classify>(mut self) {
        let Winnower { ngram, window, buffers: [a, b] } = self.winnower;
        let (ngram, window) = (*ngram, *window);
        let reach = ngram + window - 1;
        let mut last = None;
        let mut start = 0;
        while start + reach <= self.text.len() {
            let num_windows = (self.text.len() - start - reach + 1).min(BLOCK);
            let bytes = &self.text[start..start + num_windows - 1 + reach];
            let mut len = bytes.len();
            for (hash, byte) in a.iter_mut().zip(bytes) {
                *hash = (u32::from(*byte) + 1).wrapping_mul(0x85eb_ca6b);
            }
            // Hashes of twice the length from two neighbours.
            let mut have = 1;
            while have < ngram {
                let factor = BASE.wrapping_pow(have as u32);
                len -= have;
                let (first, second) = (&a[..len], &a[have..have + len]);
                for ((out, first), second) in b[..len].iter_mut().zip(first).zip(second) {
                    *out = first.wrapping_mul(factor).wrapping_add(*second);
                }
                std::mem::swap(a, b);
                have *= 2;
            }
            // The hash, and below it the place from the end, so that the smallest is the last of equal ones.
            for (place, (out, hash)) in b[..len].iter_mut().zip(&a[..len]).enumerate() {
                let mixed = (hash ^ hash >> 15).wrapping_mul(0x2c1b_3c6d);
                *out = (mixed ^ mixed >> 12) & !PLACE | (PLACE - place as u32);
            }
            std::mem::swap(a, b);
            // Minima of twice the length, then of two windows that overlap.
            have = 1;
            while have < window {
                let step = have.min(window - have);
                len -= step;
                let (first, second) = (&a[..len], &a[step..step + len]);
                for ((out, first), second) in b[..len].iter_mut().zip(first).zip(second) {
                    *out = *first.min(second);
                }
                std::mem::swap(a, b);
                have += step;
            }
            let mut before = u32::MAX;
            for &minimum in &a[..num_windows] {
                if minimum != before {
                    before = minimum;
                    let anchor = start + (PLACE - (minimum & PLACE)) as usize;
                    if last != Some(anchor) {
                        (self.visit)(anchor);
                        last = Some(anchor);
                    }
                }
            }
            start += num_windows;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::masks::Portable;

    fn anchors(length: usize, text: &[u8]) -> Vec<usize> {
        let mut all = Vec::new();
        Winnower::new(length).visit(text, |anchor| all.push(anchor));
        all
    }

    proptest! {
        #[test]
        fn copies_have_the_same_anchors(
            copy in prop::collection::vec(prop_oneof![Just(b'a'), any::<u8>()], 16..300),
            around in prop::array::uniform4(prop::collection::vec(any::<u8>(), 0..3000)),
            length in 16usize..200,
        ) {
            prop_assume!(copy.len() >= length);
            let places = |before: &[u8], after: &[u8]| {
                let ngram = Winnower::new(length).ngram();
                let inside = before.len()..before.len() + copy.len() - ngram + 1;
                let found = anchors(length, &[before, &copy, after].concat());
                found.into_iter().filter(|at| inside.contains(at)).map(|at| at - before.len()).collect::<Vec<_>>()
            };
            // Those at the ends of the copy may depend on what is around it.
            let (first, second) = (places(&around[0], &around[1]), places(&around[2], &around[3]));
            let alone = places(&[], &[]);
            prop_assert!(!alone.is_empty());
            prop_assert!(alone.iter().all(|at| first.contains(at) && second.contains(at)));
        }

        #[test]
        fn the_same_for_all_instruction_sets(text in prop::collection::vec(0u8..4, 0..5000), length in 8usize..3000) {
            let (mut winnower, mut plain) = (Winnower::new(length), Vec::new());
            let work = Winnow { winnower: &mut winnower, text: &text, visit: |anchor| plain.push(anchor) };
            // SAFETY: it needs no instructions.
            unsafe { work.run::<Portable>() };
            prop_assert_eq!(anchors(length, &text), plain);
        }
    }

    #[test]
    fn anchors_are_few() {
        let text: Vec<u8> = (0..100_000u64).map(|i| crate::rng::bits64(0, 0, i) as u8).collect();
        let found = anchors(100, &text).len();
        let expected = Winnower::new(100).expected(text.len());
        assert!(found.abs_diff(expected) < expected / 10, "{found} for {expected}");
    }
}
