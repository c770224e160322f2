//! Text to ids.
//!
//! A piece goes through three stages, cheapest first: the cache of recent pieces, the vocabulary (the whole
//! piece is one token), the merges.

use std::mem;
use std::sync::PoisonError;

use super::cache::{Key, PieceCache};
use super::merges::Work;
use super::parallel;
use super::special::{Allowed, Segment};
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

impl Encoder<'_> {
    /// Appends the ids of a text. Only `allowed` specials are recognised in it.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode(&mut self, text: &str, allowed: &Allowed, ids: &mut Vec<u32>) -> Result<()> {
        for segment in allowed.segments(text) {
            match segment {
                Segment::Text(text) => self.encode_ordinary(text, ids)?,
                Segment::Special(id) => ids.push(id),
            }
        }
        Ok(())
    }

    /// Appends the ids of a text in which nothing is special.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_ordinary(&mut self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        for piece in self.tokenizer.pattern.pieces(text) {
            let Some(key) = Key::new(piece) else {
                self.encode_piece(piece, ids)?;
                continue;
            };
            if let Some(known) = self.buffers.cache.get(key) {
                ids.extend_from_slice(known);
            } else {
                let start = ids.len();
                self.encode_piece(piece, ids)?;
                self.buffers.cache.put(key, &ids[start..]);
            }
        }
        Ok(())
    }

    fn encode_piece(&mut self, piece: &[u8], ids: &mut Vec<u32>) -> Result<()> {
        let Tokenizer { vocab, merges, byte_tokens, is_whole, .. } = self.tokenizer;
        if let Some(id) = vocab.id(piece)
            && is_whole[id as usize]
        {
            ids.push(id);
            return Ok(());
        }
        let start = ids.len();
        ids.extend(piece.iter().map(|&byte| byte_tokens[byte as usize]));
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
