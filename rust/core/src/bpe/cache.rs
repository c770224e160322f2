//! A small table of pieces already encoded: bounded, and sized to stay in a core's own cache.
//!
//! It only remembers what the merges gave, so results never depend on what it holds.

use super::hash;

/// 512 KiB of slots, half of a typical second-level cache; holds nine of ten pieces of English text.
const NUM_SETS: usize = 1 << 13;
/// Longest piece that fits a key beside its length.
const MAX_BYTES: usize = 15;
/// Most ids a slot holds; nearly all short pieces have one or two.
const MAX_IDS: usize = 3;

/// The two pieces that share a place, the newer first. One cache line.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(64))]
struct Set([Slot; 2]);

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    key: u128,
    ids: [u32; MAX_IDS],
    len: u32,
}

/// Each piece has one set to be in; a new piece takes the place of the older there. The default has no sets and
/// remembers nothing.
#[derive(Debug, Default)]
pub(super) struct PieceCache {
    sets: Box<[Set]>,
}

/// A piece of at most 15 bytes with its length, and the set it belongs to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    packed: u128,
    set: usize,
}

impl Key {
    /// The key of a piece that is neither empty nor too long.
    #[inline]
    pub(super) fn new(piece: &[u8]) -> Option<Self> {
        let packed = pack(piece)?;
        let set = hash::fold(packed as u64, (packed >> 64) as u64) as usize % NUM_SETS;
        Some(Self { packed, set })
    }
}

/// The bytes in the low end and the length in the highest byte. Long pieces are read as two overlapping
/// words, which agree where they overlap.
#[inline]
fn pack(piece: &[u8]) -> Option<u128> {
    let len = piece.len();
    let low = match len {
        0 => return None,
        1..4 => {
            let at = |i: usize| u128::from(piece[i]) << (8 * i);
            at(0) | at(len / 2) | at(len - 1)
        }
        4..8 => {
            let (first, last) = (piece.first_chunk()?, piece.last_chunk()?);
            u128::from(u32::from_le_bytes(*first)) | u128::from(u32::from_le_bytes(*last)) << (8 * (len - 4))
        }
        8..=MAX_BYTES => {
            let (first, last) = (piece.first_chunk()?, piece.last_chunk()?);
            u128::from(u64::from_le_bytes(*first)) | u128::from(u64::from_le_bytes(*last)) << (8 * (len - 8))
        }
        _ => return None,
    };
    Some(low | (len as u128) << 120)
}

impl PieceCache {
    pub(super) fn new() -> Self {
        Self { sets: vec![Set::default(); NUM_SETS].into() }
    }

    /// The ids of a piece, if they are here.
    #[inline]
    pub(super) fn get(&self, key: Key) -> Option<&[u32]> {
        let Set(slots) = self.sets.get(key.set)?;
        let slot = slots.iter().find(|slot| slot.key == key.packed)?;
        Some(&slot.ids[..slot.len as usize])
    }

    /// Remembers the ids of a piece if they fit.
    #[inline]
    pub(super) fn put(&mut self, key: Key, ids: &[u32]) {
        if ids.len() <= MAX_IDS
            && let Some(Set([newer, older])) = self.sets.get_mut(key.set)
        {
            *older = *newer;
            *newer = Slot { key: key.packed, len: ids.len() as u32, ..Slot::default() };
            newer.ids[..ids.len()].copy_from_slice(ids);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn packing_is_the_bytes_and_their_length(piece in proptest::collection::vec(any::<u8>(), 0..20)) {
            let expected = (1..=MAX_BYTES).contains(&piece.len()).then(|| {
                let mut bytes = [0; 16];
                bytes[..piece.len()].copy_from_slice(&piece);
                bytes[15] = piece.len() as u8;
                u128::from_le_bytes(bytes)
            });
            prop_assert_eq!(pack(&piece), expected);
        }
    }

    #[test]
    fn a_set_keeps_the_last_two_pieces() {
        let mut cache = PieceCache::new();
        let keys: Vec<_> = (0..100_000u32).filter_map(|i| Key::new(&i.to_le_bytes())).collect();
        for (i, key) in keys.iter().enumerate() {
            cache.put(*key, &[i as u32]);
        }
        let kept = keys.iter().enumerate().filter_map(|(i, key)| Some((i, cache.get(*key)?)));
        assert!(kept.clone().all(|(i, ids)| ids == [i as u32]));
        assert!((NUM_SETS..=2 * NUM_SETS).contains(&kept.count()));
    }
}
