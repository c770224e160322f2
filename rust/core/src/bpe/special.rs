//! Added tokens: ids that stand for a string found in text, before the text is cut.
//!
//! Special ones are found only if the caller allows them by name, the others always, as in `tokenizers`.

use std::cell::Cell;
use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, MatchKind};

use super::normalize::{Place, normalize};
use super::pipeline::Pipeline;
use super::tokenizer::Tokenizer;
use crate::{Error, Result};

/// How an added token is found in text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Rules {
    /// Found in text although the caller does not allow it by name.
    pub is_plain: bool,
    /// Found only where no word character is next to it.
    pub single_word: bool,
    /// Takes the white space before it.
    pub lstrip: bool,
    /// Takes the white space after it.
    pub rstrip: bool,
    /// Looked for in the normalized text, in its normalized form.
    pub normalized: bool,
}

/// Which added tokens a call recognises in text.
#[derive(Debug, Clone, Default)]
pub struct Allowed(Recognised);

#[derive(Debug, Clone, Default)]
enum Recognised {
    #[default]
    Plain,
    Nothing,
    These(Arc<Finder>),
}

impl Allowed {
    /// The specials of these names, and the tokens that are added but not special.
    ///
    /// # Errors
    /// [`Error::Value`] if the tokenizer has no such special.
    pub fn new<'n>(tokenizer: &Tokenizer, names: impl IntoIterator<Item = &'n str>) -> Result<Self> {
        let mut ids = names.into_iter().map(|name| tokenizer.special_id(name)).collect::<Result<Vec<_>>>()?;
        if ids.is_empty() {
            return Ok(Self::default());
        }
        ids.sort_unstable();
        ids.dedup();
        if ids.len() == tokenizer.specials().len() {
            return Self::all(tokenizer);
        }
        Ok(Self(Recognised::These(Arc::new(Finder::new(tokenizer, &ids)?))))
    }

    /// All added tokens.
    ///
    /// # Errors
    /// [`Error::Value`] if there are too many to look for at once.
    pub fn all(tokenizer: &Tokenizer) -> Result<Self> {
        if let Some(finder) = tokenizer.find_all.get() {
            return Ok(Self(Recognised::These(Arc::clone(finder))));
        }
        let ids: Vec<u32> = tokenizer.specials().map(|(_, id)| id).collect();
        let finder = Arc::new(Finder::new(tokenizer, &ids)?);
        Ok(Self(Recognised::These(Arc::clone(tokenizer.find_all.get_or_init(|| finder)))))
    }

    /// No added token at all: the text as its characters.
    pub fn nothing() -> Self {
        Self(Recognised::Nothing)
    }

    /// What to look for, if anything.
    pub(super) fn finder<'a>(&'a self, tokenizer: &'a Tokenizer) -> Option<&'a Finder> {
        match &self.0 {
            Recognised::Plain => tokenizer.find_plain.as_ref(),
            Recognised::Nothing => None,
            Recognised::These(finder) => Some(finder),
        }
    }
}

/// Finds added tokens: first those looked for in the text as it is, then, in what is left, the others.
#[derive(Debug)]
pub(super) struct Finder {
    raw: Names,
    normalized: Names,
    /// Length of the longest name.
    pub(super) max_bytes: usize,
}

#[derive(Debug)]
struct Names {
    automaton: AhoCorasick,
    tokens: Vec<(u32, Rules)>,
}

impl Names {
    fn new(names: Vec<(String, u32, Rules)>) -> Result<Self> {
        let tokens = names.iter().map(|&(_, id, rules)| (id, rules)).collect();
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(names.into_iter().map(|(name, ..)| name))
            .map_err(|error| Error::value(format!("too many added tokens: {error}")))?;
        Ok(Self { automaton, tokens })
    }

    /// Hands out the text between tokens and the tokens with the text they take, in order.
    fn visit<'t, E>(
        &self,
        text: &'t str,
        mut part: impl FnMut(Part<'t>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let mut done = 0;
        for found in self.automaton.find_iter(text) {
            let (id, rules) = self.tokens[found.pattern().as_usize()];
            let (mut start, mut end) = (found.start(), found.end());
            let (before, after) = (&text[..start], &text[end..]);
            if rules.single_word
                && (before.chars().next_back().is_some_and(is_word)
                    || after.chars().next().is_some_and(is_word))
            {
                continue;
            }
            if rules.lstrip {
                start = before.trim_end().len().max(done);
            }
            if rules.rstrip {
                end += after.len() - after.trim_start().len();
            }
            // The token before may have taken white space that this one starts with.
            start = start.max(done);
            end = end.max(start);
            if done < start {
                part(Part::Text(&text[done..start]))?;
            }
            part(Part::Added(id, &text[start..end]))?;
            done = end;
        }
        if done < text.len() { part(Part::Text(&text[done..])) } else { Ok(()) }
    }
}

fn is_word(c: char) -> bool {
    regex_syntax::is_word_character(c)
}

impl Finder {
    /// For the plain tokens of a tokenizer and the specials of these ids.
    pub(super) fn new(tokenizer: &Tokenizer, specials: &[u32]) -> Result<Self> {
        let (mut raw, mut normalized) = (Vec::new(), Vec::new());
        let mut max_bytes = 0;
        for (name, id, rules) in tokenizer.added() {
            if !rules.is_plain && !specials.contains(&id) {
                continue;
            }
            let steps = if rules.normalized { tokenizer.pipeline.normalizer.as_slice() } else { &[] };
            let name = normalize(steps, name, Place::First).into_owned();
            max_bytes = max_bytes.max(name.len());
            if rules.normalized { &mut normalized } else { &mut raw }.push((name, id, rules));
        }
        Ok(Self { raw: Names::new(raw)?, normalized: Names::new(normalized)?, max_bytes })
    }

    /// Whether some token is looked for in normalized text.
    pub(super) fn finds_normalized(&self) -> bool {
        !self.normalized.tokens.is_empty()
    }

    /// Where the text between tokens is. If some are looked for in normalized text, nothing may change the text.
    pub(super) fn text_parts(&self, text: &str) -> Vec<Range<usize>> {
        let (mut parts, mut at) = (Vec::new(), 0);
        let mut add = |part: Part<'_>| {
            let (Part::Text(text) | Part::Added(_, text)) = part;
            if matches!(part, Part::Text(_)) {
                parts.push(at..at + text.len());
            }
            at += text.len();
            Ok::<_, Infallible>(())
        };
        let Ok(()) = self.raw.visit(text, |part| match part {
            Part::Text(text) => self.normalized.visit(text, &mut add),
            added @ Part::Added(..) => add(added),
        });
        parts
    }
}

/// A part of a text with added tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part<'t> {
    /// Normalized text, to be cut into pieces.
    Text(&'t str),
    /// An added token and the text it stands for.
    Added(u32, &'t str),
}

impl Tokenizer {
    /// Hands out a text in parts: added tokens that `finder` finds, and the normalized text between them.
    pub(super) fn visit<E>(
        &self,
        text: &str,
        finder: Option<&Finder>,
        place: Place,
        mut part: impl FnMut(Part<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let Pipeline { normalizer, .. } = &self.pipeline;
        let place = Cell::new(place);
        let mut emit = |found: Part<'_>| {
            let place = place.replace(Place::Later);
            match found {
                Part::Text("") => Ok(()),
                Part::Text(text) => part(Part::Text(&self.pipeline.finish(text, place))),
                added @ Part::Added(..) => part(added),
            }
        };
        let Some(finder) = finder else {
            return emit(Part::Text(&normalize(normalizer, text, place.get())));
        };
        finder.raw.visit(text, |found| match found {
            Part::Text(text) => finder.normalized.visit(&normalize(normalizer, text, place.get()), &mut emit),
            added @ Part::Added(..) => emit(added),
        })
    }
}

/// Checks names before they become tokens.
///
/// # Errors
/// [`Error::Value`] if a name is empty or appears twice.
pub(super) fn check_names(names: &[String]) -> Result<()> {
    for (i, name) in names.iter().enumerate() {
        if name.is_empty() {
            return Err(Error::value("a special token needs a name, got an empty string"));
        }
        if names[..i].contains(name) {
            return Err(Error::value(format!("special token {name:?} is given twice")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut<'t>(names: &[(&str, Rules)], text: &'t str) -> Vec<Part<'t>> {
        let names = names.iter().zip(1..).map(|(&(name, rules), id)| (name.to_owned(), id, rules));
        let mut parts = Vec::new();
        let found = Names::new(names.collect()).unwrap().visit(text, |part| {
            parts.push(part);
            Ok::<_, Infallible>(())
        });
        assert!(found.is_ok());
        parts
    }

    const AS_IT_IS: Rules =
        Rules { is_plain: false, single_word: false, lstrip: false, rstrip: false, normalized: false };

    #[test]
    fn the_leftmost_and_longest_name_wins() {
        use Part::{Added, Text};
        let names = [("<a>", AS_IT_IS), ("<a><b>", AS_IT_IS), ("b", AS_IT_IS)];
        assert_eq!(cut(&names, "x<a><b>y"), [Text("x"), Added(2, "<a><b>"), Text("y")]);
        assert_eq!(cut(&names, "<a>b<a"), [Added(1, "<a>"), Added(3, "b"), Text("<a")]);
        assert_eq!(cut(&names, "<a><a>"), [Added(1, "<a>"), Added(1, "<a>")]);
        assert_eq!(cut(&names, ""), []);
        assert_eq!(cut(&[], "<a>"), [Text("<a>")]);
    }

    #[test]
    fn rules_decide_where_a_name_is_found_and_what_it_takes() {
        use Part::{Added, Text};
        let word = Rules { single_word: true, ..AS_IT_IS };
        assert_eq!(cut(&[("ab", word)], "ab_ab ab"), [Text("ab_ab "), Added(1, "ab")]);
        let greedy = Rules { lstrip: true, rstrip: true, ..AS_IT_IS };
        assert_eq!(
            cut(&[("-", greedy)], "a - \n- b"),
            [Text("a"), Added(1, " - \n"), Added(1, "- "), Text("b")]
        );
    }
}
