//! BPE over characters with bytes for those that have no token, as sentencepiece makes it for Llama 2 and Mistral.
//!
//! Such vocabularies write a space as U+2581; here tokens and text have the space itself, and the sign in a text
//! counts as a space, which is what it becomes there too.

use std::borrow::Cow;
use std::ops::Range;

use rustc_hash::FxHashMap;

use super::tokenizer::Tokenizer;

/// How files write a space.
pub(super) const SPACE: char = '\u{2581}';

/// The units of such a vocabulary.
#[derive(Debug)]
pub(super) struct Fallback {
    /// Characters that are tokens.
    pub(super) chars: FxHashMap<char, u32>,
    /// The tokens of single bytes.
    pub(super) bytes: [u32; 256],
    /// Where text may be cut without a change.
    pub(super) cut: Spaces,
    /// Whether decoding takes away the space that encoding put in front.
    pub(super) strips_first: bool,
}

/// Where pieces begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spaces {
    /// Only at the start: some token has a space after another character.
    Nowhere,
    /// At the first space of each run.
    Runs,
    /// At every space, as the file demands.
    Each,
}

impl Fallback {
    /// The text with spaces for the sign of a space.
    pub(super) fn with_spaces(text: &str) -> Cow<'_, str> {
        if text.contains(SPACE) { Cow::Owned(text.replace(SPACE, " ")) } else { Cow::Borrowed(text) }
    }

    /// Fills in the characters that are tokens, and gives up cutting if some token spans words.
    pub(super) fn index(&mut self, tokens: &[Vec<u8>], is_apart: impl Fn(u32) -> bool) {
        for (id, token) in (0..).zip(tokens) {
            let Ok(text) = std::str::from_utf8(token) else { continue };
            if is_apart(id) {
                continue;
            }
            let mut chars = text.chars();
            if let (Some(c), None) = (chars.next(), chars.next()) {
                self.chars.insert(c, id);
            }
            if self.cut == Spaces::Runs && text.trim_start_matches(' ').contains(' ') {
                self.cut = Spaces::Nowhere;
            }
        }
    }

    /// The pieces of a text.
    pub(super) fn pieces(&self, text: &str) -> impl Iterator<Item = Range<usize>> {
        let bytes = text.as_bytes();
        let mut start = 0;
        std::iter::from_fn(move || {
            if start == bytes.len() {
                return None;
            }
            let is_start = |at: &usize| match self.cut {
                Spaces::Nowhere => false,
                Spaces::Runs => bytes[*at] == b' ' && bytes[at - 1] != b' ',
                Spaces::Each => bytes[*at] == b' ',
            };
            let end = (start + 1..bytes.len()).find(is_start).unwrap_or(bytes.len());
            Some(std::mem::replace(&mut start, end)..end)
        })
    }
}

impl Tokenizer {
    /// Appends the tokens that merging starts from: the bytes, or the characters where those are the units.
    pub(super) fn units(&self, piece: &[u8], ids: &mut Vec<u32>) {
        let bytes = |bytes: &[u8], ids: &mut Vec<u32>| {
            ids.extend(bytes.iter().map(|&byte| self.byte_tokens[byte as usize]));
        };
        let Some(fallback) = &self.pipeline.fallback else { return bytes(piece, ids) };
        for chunk in piece.utf8_chunks() {
            for c in chunk.valid().chars() {
                match fallback.chars.get(&c) {
                    Some(&id) => ids.push(id),
                    None => bytes(c.encode_utf8(&mut [0; 4]).as_bytes(), ids),
                }
            }
            bytes(chunk.invalid(), ids);
        }
    }
}
