//! The merge rules, found by pair.

use super::pages::{Pages, prefetch};
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

/// Bits of an id and of a rank in a slot.
const ID_BITS: u32 = 21;
const RANK_BITS: u32 = 22;
const RANK: u64 = (1 << RANK_BITS) - 1;
/// A slot without a rule: no pair of ids is that large.
const FREE: u64 = u64::MAX;
/// The rank of a pair without a rule; any rule comes first.
pub(super) const NO_RULE: u32 = u32::MAX;

/// The rules with a flat hash table from pair to rank.
#[derive(Debug)]
pub(super) struct Merges {
    list: Vec<Merge>,
    /// What each rule makes, apart from the rest: this part is read at every merge.
    news: Vec<u32>,
    /// Open addressing with linear probing at most half full: a pair of ids and its rank in one word.
    slots: Pages<u64>,
    /// Brings a product down to a slot number.
    shift: u32,
    /// The ranks of pairs of ids below 256, usually the bytes, where most merging starts.
    small: Pages<u32>,
}

/// Ids in the table of small ones.
const SMALL: u32 = 256;

fn key(left: u32, right: u32) -> u64 {
    u64::from(left) << ID_BITS | u64::from(right)
}

impl Merges {
    /// Indexes the rules.
    ///
    /// # Errors
    /// [`Error::Value`] if two rules have the same pair, as only one of the ranks could count, or if there are
    /// more rules or ids than this tokenizer has room for.
    pub(super) fn new(list: Vec<Merge>) -> Result<Self> {
        let len = (2 * list.len()).next_power_of_two().max(2);
        let news = list.iter().map(|rule| rule.new).collect();
        let mut merges =
            Self { list, news, slots: Pages::zeroed(len), shift: 64 - len.ilog2(), small: Pages::zeroed(0) };
        merges.slots.fill(FREE);
        for (rank, merge) in merges.list.iter().enumerate() {
            let &Merge { left, right, .. } = merge;
            if rank as u64 >= RANK || left.max(right) >= 1 << ID_BITS {
                return Err(Error::value(format!(
                    "merge {rank} of tokens {left} and {right}: there is room for {RANK} merges and ids below {}",
                    1 << ID_BITS
                )));
            }
            let mut at = merges.home(key(left, right));
            while merges.slots[at] != FREE {
                if merges.slots[at] >> RANK_BITS == key(left, right) {
                    let first = merges.slots[at] & RANK;
                    return Err(Error::value(format!(
                        "merge {rank} repeats merge {first}: tokens {left} and {right}"
                    )));
                }
                at = (at + 1) & (len - 1);
            }
            merges.slots[at] = key(left, right) << RANK_BITS | rank as u64;
        }
        let mut small = Pages::zeroed((SMALL * SMALL) as usize);
        for left in 0..SMALL {
            for right in 0..SMALL {
                small[(left * SMALL + right) as usize] = merges.find(left, right);
            }
        }
        merges.small = small;
        Ok(merges)
    }

    pub(super) fn list(&self) -> &[Merge] {
        &self.list
    }

    #[inline(always)]
    fn home(&self, key: u64) -> usize {
        (key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> self.shift) as usize
    }

    /// The rank of the rule for a pair, or `NO_RULE`.
    #[inline(always)]
    pub(super) fn rank(&self, left: u32, right: u32) -> u32 {
        if left.max(right) < SMALL {
            self.small[(left * SMALL + right) as usize]
        } else {
            self.find(left, right)
        }
    }

    /// Starts to fetch what [`Merges::rank`] will read.
    #[inline(always)]
    pub(super) fn prefetch(&self, left: u32, right: u32) {
        if left.max(right) >= SMALL {
            prefetch(&self.slots[self.home(key(left, right))]);
        }
    }

    /// The token that the rule of a rank makes.
    #[inline(always)]
    pub(super) fn new_of(&self, rank: u32) -> u32 {
        self.news[rank as usize]
    }

    /// [`Merges::rank`] from the slots.
    #[inline(always)]
    fn find(&self, left: u32, right: u32) -> u32 {
        let key = key(left, right);
        let mut at = self.home(key);
        loop {
            let slot = self.slots[at];
            if slot >> RANK_BITS == key {
                return (slot & RANK) as u32;
            }
            if slot == FREE {
                return NO_RULE;
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }

    /// The rule that comes first among those for neighbours, as its rank and the position of the pair.
    pub(super) fn first(&self, ids: &[u32]) -> Option<(u32, usize)> {
        let ranks = ids.windows(2).map(|pair| self.rank(pair[0], pair[1]));
        ranks.zip(0..).min().filter(|&(rank, _)| rank != NO_RULE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_pair_is_refused() {
        let rule = Merge { left: 0, right: 1, new: 2 };
        let error = Merges::new(vec![rule, rule]).unwrap_err();
        assert!(error.to_string().contains("merge 1 repeats merge 0"), "{error}");
    }

    #[test]
    fn ids_without_room_are_refused() {
        let error = Merges::new(vec![Merge { left: 1 << 21, right: 1, new: 2 }]).unwrap_err();
        assert!(error.to_string().contains("ids below 2097152"), "{error}");
    }
}
