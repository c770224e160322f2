//! The unique pieces as one array of symbols that merges shrink in place.

use crate::pages::prefetch;
use crate::{Error, Result};

/// Between words; not a token.
pub(super) const BOUNDARY: u32 = u32::MAX;
/// The first byte of a token that was merged into the one on its left; not a token.
const GONE: u32 = u32::MAX - 1;

/// All words, one place for each byte and one between words.
///
/// A token of n bytes covers n places and is written to the first and the last of them, so both neighbours
/// are found without links: the next token starts n places on, the one before ends just ahead. Places in the
/// middle hold what was there before. Words are ordered by count, so a count is a property of a range.
#[derive(Debug)]
pub(super) struct Words {
    symbols: Vec<u32>,
    /// Where each distinct count starts, from the highest count on.
    ranges: Vec<Range>,
}

#[derive(Debug, Clone, Copy)]
struct Range {
    start: u32,
    count: u64,
}

/// The count of the word at a position; remembers the range of the last answer.
#[derive(Debug, Default)]
pub(super) struct Counts {
    start: u32,
    end: u32,
    count: u64,
}

impl Words {
    /// An array for words that come in order of falling counts, with `num_bytes` bytes together.
    ///
    /// # Errors
    /// [`Error::Value`] if positions do not fit 32 bits.
    pub(super) fn with_capacity(num_words: usize, num_bytes: usize) -> Result<Self> {
        let places = num_words + num_bytes + 1;
        if places >= GONE as usize {
            return Err(Error::value(format!(
                "the texts have {num_bytes} bytes of different pieces, at most 4 GiB can be learned from; \
                 train on a sample"
            )));
        }
        let mut symbols = Vec::with_capacity(places);
        symbols.push(BOUNDARY);
        Ok(Self { symbols, ranges: Vec::new() })
    }

    /// Appends a word given as tokens with their lengths in bytes.
    pub(super) fn push(&mut self, tokens: impl Iterator<Item = (u32, u32)>, count: u64) {
        if self.ranges.last().is_none_or(|last| last.count != count) {
            debug_assert!(self.ranges.last().is_none_or(|last| last.count > count));
            self.ranges.push(Range { start: self.symbols.len() as u32, count });
        }
        for (token, len) in tokens {
            self.symbols.push(token);
            if len > 1 {
                let end = self.symbols.len() + len as usize - 1;
                self.symbols.resize(end - 1, GONE);
                self.symbols.push(token);
            }
        }
        self.symbols.push(BOUNDARY);
    }

    /// Asks the processor for what a merge at this position into a token of `len` bytes reads.
    #[inline]
    pub(super) fn prefetch(&self, position: u32, len: u32) {
        let before = position as usize - 1;
        if let (Some(before), Some(after)) =
            (self.symbols.get(before), self.symbols.get(before + 1 + len as usize))
        {
            prefetch(before);
            prefetch(after);
        }
    }

    /// The token that starts at a position where one started before; something else if it was merged away.
    #[inline]
    pub(super) fn at(&self, position: u32) -> u32 {
        self.symbols[position as usize]
    }

    /// The token that ends before `position`, where a token starts; [`BOUNDARY`] at the start of a word.
    #[inline]
    pub(super) fn before(&self, position: u32) -> u32 {
        self.symbols[position as usize - 1]
    }

    /// Makes one token of the two that start at `first` and `second` and end before `end`.
    #[inline]
    pub(super) fn join(&mut self, first: u32, second: u32, end: u32, new: u32) {
        self.symbols[first as usize] = new;
        self.symbols[second as usize] = GONE;
        self.symbols[end as usize - 1] = new;
    }

    /// How often the word at a position occurs.
    #[inline]
    pub(super) fn count(&self, position: u32, last: &mut Counts) -> u64 {
        if position < last.start || position >= last.end {
            let next = self.ranges.partition_point(|range| range.start <= position);
            let Range { start, count } = self.ranges[next - 1];
            let end = self.ranges.get(next).map_or(u32::MAX, |range| range.start);
            *last = Counts { start, end, count };
        }
        last.count
    }

    /// Calls `visit(position, left, right, count)` for every two neighbours.
    pub(super) fn for_each_pair(&self, lens: &[u32], mut visit: impl FnMut(u32, u32, u32, u64)) {
        let (mut counts, mut position) = (Counts::default(), 1);
        while (position as usize) < self.symbols.len() {
            let left = self.at(position);
            let mut next = position + 1;
            if left != BOUNDARY {
                next = position + lens[left as usize];
                let right = self.at(next);
                if right != BOUNDARY {
                    visit(position, left, right, self.count(position, &mut counts));
                }
            }
            position = next;
        }
    }
}
