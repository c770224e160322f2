//! Where in a text each token comes from, and where in decoded text each id ends up.

use std::ops::Range;

use super::encode::Encoder;
use super::normalize::Place;
use super::special::{Allowed, Part};
use super::tokenizer::Tokenizer;
use crate::Result;

/// What places in a text are counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes of UTF-8.
    Byte,
    /// Characters, that is code points.
    Char,
}

/// Tokens and their places.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placed {
    /// The ids.
    pub ids: Vec<u32>,
    /// Where each begins.
    pub starts: Vec<i64>,
    /// Where each ends. A character whose bytes are spread over tokens counts to each of them.
    pub ends: Vec<i64>,
    /// The text that places refer to: what was encoded, after the file's normalizer.
    pub text: String,
}

impl Placed {
    fn push(&mut self, id: u32, place: Range<usize>) {
        self.ids.push(id);
        self.starts.push(place.start as i64);
        self.ends.push(place.end as i64);
    }

    /// Adds tokens one after the other.
    fn push_all(&mut self, tokenizer: &Tokenizer, ids: &[u32], mut start: usize) -> Result<()> {
        for &id in ids {
            let end = start + tokenizer.token_bytes(id)?.len();
            self.push(id, start..end);
            start = end;
        }
        Ok(())
    }

    /// Counts places in characters, which begin at the given bytes.
    fn count_chars(&mut self, begins: &[usize]) {
        // Places do not decrease, so both edges move through the text once.
        let (mut first, mut last) = (0, 0);
        for (start, end) in self.starts.iter_mut().zip(&mut self.ends) {
            while begins.get(first + 1).is_some_and(|&begin| begin as i64 <= *start) {
                first += 1;
            }
            last = last.max(first);
            while begins.get(last).is_some_and(|&begin| (begin as i64) < *end) {
                last += 1;
            }
            (*start, *end) = (first as i64, last as i64);
        }
    }
}

impl Tokenizer {
    /// The ids of a text with the places of their tokens.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_with_offsets(&self, text: &str, allowed: &Allowed, unit: Unit) -> Result<Placed> {
        let mut placed = Placed::default();
        let mut encoder = self.encoder();
        self.visit(text, allowed.finder(self), Place::First, |part| {
            let base = placed.text.len();
            match part {
                Part::Added(id, text) => {
                    placed.text.push_str(text);
                    placed.push(id, base..base + text.len());
                    Ok(())
                }
                Part::Text(text) => {
                    placed.text.push_str(text);
                    encoder.place(text, base, &mut placed)
                }
            }
        })?;
        if unit == Unit::Char {
            let begins: Vec<usize> = placed.text.char_indices().map(|(at, _)| at).collect();
            placed.count_chars(&begins);
        }
        Ok(placed)
    }

    /// The text of ids with the places of their tokens in it; those of skipped tokens are empty. Bytes are those of
    /// [`Tokenizer::decode_bytes`], characters those of [`Tokenizer::decode`].
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn decode_with_offsets(&self, ids: &[u32], skip_special: bool, unit: Unit) -> Result<Placed> {
        let bytes = self.decode_bytes(ids, skip_special)?;
        let mut placed = Placed { text: String::from_utf8_lossy(&bytes).into_owned(), ..Placed::default() };
        // Of a space that decoding takes away, the first token has nothing left.
        let mut surplus = ids
            .iter()
            .filter(|&&id| !(skip_special && self.is_special(id)))
            .map(|&id| self.token_bytes(id).map_or(0, <[u8]>::len))
            .sum::<usize>()
            - bytes.len();
        let mut end = 0;
        for &id in ids {
            let start = end;
            if !(skip_special && self.is_special(id)) {
                end += self.token_bytes(id)?.len() - std::mem::take(&mut surplus);
            }
            placed.push(id, start..end);
        }
        if unit == Unit::Char {
            let mut begins = Vec::with_capacity(placed.text.len());
            let mut at = 0;
            for chunk in bytes.utf8_chunks() {
                begins.extend(chunk.valid().char_indices().map(|(i, _)| at + i));
                at += chunk.valid().len();
                begins.extend((!chunk.invalid().is_empty()).then_some(at));
                at += chunk.invalid().len();
            }
            placed.count_chars(&begins);
        }
        Ok(placed)
    }
}

impl Encoder<'_> {
    /// Appends the tokens of text between added tokens, which begins at `base`.
    fn place(&mut self, text: &str, base: usize, placed: &mut Placed) -> Result<()> {
        let tokenizer = self.tokenizer();
        let Some(cut) = &tokenizer.pipeline.cut else {
            let mut ids = Vec::new();
            self.encode_normalized(text, &mut ids)?;
            return placed.push_all(tokenizer, &ids, base);
        };
        // Stages of a file may leave text out, so each piece says where it is.
        let mut ids = Vec::new();
        for piece in cut.pieces(text)? {
            ids.clear();
            self.encode_cached(&text.as_bytes()[piece.clone()], &mut ids)?;
            placed.push_all(tokenizer, &ids, base + piece.start)?;
        }
        Ok(())
    }
}
