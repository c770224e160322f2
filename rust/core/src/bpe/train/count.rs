//! How often each piece of the texts occurs.

use super::super::hash;
use super::super::parallel;
use super::super::pretokenize::Pattern;
use crate::pages::prefetch;
use crate::{Error, Monitor, Result};

/// How often each piece occurred in the texts added so far.
#[derive(Debug)]
pub struct PieceCounts {
    pattern: Pattern,
    by_line: bool,
    max_memory: Option<usize>,
    /// One table a thread; joined at the end.
    tables: Vec<PieceTable>,
}

/// How texts are counted. The default counts whole texts on all processors, without a limit.
#[derive(Debug, Clone, Default)]
pub struct CountOptions {
    /// One for each processor if `None`. The counts are the same.
    pub num_threads: Option<usize>,
    /// Whether each line of a text, with its line end, is cut on its own.
    pub by_line: bool,
    /// Bytes that the tables of different pieces may take.
    pub max_memory: Option<usize>,
}

impl PieceCounts {
    /// Starts at zero.
    ///
    /// # Errors
    /// [`Error::Value`] if `num_threads` is zero or the pattern is not one that merges are learned for.
    pub fn new(pattern: Pattern, options: &CountOptions) -> Result<Self> {
        if pattern == Pattern::Characters {
            return Err(Error::value("the characters pattern has no merges to learn: use from_characters"));
        }
        let CountOptions { num_threads, by_line, max_memory } = *options;
        let tables = (0..parallel::threads(num_threads)?).map(|_| PieceTable::default()).collect();
        Ok(Self { pattern, by_line, max_memory, tables })
    }

    /// Counts the pieces of texts; each is cut on its own. The monitor counts bytes.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if cancelled, [`Error::Value`] if the different pieces need more than `max_memory`.
    pub fn add<T: AsRef<str> + Sync>(&mut self, texts: &[T], monitor: &Monitor) -> Result<()> {
        let Self { pattern, by_line, max_memory, ref mut tables } = *self;
        let num_threads = tables.len().min(texts.len());
        parallel::for_each(&mut tables[..num_threads], texts.len(), |table, i| {
            let text = texts[i].as_ref();
            if by_line {
                text.split_inclusive('\n').for_each(|line| table.add_all(pattern.pieces(line)));
            } else {
                table.add_all(pattern.pieces(text));
            }
            monitor.advance(text.len() as u64)
        })?;
        let num_bytes: usize = tables.iter().map(PieceTable::num_bytes).sum();
        match max_memory {
            Some(most) if num_bytes > most => Err(Error::value(format!(
                "counting needs {num_bytes} bytes for {} different pieces, more than max_memory, which is {most}; \
                 raise it, use fewer threads, or train on a sample",
                tables.iter().map(|table| table.len).sum::<usize>(),
            ))),
            _ => Ok(()),
        }
    }

    /// How the texts were cut.
    pub(super) fn pattern(&self) -> Pattern {
        self.pattern
    }

    /// One table of all threads' counts.
    pub(super) fn join(self) -> PieceTable {
        let mut tables = self.tables;
        tables.sort_by_key(|table| table.len);
        let mut all = tables.pop().unwrap_or_default();
        for table in tables {
            table.iter().for_each(|(piece, count)| all.add(piece.bytes(), count));
        }
        all
    }
}

/// Byte strings with counts, by open addressing. Short strings are their own keys, others lie in one arena.
#[derive(Debug, Default)]
pub(super) struct PieceTable {
    /// In order of hashes but for collisions, so growing reads and writes from front to back.
    slots: Vec<Slot>,
    len: usize,
    /// Each long string after its length as four bytes.
    arena: Vec<u8>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    key: Key,
    /// Zero if the slot is free.
    count: u64,
}

/// At most 15 bytes and their number; or the hash of a string, its place in the arena and [`LONG`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Key(u64, u64);

const MAX_SHORT: usize = 15;
/// The uppermost byte of the key of a long string.
const LONG: u64 = 0xff;
const MIN_SLOTS: usize = 1 << 10;
/// How many pieces ahead a slot is asked for.
const LOOK_AHEAD: usize = 16;

/// A piece in a table.
#[derive(Debug, Clone, Copy)]
pub(super) enum Piece<'t> {
    Short([u8; 16], usize),
    Long(&'t [u8]),
}

impl Piece<'_> {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Short(bytes, len) => &bytes[..*len],
            Self::Long(bytes) => bytes,
        }
    }

    /// The first eight bytes as a number, in the order of strings.
    pub(super) fn prefix(&self) -> u64 {
        let mut first = [0; 8];
        for (to, from) in first.iter_mut().zip(self.bytes()) {
            *to = *from;
        }
        u64::from_be_bytes(first)
    }
}

impl PieceTable {
    /// Counts each piece once. A slot is asked for some pieces before it is needed, since most are not in the
    /// cache of the processor.
    fn add_all<'t>(&mut self, pieces: impl Iterator<Item = &'t [u8]>) {
        let mut waiting = [(Key::default(), 0); LOOK_AHEAD];
        let mut num_short = 0;
        pieces.for_each(|piece| {
            if piece.len() > MAX_SHORT {
                self.add_long(piece, 1);
                return;
            }
            let key = short_key(piece);
            let hash = hash::fold(key.0, key.1);
            if let Some(slot) = self.slots.get(self.home(hash)) {
                prefetch(slot);
            }
            let (key, hash) = std::mem::replace(&mut waiting[num_short % LOOK_AHEAD], (key, hash));
            num_short += 1;
            if num_short > LOOK_AHEAD {
                self.add_short(key, hash, 1);
            }
        });
        for &(key, hash) in &waiting[..num_short.min(LOOK_AHEAD)] {
            self.add_short(key, hash, 1);
        }
    }

    pub(super) fn add(&mut self, piece: &[u8], count: u64) {
        if piece.len() > MAX_SHORT {
            return self.add_long(piece, count);
        }
        let key = short_key(piece);
        self.add_short(key, hash::fold(key.0, key.1), count);
    }

    #[inline]
    fn add_short(&mut self, key: Key, hash: u64, count: u64) {
        self.reserve_one();
        let slot = self.find(hash, |other| other == key);
        self.slots[slot].count += count;
        if self.slots[slot].count == count {
            self.slots[slot].key = key;
            self.len += 1;
        }
    }

    fn add_long(&mut self, piece: &[u8], count: u64) {
        self.reserve_one();
        let hash = hash::bytes(piece);
        let slot = self.find(hash, |key| key.0 == hash && key.1 >> 56 == LONG && self.long(key) == piece);
        self.slots[slot].count += count;
        if self.slots[slot].count == count {
            self.slots[slot].key = Key(hash, LONG << 56 | self.arena.len() as u64);
            self.arena.extend_from_slice(&(piece.len() as u32).to_le_bytes());
            self.arena.extend_from_slice(piece);
            self.len += 1;
        }
    }

    /// The slot of a key, or the free one where it belongs.
    #[inline]
    fn find(&self, hash: u64, is_same: impl Fn(Key) -> bool) -> usize {
        let mut at = self.home(hash);
        while self.slots[at].count != 0 && !is_same(self.slots[at].key) {
            at += 1;
            if at == self.slots.len() {
                at = 0;
            }
        }
        at
    }

    #[inline]
    fn home(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.slots.len() as u128) >> 64) as usize
    }

    #[inline]
    fn reserve_one(&mut self) {
        if self.len >= self.slots.len() / 4 * 3 {
            self.grow();
        }
    }

    #[cold]
    fn grow(&mut self) {
        let len = (self.slots.len() / 2 * 3).max(MIN_SLOTS);
        let old = std::mem::replace(&mut self.slots, vec![Slot::default(); len]);
        for slot in old.into_iter().filter(|slot| slot.count != 0) {
            let Key(first, second) = slot.key;
            let hash = if second >> 56 == LONG { first } else { hash::fold(first, second) };
            let at = self.find(hash, |_| false);
            self.slots[at] = slot;
        }
    }

    fn long(&self, key: Key) -> &[u8] {
        let start = (key.1 & !(LONG << 56)) as usize;
        let (len, bytes) = self.arena[start..].split_first_chunk().unwrap_or((&[0; 4], &[]));
        &bytes[..u32::from_le_bytes(*len) as usize]
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn num_bytes(&self) -> usize {
        self.slots.len() * size_of::<Slot>() + self.arena.len()
    }

    /// The pieces with their counts, in no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Piece<'_>, u64)> {
        self.slots.iter().filter(|slot| slot.count != 0).map(|slot| (self.piece(slot.key), slot.count))
    }

    fn piece(&self, key: Key) -> Piece<'_> {
        let Key(first, second) = key;
        match second >> 56 {
            LONG => Piece::Long(self.long(key)),
            len => {
                let mut bytes = [0; 16];
                bytes[..8].copy_from_slice(&first.to_le_bytes());
                bytes[8..].copy_from_slice(&second.to_le_bytes());
                Piece::Short(bytes, len as usize)
            }
        }
    }
}

/// Bytes without gaps in a fixed number of reads; the number of bytes is in the uppermost byte.
#[inline]
fn short_key(piece: &[u8]) -> Key {
    let len = piece.len();
    let tag = (len as u64) << 56;
    if let (Some(first), Some(last)) = (piece.first_chunk::<8>(), piece.last_chunk::<8>()) {
        // The two reads of eight overlap in what the second shifts out.
        let rest = u64::from_le_bytes(*last) >> 8 >> (8 * (MAX_SHORT - len));
        Key(u64::from_le_bytes(*first), rest | tag)
    } else if let (Some(first), Some(last)) = (piece.first_chunk::<4>(), piece.last_chunk::<4>()) {
        let last = u64::from(u32::from_le_bytes(*last)) << (8 * (len - 4));
        Key(u64::from(u32::from_le_bytes(*first)) | last, tag)
    } else {
        Key(piece.iter().rev().fold(0, |key, &byte| key << 8 | u64::from(byte)), tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn keys_tell_all_short_strings_apart_and_give_them_back() {
        let bytes: Vec<u8> = (1..=16).collect();
        let mut table = PieceTable::default();
        for len in 0..=16 {
            table.add(&bytes[..len], len as u64 + 1);
        }
        let mut found: Vec<_> = table.iter().map(|(piece, count)| (piece.bytes().to_vec(), count)).collect();
        found.sort();
        let expected: Vec<_> = (0..=16).map(|len| (bytes[..len].to_vec(), len as u64 + 1)).collect();
        assert_eq!(found, expected);
    }

    proptest! {
        #[test]
        fn a_table_counts_like_a_map(
            pieces in proptest::collection::vec(proptest::collection::vec(0u8..3, 0..20), 0..3000),
        ) {
            let (mut table, mut map) = (PieceTable::default(), BTreeMap::new());
            for (piece, count) in pieces.iter().zip(1..) {
                table.add(piece, count);
                *map.entry(piece.clone()).or_insert(0) += count;
            }
            let found: BTreeMap<_, _> = table.iter().map(|(piece, n)| (piece.bytes().to_vec(), n)).collect();
            prop_assert_eq!(table.len(), map.len());
            prop_assert_eq!(found, map);
        }
    }
}
