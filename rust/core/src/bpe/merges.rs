//! The merge rules, and their application to one piece in order of rank.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

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

    /// Applies the rules to the ids from `start` on: always the lowest rank first, and the leftmost pair of that rank.
    ///
    /// Windows are merged on their own and joined at a token that two of them agree on, which takes O(n) for n ids,
    /// and O(n log n) where tokens are about as long as a window.
    ///
    /// That is exact. Ids are what the merges give if and only if each two neighbours are what the merges give for
    /// their own bytes: no rule crosses a boundary that stays, and on each side of it rules apply in the same
    /// order with or without the rest. Here each two neighbours come from one window.
    pub(super) fn apply(&self, ids: &mut Vec<u32>, start: usize, work: &mut Work) {
        let len = ids.len() - start;
        let Work { heap, links, buffer, symbols, current, following } = work;
        symbols.clear();
        symbols.extend_from_slice(&ids[start..]);
        let mut merge = |from: usize, width: usize, tokens: &mut Vec<Token>| {
            buffer.clear();
            buffer.extend_from_slice(&symbols[from..len.min(from + width)]);
            self.apply_by_heap(buffer, heap, links);
            collect(buffer, from, tokens);
        };
        ids.truncate(start);
        let mut from = 0;
        merge(from, WINDOW, current);
        while from + WINDOW < len {
            // The next window starts at the last boundary that leaves some tokens to agree on.
            let resume = current.partition_point(|token| token.end as usize <= from + WINDOW - OVERLAP);
            from = current.get(resume).map_or(len, |token| token.start as usize);
            merge(from, WINDOW, following);
            let Some((taken, dropped)) = joint(&current[resume..], following) else {
                // Tokens about as long as the overlap, or an accident.
                ids.truncate(start);
                merge(0, len, current);
                break;
            };
            ids.extend(current[..resume + taken].iter().map(|token| token.id));
            following.drain(..dropped);
            std::mem::swap(current, following);
        }
        ids.extend(current.iter().map(|token| token.id));
    }

    /// The ids form a linked list; the heap holds (rank, position) of pairs, some of them out of date. An id that was
    /// merged into the one on its left becomes `GONE`.
    fn apply_by_heap(&self, ids: &mut [u32], heap: &mut Heap, links: &mut Vec<Link>) {
        let len = ids.len();
        links.clear();
        links.extend((0..len).map(|i| Link { previous: i.wrapping_sub(1) as u32, next: i as u32 + 1 }));
        let mut entries = std::mem::take(heap).into_vec();
        entries.clear();
        let entry = |rank: u32, at: u32| Reverse(u64::from(rank) << 32 | u64::from(at));
        for (i, pair) in ids.windows(2).enumerate() {
            let rank = self.rank(pair[0], pair[1]);
            if rank != NO_RULE {
                entries.push(entry(rank, i as u32));
            }
        }
        *heap = BinaryHeap::from(entries);
        while let Some(Reverse(best)) = heap.pop() {
            let (rank, at) = ((best >> 32) as u32, best as u32 as usize);
            let next = links[at].next as usize;
            let Merge { left, right, new } = self.list[rank as usize];
            // An entry is up to date when the pair there is still the one of its rank.
            if next == len || (ids[at], ids[next]) != (left, right) {
                continue;
            }
            ids[at] = new;
            ids[next] = GONE;
            let Link { previous, .. } = links[at];
            let after = links[next].next;
            links[at].next = after;
            let mut push = |left: u32, right: u32| {
                let rank = self.rank(ids[left as usize], ids[right as usize]);
                if rank != NO_RULE {
                    heap.push(entry(rank, left));
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
    }
}

/// Ids merged at a time in a long piece: few enough for the nearest cache.
const WINDOW: usize = 1024;
/// Ids that two windows share: room for several of the longest usual tokens.
const OVERLAP: usize = 256;

/// A token in a window and the ids it was made of, counted from the start of the piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Token {
    id: u32,
    start: u32,
    end: u32,
}

/// The tokens that [`Merges::apply_by_heap`] left, of which the first starts at `from`.
fn collect(ids: &[u32], from: usize, tokens: &mut Vec<Token>) {
    tokens.clear();
    for (i, &id) in ids.iter().enumerate() {
        let end = (from + i + 1) as u32;
        match tokens.last_mut() {
            Some(token) if id == GONE => token.end = end,
            _ => tokens.push(Token { id, start: end - 1, end }),
        }
    }
}

/// Numbers of tokens in both up to and with the first that is the same in both.
fn joint(current: &[Token], following: &[Token]) -> Option<(usize, usize)> {
    let (mut i, mut j) = (0, 0);
    loop {
        let (a, b) = (current.get(i)?, following.get(j)?);
        (i, j) = match a.end.cmp(&b.end) {
            Ordering::Equal if a == b => return Some((i + 1, j + 1)),
            Ordering::Equal => (i + 1, j + 1),
            Ordering::Less => (i + 1, j),
            Ordering::Greater => (i, j + 1),
        };
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

type Heap = BinaryHeap<Reverse<u64>>;

/// Buffers of [`Merges::apply`], kept between calls.
#[derive(Debug, Default)]
pub(super) struct Work {
    heap: Heap,
    links: Vec<Link>,
    buffer: Vec<u32>,
    symbols: Vec<u32>,
    current: Vec<Token>,
    following: Vec<Token>,
}

#[cfg(test)]
mod tests {
    use super::super::reference;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_heap_equals_the_naive_merge(
            merges in reference::merges(4, 12),
            ids in proptest::collection::vec(0u32..4, 0..200),
        ) {
            let table = Merges::new(merges.clone()).unwrap();
            let expected = reference::merge(&merges, &ids);
            let mut by_heap = ids.clone();
            table.apply_by_heap(&mut by_heap, &mut Heap::default(), &mut Vec::new());
            by_heap.retain(|&id| id != GONE);
            prop_assert_eq!(&by_heap, &expected);
        }

        #[test]
        fn windows_equal_the_whole(
            merges in reference::merges(4, 40),
            pattern in proptest::collection::vec(0u32..4, 1..60),
            changes in proptest::collection::vec((0usize..5000, 0u32..4), 0..40),
            len in 0usize..5000,
        ) {
            let table = Merges::new(merges).unwrap();
            let mut ids: Vec<u32> = pattern.into_iter().cycle().take(len).collect();
            for (at, id) in changes {
                if let Some(changed) = ids.get_mut(at) {
                    *changed = id;
                }
            }
            let mut whole = ids.clone();
            table.apply_by_heap(&mut whole, &mut Heap::default(), &mut Vec::new());
            whole.retain(|&id| id != GONE);
            ids.insert(0, 99);
            table.apply(&mut ids, 1, &mut Work::default());
            prop_assert_eq!(&ids[1..], &whole);
            prop_assert_eq!(ids[0], 99);
        }
    }

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
