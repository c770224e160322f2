//! Merging several short pieces side by side.
//!
//! A merge needs the rules of the pairs that the one before it made, so one piece alone waits for memory at every
//! step. Taking turns, the rules of one piece are fetched while the others are at work.

use std::ops::Range;

use super::merges::{Merges, NO_RULE};
use super::pretokenize::{Bits, below};

/// A piece of at most [`Short::MAX_IDS`] ids. Which positions still hold one is a mask; each pair with a rule is one
/// number, which orders by rank, then position.
#[derive(Debug, Clone)]
pub(super) struct Short {
    ids: [u32; Self::MAX_IDS],
    pairs: [u32; Self::MAX_IDS],
    alive: u64,
    /// Positions of the pairs whose rule is not looked up yet.
    changed: u64,
    len: usize,
    is_done: bool,
}

/// Bits of a position.
const POSITION_BITS: u32 = Short::MAX_IDS.ilog2();
/// Numbers that are compared at once.
const LANES: usize = 16;

impl Short {
    /// Positions that fit a mask.
    pub(super) const MAX_IDS: usize = 64;

    /// Starts with what the piece consists of: at most [`Short::MAX_IDS`] ids.
    pub(super) fn new(ids: &[u32]) -> Self {
        let len = ids.len();
        let mut short = Self {
            ids: [0; Self::MAX_IDS],
            pairs: [NO_RULE; Self::MAX_IDS],
            alive: below(len),
            changed: below(len.saturating_sub(1)),
            len,
            is_done: false,
        };
        short.ids[..len].copy_from_slice(ids);
        short
    }

    /// The ids that are left.
    pub(super) fn ids(&self) -> impl Iterator<Item = u32> {
        Bits(self.alive).map(|at| self.ids[at])
    }

    /// The ids that are left, each with the positions that it stands for.
    pub(super) fn spans(&self) -> impl Iterator<Item = (u32, Range<usize>)> {
        Bits(self.alive).map(|at| {
            let after = self.alive & !below(at + 1);
            let end = if after == 0 { self.len } else { after.trailing_zeros() as usize };
            (self.ids[at], at..end)
        })
    }

    /// The pair at a position; nothing at the last.
    #[inline(always)]
    fn pair(&self, at: usize) -> Option<(u32, u32)> {
        let after = self.alive & !below(at + 1);
        (after != 0).then(|| (self.ids[at], self.ids[after.trailing_zeros() as usize]))
    }

    #[inline(always)]
    fn fetch(&self, merges: &Merges) {
        for at in Bits(self.changed) {
            if let Some((left, right)) = self.pair(at) {
                merges.prefetch(left, right);
            }
        }
    }

    /// Applies one rule; false if there is none left.
    #[inline(always)]
    fn step(&mut self, merges: &Merges) -> bool {
        for at in Bits(self.changed) {
            let rank = self.pair(at).map_or(NO_RULE, |(left, right)| merges.rank(left, right));
            self.pairs[at] = if rank == NO_RULE { NO_RULE } else { rank << POSITION_BITS | at as u32 };
        }
        let best = lowest(&self.pairs[..self.len.next_multiple_of(LANES)]);
        if best == NO_RULE {
            return false;
        }
        let at = best as usize % Self::MAX_IDS;
        let gone = (self.alive & !below(at + 1)).trailing_zeros() as usize % Self::MAX_IDS;
        self.ids[at] = merges.new_of(best >> POSITION_BITS);
        self.alive &= !(1 << gone);
        self.pairs[gone] = NO_RULE;
        let before = self.alive & below(at);
        self.changed = 1 << at | if before == 0 { 0 } else { 1 << before.ilog2() };
        self.fetch(merges);
        true
    }
}

/// Pieces to merge at a time: enough to hide the latency of memory, few enough for the nearest cache.
pub(super) const SIDE_BY_SIDE: usize = 16;

/// Merges all pieces to the end.
pub(super) fn merge(pieces: &mut [Short], merges: &Merges) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
    {
        // SAFETY: just detected.
        return unsafe { merge_avx512(pieces, merges) };
    }
    merge_in_turns(pieces, merges);
}

/// # Safety
/// The processor has these instructions.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn merge_avx512(pieces: &mut [Short], merges: &Merges) {
    merge_in_turns(pieces, merges);
}

#[inline(always)]
fn merge_in_turns(pieces: &mut [Short], merges: &Merges) {
    for piece in &mut *pieces {
        piece.fetch(merges);
    }
    let mut left = pieces.len();
    while left > 0 {
        for piece in &mut *pieces {
            if !piece.is_done && !piece.step(merges) {
                piece.is_done = true;
                left -= 1;
            }
        }
    }
}

/// The lowest of the numbers, whose count is a multiple of 16.
#[inline(always)]
fn lowest(pairs: &[u32]) -> u32 {
    let mut lowest = [NO_RULE; LANES];
    for chunk in pairs.as_chunks::<LANES>().0 {
        for (low, &pair) in lowest.iter_mut().zip(chunk) {
            *low = pair.min(*low);
        }
    }
    lowest.into_iter().fold(NO_RULE, u32::min)
}

#[cfg(test)]
mod tests {
    use super::super::reference;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_side_by_side_equal_the_naive_merge(
            rules in reference::merges(4, 12),
            pieces in proptest::collection::vec(proptest::collection::vec(0u32..4, 0..=Short::MAX_IDS), 0..6),
        ) {
            let table = Merges::new(rules.clone()).unwrap();
            let mut merged: Vec<Short> = pieces.iter().map(|ids| Short::new(ids)).collect();
            merge(&mut merged, &table);
            let mut portable: Vec<Short> = pieces.iter().map(|ids| Short::new(ids)).collect();
            merge_in_turns(&mut portable, &table);
            for ((merged, portable), ids) in merged.iter().zip(&portable).zip(&pieces) {
                let expected = reference::merge(&rules, ids);
                prop_assert_eq!(merged.ids().collect::<Vec<_>>(), expected.as_slice());
                prop_assert_eq!(portable.ids().collect::<Vec<_>>(), expected);
            }
        }
    }
}
