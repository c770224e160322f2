//! Tokens as byte strings, and the way back from bytes to id.

use super::hash;
use super::pages::prefetch;
use crate::{Error, Result};

/// The byte string of every id, in one buffer, with a hash index.
#[derive(Debug, Clone)]
pub(super) struct Vocab {
    bytes: Vec<u8>,
    /// Token `id` is `bytes[ends[id - 1]..ends[id]]`.
    ends: Vec<u32>,
    /// Open addressing with linear probing at most half full; `FREE` or an id.
    slots: Vec<u32>,
}

const FREE: u32 = u32::MAX;

impl Vocab {
    /// Indexes the tokens; their position is their id, and no bytes mean that there is no such token. Tokens that
    /// stand apart are found by their bytes only if no ordinary token has the same.
    ///
    /// # Errors
    /// [`Error::Value`] if two ordinary tokens are equal, or there are more than ids can count.
    pub(super) fn new<'a>(
        tokens: impl ExactSizeIterator<Item = &'a [u8]>,
        is_apart: impl Fn(u32) -> bool,
    ) -> Result<Self> {
        let len = tokens.len();
        let mut vocab = Self {
            bytes: Vec::new(),
            ends: Vec::with_capacity(len),
            slots: vec![FREE; (2 * len).next_power_of_two()],
        };
        for token in tokens {
            vocab.bytes.extend_from_slice(token);
            let end = u32::try_from(vocab.bytes.len());
            vocab.ends.push(end.map_err(|_| Error::value("the vocabulary is larger than 4 GiB"))?);
        }
        let (apart, ordinary): (Vec<u32>, Vec<u32>) = (0..len as u32).partition(|&id| is_apart(id));
        for id in ordinary.into_iter().chain(apart) {
            let token = vocab.get(id).unwrap_or_default();
            let slot = vocab.slot(token);
            let taken = vocab.slots[slot];
            if taken != FREE && !is_apart(id) {
                let text = String::from_utf8_lossy(token);
                return Err(Error::value(format!("tokens {taken} and {id} are both {text:?}")));
            }
            if taken == FREE && !token.is_empty() {
                vocab.slots[slot] = id;
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
        Some(self.slots[self.slot(token)]).filter(|&id| id != FREE)
    }

    /// Starts to fetch what [`Vocab::id`] will read: after `stage` 0 what stage 1 needs, and so on to stage 2.
    #[inline]
    pub(super) fn prefetch(&self, token: &[u8], stage: u32) {
        let home = hash::bytes(token) as usize & (self.slots.len() - 1);
        if stage == 0 {
            prefetch(&self.slots[home]);
            return;
        }
        let id = self.slots[home];
        if id != FREE && stage == 1 {
            prefetch(&self.ends[id as usize]);
        } else if id != FREE {
            prefetch(&self.bytes[self.ends[id as usize] as usize - 1]);
        }
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> + Clone {
        (0..self.len()).map(|id| self.get(id as u32).unwrap_or_default())
    }

    /// The slot that holds `token`, or the free one where it belongs.
    #[inline]
    fn slot(&self, token: &[u8]) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = hash::bytes(token) as usize & mask;
        loop {
            let id = self.slots[at];
            if id == FREE || self.get(id) == Some(token) {
                return at;
            }
            at = (at + 1) & mask;
        }
    }
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
