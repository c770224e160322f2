//! Cutting text as a tokenizer file says, where that is not one of the built-in patterns.
//!
//! A cut is a row of stages; each cuts the pieces of the stage before. Files may put stages after the step that
//! spells bytes as characters: those cut the spelling.

use std::ops::Range;

use fancy_regex::Regex;

use super::gpt2::spell;
use super::pretokenize::Pattern;
use super::regex;
use super::unicode::{Classes, Set};
use crate::{Error, Result};

/// What becomes of the parts of a text that match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behavior {
    /// They are left out.
    Removed,
    /// They are pieces, like what is between them.
    Isolated,
    /// They end the piece before them.
    MergedWithPrevious,
    /// They begin the piece after them.
    MergedWithNext,
    /// Neighbours that match are one piece.
    Contiguous,
}

/// One stage.
#[derive(Debug)]
pub(super) enum Stage {
    /// A built-in pattern.
    Pattern(Pattern),
    /// An expression.
    Split { regex: Regex, behavior: Behavior, is_inverted: bool },
}

impl Stage {
    /// A stage from an expression that [`regex::translate`] wrote.
    pub(super) fn split(
        translated: &str,
        behavior: Behavior,
        is_inverted: bool,
    ) -> std::result::Result<Self, String> {
        Ok(Self::Split { regex: regex::compile(translated)?, behavior, is_inverted })
    }

    /// Appends the pieces of a text that begins at byte `base`.
    fn cut(&self, text: &str, base: usize, pieces: &mut Vec<Range<usize>>) -> Result<()> {
        match self {
            Self::Pattern(pattern) => {
                let mut start = base;
                pieces.extend(pattern.pieces(text).map(|piece| {
                    let piece = start..start + piece.len();
                    start = piece.end;
                    piece
                }));
                Ok(())
            }
            Self::Split { regex, behavior, is_inverted } => {
                split(text, regex, *behavior, *is_inverted, base, pieces)
            }
        }
    }
}

/// Appends the pieces that the matches of an expression make of a text that begins at byte `base`.
fn split(
    text: &str,
    regex: &Regex,
    behavior: Behavior,
    is_inverted: bool,
    base: usize,
    pieces: &mut Vec<Range<usize>>,
) -> Result<()> {
    // Matches and what is between them, in order.
    let mut parts: Vec<(Range<usize>, bool)> = Vec::new();
    let mut start = 0;
    for found in regex.find_iter(text) {
        let found = found.map_err(|error| {
            Error::value(format!("the pattern of this tokenizer gave up on a text: {error}"))
        })?;
        parts.push((start..found.start(), is_inverted));
        parts.push((found.range(), !is_inverted));
        start = found.end();
    }
    parts.push((start..text.len(), is_inverted));
    parts.retain(|(part, _)| !part.is_empty());
    let first = pieces.len();
    let joins = |before: bool, is_match: bool| match behavior {
        Behavior::Removed | Behavior::Isolated => false,
        Behavior::MergedWithPrevious => is_match && !before,
        Behavior::MergedWithNext => before && !is_match,
        Behavior::Contiguous => before == is_match,
    };
    let mut before = None;
    for (part, is_match) in parts {
        if behavior == Behavior::Removed && is_match {
            continue;
        }
        let part = base + part.start..base + part.end;
        match pieces[first..].last_mut() {
            Some(piece) if before.is_some_and(|before| joins(before, is_match)) => piece.end = part.end,
            _ => pieces.push(part),
        }
        before = Some(is_match);
    }
    Ok(())
}

/// The stages of a file.
#[derive(Debug, Default)]
pub(super) struct Cut {
    /// Stages that see text.
    pub(super) stages: Vec<Stage>,
    /// Stages that see the spelling of the bytes.
    pub(super) spelled: Vec<Stage>,
}

impl Cut {
    /// The pieces as byte ranges of the text, in order. Some of the text is in none if a stage removes it.
    ///
    /// # Errors
    /// [`Error::Value`] if an expression needs more steps for this text than its engine allows.
    pub(super) fn pieces(&self, text: &str) -> Result<Vec<Range<usize>>> {
        let pieces = run(&self.stages, text)?;
        if self.spelled.is_empty() {
            return Ok(pieces);
        }
        let mut cut = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let base = piece.start;
            let spelling = spell(&text.as_bytes()[piece]);
            // A character of the spelling is a byte of the text; parts are in order, so each is counted once.
            let (mut seen, mut num_bytes) = (0, base);
            let mut byte_at = |at: usize| {
                num_bytes += spelling[seen..at].chars().count();
                seen = at;
                num_bytes
            };
            for part in run(&self.spelled, &spelling)? {
                let start = byte_at(part.start);
                cut.push(start..byte_at(part.end));
            }
        }
        Ok(cut)
    }
}

/// Where the white space that ends a text begins, without line ends that belong to the signs before them.
pub(super) fn last_space(text: &str) -> usize {
    let word = text.trim_end();
    let takes_line_ends =
        word.chars().next_back().is_some_and(|last| Set::OTHER.has(Classes::get().of(last as u32)));
    let space = &text[word.len()..];
    if takes_line_ends { text.len() - space.trim_start_matches(['\r', '\n']).len() } else { word.len() }
}

fn run(stages: &[Stage], text: &str) -> Result<Vec<Range<usize>>> {
    let mut pieces: Vec<_> = std::iter::once(0..text.len()).collect();
    for stage in stages {
        let mut cut = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let start = piece.start;
            stage.cut(&text[piece], start, &mut cut)?;
        }
        pieces = cut;
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(stages: Vec<Stage>, spelled: Vec<Stage>, text: &str) -> Vec<String> {
        let pieces = Cut { stages, spelled }.pieces(text).unwrap();
        pieces
            .into_iter()
            .map(|piece| String::from_utf8_lossy(&text.as_bytes()[piece]).into_owned())
            .collect()
    }

    fn split(expression: &str, behavior: Behavior) -> Stage {
        Stage::split(expression, behavior, false).unwrap()
    }

    #[test]
    fn matches_go_where_the_behavior_says() {
        let pieces = |behavior| cut(vec![split("-", behavior)], vec![], "a--b-");
        assert_eq!(pieces(Behavior::Removed), ["a", "b"]);
        assert_eq!(pieces(Behavior::Isolated), ["a", "-", "-", "b", "-"]);
        assert_eq!(pieces(Behavior::MergedWithPrevious), ["a-", "-", "b-"]);
        assert_eq!(pieces(Behavior::MergedWithNext), ["a", "-", "-b", "-"]);
        assert_eq!(pieces(Behavior::Contiguous), ["a", "--", "b", "-"]);
    }

    #[test]
    fn stages_cut_what_the_stage_before_left() {
        let digits = || split(r"\p{N}", Behavior::Isolated);
        assert_eq!(
            cut(vec![digits(), Stage::Pattern(Pattern::Gpt2)], vec![], "ab 12 c"),
            ["ab", " ", "1", "2", " c"]
        );
        // The spelling of é has two characters, and the second, ©, is no digit.
        assert_eq!(cut(vec![Stage::Pattern(Pattern::Gpt2)], vec![digits()], "é1 é"), ["é", "1", " é"]);
    }
}
