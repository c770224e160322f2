//! A bounded table of short pieces already encoded.
//!
//! It only remembers what the vocabulary and the merges gave, so results never depend on what it holds.

use bytemuck::{Pod, Zeroable};

use super::hash;
use crate::pages::{Pages, prefetch};

/// 16 MiB of slots: most pieces of most texts; what is used often stays in a core's own caches.
const NUM_SETS: usize = 1 << 18;
/// Longest piece that fits a key beside its length.
pub(super) const MAX_BYTES: usize = 15;
/// Most ids a slot holds; nearly all short pieces have one or two.
pub(super) const MAX_IDS: usize = 3;

/// The two pieces that share a place: the one that was asked for again before the one that is new. One cache line.
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
#[repr(C, align(64))]
struct Set([Slot; 2]);

impl Set {
    /// A slot without a piece; the first slot is filled first.
    #[inline]
    fn free(&self) -> Option<usize> {
        self.0.iter().position(|slot| slot.key == 0)
    }

    #[inline]
    fn is_full(&self) -> bool {
        self.0[1].key != 0
    }
}

#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
struct Slot {
    key: u128,
    ids: Ids,
}

/// The ids of a piece.
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Ids {
    pub(super) ids: [u32; MAX_IDS],
    pub(super) len: u32,
}

/// Each piece has one set to be in, and the one beside it when that is full.
#[derive(Debug)]
pub(super) struct PieceCache {
    sets: Pages<Set>,
}

/// A piece of at most 15 bytes with its length, and the set it belongs to; or the default, which no slot has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    packed: u128,
    set: usize,
}

impl Default for Key {
    fn default() -> Self {
        Self { packed: u128::MAX, set: 0 }
    }
}

/// The bits of a piece of each length.
const KEPT: [u128; MAX_BYTES + 1] = {
    let mut kept = [0; MAX_BYTES + 1];
    let mut len = 1;
    while len <= MAX_BYTES {
        kept[len] = u128::MAX >> (128 - 8 * len);
        len += 1;
    }
    kept
};

impl Key {
    /// The key of the first `len` bytes, at least one; nothing for more than 15.
    #[inline(always)]
    pub(super) fn new(bytes: &[u8; 16], len: usize) -> Option<Self> {
        let packed = u128::from_le_bytes(*bytes) & KEPT.get(len)? | (len as u128) << 120;
        let set = hash::fold(packed as u64, (packed >> 64) as u64) as usize % NUM_SETS;
        Some(Self { packed, set })
    }

    /// The set beside the piece's own.
    #[inline]
    fn other(self) -> usize {
        self.set ^ 1
    }

    /// Whether this is the default.
    #[inline(always)]
    pub(super) fn is_none(self) -> bool {
        self.packed == u128::MAX
    }
}

impl PieceCache {
    pub(super) fn new() -> Self {
        Self { sets: Pages::zeroed(NUM_SETS) }
    }

    /// Brings the place of a piece near, for a later [`PieceCache::get`].
    #[inline(always)]
    pub(super) fn prefetch(&self, key: Key) {
        prefetch(self.set(key));
    }

    #[inline(always)]
    fn set(&self, key: Key) -> &Set {
        debug_assert!(key.set < NUM_SETS);
        // SAFETY: there are `NUM_SETS` sets, and no key has one that is not below.
        unsafe { self.sets.get_unchecked(key.set) }
    }

    /// The ids of a piece, if they are in its own set.
    #[inline(always)]
    pub(super) fn get(&mut self, key: Key) -> Option<Ids> {
        let Set([first, second]) = self.set(key);
        if first.key == key.packed {
            return Some(first.ids);
        }
        let ids = (second.key == key.packed).then_some(second.ids);
        if ids.is_some() {
            // What is asked for again is kept when the next new piece comes.
            let Set(slots) = &mut self.sets[key.set];
            slots.swap(0, 1);
        }
        ids
    }

    /// Brings the other set near that a piece can be in, if it can.
    #[inline]
    pub(super) fn prefetch_other(&self, key: Key) {
        if self.set(key).is_full() {
            prefetch(&self.sets[key.other()]);
        }
    }

    /// The ids of a piece, if they are in the other set. It changes places with one of its own set.
    #[inline]
    pub(super) fn get_other(&mut self, key: Key) -> Option<Ids> {
        if key.is_none() || !self.set(key).is_full() {
            return None;
        }
        let at = self.sets[key.other()].0.iter().position(|slot| slot.key == key.packed)?;
        let found = self.sets[key.other()].0[at];
        self.sets[key.other()].0[at] = self.sets[key.set].0[1];
        self.sets[key.set].0[1] = found;
        Some(found.ids)
    }

    /// Remembers the ids of a piece, unless they or the piece are too long.
    #[inline]
    pub(super) fn put(&mut self, key: Key, ids: &[u32]) {
        if key.is_none() {
            return;
        }
        let mut known = Ids { ids: [0; MAX_IDS], len: ids.len() as u32 };
        let Some(first) = known.ids.get_mut(..ids.len()) else { return };
        first.copy_from_slice(ids);
        let free = [key.set, key.other()].into_iter().find_map(|set| Some((set, self.sets[set].free()?)));
        let (set, slot) = free.unwrap_or((key.set, 1));
        self.sets[set].0[slot] = Slot { key: key.packed, ids: known };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(piece: &[u8]) -> Key {
        [piece, &[7; 16]]
            .concat()
            .first_chunk()
            .and_then(|start| Key::new(start, piece.len()))
            .unwrap_or_default()
    }

    proptest! {
        #[test]
        fn keys_are_the_bytes_and_their_length(piece in proptest::collection::vec(any::<u8>(), 1..20)) {
            let expected = (1..=MAX_BYTES).contains(&piece.len()).then(|| {
                let mut bytes = [0; 16];
                bytes[..piece.len()].copy_from_slice(&piece);
                bytes[15] = piece.len() as u8;
                u128::from_le_bytes(bytes)
            });
            prop_assert_eq!(key(&piece).packed, expected.unwrap_or(u128::MAX));
            prop_assert_eq!(key(&piece).is_none(), expected.is_none());
        }
    }

    #[test]
    fn what_is_asked_for_again_outlives_what_is_new() {
        let mut cache = PieceCache::new();
        let keys: Vec<_> = (0..600_000u32).map(|i| key(&i.to_le_bytes())).collect();
        for (i, key) in keys.iter().enumerate() {
            cache.put(*key, &[i as u32]);
            cache.get(keys[i % 1000]);
        }
        let mut kept = |range: std::ops::Range<usize>| {
            range.filter(|&i| cache.get(keys[i]).is_some_and(|ids| ids.ids[0] == i as u32)).count()
        };
        assert!(kept(0..1000) > 900);
        assert!(kept(1000..600_000) <= 2 * NUM_SETS);
    }
}
