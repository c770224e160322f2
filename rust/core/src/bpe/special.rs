//! Special tokens: ids that no text turns into unless the caller allows it by name.

use super::tokenizer::Tokenizer;
use crate::{Error, Result};

/// Special tokens that a call may recognise in text; none by default.
#[derive(Debug, Clone, Default)]
pub struct Allowed {
    tokens: Vec<(Box<str>, u32)>,
}

impl Allowed {
    /// The specials of these names.
    ///
    /// # Errors
    /// [`Error::Value`] if the tokenizer has no such special.
    pub fn new<'n>(tokenizer: &Tokenizer, names: impl IntoIterator<Item = &'n str>) -> Result<Self> {
        let resolve = |name: &str| Ok((name.into(), tokenizer.special_id(name)?));
        Ok(Self { tokens: names.into_iter().map(resolve).collect::<Result<_>>()? })
    }

    /// Cuts `text` at the allowed specials: the leftmost first, and the longest of those that start there.
    pub(super) fn segments<'a>(&'a self, text: &'a str) -> impl Iterator<Item = Segment<'a>> {
        // Where each special occurs next, looked up again only when passed: linear in text times specials.
        let mut upcoming: Vec<Option<usize>> =
            self.tokens.iter().map(|(name, _)| text.find(&**name)).collect();
        let mut start = 0;
        let mut pending = None;
        std::iter::from_fn(move || {
            if let Some(special) = pending.take() {
                return Some(special);
            }
            for (next, (name, _)) in upcoming.iter_mut().zip(&self.tokens) {
                if next.is_some_and(|at| at < start) {
                    *next = text[start..].find(&**name).map(|at| start + at);
                }
            }
            let found = upcoming.iter().zip(&self.tokens).filter_map(|(next, token)| Some(((*next)?, token)));
            let first = found.min_by_key(|(at, (name, _))| (*at, std::cmp::Reverse(name.len())));
            let Some((at, (name, id))) = first else {
                let rest = &text[start..];
                start = text.len();
                return (!rest.is_empty()).then_some(Segment::Text(rest));
            };
            let before = &text[start..at];
            start = at + name.len();
            if before.is_empty() {
                return Some(Segment::Special(*id));
            }
            pending = Some(Segment::Special(*id));
            Some(Segment::Text(before))
        })
    }
}

/// A part of a text with specials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Segment<'t> {
    /// Text to be cut into pieces.
    Text(&'t str),
    /// A special token.
    Special(u32),
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
    use super::Segment::{Special, Text};
    use super::*;

    #[test]
    fn the_leftmost_and_longest_special_wins() {
        let allowed = Allowed { tokens: vec![("<a>".into(), 1), ("<a><b>".into(), 2), ("b".into(), 3)] };
        let cut = |text| allowed.segments(text).collect::<Vec<_>>();
        assert_eq!(cut("x<a><b>y"), [Text("x"), Special(2), Text("y")]);
        assert_eq!(cut("<a>b<a"), [Special(1), Special(3), Text("<a")]);
        assert_eq!(cut("<a><a>"), [Special(1), Special(1)]);
        assert_eq!(cut(""), []);
    }

    #[test]
    fn nothing_is_special_unless_allowed() {
        assert_eq!(Allowed::default().segments("<|end|>").collect::<Vec<_>>(), [Text("<|end|>")]);
    }
}
