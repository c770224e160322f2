//! Pieces already merged that a [`PieceCache`](super::cache::PieceCache) has no room for, in a log of bounded size.
//!
//! Ids and bytes of each piece are appended to a ring, over what is oldest, and found by hash. It only remembers what
//! the merges gave, so results never depend on what it holds.

use bytemuck::{Pod, Zeroable};

use crate::pages::{Pages, prefetch};

/// 16 MiB of ids and bytes.
const NUM_WORDS: usize = 1 << 22;
/// 2 MiB of places: about as many as there is room for usual pieces.
const NUM_LINES: usize = 1 << 15;
/// Longest piece, in bytes: longer ones hardly come again.
const MAX_BYTES: usize = 255;

/// Where in the log pieces are. One cache line; for each piece some bits of its hash above the number of words written
/// before it.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u64; 8]);

/// Bits of a number of words.
const POSITION_BITS: u32 = 40;
const POSITION: u64 = (1 << POSITION_BITS) - 1;

/// Words of an entry: the numbers of ids and of bytes, the ids, the bytes.
#[derive(Debug)]
pub(super) struct Log {
    words: Pages<u32>,
    lines: Pages<Line>,
    /// Words written so far, with those left out at the end of the ring.
    written: u64,
}

impl Log {
    pub(super) fn new() -> Self {
        let mut log = Self { words: Pages::zeroed(NUM_WORDS), lines: Pages::zeroed(NUM_LINES), written: 0 };
        log.clear();
        log
    }

    /// Positions start behind one round, so that no zero is the position of an entry.
    fn clear(&mut self) {
        self.lines.fill(Line::zeroed());
        self.written = NUM_WORDS as u64 + 1;
    }

    fn line(&self, hash: u64) -> &Line {
        &self.lines[hash as usize % NUM_LINES]
    }

    /// Brings the place of a piece near.
    #[inline]
    pub(super) fn prefetch(&self, hash: u64) {
        prefetch(self.line(hash));
    }

    /// Where pieces of this hash may be.
    #[inline]
    fn positions(&self, hash: u64) -> impl Iterator<Item = usize> {
        let Line(places) = self.line(hash);
        places.iter().filter_map(move |&place| {
            let age = self.written - (place & POSITION);
            ((place ^ hash) >> POSITION_BITS == 0 && age <= NUM_WORDS as u64)
                .then_some((place & POSITION) as usize % NUM_WORDS)
        })
    }

    /// Brings the ids of a piece near whose place is near.
    #[inline]
    pub(super) fn prefetch_ids(&self, hash: u64) {
        for at in self.positions(hash) {
            prefetch(&self.words[at]);
        }
    }

    /// The ids of a piece, if they are here.
    #[inline]
    pub(super) fn get(&self, piece: &[u8], hash: u64) -> Option<&[u32]> {
        self.positions(hash).find_map(|at| {
            let (num_ids, num_bytes) = parts(self.words[at]);
            let (ids, rest) = self.words[at + 1..].split_at(num_ids);
            let bytes: &[u8] = bytemuck::cast_slice(&rest[..num_bytes.div_ceil(4)]);
            (&bytes[..num_bytes] == piece).then_some(ids)
        })
    }

    /// Remembers the ids of a piece, unless it is too long.
    pub(super) fn put(&mut self, piece: &[u8], hash: u64, ids: &[u32]) {
        let len = 1 + ids.len() + piece.len().div_ceil(4);
        if piece.len() > MAX_BYTES || ids.len() > MAX_BYTES {
            return;
        }
        let mut at = self.written as usize % NUM_WORDS;
        if at + len > NUM_WORDS {
            self.written += (NUM_WORDS - at) as u64;
            at = 0;
        }
        if self.written + len as u64 > POSITION {
            self.clear();
            return;
        }
        let entry = &mut self.words[at..at + len];
        entry[0] = head(ids.len(), piece.len());
        entry[1..=ids.len()].copy_from_slice(ids);
        bytemuck::cast_slice_mut(&mut entry[1 + ids.len()..])[..piece.len()].copy_from_slice(piece);
        let place = hash & !POSITION | self.written;
        self.written += len as u64;
        let Line(places) = &mut self.lines[hash as usize % NUM_LINES];
        if let Some(oldest) = places.iter_mut().min_by_key(|place| **place & POSITION) {
            *oldest = place;
        }
    }
}

fn head(num_ids: usize, num_bytes: usize) -> u32 {
    (num_ids << 16 | num_bytes) as u32
}

fn parts(head: u32) -> (usize, usize) {
    (head as usize >> 16, head as usize & 0xffff)
}

#[cfg(test)]
mod tests {
    use super::super::hash;
    use super::*;
    use proptest::prelude::*;

    fn ids_of(piece: &[u8]) -> Vec<u32> {
        piece.iter().step_by(4).map(|&byte| byte.into()).collect()
    }

    proptest! {
        #[test]
        fn pieces_are_found_with_their_ids(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..40),
            start in prop_oneof![Just(0), 1..20u64],
        ) {
            let mut log = Log::new();
            // Near the end of the ring, or of what positions can count.
            log.written = if start == 0 { POSITION - 2000 } else { 2 * NUM_WORDS as u64 - 40 * start };
            for piece in &pieces {
                // All have one of four hashes.
                let hash = hash::bytes(piece) & (3 << 62);
                prop_assert!(log.get(piece, hash).is_none_or(|ids| ids == ids_of(piece)));
                let before = log.written;
                log.put(piece, hash, &ids_of(piece));
                if log.written > before {
                    prop_assert_eq!(log.get(piece, hash).map(<[u32]>::to_vec), Some(ids_of(piece)));
                }
            }
        }
    }

    #[test]
    fn what_was_overwritten_is_forgotten() {
        let mut log = Log::new();
        let piece = |i: u32| [[b'x'; 96].as_slice(), &i.to_le_bytes()].concat();
        let hash = |i: u32| hash::bytes(&piece(i));
        for i in 0..400_000 {
            log.put(&piece(i), hash(i), &[i; 4]);
        }
        let found = |i: u32| log.get(&piece(i), hash(i)).map(<[u32]>::to_vec);
        assert!((0..250_000).all(|i| found(i).is_none()));
        let kept = (300_000..400_000).filter(|&i| found(i) == Some(vec![i; 4])).count();
        assert!(kept > 90_000, "{kept}");
    }
}
