//! The merge rules, found by pair.

use bytemuck::{Pod, Zeroable};

use crate::pages::{Pages, prefetch};
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
/// No id: what has no token looks like this here.
const NO_ID: u32 = (1 << ID_BITS) - 1;
/// A slot without a rule.
const FREE: u64 = u64::MAX;
/// The rank of a pair without a rule; any rule comes first.
pub(super) const NO_RULE: u32 = u32::MAX;

#[inline(always)]
fn hash(key: u64) -> u64 {
    key.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// A table whose length is a power of two, with places by the highest bits of a hash.
#[derive(Debug)]
struct ByHash<T> {
    values: Pages<T>,
    shift: u32,
}

impl<T: Pod> ByHash<T> {
    /// At least `len` values, and at least two.
    fn new(len: usize, value: T) -> Self {
        let len = len.next_power_of_two().max(2);
        let mut values = Pages::zeroed(len);
        values.fill(value);
        Self { values, shift: 64 - len.ilog2() }
    }

    #[inline(always)]
    fn home(&self, hash: u64) -> usize {
        (hash >> self.shift) as usize
    }

    #[inline(always)]
    fn get(&self, home: usize) -> &T {
        debug_assert!(home < self.values.len());
        // SAFETY: all places are made by `home` and `after`, which give no number as high as the length.
        unsafe { self.values.get_unchecked(home) }
    }

    /// The place after another; the first follows the last.
    #[inline(always)]
    fn after(&self, home: usize) -> usize {
        (home + 1) & (self.values.len() - 1)
    }
}

/// Two bits from the middle of a hash, apart from those that say the place.
#[inline(always)]
fn two_bits(hash: u64) -> u64 {
    1 << (hash >> 20 & 63) | 1 << (hash >> 26 & 63)
}

/// The rules with a flat hash table from pair to rank.
#[derive(Debug)]
pub(super) struct Merges {
    list: Vec<Merge>,
    news: News,
    /// Two bits of a word for each pair with a rule. Most pairs that are asked for have none, and this table is
    /// small enough to stay in a near cache.
    filter: ByHash<u64>,
    /// A pair of ids and its rank in one word, in the line of its hash or, if that is full, in one of the next.
    lines: ByHash<Line>,
    /// The ranks of pairs of ids below 256, usually the bytes, where most merging starts.
    small: Pages<u32>,
}

/// What each rule makes, apart from the rest: this is read at every merge.
#[derive(Debug)]
enum News {
    /// In most vocabularies the ids of the rules follow each other.
    From(u32),
    Each(Vec<u32>),
}

impl News {
    fn of(list: &[Merge]) -> Self {
        let first = list.first().map_or(0, |rule| rule.new);
        if list.iter().zip(first..).all(|(rule, new)| rule.new == new) {
            Self::From(first)
        } else {
            Self::Each(list.iter().map(|rule| rule.new).collect())
        }
    }
}

/// One line of a cache.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u64; 8]);

impl Line {
    const EMPTY: Self = Self([FREE; 8]);

    /// The rank of a pair, or no rank.
    #[inline(always)]
    fn rank(&self, key: u64) -> u64 {
        // Without the right key, which no other slot has, the rank is all that is left.
        self.0.iter().fold(u64::MAX, |lowest, slot| lowest.min(slot ^ key << RANK_BITS))
    }

    /// Filled from the front.
    #[inline(always)]
    fn is_full(&self) -> bool {
        self.0[7] != FREE
    }
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
        let mut merges = Self {
            news: News::of(&list),
            filter: ByHash::new(list.len() / 8, 0),
            // Three quarters full at most.
            lines: ByHash::new(list.len() / 6 + 1, Line::EMPTY),
            small: Pages::zeroed(0),
            list,
        };
        for (rank, merge) in merges.list.iter().enumerate() {
            let &Merge { left, right, .. } = merge;
            if rank as u64 >= RANK || left.max(right) >= NO_ID {
                return Err(Error::value(format!(
                    "merge {rank} of tokens {left} and {right}: there is room for {RANK} merges and ids below {NO_ID}"
                )));
            }
            let first = merges.find(left, right);
            if first != NO_RULE {
                return Err(Error::value(format!(
                    "merge {rank} repeats merge {first}: tokens {left} and {right}"
                )));
            }
            let hash = hash(key(left, right));
            let mut at = merges.lines.home(hash);
            while merges.lines.get(at).is_full() {
                at = merges.lines.after(at);
            }
            let Line(slots) = &mut merges.lines.values[at];
            if let Some(slot) = slots.iter_mut().find(|slot| **slot == FREE) {
                *slot = key(left, right) << RANK_BITS | rank as u64;
            }
            let word = merges.filter.home(hash);
            merges.filter.values[word] |= two_bits(hash);
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

    /// The rank of the rule for a pair, or `NO_RULE`.
    #[inline(always)]
    pub(super) fn rank(&self, left: u32, right: u32) -> u32 {
        self.small(left, right).unwrap_or_else(|| self.find(left, right))
    }

    /// The rank of the rule for a pair of ids below 256 as [`Merges::rank`] gives it; nothing for other pairs.
    #[inline(always)]
    pub(super) fn small(&self, left: u32, right: u32) -> Option<u32> {
        (left.max(right) < SMALL).then(|| self.small[(left * SMALL + right) as usize])
    }

    /// Whether a pair may have a rule; starts to fetch what [`Merges::rank`] will read then.
    #[inline(always)]
    pub(super) fn may_have(&self, left: u32, right: u32) -> bool {
        let hash = hash(key(left, right));
        let bits = two_bits(hash);
        let may = self.filter.get(self.filter.home(hash)) & bits == bits;
        // Without a branch, which would be mispredicted half of the time: the first line is always near.
        prefetch(self.lines.get(self.lines.home(hash) & usize::from(may).wrapping_neg()));
        may
    }

    /// The token that the rule of a rank makes.
    #[inline(always)]
    pub(super) fn new_of(&self, rank: u32) -> u32 {
        match &self.news {
            News::From(first) => first + rank,
            News::Each(news) => news[rank as usize],
        }
    }

    /// [`Merges::rank`] from the lines.
    #[inline(always)]
    pub(super) fn find(&self, left: u32, right: u32) -> u32 {
        let key = key(left, right);
        let mut at = self.lines.home(hash(key));
        loop {
            let line = self.lines.get(at);
            let rank = line.rank(key);
            if rank < RANK {
                return rank as u32;
            }
            if !line.is_full() {
                return NO_RULE;
            }
            at = self.lines.after(at);
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
    fn what_is_no_id_has_no_rule() {
        let rules = vec![Merge { left: 0, right: 1, new: 2 }, Merge { left: NO_ID - 1, right: 1, new: 3 }];
        let merges = Merges::new(rules).unwrap();
        for (left, right) in [(u32::MAX, u32::MAX), (u32::MAX, 1), (0, u32::MAX), (NO_ID - 1, u32::MAX)] {
            assert_eq!(merges.rank(left, right), NO_RULE);
        }
        assert_eq!((merges.rank(0, 1), merges.rank(NO_ID - 1, 1)), (0, 1));
    }

    #[test]
    fn ids_without_room_are_refused() {
        let error = Merges::new(vec![Merge { left: 1 << 21, right: 1, new: 2 }]).unwrap_err();
        assert!(error.to_string().contains("ids below 2097151"), "{error}");
    }
}
