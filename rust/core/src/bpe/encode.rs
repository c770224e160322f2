//! Text to ids.
//!
//! A piece goes through three stages, cheapest first: the cache of recent pieces, the vocabulary (the whole
//! piece is one token), the merges.

use std::mem;
use std::sync::PoisonError;

use super::cache::{Key, PieceCache};
use super::merges::Work;
use super::normalize::Place;
use super::parallel;
use super::special::{Allowed, Part};
use super::tokenizer::{NO_TOKEN, Tokenizer};
use crate::{Error, Monitor, Ragged, Result};

/// Text is handed to threads in chunks of about this size: long enough to make hand-outs and the joining of
/// results cheap, short enough to keep all threads busy to the end.
const CHUNK_BYTES: usize = 256 << 10;

/// What encoding needs beside the tokenizer: worth keeping between calls.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    cache: PieceCache,
    work: Work,
}

impl Tokenizer {
    /// An encoder with warm buffers, returned to the tokenizer when dropped.
    pub fn encoder(&self) -> Encoder<'_> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Encoder {
            tokenizer: self,
            buffers: idle.unwrap_or_else(|| Buffers { cache: PieceCache::new(), work: Work::default() }),
        }
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
    buffers: Buffers,
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
            let mut rest = text;
            while !rest.is_empty() {
                let (piece, after) = fallback.split_piece(rest);
                self.encode_cached(piece.as_bytes(), ids)?;
                rest = after;
            }
            return Ok(());
        }
        let Some(cut) = &tokenizer.pipeline.cut else { return self.encode_pattern(text, ids) };
        let bytes = text.as_bytes();
        cut.pieces(text)?.into_iter().try_for_each(|piece| self.encode_cached(&bytes[piece], ids))
    }

    /// Appends the ids of text that the pattern cuts.
    fn encode_pattern(&mut self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        self.tokenizer.pattern.pieces(text).try_for_each(|piece| self.encode_cached(piece, ids))
    }

    /// Appends the ids of one piece.
    #[inline]
    pub(super) fn encode_cached(&mut self, piece: &[u8], ids: &mut Vec<u32>) -> Result<()> {
        let Some(key) = Key::new(piece) else { return self.encode_piece(piece, ids) };
        if let Some(known) = self.buffers.cache.get(key) {
            ids.extend_from_slice(known);
        } else {
            let start = ids.len();
            self.encode_piece(piece, ids)?;
            self.buffers.cache.put(key, &ids[start..]);
        }
        Ok(())
    }

    fn encode_piece(&mut self, piece: &[u8], ids: &mut Vec<u32>) -> Result<()> {
        let Tokenizer { vocab, merges, is_whole, .. } = self.tokenizer;
        if let Some(id) = vocab.id(piece)
            && is_whole[id as usize]
        {
            ids.push(id);
            return Ok(());
        }
        let start = ids.len();
        self.tokenizer.units(piece, ids);
        if ids[start..].contains(&NO_TOKEN) {
            ids.truncate(start);
            return Err(unknown_character(piece));
        }
        merges.apply(ids, start, &mut self.buffers.work);
        Ok(())
    }
}

impl Drop for Encoder<'_> {
    fn drop(&mut self) {
        let buffers = mem::take(&mut self.buffers);
        self.tokenizer.idle.lock().unwrap_or_else(PoisonError::into_inner).push(buffers);
    }
}

/// Only character tokenizers lack bytes, and their pieces are single characters.
fn unknown_character(piece: &[u8]) -> Error {
    let text = String::from_utf8_lossy(piece);
    let code = text.chars().next().map_or(0, |c| c as u32);
    Error::value(format!("character {text:?} (U+{code:04X}) is not in the character vocabulary"))
}
