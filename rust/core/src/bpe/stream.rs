//! Encoding text as it comes.
//!
//! Text is encoded up to a place where every pattern starts a piece whatever follows: white space after a word, a
//! sign after a letter or digit, a word after a single line end. What is before such a place has the ids that it
//! has in the whole text.

use super::fallback::{SPACE, Spaces};
use super::normalize::{Place, Step};
use super::pretokenize::Pattern;
use super::special::{Allowed, Finder};
use super::tokenizer::Tokenizer;
use super::unicode::{Class, Classes, Set};
use crate::Result;

/// Ids from text as it comes: all together they are those of [`Tokenizer::encode`] for the whole text.
#[derive(Debug, Default)]
pub struct StreamEncoder {
    pending: String,
    /// No place before this one is sure.
    seen: usize,
    has_started: bool,
}

impl StreamEncoder {
    /// Takes in text and appends the ids that can no longer change.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`]; the encoder is then of no further use.
    pub fn push(
        &mut self,
        tokenizer: &Tokenizer,
        text: &str,
        allowed: &Allowed,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        self.pending.push_str(text);
        let finder = allowed.finder(tokenizer);
        let Some(places) = SurePlaces::of(tokenizer, finder) else { return Ok(()) };
        // A token that begins before a place must have been seen whole, and a character after it.
        let known = self.pending.len().saturating_sub(finder.map_or(0, |finder| finder.max_bytes));
        if let Some(end) = places.last(&self.pending, self.seen, known, finder) {
            self.encode(tokenizer, end, allowed, ids)?;
            self.seen = 0;
        } else {
            self.seen = known;
        }
        Ok(())
    }

    /// Appends the ids of what is left; the encoder is then at the start of another text.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn finish(&mut self, tokenizer: &Tokenizer, allowed: &Allowed, ids: &mut Vec<u32>) -> Result<()> {
        let result = self.encode(tokenizer, self.pending.len(), allowed, ids);
        *self = Self::default();
        result
    }

    /// Bytes of text that wait for what follows.
    pub fn num_pending(&self) -> usize {
        self.pending.len()
    }

    fn encode(
        &mut self,
        tokenizer: &Tokenizer,
        end: usize,
        allowed: &Allowed,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        let place = if self.has_started { Place::Continued } else { Place::First };
        tokenizer.encoder().encode_at(place, &self.pending[..end], allowed, ids)?;
        self.has_started |= end > 0;
        self.pending.drain(..end);
        Ok(())
    }
}

/// Places in the text of a tokenizer where it can be cut without a change.
#[derive(Debug, Clone, Copy)]
enum SurePlaces {
    /// Before every character.
    Everywhere,
    /// Before spaces that follow another character.
    Spaces,
    /// Where all patterns start a piece.
    Pieces,
}

impl SurePlaces {
    /// Nothing if such places are not known: the cuts of a file may look at any amount of text.
    fn of(tokenizer: &Tokenizer, finder: Option<&Finder>) -> Option<Self> {
        let pipeline = &tokenizer.pipeline;
        let is_local = |step: &Step| match step {
            Step::Strip { .. } | Step::ReplaceRuns { .. } => false,
            Step::Replace { from, .. } => from == " ",
            _ => true,
        };
        let finds_normalized = finder.is_some_and(Finder::finds_normalized);
        if !pipeline.normalizer.iter().all(is_local)
            || (finds_normalized && !pipeline.normalizer.is_empty())
            || pipeline.cut.is_some()
        {
            return None;
        }
        match &pipeline.fallback {
            Some(fallback) => (fallback.cut != Spaces::Nowhere).then_some(Self::Spaces),
            None if pipeline.normalizer.iter().any(|step| matches!(step, Step::Replace { .. })) => None,
            None if !pipeline.normalizer.is_empty() => Some(Self::Spaces),
            None if tokenizer.pattern == Pattern::Characters => Some(Self::Everywhere),
            None => Some(Self::Pieces),
        }
    }

    /// The last sure place in `text` from byte `from` to `to`.
    fn last(self, text: &str, from: usize, to: usize, finder: Option<&Finder>) -> Option<usize> {
        let classes = Classes::get();
        let class = |c: char| classes.of(c as u32);
        let to = (0..=to).rev().find(|&at| text.is_char_boundary(at))?;
        let mut after = match self {
            // The end is as sure as any place.
            Self::Everywhere => text[to..].chars().next().or(Some(' ')),
            Self::Spaces | Self::Pieces => text[to..].chars().next(),
        };
        let mut parts = None;
        let mut at = to;
        while at > from.saturating_sub(1) {
            let mut before = text[..at].chars().rev();
            let previous = before.next()?;
            let is_sure = after.is_some_and(|next| match self {
                Self::Everywhere => true,
                Self::Spaces => {
                    next == ' ' && !matches!(previous, ' ' | SPACE) && class(previous) != Class::Space
                }
                Self::Pieces => match (class(previous), class(next)) {
                    (Class::Space, kind) => {
                        previous == '\n'
                            && (Set::LETTER.has(kind) || kind == Class::Number)
                            && before.next().is_some_and(|c| class(c) != Class::Space)
                    }
                    (_, Class::Space) => next != '\r' && next != '\n',
                    (kind, Class::Other) => (Set::LETTER.has(kind) || kind == Class::Number) && next != '\'',
                    _ => false,
                },
            });
            if is_sure {
                let Some(finder) = finder else { return Some(at) };
                let parts: &Vec<_> = parts.get_or_insert_with(|| finder.text_parts(text));
                if parts.iter().any(|part| part.start < at && at <= part.end) {
                    return Some(at);
                }
            }
            after = Some(previous);
            at -= previous.len_utf8();
        }
        None
    }
}
