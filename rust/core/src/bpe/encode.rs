//! Text to ids.
//!
//! A piece goes through three stages, cheapest first: the caches of pieces seen before, the vocabulary (the whole
//! piece is one token), the merges.

use std::mem::ManuallyDrop;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::cache::{self, Key, PieceCache};
use super::cut;
use super::normalize::Place;
use super::pending::Pending;
use super::pretokenize::Cuts;
use super::special::{Allowed, Part};
use super::tokenizer::Tokenizer;
use crate::Result;

/// What encoding needs beside the tokenizer: worth keeping between calls.
#[derive(Debug)]
pub(super) struct Buffers {
    cache: PieceCache,
    keys: Box<[Key]>,
    pending: Pending,
}

impl Buffers {
    fn new() -> Self {
        Self {
            cache: PieceCache::new(),
            keys: vec![Key::default(); Cuts::BATCH].into(),
            pending: Pending::new(),
        }
    }
}

impl Tokenizer {
    /// An encoder with warm buffers, returned to the tokenizer when dropped.
    pub fn encoder(&self) -> Encoder<'_> {
        let idle = lock(&self.idle).pop();
        Encoder { tokenizer: self, buffers: ManuallyDrop::new(idle.unwrap_or_else(Buffers::new)) }
    }

    /// The ids of a text. Only `allowed` specials are recognised in it.
    ///
    /// # Errors
    /// [`Error::Value`] if a character tokenizer meets a character that it does not have.
    pub fn encode(&self, text: &str, allowed: &Allowed) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        self.encoder().encode(text, allowed, &mut ids)?;
        Ok(ids)
    }
}

/// What is behind a lock, whatever happened to others who held it.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Encodes one text after the other with the same buffers: [`Tokenizer::encoder`].
#[derive(Debug)]
pub struct Encoder<'t> {
    tokenizer: &'t Tokenizer,
    buffers: ManuallyDrop<Buffers>,
}

impl<'t> Encoder<'t> {
    pub(super) fn tokenizer(&self) -> &'t Tokenizer {
        self.tokenizer
    }

    /// Appends the ids of a text. Only `allowed` specials are recognised in it.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode(&mut self, text: &str, allowed: &Allowed, ids: &mut Vec<u32>) -> Result<()> {
        self.encode_at(Place::First, text, allowed, ids)
    }

    /// Appends the ids of a text in which no added token is recognised.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_ordinary(&mut self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        self.encode(text, &Allowed::nothing(), ids)
    }

    /// [`Encoder::encode`] for a text that may be the continuation of another.
    pub(super) fn encode_at(
        &mut self,
        place: Place,
        text: &str,
        allowed: &Allowed,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        let tokenizer = self.tokenizer;
        let finder = allowed.finder(tokenizer);
        if finder.is_none() && tokenizer.pipeline.is_plain() {
            return self.encode_pattern(text, ids);
        }
        tokenizer.visit(text, finder, place, |part| match part {
            Part::Text(text) => self.encode_normalized(text, ids),
            Part::Added(id, _) => {
                ids.push(id);
                Ok(())
            }
        })
    }

    /// Appends the ids of text between added tokens.
    pub(super) fn encode_normalized(&mut self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        let tokenizer = self.tokenizer;
        if let Some(fallback) = &tokenizer.pipeline.fallback {
            return self.encode_ranges(text, fallback.pieces(text), ids);
        }
        if tokenizer.pipeline.joins_last_space {
            let (text, space) = text.split_at(cut::last_space(text));
            self.encode_pattern(text, ids)?;
            return if space.is_empty() { Ok(()) } else { self.encode_cached(space.as_bytes(), ids) };
        }
        let Some(cut) = &tokenizer.pipeline.cut else { return self.encode_pattern(text, ids) };
        self.encode_ranges(text, cut.pieces(text)?.into_iter(), ids)
    }

    /// Appends the ids of pieces in order; text between them is left out.
    fn encode_ranges(
        &mut self,
        text: &str,
        pieces: impl Iterator<Item = Range<usize>>,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        let text = Padded::new(text.as_bytes());
        let (mut start, mut ends) = (0, Vec::with_capacity(Cuts::BATCH));
        for piece in pieces {
            let done = ends.last().copied().unwrap_or(start);
            if ends.len() == Cuts::BATCH || piece.start != done {
                self.encode_batch(&text, start, &ends, ids)?;
                ends.clear();
                start = piece.start;
            }
            ends.push(piece.end);
        }
        self.encode_batch(&text, start, &ends, ids)?;
        self.finish(text.bytes, ids)
    }

    /// Appends the ids of text that the pattern cuts.
    fn encode_pattern(&mut self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        let mut cuts = self.tokenizer.pattern.cuts(text);
        let text = Padded::new(text.as_bytes());
        let mut start = 0;
        loop {
            cuts.advance();
            let Some(&end) = cuts.ends().last() else { return self.finish(text.bytes, ids) };
            self.encode_batch(&text, start, cuts.ends(), ids)?;
            start = end;
        }
    }

    /// Appends the ids of one piece.
    pub(super) fn encode_cached(&mut self, piece: &[u8], ids: &mut Vec<u32>) -> Result<()> {
        self.encode_batch(&Padded::new(piece), 0, &[piece.len()], ids)?;
        self.finish(piece, ids)
    }

    /// The pieces from `start` on that end at `ends`: those that the cache has, now; the others when there are enough
    /// of them, or with [`Encoder::finish`].
    #[inline]
    fn encode_batch(
        &mut self,
        text: &Padded<'_>,
        start: usize,
        ends: &[usize],
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        let Buffers { cache, keys, pending } = &mut *self.buffers;
        // All places are on their way before the first is read.
        let mut piece_start = start;
        for (&end, key) in ends.iter().zip(keys.iter_mut()) {
            *key = text.key(piece_start, end).unwrap_or_default();
            cache.prefetch(*key);
            piece_start = end;
        }
        let first = ids.len();
        ids.reserve(ends.len() * cache::MAX_IDS);
        let spare = ids.spare_capacity_mut().as_mut_ptr().cast::<u32>();
        let mut len = 0;
        let mut piece_start = start;
        for (&end, &key) in ends.iter().zip(&*keys) {
            if let Some(known) = cache.get(key) {
                // SAFETY: there is room for `MAX_IDS` ids of each piece, and the cache gives no more.
                unsafe { spare.add(len).cast::<[u32; cache::MAX_IDS]>().write_unaligned(known.ids) };
                len += known.len as usize;
            } else {
                pending.add(piece_start..end, key, first + len, text.bytes, self.tokenizer, cache);
            }
            piece_start = end;
        }
        // SAFETY: that many ids were written, one after the other.
        unsafe { ids.set_len(first + len) };
        if pending.are_enough() { self.finish(text.bytes, ids) } else { Ok(()) }
    }

    /// Puts the ids of the pending pieces where they belong.
    fn finish(&mut self, bytes: &[u8], ids: &mut Vec<u32>) -> Result<()> {
        let Buffers { cache, pending, .. } = &mut *self.buffers;
        pending.finish(bytes, self.tokenizer, cache, ids)
    }
}

/// A text of which any 16 bytes can be read that start in it.
struct Padded<'t> {
    bytes: &'t [u8],
    /// The last bytes, fewer than 16, and zeros.
    tail: [u8; 32],
    tail_start: usize,
}

impl<'t> Padded<'t> {
    fn new(bytes: &'t [u8]) -> Self {
        let tail_start = bytes.len().saturating_sub(15);
        let mut tail = [0; 32];
        tail[..bytes.len() - tail_start].copy_from_slice(&bytes[tail_start..]);
        Self { bytes, tail, tail_start }
    }

    /// The key of a piece that is not too long for one.
    #[inline(always)]
    fn key(&self, start: usize, end: usize) -> Option<Key> {
        let first =
            self.bytes[start..].first_chunk().or_else(|| self.tail[start - self.tail_start..].first_chunk());
        Key::new(first?, end - start)
    }
}

impl Drop for Encoder<'_> {
    fn drop(&mut self) {
        // SAFETY: the encoder is going, so nobody uses its buffers after this.
        let buffers = unsafe { ManuallyDrop::take(&mut self.buffers) };
        lock(&self.tokenizer.idle).push(buffers);
    }
}
