//! Merging several short pieces side by side.
//!
//! A merge needs the rules of the pairs that the one before it made, so one piece alone waits for memory at every
//! step. Taking turns, the rules of one piece are fetched while the others are at work.

use std::ops::Range;

use super::merges::{Merges, NO_RULE};
use super::pretokenize::{Bits, below};

/// Ids of the longest pieces here: positions fit a mask.
pub(super) const MAX_IDS: usize = 64;
/// Ids of most pieces.
pub(super) const FEW_IDS: usize = 16;

/// A piece of at most `N` ids, which is a multiple of 16 up to [`MAX_IDS`]. Which positions still hold an id is a
/// mask; each pair with a rule is one number, which orders by rank, then position.
#[derive(Debug, Clone)]
pub(super) struct Short<const N: usize> {
    ids: [u32; N],
    pairs: [u32; N],
    alive: u64,
    /// Positions of the pairs whose rule is not looked up yet.
    changed: u64,
    len: usize,
}

/// Bits of a position.
const POSITION_BITS: u32 = MAX_IDS.ilog2();
/// Numbers that are compared at once.
const LANES: usize = 16;

impl<const N: usize> Short<N> {
    const EMPTY: Self = Self { ids: [0; N], pairs: [NO_RULE; N], alive: 0, changed: 0, len: 0 };

    /// Becomes a piece that consists of at most `N` ids.
    fn set_to(&mut self, ids: &[u32]) {
        let len = ids.len();
        self.ids[..len].copy_from_slice(ids);
        self.pairs[..len.next_multiple_of(LANES)].fill(NO_RULE);
        (self.alive, self.changed, self.len) = (below(len), 0, len);
    }

    /// Appends the ids that are left.
    pub(super) fn append_to(&self, ids: &mut Vec<u32>) {
        ids.reserve(N);
        ids.extend(Bits(self.alive).map(|at| self.ids[at % N]));
    }

    /// The ids that are left, each with the positions that it stands for.
    pub(super) fn spans(&self) -> impl Iterator<Item = (u32, Range<usize>)> {
        Bits(self.alive).map(|at| {
            let after = self.alive & !below(at + 1);
            let end = if after == 0 { self.len } else { after.trailing_zeros() as usize };
            (self.ids[at], at..end)
        })
    }

    #[inline(always)]
    fn set(&mut self, at: usize, rank: u32) {
        self.pairs[at % N] = if rank == NO_RULE { NO_RULE } else { rank << POSITION_BITS | at as u32 };
    }

    /// Ranks of pairs that are near; the others may follow.
    #[inline(always)]
    fn start(&mut self, merges: &Merges) {
        for at in 0..self.len.saturating_sub(1) {
            let (left, right) = (self.ids[at % N], self.ids[(at + 1) % N]);
            match merges.small(left, right) {
                Some(rank) => self.set(at, rank),
                None => self.note(at, left, right, merges),
            }
        }
    }

    /// A new pair at a position.
    #[inline(always)]
    fn note(&mut self, at: usize, left: u32, right: u32, merges: &Merges) {
        self.pairs[at % N] = NO_RULE;
        self.changed |= u64::from(merges.may_have(left, right)) << at;
    }

    /// Finds the rules that were not near.
    #[inline(always)]
    fn look_up(&mut self, merges: &Merges) {
        for at in Bits(std::mem::take(&mut self.changed)) {
            let after = self.alive & !below(at + 1);
            let (left, right) = (self.ids[at % N], self.ids[after.trailing_zeros() as usize % N]);
            self.set(at, merges.find(left, right));
        }
    }

    /// Applies one rule; false if there is none left.
    #[inline(always)]
    fn step(&mut self, merges: &Merges) -> bool {
        let chunks = if N == LANES { 1 } else { self.len.div_ceil(LANES) };
        let best = lowest(&self.pairs.as_chunks().0[..chunks]);
        if best == NO_RULE {
            return false;
        }
        let at = best as usize % MAX_IDS % N;
        let after = self.alive & !below(at + 1);
        let gone = after.trailing_zeros() as usize;
        self.alive &= !(1 << gone);
        self.pairs[gone % N] = NO_RULE;
        let new = merges.new_of(best >> POSITION_BITS);
        self.ids[at] = new;
        let (before, after) = (self.alive & below(at), after & (after - 1));
        if before != 0 {
            let before = before.ilog2() as usize;
            self.note(before, self.ids[before % N], new, merges);
        }
        if after != 0 {
            self.note(at, new, self.ids[after.trailing_zeros() as usize % N], merges);
        } else {
            self.pairs[at] = NO_RULE;
        }
        true
    }
}

/// Pieces to merge, in memory that is used again.
#[derive(Debug, Clone, Default)]
pub(super) struct Group<const N: usize> {
    pieces: Vec<Short<N>>,
    len: usize,
}

impl<const N: usize> Group<N> {
    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// Adds a piece that consists of at most `N` ids.
    pub(super) fn add(&mut self, ids: &[u32]) {
        if self.len == self.pieces.len() {
            self.pieces.push(Short::EMPTY);
        }
        self.pieces[self.len].set_to(ids);
        self.len += 1;
    }

    /// Merges all pieces to the end, and gives them in the order in which they came.
    pub(super) fn merge(&mut self, merges: &Merges) -> std::slice::Iter<'_, Short<N>> {
        let pieces = &mut self.pieces[..self.len];
        merge(pieces, merges);
        pieces.iter()
    }
}

/// Pieces to merge at a time: enough to hide the latency of memory, few enough for the nearest cache.
pub(super) const SIDE_BY_SIDE: usize = 32;

/// Merges all pieces to the end.
fn merge<const N: usize>(pieces: &mut [Short<N>], merges: &Merges) {
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
unsafe fn merge_avx512<const N: usize>(pieces: &mut [Short<N>], merges: &Merges) {
    merge_in_turns(pieces, merges);
}

#[inline(always)]
fn merge_in_turns<const N: usize>(pieces: &mut [Short<N>], merges: &Merges) {
    for pieces in pieces.chunks_mut(SIDE_BY_SIDE) {
        for piece in &mut *pieces {
            piece.start(merges);
        }
        let mut unfinished = below(pieces.len());
        while unfinished != 0 {
            for at in Bits(unfinished) {
                pieces[at].look_up(merges);
            }
            for at in Bits(unfinished) {
                if !pieces[at].step(merges) {
                    unfinished &= !(1 << at);
                }
            }
        }
    }
}

/// The lowest of the numbers.
#[inline(always)]
fn lowest(pairs: &[[u32; LANES]]) -> u32 {
    pairs.iter().fold(NO_RULE, |low, chunk| chunk.iter().fold(low, |low, &pair| low.min(pair)))
}

#[cfg(test)]
mod tests {
    use super::super::merges::Merge;
    use super::super::reference;
    use super::*;
    use proptest::prelude::*;

    fn equal_the_naive_merge<const N: usize>(rules: &[Merge], pieces: &[Vec<u32>]) {
        let table = Merges::new(rules.to_vec()).unwrap();
        let mut group = Group::<N>::default();
        // What earlier pieces leave behind does no harm.
        group.add(&[1; N]);
        let _ = group.merge(&table);
        group.clear();
        for ids in pieces {
            group.add(ids);
        }
        let mut portable = group.pieces.clone();
        merge_in_turns(&mut portable[..pieces.len()], &table);
        for ((merged, portable), ids) in group.merge(&table).zip(&portable).zip(pieces) {
            let expected = reference::merge(rules, ids);
            for piece in [merged, portable] {
                let mut ids = Vec::new();
                piece.append_to(&mut ids);
                assert_eq!(ids, expected);
                assert_eq!(piece.spans().map(|(id, _)| id).collect::<Vec<_>>(), expected);
            }
        }
    }

    proptest! {
        #[test]
        fn pieces_side_by_side_equal_the_naive_merge(
            rules in reference::merges(4, 12),
            pieces in proptest::collection::vec(proptest::collection::vec(0u32..4, 0..=MAX_IDS), 0..40),
        ) {
            equal_the_naive_merge::<MAX_IDS>(&rules, &pieces);
            let pieces: Vec<_> = pieces.into_iter().filter(|ids| ids.len() <= FEW_IDS).collect();
            equal_the_naive_merge::<FEW_IDS>(&rules, &pieces);
        }
    }
}
