//! Pieces that the cache does not have.
//!
//! They are put off until there are many, or the text ends: then each step is made for all of them, so that memory is
//! fetched for many at once.

use std::ops::Range;

use super::cache::{self, Key, PieceCache};
use super::chars::CharTokens;
use super::hash;
use super::log::Log;
use super::long::{self, Work};
use super::short::{FEW_IDS, Group, MAX_IDS};
use super::tokenizer::{NO_TOKEN, Tokenizer};
use crate::{Error, Result};

/// Pieces of one text whose ids are still to be put between those of the others.
#[derive(Debug)]
pub(super) struct Pending {
    /// Each once.
    pieces: Vec<Piece>,
    /// Where their ids belong among those of the others, and which piece it is.
    holes: Vec<(usize, usize)>,
    /// A piece for some of the hashes, by which most of those that come again are found.
    seen: Box<[u16; NUM_SEEN]>,
    ids: Vec<u32>,
    shortest: Group<FEW_IDS>,
    short: Group<MAX_IDS>,
    log: Log,
    chars: CharTokens,
    work: Work,
    max_piece_bytes: usize,
}

/// So many that fetching for all of them at once hides how long memory takes.
const ENOUGH: usize = 64;
const NUM_SEEN: usize = 256;

#[derive(Debug)]
struct Piece {
    bytes: Range<usize>,
    hash: u64,
    key: Key,
    ids: Ids,
}

/// Where the ids of a piece are.
#[derive(Debug)]
enum Ids {
    Known(Range<usize>),
    /// Among the shortest pieces that are merged.
    Shortest,
    /// Among the short pieces that are merged.
    Short,
}

impl Pending {
    pub(super) fn new() -> Self {
        Self {
            pieces: Vec::new(),
            holes: Vec::new(),
            seen: Box::new([0; NUM_SEEN]),
            ids: Vec::new(),
            shortest: Group::default(),
            short: Group::default(),
            log: Log::new(),
            chars: CharTokens::new(),
            work: Work::default(),
            max_piece_bytes: long::MAX_BYTES,
        }
    }

    /// Whether it is time for [`Pending::finish`].
    #[inline]
    pub(super) fn are_enough(&self) -> bool {
        self.pieces.len() >= ENOUGH
    }

    /// Adds the piece at `bytes` of `text`, whose ids belong at `at`.
    #[cold]
    pub(super) fn add(
        &mut self,
        bytes: Range<usize>,
        key: Key,
        at: usize,
        text: &[u8],
        tokenizer: &Tokenizer,
        cache: &PieceCache,
    ) {
        let piece = &text[bytes.clone()];
        let hash = hash::bytes(piece);
        let seen = &mut self.seen[hash as usize % NUM_SEEN];
        let same = usize::from(*seen);
        if self
            .pieces
            .get(same)
            .is_some_and(|other| other.hash == hash && &text[other.bytes.clone()] == piece)
        {
            self.holes.push((at, same));
            return;
        }
        if !key.is_none() {
            cache.prefetch_other(key);
        }
        tokenizer.vocab.prefetch(hash);
        self.log.prefetch(hash);
        // One batch more than enough at most, which is far below what is counted here.
        *seen = self.pieces.len() as u16;
        self.holes.push((at, self.pieces.len()));
        self.pieces.push(Piece { bytes, hash, key, ids: Ids::Known(0..0) });
    }

    /// Finds the ids of all pieces of the text and puts them where they belong.
    ///
    /// # Errors
    /// [`Error::Value`] if a character tokenizer meets a character that it does not have, or a piece is too long.
    pub(super) fn finish(
        &mut self,
        text: &[u8],
        tokenizer: &Tokenizer,
        cache: &mut PieceCache,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        if self.pieces.is_empty() {
            return Ok(());
        }
        let found = self.find(text, tokenizer, cache);
        if found.is_ok() {
            self.merge(text, tokenizer, cache);
            self.fill_holes(ids);
        }
        self.pieces.clear();
        self.holes.clear();
        self.ids.clear();
        self.shortest.clear();
        self.short.clear();
        found
    }

    /// Finds the ids of pieces that were met before, or are tokens, and what the others start from.
    fn find(&mut self, text: &[u8], tokenizer: &Tokenizer, cache: &mut PieceCache) -> Result<()> {
        let Self { pieces, ids, shortest, short, log, chars, work, max_piece_bytes, .. } = self;
        let Tokenizer { vocab, merges, boundaries, byte_tokens, is_whole, pipeline, .. } = tokenizer;
        for piece in &*pieces {
            log.prefetch_ids(piece.hash);
        }
        for piece in &mut *pieces {
            let &mut Piece { ref bytes, hash, key, .. } = piece;
            let text = &text[bytes.clone()];
            let start = ids.len();
            if let Some(known) = cache.get_other(key) {
                ids.extend_from_slice(&known.ids[..known.len as usize]);
            } else if let Some(id) = vocab.id_of(text, hash).filter(|&id| is_whole[id as usize]) {
                ids.push(id);
                cache.put(key, &[id]);
            } else if let Some(known) = log.get(text, hash) {
                ids.extend_from_slice(known);
            } else {
                long::check_len(text, *max_piece_bytes)?;
                if pipeline.fallback.is_some() {
                    tokenizer.units(text, ids);
                } else {
                    chars.start(text, byte_tokens, boundaries, merges, ids);
                }
                let symbols = &ids[start..];
                if symbols.contains(&NO_TOKEN) {
                    return Err(unknown_character(text));
                }
                if symbols.len() <= MAX_IDS {
                    if symbols.len() <= FEW_IDS {
                        shortest.add(symbols);
                        piece.ids = Ids::Shortest;
                    } else {
                        short.add(symbols);
                        piece.ids = Ids::Short;
                    }
                    ids.truncate(start);
                    continue;
                }
                long::merge(merges, ids, start, work);
                log.put(text, hash, &ids[start..]);
            }
            piece.ids = Ids::Known(start..ids.len());
        }
        Ok(())
    }

    /// Merges the other pieces, side by side, and remembers their ids.
    fn merge(&mut self, text: &[u8], tokenizer: &Tokenizer, cache: &mut PieceCache) {
        let Self { pieces, ids, shortest, short, log, .. } = self;
        let mut shortest = shortest.merge(&tokenizer.merges);
        let mut short = short.merge(&tokenizer.merges);
        for piece in pieces {
            let start = ids.len();
            let merged = match piece.ids {
                Ids::Known(_) => continue,
                Ids::Shortest => shortest.next().map(|merged| merged.append_to(ids)),
                Ids::Short => short.next().map(|merged| merged.append_to(ids)),
            };
            debug_assert!(merged.is_some(), "each piece that is merged was added once");
            piece.ids = Ids::Known(start..ids.len());
            let ids = &ids[start..];
            if ids.len() <= cache::MAX_IDS && !piece.key.is_none() {
                cache.put(piece.key, ids);
            } else {
                log.put(&text[piece.bytes.clone()], piece.hash, ids);
            }
        }
    }

    /// Puts the ids of the pieces between those of the others.
    fn fill_holes(&self, ids: &mut Vec<u32>) {
        let new = |piece: usize| match &self.pieces[piece].ids {
            Ids::Known(range) => &self.ids[range.clone()],
            Ids::Shortest | Ids::Short => &[],
        };
        let mut end = ids.len();
        let added: usize = self.holes.iter().map(|&(_, piece)| new(piece).len()).sum();
        ids.resize(end + added, 0);
        let mut free_end = ids.len();
        for &(at, piece) in self.holes.iter().rev() {
            free_end -= end - at;
            ids.copy_within(at..end, free_end);
            end = at;
            let new = new(piece);
            free_end -= new.len();
            ids[free_end..free_end + new.len()].copy_from_slice(new);
        }
    }
}

/// Only character tokenizers lack bytes, and their pieces are single characters.
fn unknown_character(piece: &[u8]) -> Error {
    let text = String::from_utf8_lossy(piece);
    let code = text.chars().next().map_or(0, |c| c as u32);
    Error::value(format!("character {text:?} (U+{code:04X}) is not in the character vocabulary"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_that_is_too_long_is_refused_and_the_next_text_is_not_affected() {
        let tokenizer = Tokenizer::from_characters("ab", &[]).unwrap();
        let (mut pending, mut cache, mut ids) = (Pending::new(), PieceCache::new(), Vec::new());
        pending.max_piece_bytes = 1;
        let mut encode = |text: &[u8], cache: &mut PieceCache| {
            pending.add(0..text.len(), Key::default(), 0, text, &tokenizer, cache);
            pending.finish(text, &tokenizer, cache, &mut ids)
        };
        let message = encode(b"ab", &mut cache).unwrap_err().to_string();
        assert!(
            message.starts_with("2 bytes without a place where the pattern cuts: at most 1 can"),
            "{message}"
        );
        encode(b"b", &mut cache).unwrap();
        assert_eq!(ids, [1]);
    }
}
