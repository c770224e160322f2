//! Tokens as byte strings, and the way back from bytes to id.

use super::hash;
use crate::pages::{Pages, prefetch};
use crate::{Error, Result};

/// The byte string of every id, in one buffer, with a hash index.
#[derive(Debug)]
pub(super) struct Vocab {
    bytes: Vec<u8>,
    /// Token `id` is `bytes[ends[id - 1]..ends[id]]`.
    ends: Vec<u32>,
    /// Open addressing with linear probing at most half full; `FREE`, or an id below some bits of the token's hash,
    /// so that the bytes are hardly ever read of a token that is another.
    slots: Pages<u32>,
}

const FREE: u32 = u32::MAX;
/// Bits of an id in a slot.
const ID_BITS: u32 = 21;
const ID: u32 = (1 << ID_BITS) - 1;

impl Vocab {
    /// Indexes the tokens; their position is their id, and no bytes mean that there is no such token. Tokens that
    /// stand apart are found by their bytes only if no ordinary token has the same.
    ///
    /// # Errors
    /// [`Error::Value`] if two ordinary tokens are equal, or there are more than there is room for.
    pub(super) fn new<'a>(
        tokens: impl ExactSizeIterator<Item = &'a [u8]>,
        is_apart: impl Fn(u32) -> bool,
    ) -> Result<Self> {
        let len = tokens.len();
        if len > ID as usize {
            return Err(Error::value(format!("{len} tokens: there is room for {ID}")));
        }
        let mut vocab = Self {
            bytes: Vec::new(),
            ends: Vec::with_capacity(len),
            slots: Pages::zeroed((2 * len).next_power_of_two()),
        };
        vocab.slots.fill(FREE);
        for token in tokens {
            vocab.bytes.extend_from_slice(token);
            let end = u32::try_from(vocab.bytes.len());
            vocab.ends.push(end.map_err(|_| Error::value("the vocabulary is larger than 4 GiB"))?);
        }
        let (apart, ordinary): (Vec<u32>, Vec<u32>) = (0..len as u32).partition(|&id| is_apart(id));
        for id in ordinary.into_iter().chain(apart) {
            let token = vocab.get(id).unwrap_or_default();
            let hash = hash::bytes(token);
            let slot = vocab.slot(token, hash);
            match vocab.slots[slot] {
                FREE if token.is_empty() => {}
                FREE => vocab.slots[slot] = tag(hash) | id,
                _ if is_apart(id) => {}
                taken => {
                    let (taken, text) = (taken & ID, String::from_utf8_lossy(token));
                    return Err(Error::value(format!("tokens {taken} and {id} are both {text:?}")));
                }
            }
        }
        Ok(vocab)
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of a token, if there is such an id.
    #[inline]
    pub(super) fn get(&self, id: u32) -> Option<&[u8]> {
        let id = id as usize;
        let end = *self.ends.get(id)? as usize;
        let start = if id == 0 { 0 } else { self.ends[id - 1] as usize };
        Some(&self.bytes[start..end])
    }

    /// The id of a byte string, if it is a token.
    #[inline]
    pub(super) fn id(&self, token: &[u8]) -> Option<u32> {
        self.id_of(token, hash::bytes(token))
    }

    /// The id of a byte string with this hash, if it is a token.
    #[inline]
    pub(super) fn id_of(&self, token: &[u8], hash: u64) -> Option<u32> {
        Some(self.slots[self.slot(token, hash)]).filter(|&slot| slot != FREE).map(|slot| slot & ID)
    }

    /// Starts to fetch what [`Vocab::id_of`] will read first.
    #[inline]
    pub(super) fn prefetch(&self, hash: u64) {
        prefetch(&self.slots[hash as usize & (self.slots.len() - 1)]);
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> + Clone {
        (0..self.len()).map(|id| self.get(id as u32).unwrap_or_default())
    }

    /// The slot that holds `token`, or the free one where it belongs.
    #[inline]
    fn slot(&self, token: &[u8], hash: u64) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot == FREE || (slot & !ID == tag(hash) && self.get(slot & ID) == Some(token)) {
                return at;
            }
            at = (at + 1) & mask;
        }
    }
}

/// The bits of a hash that stand above the id.
#[inline]
fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32 & !ID
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_bytes_are_inverse() {
        let tokens: Vec<Vec<u8>> = (0..5000u32).map(|i| i.to_string().into_bytes()).collect();
        let vocab = Vocab::new(tokens.iter().map(Vec::as_slice), |_| false).unwrap();
        for (id, token) in tokens.iter().enumerate() {
            assert_eq!(vocab.get(id as u32), Some(token.as_slice()));
            assert_eq!(vocab.id(token), Some(id as u32));
        }
        assert_eq!((vocab.get(5000), vocab.id(b"x")), (None, None));
    }

    #[test]
    fn repeated_tokens_are_refused_unless_they_stand_apart() {
        let tokens = [&b"a"[..], b"", b"b", b"a"];
        assert!(Vocab::new(tokens.into_iter(), |_| false).is_err());
        for apart in [0, 3] {
            let vocab = Vocab::new(tokens.into_iter(), |id| id == apart).unwrap();
            assert_eq!(
                (vocab.id(b"a"), vocab.id(b""), vocab.get(apart)),
                (Some(3 - apart), None, Some(&b"a"[..]))
            );
        }
    }
}
