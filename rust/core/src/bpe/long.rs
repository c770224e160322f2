//! Merging one long piece.
//!
//! Windows of it are merged on their own and joined at a token that two of them agree on, which takes O(n) for n ids,
//! and O(n log n) where tokens are about as long as a window.
//!
//! That is exact. Ids are what the merges give if and only if each two neighbours are what the merges give for their
//! own bytes: no rule crosses a boundary that stays, and on each side of it rules apply in the same order with or
//! without the rest. Here each two neighbours come from one window.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::merges::{Merge, Merges, NO_RULE};
use super::short::{self, Group, MAX_IDS};
use crate::{Error, Result};

/// Ids from the start of a short window to that of the next; those they share have room for several usual tokens.
const STRIDE: usize = MAX_IDS - 24;

/// Ids merged at a time where tokens are too long for short windows, such as those of many spaces, and how many of
/// them two windows share.
const LARGE: Width = Width { window: 1024, overlap: 256 };

#[derive(Debug, Clone, Copy)]
struct Width {
    window: usize,
    overlap: usize,
}

/// Positions in a piece have 32 bits, and the highest number is taken.
pub(super) const MAX_BYTES: usize = u32::MAX as usize - 1;

/// Refuses a piece that is too long to be merged, before anything is done with it.
///
/// # Errors
/// [`Error::Value`] that says how many bytes there may be at `most`.
pub(super) fn check_len(piece: &[u8], most: usize) -> Result<()> {
    if piece.len() <= most {
        return Ok(());
    }
    Err(Error::value(format!(
        "{} bytes without a place where the pattern cuts: at most {most} can be merged; cut the text before it \
         is encoded",
        piece.len()
    )))
}

/// Applies the rules to the ids from `start` on: always the lowest rank first, and the leftmost pair of that rank.
pub(super) fn merge(merges: &Merges, ids: &mut Vec<u32>, start: usize, work: &mut Work) {
    let mut symbols = std::mem::take(&mut work.symbols);
    symbols.clear();
    symbols.extend_from_slice(&ids[start..]);
    ids.truncate(start);
    let whole = Width { window: symbols.len(), overlap: 0 };
    let is_done = (!is_periodic(&symbols) && by_short_windows(merges, &symbols, work, ids))
        || by_windows(merges, &symbols, LARGE, work, ids)
        || by_windows(merges, &symbols, whole, work, ids);
    debug_assert!(is_done, "one window of the whole has nothing to agree with");
    work.symbols = symbols;
}

/// Whether the start repeats a few symbols: most of its windows will be equal, and its tokens may be long.
fn is_periodic(symbols: &[u32]) -> bool {
    let start = &symbols[..symbols.len().min(LARGE.window)];
    start.len() > MAX_IDS && (1..=8).any(|period| start[period..] == start[..start.len() - period])
}

/// Appends the ids of all symbols; or nothing, and false, where two windows do not agree. Windows start anywhere, so
/// many are merged side by side.
fn by_short_windows(merges: &Merges, symbols: &[u32], work: &mut Work, ids: &mut Vec<u32>) -> bool {
    let start = ids.len();
    let Work { short, current, following, .. } = work;
    let mut taken = 0;
    let last = symbols.len().saturating_sub(MAX_IDS).div_ceil(STRIDE);
    for first in (0..=last).step_by(short::SIDE_BY_SIDE) {
        let windows = first..(first + short::SIDE_BY_SIDE).min(last + 1);
        let symbols_of = |at: usize| &symbols[at..symbols.len().min(at + MAX_IDS)];
        short.clear();
        windows.clone().for_each(|window| short.add(symbols_of(window * STRIDE)));
        for (window, piece) in windows.zip(short.merge(merges)) {
            let from = window * STRIDE;
            following.clear();
            following
                .extend(piece.spans().map(|(id, span)| Token::new(id, from + span.start, from + span.end)));
            if window > 0 {
                let resume = current.partition_point(|token| token.end as usize <= from).max(taken);
                let Some((agreed, dropped)) = joint(&current[resume..], following) else {
                    ids.truncate(start);
                    return false;
                };
                ids.extend(current[taken..resume + agreed].iter().map(|token| token.id));
                taken = dropped;
            }
            std::mem::swap(current, following);
        }
    }
    ids.extend(current[taken..].iter().map(|token| token.id));
    true
}

/// Appends the ids of all symbols; or nothing, and false, where two windows do not agree. Each window starts at a
/// boundary of the one before.
fn by_windows(merges: &Merges, symbols: &[u32], width: Width, work: &mut Work, ids: &mut Vec<u32>) -> bool {
    let Width { window, overlap } = width;
    let start = ids.len();
    let mut current = std::mem::take(&mut work.current);
    let mut following = std::mem::take(&mut work.following);
    merge_window(merges, symbols, 0, window, work, &mut current);
    // Where the window is, and how many of its tokens are among the ids already.
    let (mut from, mut taken) = (0, 0);
    let is_done = loop {
        if from + window >= symbols.len() {
            break true;
        }
        // The next window starts at the last boundary that leaves some tokens to agree on.
        let resume =
            current.partition_point(|token| token.end as usize <= from + window - overlap).max(taken);
        let Some(next) = current.get(resume).map(|token| token.start as usize).filter(|&next| next > from)
        else {
            break false;
        };
        let same = symbols.get(next..next + window) == Some(&symbols[from..from + window]);
        if same {
            let shift = (next - from) as u32;
            following.clear();
            following.extend(current.iter().map(|token| token.shifted(shift)));
        } else {
            merge_window(merges, symbols, next, window, work, &mut following);
        }
        let Some((agreed, dropped)) = joint(&current[resume..], &following) else { break false };
        ids.extend(current[taken..resume + agreed].iter().map(|token| token.id));
        std::mem::swap(&mut current, &mut following);
        (from, taken) = (next, dropped);
    };
    if is_done {
        ids.extend(current[taken..].iter().map(|token| token.id));
    } else {
        ids.truncate(start);
    }
    (work.current, work.following) = (current, following);
    is_done
}

/// The tokens of the window at `from`.
fn merge_window(
    merges: &Merges,
    symbols: &[u32],
    from: usize,
    window: usize,
    work: &mut Work,
    tokens: &mut Vec<Token>,
) {
    let symbols = &symbols[from..symbols.len().min(from + window)];
    tokens.clear();
    let Work { heap, links, buffer, .. } = work;
    buffer.clear();
    buffer.extend_from_slice(symbols);
    merge_by_heap(merges, buffer, heap, links);
    collect(buffer, from, tokens);
}

/// The ids form a linked list; the heap holds (rank, position) of pairs, some of them out of date. An id that was
/// merged into the one on its left becomes `GONE`.
fn merge_by_heap(merges: &Merges, ids: &mut [u32], heap: &mut Heap, links: &mut Vec<Link>) {
    let len = ids.len();
    links.clear();
    links.extend((0..len).map(|i| Link { previous: i.wrapping_sub(1) as u32, next: i as u32 + 1 }));
    let mut entries = std::mem::take(heap).into_vec();
    entries.clear();
    let entry = |rank: u32, at: u32| Reverse(u64::from(rank) << 32 | u64::from(at));
    for (i, pair) in ids.windows(2).enumerate() {
        let rank = merges.rank(pair[0], pair[1]);
        if rank != NO_RULE {
            entries.push(entry(rank, i as u32));
        }
    }
    *heap = BinaryHeap::from(entries);
    while let Some(Reverse(best)) = heap.pop() {
        let (rank, at) = ((best >> 32) as u32, best as u32 as usize);
        let next = links[at].next as usize;
        let Merge { left, right, new } = merges.list()[rank as usize];
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
            let rank = merges.rank(ids[left as usize], ids[right as usize]);
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

/// A token in a window and the ids it was made of, counted from the start of the piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Token {
    id: u32,
    start: u32,
    end: u32,
}

impl Token {
    fn new(id: u32, start: usize, end: usize) -> Self {
        Self { id, start: start as u32, end: end as u32 }
    }

    fn shifted(self, by: u32) -> Self {
        Self { start: self.start + by, end: self.end + by, ..self }
    }
}

/// Appends the tokens that [`merge_by_heap`] left, of which the first starts at `from`.
fn collect(ids: &[u32], from: usize, tokens: &mut Vec<Token>) {
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

/// Buffers of [`merge`], kept between calls.
#[derive(Debug, Default)]
pub(super) struct Work {
    heap: Heap,
    links: Vec<Link>,
    buffer: Vec<u32>,
    symbols: Vec<u32>,
    short: Group<MAX_IDS>,
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
            merge_by_heap(&table, &mut by_heap, &mut Heap::default(), &mut Vec::new());
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
            merge_by_heap(&table, &mut whole, &mut Heap::default(), &mut Vec::new());
            whole.retain(|&id| id != GONE);
            ids.insert(0, 99);
            merge(&table, &mut ids, 1, &mut Work::default());
            prop_assert_eq!(&ids[1..], &whole);
            prop_assert_eq!(ids[0], 99);
        }
    }
}
