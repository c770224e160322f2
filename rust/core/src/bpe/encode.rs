//! Text to ids.
//!
//! A piece goes through three stages, cheapest first: the caches of pieces seen before, the vocabulary (the whole
//! piece is one token), the merges.

use std::mem::ManuallyDrop;
use std::ops::Range;
use std::sync::PoisonError;

use super::cache::{self, Key, LongCache, PieceCache};
use super::chars::CharTokens;
use super::cut;
use super::hash;
use super::long::{self, Work};
use super::normalize::Place;
use super::parallel;
use super::pretokenize::Cuts;
use super::short::{self, Short};
use super::special::{Allowed, Part};
use super::tokenizer::{NO_TOKEN, Tokenizer};
use crate::{Error, Monitor, Ragged, Result};

/// Text is handed to threads in chunks of about this size: long enough to make hand-outs and the joining of
/// results cheap, short enough to keep all threads busy to the end.
const CHUNK_BYTES: usize = 256 << 10;

/// What encoding needs beside the tokenizer: worth keeping between calls.
#[derive(Debug)]
pub(super) struct Buffers {
    cache: PieceCache,
    long_cache: LongCache,
    chars: CharTokens,
    work: Work,
    keys: Box<[Key]>,
    new: NewPieces,
}

impl Buffers {
    fn new() -> Self {
        Self {
            cache: PieceCache::new(),
            long_cache: LongCache::new(),
            chars: CharTokens::new(),
            work: Work::default(),
            keys: vec![Key::default(); Cuts::BATCH].into(),
            new: NewPieces::default(),
        }
    }
}

impl Tokenizer {
    /// An encoder with warm buffers, returned to the tokenizer when dropped.
    pub fn encoder(&self) -> Encoder<'_> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
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

    /// The ids of many texts, on `num_threads` threads (one for each processor if `None`). The monitor counts bytes.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`], naming the text; [`Error::Interrupted`] if cancelled.
    pub fn encode_batch<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
        allowed: &Allowed,
        num_threads: Option<usize>,
        monitor: &Monitor,
    ) -> Result<Ragged<u32>> {
        let encode = |encoder: &mut Encoder<'_>, i: usize, rows: &mut Ragged<u32>| {
            let text = texts[i].as_ref();
            encoder.encode(text, allowed, &mut rows.values).map_err(|error| match error {
                Error::Value(reason) => Error::Value(format!("text {i}: {reason}")),
                other => other,
            })?;
            rows.end_row();
            monitor.advance(text.len() as u64)
        };
        self.encode_rows(texts.len(), |i| texts[i].as_ref().len(), num_threads, encode)
    }

    /// Rows made in parallel, in order: `make(encoder, i, rows)` appends row `i`. Rows are grouped into tasks by
    /// `num_bytes(i)`, the size of their text.
    pub(crate) fn encode_rows(
        &self,
        num_rows: usize,
        num_bytes: impl Fn(usize) -> usize,
        num_threads: Option<usize>,
        make: impl Fn(&mut Encoder<'_>, usize, &mut Ragged<u32>) -> Result<()> + Sync,
    ) -> Result<Ragged<u32>> {
        let mut starts = vec![0];
        let mut filled = 0;
        for i in 0..num_rows {
            filled += num_bytes(i);
            if filled >= CHUNK_BYTES || i + 1 == num_rows {
                starts.push(i + 1);
                filled = 0;
            }
        }
        let num_tasks = starts.len() - 1;
        let num_threads = parallel::threads(num_threads)?.min(num_tasks);
        if num_threads <= 1 {
            let mut rows = Ragged::default();
            let mut encoder = self.encoder();
            (0..num_rows).try_for_each(|i| make(&mut encoder, i, &mut rows))?;
            return Ok(rows);
        }
        let mut workers: Vec<_> =
            (0..num_threads).map(|_| Worker { encoder: self.encoder(), done: Vec::new() }).collect();
        parallel::for_each(&mut workers, num_tasks, |worker, task| {
            let mut rows = Ragged::default();
            (starts[task]..starts[task + 1]).try_for_each(|i| make(&mut worker.encoder, i, &mut rows))?;
            worker.done.push((task, rows));
            Ok(())
        })?;
        let mut parts: Vec<_> = workers.into_iter().flat_map(|worker| worker.done).collect();
        parts.sort_unstable_by_key(|(task, _)| *task);
        Ok(concatenate(parts.into_iter().map(|(_, rows)| rows).collect()))
    }
}

/// One thread of a batch: its buffers, and the tasks it finished.
struct Worker<'t> {
    encoder: Encoder<'t>,
    done: Vec<(usize, Ragged<u32>)>,
}

fn concatenate(parts: Vec<Ragged<u32>>) -> Ragged<u32> {
    let mut all = Ragged {
        values: Vec::with_capacity(parts.iter().map(|part| part.values.len()).sum()),
        offsets: Vec::with_capacity(1 + parts.iter().map(Ragged::len).sum::<usize>()),
    };
    all.offsets.push(0);
    for part in parts {
        let base = all.values.len() as i64;
        all.values.extend_from_slice(&part.values);
        all.offsets.extend(part.offsets[1..].iter().map(|offset| base + offset));
    }
    all
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
        self.encode_batch(&text, start, &ends, ids)
    }

    /// Appends the ids of text that the pattern cuts.
    fn encode_pattern(&mut self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        let mut cuts = self.tokenizer.pattern.cuts(text);
        let text = Padded::new(text.as_bytes());
        let mut start = 0;
        loop {
            cuts.advance();
            let Some(&end) = cuts.ends().last() else { return Ok(()) };
            self.encode_batch(&text, start, cuts.ends(), ids)?;
            start = end;
        }
    }

    /// Appends the ids of one piece.
    pub(super) fn encode_cached(&mut self, piece: &[u8], ids: &mut Vec<u32>) -> Result<()> {
        self.encode_batch(&Padded::new(piece), 0, &[piece.len()], ids)
    }

    /// The pieces from `start` on that end at `ends`.
    #[inline]
    fn encode_batch(
        &mut self,
        text: &Padded<'_>,
        start: usize,
        ends: &[usize],
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        let Buffers { cache, long_cache, keys, new, .. } = &mut *self.buffers;
        // All places are on their way before the first is read.
        let mut piece_start = start;
        for (&end, key) in ends.iter().zip(keys.iter_mut()) {
            if let Some(short) = text.key(piece_start, end) {
                *key = short;
                cache.prefetch(short);
            } else {
                *key = Key::default();
                long_cache.prefetch(&text.bytes[piece_start..end]);
            }
            piece_start = end;
        }
        new.clear();
        let first = ids.len();
        ids.reserve(ends.len() * cache::MAX_LONG_IDS);
        let spare = ids.spare_capacity_mut().as_mut_ptr().cast::<u32>();
        let mut len = 0;
        let mut piece_start = start;
        for (&end, &key) in ends.iter().zip(&*keys) {
            let piece = piece_start..end;
            piece_start = end;
            let is_long = match cache.get(key) {
                Some(known) if known.len != cache::ELSEWHERE => {
                    // SAFETY: there is room for `MAX_LONG_IDS` ids of each piece, and no cache gives more.
                    unsafe { spare.add(len).cast::<[u32; cache::MAX_IDS]>().write_unaligned(known.ids) };
                    len += known.len as usize;
                    continue;
                }
                known => known.is_some() || key.is_none(),
            };
            match is_long.then(|| long_cache.get(&text.bytes[piece.clone()])).flatten() {
                Some(known) => {
                    // SAFETY: as above.
                    unsafe { spare.add(len).copy_from_nonoverlapping(known.as_ptr(), known.len()) };
                    len += known.len();
                }
                None => new.add(piece, key, len, text.bytes),
            }
        }
        // SAFETY: that many ids were written, one after the other.
        unsafe { ids.set_len(first + len) };
        if new.holes.is_empty() {
            return Ok(());
        }
        self.encode_new(text.bytes)?;
        self.buffers.new.fill_holes(ids, first);
        Ok(())
    }

    /// The ids of the new pieces: from the vocabulary or the merges. Each step is made for all
    /// of them, so that memory is fetched for many at once.
    #[cold]
    fn encode_new(&mut self, bytes: &[u8]) -> Result<()> {
        let Tokenizer { vocab, merges, boundaries, byte_tokens, is_whole, pipeline, .. } = self.tokenizer;
        let Buffers { cache, long_cache, chars, work, new, .. } = &mut *self.buffers;
        let NewPieces { pieces, ids, short, .. } = new;
        for piece in &*pieces {
            vocab.prefetch(&bytes[piece.bytes.clone()], 0);
        }
        for stage in 1..=2 {
            for piece in &*pieces {
                vocab.prefetch(&bytes[piece.bytes.clone()], stage);
            }
        }
        for piece in &mut *pieces {
            let text = &bytes[piece.bytes.clone()];
            let start = ids.len();
            if let Some(id) = vocab.id(text).filter(|&id| is_whole[id as usize]) {
                ids.push(id);
            } else {
                if pipeline.fallback.is_some() {
                    self.tokenizer.units(text, ids);
                } else {
                    chars.start(text, byte_tokens, boundaries, merges, ids);
                }
                if ids[start..].contains(&NO_TOKEN) {
                    return Err(unknown_character(text));
                }
                if ids.len() - start <= Short::MAX_IDS {
                    short.push(Short::new(&ids[start..]));
                    ids.truncate(start);
                    piece.ids = IN_SHORT;
                    continue;
                }
                long::merge(merges, ids, start, work);
            }
            piece.ids = start..ids.len();
        }
        short.chunks_mut(short::SIDE_BY_SIDE).for_each(|pieces| short::merge(pieces, merges));
        let mut merged = short.iter();
        for piece in &mut *pieces {
            if piece.ids == IN_SHORT
                && let Some(short) = merged.next()
            {
                let start = ids.len();
                ids.extend(short.ids());
                piece.ids = start..ids.len();
            }
            let ids = &ids[piece.ids.clone()];
            if !piece.key.is_none() {
                cache.put(piece.key, ids);
            }
            if piece.key.is_none() || ids.len() > cache::MAX_IDS {
                long_cache.put(&bytes[piece.bytes.clone()], ids);
            }
        }
        Ok(())
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

/// The ids of a piece that is being merged.
const IN_SHORT: Range<usize> = usize::MAX..usize::MAX;
/// Pieces of a batch that the first cache did not have.
#[derive(Debug, Default)]
struct NewPieces {
    /// Each once.
    pieces: Vec<NewPiece>,
    /// Where their ids belong among those of the batch, and which piece it is.
    holes: Vec<(usize, usize)>,
    /// A piece for some of the keys, by which most of those that come again are found.
    seen: [u8; 32],
    ids: Vec<u32>,
    short: Vec<Short>,
}

#[derive(Debug)]
struct NewPiece {
    bytes: Range<usize>,
    key: Key,
    /// Where its ids are among those of all new pieces.
    ids: Range<usize>,
}

impl NewPieces {
    fn clear(&mut self) {
        self.pieces.clear();
        self.holes.clear();
        self.ids.clear();
        self.short.clear();
    }

    /// Adds a piece whose ids belong at `at`.
    #[cold]
    fn add(&mut self, bytes: Range<usize>, key: Key, at: usize, text: &[u8]) {
        let seen = &mut self.seen[hash::bytes(&text[bytes.clone()]) as usize % 32];
        let same = usize::from(*seen);
        let is_same =
            self.pieces.get(same).is_some_and(|piece| text[piece.bytes.clone()] == text[bytes.clone()]);
        if is_same {
            self.holes.push((at, same));
            return;
        }
        // A batch has fewer pieces than a byte counts.
        *seen = self.pieces.len() as u8;
        self.holes.push((at, self.pieces.len()));
        self.pieces.push(NewPiece { bytes, key, ids: 0..0 });
    }

    /// Puts the ids of the new pieces between those of the batch, which start at `first`.
    fn fill_holes(&self, ids: &mut Vec<u32>, first: usize) {
        let mut end = ids.len();
        let added: usize = self.holes.iter().map(|&(_, piece)| self.pieces[piece].ids.len()).sum();
        ids.resize(end + added, 0);
        let mut free_end = ids.len();
        for &(at, piece) in self.holes.iter().rev() {
            let at = first + at;
            free_end -= end - at;
            ids.copy_within(at..end, free_end);
            end = at;
            let new = &self.ids[self.pieces[piece].ids.clone()];
            free_end -= new.len();
            ids[free_end..free_end + new.len()].copy_from_slice(new);
        }
    }
}

impl Drop for Encoder<'_> {
    fn drop(&mut self) {
        // SAFETY: the encoder is going, so nobody uses its buffers after this.
        let buffers = unsafe { ManuallyDrop::take(&mut self.buffers) };
        self.tokenizer.idle.lock().unwrap_or_else(PoisonError::into_inner).push(buffers);
    }
}

/// Only character tokenizers lack bytes, and their pieces are single characters.
fn unknown_character(piece: &[u8]) -> Error {
    let text = String::from_utf8_lossy(piece);
    let code = text.chars().next().map_or(0, |c| c as u32);
    Error::value(format!("character {text:?} (U+{code:04X}) is not in the character vocabulary"))
}
