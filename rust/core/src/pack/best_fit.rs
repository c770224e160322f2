//! Best-fit decreasing: documents into rows of a fixed number of positions.
//!
//! A document of `n` tokens has `n - 1` positions, each a token and the one it predicts; documents of fewer than
//! two tokens have none. Documents longer than a row are cut, and the token at a cut is the last target of one
//! piece and the first input of the next, so every token but the first of a document is a target exactly once.

use crate::ragged::check_offsets;
use crate::{Error, Ragged, Result};

/// Positions `start..stop` of the token stream: inputs `start..stop`, targets `start + 1..=stop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First input.
    pub start: i64,
    /// One past the last input, and the last target.
    pub stop: i64,
}

impl Span {
    /// Number of positions.
    pub fn positions(self) -> usize {
        (self.stop - self.start) as usize
    }
}

/// Assigns the documents between `offsets` to rows of at most `row_len` positions.
///
/// Pieces are taken longest first, equally long ones in corpus order, and each goes to the fullest row that has
/// room for it; among equally full rows to the one that was filled last. Pieces as long as a row come first.
///
/// # Errors
/// [`Error::Value`] if the row length is not in `1..2^31`, the offsets decrease, or there are over 2^32 rows.
pub fn plan_rows(offsets: &[i64], row_len: usize) -> Result<Ragged<Span>> {
    if row_len == 0 || row_len >= 1 << 31 {
        return Err(Error::value(format!("rows need 1 to 2^31 - 1 positions, got {row_len}")));
    }
    check_offsets(offsets, offsets.last().map_or(0, |&last| last as usize))?;
    let step = row_len as i64;
    let mut rows = Ragged::default();
    let mut short: Vec<Span> = Vec::new();
    for document in offsets.windows(2) {
        let (mut start, end) = (document[0], document[1] - 1);
        while end - start >= step {
            rows.values.push(Span { start, stop: start + step });
            rows.end_row();
            start += step;
        }
        if start < end {
            short.push(Span { start, stop: end });
        }
    }
    let (row_of, num_rows) = fill(&mut short, row_len)?;
    append_by_row(&short, &row_of, num_rows, &mut rows);
    Ok(rows)
}

/// Sorts the pieces longest first and gives each the number of its row.
fn fill(pieces: &mut [Span], row_len: usize) -> Result<(Vec<u32>, u32)> {
    pieces.sort_by_key(|piece| std::cmp::Reverse(piece.positions())); // stable: ties stay in corpus order
    let mut open = OpenRows::new(row_len);
    let mut num_rows = 0;
    let mut row_of = Vec::with_capacity(pieces.len());
    for piece in &*pieces {
        let len = piece.positions();
        let (row, room) = match open.take_fullest(len) {
            Some(found) => found,
            None if num_rows == u32::MAX => return Err(Error::value("more than 2^32 rows; use longer rows")),
            None => {
                num_rows += 1;
                (num_rows - 1, row_len)
            }
        };
        open.put(row, room - len);
        row_of.push(row);
    }
    Ok((row_of, num_rows))
}

/// A counting sort of the pieces by row, which keeps their order within a row.
fn append_by_row(pieces: &[Span], row_of: &[u32], num_rows: u32, rows: &mut Ragged<Span>) {
    let mut next = vec![0usize; num_rows as usize + 1];
    for &row in row_of {
        next[row as usize + 1] += 1;
    }
    let first = rows.values.len();
    next[0] = first;
    for row in 0..num_rows as usize {
        next[row + 1] += next[row];
        rows.offsets.push(next[row + 1] as i64);
    }
    rows.values.resize(first + pieces.len(), Span { start: 0, stop: 0 });
    for (piece, &row) in pieces.iter().zip(row_of) {
        rows.values[next[row as usize]] = *piece;
        next[row as usize] += 1;
    }
}

/// Rows by the room they have left: a stack for each amount, and a tree of bits over the stacks that are not
/// empty, so that the fullest row with enough room is found in a few instructions.
struct OpenRows {
    /// The last row with this much room, or `NONE`.
    heads: Vec<u32>,
    /// The row below each row in its stack.
    below: Vec<u32>,
    /// Bit `i` of level 0: stack `i` is not empty. Bit `i` of level `k + 1`: word `i` of level `k` is not zero.
    levels: Vec<Vec<u64>>,
}

const NONE: u32 = u32::MAX;

impl OpenRows {
    fn new(row_len: usize) -> Self {
        let mut levels = vec![vec![0u64; row_len / 64 + 1]];
        while let Some(words) = levels.last().map(Vec::len).filter(|&words| words > 1) {
            levels.push(vec![0; words.div_ceil(64)]);
        }
        Self { heads: vec![NONE; row_len + 1], below: Vec::new(), levels }
    }

    fn put(&mut self, row: u32, room: usize) {
        if self.below.len() <= row as usize {
            self.below.resize(row as usize + 1, NONE);
        }
        self.below[row as usize] = std::mem::replace(&mut self.heads[room], row);
        let mut at = room;
        for words in &mut self.levels {
            words[at / 64] |= 1 << (at % 64);
            at /= 64;
        }
    }

    /// Removes the fullest row with room for `len`, with the room it has.
    fn take_fullest(&mut self, len: usize) -> Option<(u32, usize)> {
        let room = self.first_at_least(len)?;
        let row = self.heads[room];
        self.heads[room] = self.below[row as usize];
        let mut at = room;
        let mut is_empty = self.heads[room] == NONE;
        for words in &mut self.levels {
            if !is_empty {
                break;
            }
            words[at / 64] &= !(1 << (at % 64));
            is_empty = words[at / 64] == 0;
            at /= 64;
        }
        Some((row, room))
    }

    fn first_at_least(&self, len: usize) -> Option<usize> {
        let mut at = len;
        for level in 0..self.levels.len() {
            let word = self.levels[level].get(at / 64).map_or(0, |word| word & (u64::MAX << (at % 64)));
            if word != 0 {
                let mut found = at / 64 * 64 + word.trailing_zeros() as usize;
                for lower in self.levels[..level].iter().rev() {
                    found = found * 64 + lower[found].trailing_zeros() as usize;
                }
                return Some(found);
            }
            at = at / 64 + 1; // the word at `at` itself has been searched
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The rule of [`plan_rows`] word for word, in quadratic time.
    fn reference(offsets: &[i64], row_len: usize) -> Vec<Vec<Span>> {
        let step = row_len as i64;
        let mut pieces = Vec::new();
        for document in offsets.windows(2) {
            let mut start = document[0];
            while start < document[1] - 1 {
                let stop = (document[1] - 1).min(start + step);
                pieces.push(Span { start, stop });
                start = stop;
            }
        }
        pieces.sort_by_key(|piece| std::cmp::Reverse(piece.positions()));
        let mut rows: Vec<(usize, usize, Vec<Span>)> = Vec::new(); // room, when it was last filled, pieces
        for (now, piece) in pieces.into_iter().enumerate() {
            let len = piece.positions();
            let best = (0..rows.len())
                .filter(|&row| rows[row].0 >= len)
                .min_by_key(|&row| (rows[row].0, std::cmp::Reverse(rows[row].1)));
            match best {
                Some(row) => {
                    rows[row].0 -= len;
                    rows[row].1 = now;
                    rows[row].2.push(piece);
                }
                None => rows.push((row_len - len, now, vec![piece])),
            }
        }
        rows.into_iter().map(|(_, _, pieces)| pieces).collect()
    }

    proptest! {
        #[test]
        fn rows_are_those_of_the_quadratic_rule(
            lengths in prop::collection::vec(0i64..200, 0..80), row_len in 1usize..150,
        ) {
            let mut offsets = vec![0];
            offsets.extend(lengths.iter().scan(0, |at, len| { *at += len; Some(*at) }));
            let rows = plan_rows(&offsets, row_len).unwrap();
            let expected = reference(&offsets, row_len);
            prop_assert_eq!(rows.rows().map(<[Span]>::to_vec).collect::<Vec<_>>(), expected);
        }

        #[test]
        fn the_fullest_row_is_found_for_any_row_length(
            rooms in prop::collection::vec(0usize..9000, 1..50), len in 0usize..9000,
        ) {
            let mut open = OpenRows::new(9000);
            rooms.iter().enumerate().for_each(|(row, &room)| open.put(row as u32, room));
            let mut expected: Vec<usize> = rooms.into_iter().filter(|&room| room >= len).collect();
            expected.sort_unstable();
            let found: Vec<usize> = std::iter::from_fn(|| open.take_fullest(len)).map(|(_, room)| room).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn bad_arguments_are_refused() {
        assert!(plan_rows(&[0, 3], 0).is_err());
        assert!(plan_rows(&[0, 3, 2], 4).is_err());
        assert!(plan_rows(&[0], 4).unwrap().is_empty());
    }
}
