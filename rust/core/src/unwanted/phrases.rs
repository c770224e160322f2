//! Words and phrases of a list, found in texts.

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

use crate::text::{for_each_word, is_unspaced};
use crate::{Error, Result};

/// Bytes of lists that are searched with a table of transitions, about 64 bytes of memory for each.
const TABLE_BELOW: usize = 1 << 20;

/// A list of words and phrases. A phrase is found as it is written, but for case, where no word goes on across its ends:
/// "ass" is not in "class". In scripts written without spaces it is found anywhere.
#[derive(Debug, Clone)]
pub struct Phrases {
    automaton: AhoCorasick,
}

/// Buffers that are used again from text to text.
#[derive(Debug, Default)]
pub struct Scratch {
    found: Vec<(usize, usize)>,
    masked: String,
}

impl Phrases {
    /// Prepares a list for searching.
    ///
    /// # Errors
    /// [`Error::Value`] if a phrase is empty, has white space at an end, or there are too many.
    pub fn new<T: AsRef<str>>(phrases: &[T]) -> Result<Self> {
        let mut spellings: Vec<String> = Vec::with_capacity(phrases.len());
        for phrase in phrases.iter().map(AsRef::as_ref) {
            if phrase.is_empty() || phrase.trim() != phrase {
                return Err(Error::value(format!(
                    "a phrase must have text and no space at its ends, got {phrase:?}"
                )));
            }
            spellings.push(phrase.to_owned());
            // The automaton knows the case of ASCII alone.
            if !phrase.is_ascii() {
                spellings.extend([phrase.to_lowercase(), phrase.to_uppercase(), capitalized(phrase)]);
            }
        }
        spellings.sort_unstable();
        spellings.dedup();
        let is_small = spellings.iter().map(String::len).sum::<usize>() < TABLE_BELOW;
        let automaton = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::Standard)
            .kind(is_small.then_some(AhoCorasickKind::DFA))
            .build(&spellings)
            .map_err(|error| Error::value(format!("cannot search for {} phrases: {error}", phrases.len())))?;
        Ok(Self { automaton })
    }

    /// Finds phrases: their ranges in bytes, in order. Of those that overlap, the one that starts first is taken, then the
    /// longest.
    pub fn find<'s>(&self, text: &str, scratch: &'s mut Scratch) -> &'s [(usize, usize)] {
        let found = &mut scratch.found;
        found.clear();
        let matches = self.automaton.find_overlapping_iter(text).map(|found| (found.start(), found.end()));
        // A symbol of the list may have any bytes, but a text and a phrase are both UTF-8, so ranges are of characters.
        found.extend(matches.filter(|&(start, end)| is_apart(text, start) && is_apart(text, end)));
        found.sort_unstable_by_key(|&(start, end)| (start, std::cmp::Reverse(end)));
        let mut behind = 0;
        found.retain(|&(start, end)| {
            let is_free = start >= behind;
            behind = if is_free { end } else { behind };
            is_free
        });
        found
    }

    /// The text with `replacement` for each phrase, and how many there were; none if there is nothing to replace.
    pub fn mask<'s>(
        &self,
        text: &str,
        replacement: &str,
        scratch: &'s mut Scratch,
    ) -> Option<(&'s str, usize)> {
        let count = self.find(text, scratch).len();
        let Scratch { found, masked } = scratch;
        masked.clear();
        let mut done = 0;
        for &(start, end) in found.iter() {
            masked.push_str(&text[done..start]);
            masked.push_str(replacement);
            done = end;
        }
        masked.push_str(&text[done..]);
        (count > 0).then_some((masked, count))
    }

    /// How many phrases there are, and the share of the text's words that are in them. Words are as in
    /// [`for_each_word`]; a phrase without any counts as one.
    pub fn measure(&self, text: &str, scratch: &mut Scratch) -> (usize, f64) {
        let found = self.find(text, scratch);
        if found.is_empty() {
            return (0, 0.0);
        }
        let inside: usize = found.iter().map(|&(start, end)| num_words(&text[start..end]).max(1)).sum();
        let all = num_words(text).max(inside);
        (found.len(), inside as f64 / all as f64)
    }
}

fn num_words(text: &str) -> usize {
    let mut count = 0;
    for_each_word(text, |_| count += 1);
    count
}

fn capitalized(phrase: &str) -> String {
    let mut chars = phrase.chars();
    let first = chars.next().into_iter().flat_map(char::to_uppercase);
    first.chain(chars.flat_map(char::to_lowercase)).collect()
}

/// Whether no word goes on across a place.
fn is_apart(text: &str, at: usize) -> bool {
    let is_joined = |char: char| (char.is_alphanumeric() || char == '_') && !is_unspaced(char);
    let before = text[..at].chars().next_back();
    let after = text[at..].chars().next();
    !(before.is_some_and(is_joined) && after.is_some_and(is_joined))
}
