//! The merge rules, and their application to one piece in order of rank.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::hash;
use crate::{Error, Result};

/// One rule: `left` followed by `right` becomes `new`. The position in the list is the rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Merge {
    /// First token.
    pub left: u32,
    /// Second token.
    pub right: u32,
    /// The token of both.
    pub new: u32,
}

/// Pieces up to this length are merged by scanning for the lowest rank: quadratic, but with a small
/// constant, up to about where the heap gets faster (measured on random letters).
const SCAN_UP_TO: usize = 48;

/// The rules as a flat hash table from pair to (rank, new token).
#[derive(Debug)]
pub(super) struct Merges {
    list: Vec<Merge>,
    /// Open addressing with linear probing at most half full; `NO_PAIR` marks a free slot.
    slots: Vec<Slot>,
    mask: usize,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    pair: u64,
    rule: Rule,
}

#[derive(Debug, Clone, Copy)]
struct Rule {
    rank: u32,
    new: u32,
}

/// Not a pair: ids stay below `u32::MAX`.
const NO_PAIR: u64 = u64::MAX;
/// The rank of a pair without a rule; any rule comes first.
const NO_RULE: Rule = Rule { rank: u32::MAX, new: u32::MAX };

fn key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

impl Merges {
    /// Indexes the rules.
    ///
    /// # Errors
    /// [`Error::Value`] if two rules have the same pair: only one of the ranks could count.
    pub(super) fn new(list: Vec<Merge>) -> Result<Self> {
        let len = (2 * list.len()).next_power_of_two();
        let mut slots = vec![Slot { pair: NO_PAIR, rule: NO_RULE }; len];
        let mask = len - 1;
        for (rank, merge) in list.iter().enumerate() {
            let pair = key(merge.left, merge.right);
            let mut at = hash::fold(pair, 0) as usize & mask;
            while slots[at].pair != NO_PAIR {
                if slots[at].pair == pair {
                    let first = slots[at].rule.rank;
                    return Err(Error::value(format!(
                        "merge {rank} repeats merge {first}: tokens {} and {}",
                        merge.left, merge.right
                    )));
                }
                at = (at + 1) & mask;
            }
            slots[at] = Slot { pair, rule: Rule { rank: rank as u32, new: merge.new } };
        }
        Ok(Self { list, slots, mask })
    }

    pub(super) fn list(&self) -> &[Merge] {
        &self.list
    }

    #[inline]
    fn rule(&self, left: u32, right: u32) -> Rule {
        let pair = key(left, right);
        let mut at = hash::fold(pair, 0) as usize & self.mask;
        loop {
            let slot = self.slots[at];
            if slot.pair == pair {
                return slot.rule;
            }
            if slot.pair == NO_PAIR {
                return NO_RULE;
            }
            at = (at + 1) & self.mask;
        }
    }

    /// Applies the rules to the ids from `start` on: always the lowest rank first, and the leftmost pair of
    /// that rank. Takes O(n log n) for n ids.
    pub(super) fn apply(&self, ids: &mut Vec<u32>, start: usize, work: &mut Work) {
        let merged = if ids.len() - start <= SCAN_UP_TO {
            self.apply_by_scan(&mut ids[start..])
        } else {
            self.apply_by_heap(&mut ids[start..], work)
        };
        ids.truncate(start + merged);
    }

    /// Returns how many ids are left at the front.
    fn apply_by_scan(&self, ids: &mut [u32]) -> usize {
        let mut len = ids.len();
        let mut rules = [NO_RULE; SCAN_UP_TO];
        for (rule, pair) in rules.iter_mut().zip(ids.windows(2)) {
            *rule = self.rule(pair[0], pair[1]);
        }
        while len > 1 {
            let (mut best, mut rank) = (0, u32::MAX);
            for (i, rule) in rules[..len - 1].iter().enumerate() {
                if rule.rank < rank {
                    (best, rank) = (i, rule.rank);
                }
            }
            if rank == u32::MAX {
                break;
            }
            ids[best] = rules[best].new;
            ids.copy_within(best + 2..len, best + 1);
            rules.copy_within(best + 1..len - 1, best);
            len -= 1;
            if best > 0 {
                rules[best - 1] = self.rule(ids[best - 1], ids[best]);
            }
            if best + 1 < len {
                rules[best] = self.rule(ids[best], ids[best + 1]);
            }
        }
        len
    }

    /// The ids form a linked list; the heap holds (rank, position) of pairs, some of them out of date.
    fn apply_by_heap(&self, ids: &mut [u32], work: &mut Work) -> usize {
        let len = ids.len();
        let Work { heap, links } = work;
        links.clear();
        links.extend((0..len).map(|i| Link { previous: i.wrapping_sub(1) as u32, next: i as u32 + 1 }));
        let mut entries = std::mem::take(heap).into_vec();
        entries.clear();
        for (i, pair) in ids.windows(2).enumerate() {
            let rule = self.rule(pair[0], pair[1]);
            if rule.rank != u32::MAX {
                entries.push(Reverse(key(rule.rank, i as u32)));
            }
        }
        *heap = BinaryHeap::from(entries);
        while let Some(Reverse(entry)) = heap.pop() {
            let (rank, at) = ((entry >> 32) as u32, entry as u32 as usize);
            let next = links[at].next as usize;
            // A rank names one pair, so an entry is up to date when the pair still has its rank.
            if ids[at] == GONE || next == len || self.rule(ids[at], ids[next]).rank != rank {
                continue;
            }
            ids[at] = self.list[rank as usize].new;
            ids[next] = GONE;
            let after = links[next].next;
            links[at].next = after;
            let previous = links[at].previous;
            let mut push = |left: u32, right: u32| {
                let rule = self.rule(ids[left as usize], ids[right as usize]);
                if rule.rank != u32::MAX {
                    heap.push(Reverse(key(rule.rank, left)));
                }
            };
            if previous != NONE {
                push(previous, at as u32);
            }
            if (after as usize) < len {
                push(at as u32, after);
                links[after as usize].previous = at as u32;
            }
        }
        let mut kept = 0;
        for i in 0..len {
            if ids[i] != GONE {
                ids[kept] = ids[i];
                kept += 1;
            }
        }
        kept
    }
}

/// An id that was merged into the one on its left.
const GONE: u32 = u32::MAX;
/// The first position has nothing before it.
const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Link {
    previous: u32,
    next: u32,
}

/// Buffers of [`Merges::apply`], kept between calls.
#[derive(Debug, Default)]
pub(super) struct Work {
    heap: BinaryHeap<Reverse<u64>>,
    links: Vec<Link>,
}

#[cfg(test)]
mod tests {
    use super::super::reference;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn both_ways_equal_the_naive_merge(
            merges in reference::merges(4, 12),
            ids in proptest::collection::vec(0u32..4, 0..200),
        ) {
            let table = Merges::new(merges.clone()).unwrap();
            let expected = reference::merge(&merges, &ids);
            let mut by_heap = ids.clone();
            let len = table.apply_by_heap(&mut by_heap, &mut Work::default());
            prop_assert_eq!(&by_heap[..len], &expected);
            if ids.len() <= SCAN_UP_TO {
                let mut by_scan = ids.clone();
                let len = table.apply_by_scan(&mut by_scan);
                prop_assert_eq!(&by_scan[..len], &expected);
            }
        }
    }

    #[test]
    fn a_repeated_pair_is_refused() {
        let rule = Merge { left: 0, right: 1, new: 2 };
        let error = Merges::new(vec![rule, rule]).unwrap_err();
        assert!(error.to_string().contains("merge 1 repeats merge 0"), "{error}");
    }
}
