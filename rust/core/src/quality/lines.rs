//! What the lines and paragraphs of a text are like, and which of them repeat.

use xxhash_rust::xxh3::xxh3_64;

use super::share;
use crate::text::{is_unspaced, mix, split_lines, traits};
use crate::unique::drop_unique;

/// A line of fewer characters is short (`FineWeb`).
const SHORT_LINE: usize = 30;
/// Odd, so that no line is lost when the next one joins its paragraph.
const MULTIPLIER: u64 = 0x9fb2_1c65_1e98_df25;

/// Counts of lines that are not blank, each without the white space around it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Lines {
    pub(super) total: u64,
    pub(super) bullet: u64,
    pub(super) ellipsis: u64,
    pub(super) ended: u64,
    pub(super) short: u64,
    /// Words in lines that are not prose (`RefinedWeb`): mostly capitals, numbers, a counter, one word.
    pub(super) noise_words: u64,
    pub(super) line_repeats: Repeats,
    /// Paragraphs are lines without a blank one between them.
    pub(super) paragraph_repeats: Repeats,
}

/// Shares of a text that repeat what came before, each in 0..=1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Repeats {
    /// Pieces that occurred before.
    pub(super) pieces: f64,
    /// Characters of lines in such pieces.
    pub(super) chars: f64,
}

impl Lines {
    pub(super) fn of(text: &str) -> Self {
        let mut found = Self::default();
        let (mut lines, mut paragraphs) = (Vec::new(), Vec::new());
        let mut paragraph = (0, 0);
        for line in split_lines(text).map(str::trim) {
            let (Some(first), Some(last)) = (line.chars().next(), line.chars().next_back()) else {
                paragraphs.extend((paragraph != (0, 0)).then_some(paragraph));
                paragraph = (0, 0);
                continue;
            };
            let len = line.chars().count();
            let hash = xxh3_64(line.as_bytes());
            lines.push((hash, len as u64));
            paragraph = (mix(paragraph.0, MULTIPLIER) ^ hash, paragraph.1 + len as u64);
            found.bullet += u64::from(is_bullet(first));
            found.ellipsis += u64::from(line.ends_with("...") || last == '…');
            found.ended += u64::from(is_sentence_end(last));
            found.short += u64::from(len < SHORT_LINE);
            found.noise_words += if is_noise(line) { num_words(line) } else { 0 };
        }
        paragraphs.extend((paragraph != (0, 0)).then_some(paragraph));
        found.total = lines.len() as u64;
        found.line_repeats = repeats(lines);
        found.paragraph_repeats = repeats(paragraphs);
        found
    }
}

/// Repetition among pieces, each a hash and its number of characters.
fn repeats(mut pieces: Vec<(u64, u64)>) -> Repeats {
    let chars = |pieces: &[(u64, u64)]| pieces.iter().map(|(_, len)| len).sum::<u64>();
    let (num_pieces, num_chars) = (pieces.len() as u64, chars(&pieces));
    drop_unique(&mut pieces);
    pieces.sort_unstable();
    let again: Vec<_> = pieces.chunk_by(|a, b| a.0 == b.0).flat_map(|equal| &equal[1..]).copied().collect();
    Repeats { pieces: share(again.len() as u64, num_pieces), chars: share(chars(&again), num_chars) }
}

fn is_bullet(char: char) -> bool {
    matches!(char, '•' | '‣' | '▪' | '▫' | '◦' | '●' | '■' | '-' | '–' | '*')
}

/// Whether a character ends a sentence or closes a quotation after it.
fn is_sentence_end(char: char) -> bool {
    matches!(char, '.' | '!' | '?' | '…' | ':' | ';' | '"' | '\'' | '”' | '’' | '»' | ')')
        || matches!(char, '。' | '！' | '？' | '」' | '』' | '؟' | '۔' | '।' | '॥' | '။' | '។')
}

/// Whether a line has one word, or more capitals than other letters, or digits but no letter, or is a counter: a
/// number and a word, as in "3 likes".
fn is_noise(line: &str) -> bool {
    let (letters, capitals) = letters_and_capitals(line);
    if 2 * capitals > letters || letters == 0 && line.contains(|char: char| char.is_numeric()) {
        return true;
    }
    // Few bytes are looked at in most lines: two spaces come soon.
    let mut words = line.split_ascii_whitespace();
    let Some(first) = words.next() else { return false };
    let has_two = words.next().is_some();
    if words.next().is_some() {
        return false;
    }
    let is_counter = has_two && first.starts_with(|char: char| char.is_numeric());
    is_counter && num_words(line) == 2 || num_words(line) == 1
}

/// Letters of a line, and those of them that have a lower case.
fn letters_and_capitals(line: &str) -> (u64, u64) {
    // Counts in one byte each, so that many are added at once.
    let count = |is: fn(&u8) -> bool| {
        let parts = line.as_bytes().chunks(usize::from(u8::MAX));
        parts.map(|part| u64::from(part.iter().map(|byte| u8::from(is(byte))).sum::<u8>())).sum::<u64>()
    };
    let (mut letters, mut capitals) = (count(u8::is_ascii_alphabetic), count(u8::is_ascii_uppercase));
    if !line.is_ascii() {
        let table = traits::table();
        for traits in line.chars().filter(|char| !char.is_ascii()).map(|char| table.get(char as u32)) {
            letters += u64::from(traits & traits::LETTER != 0);
            capitals += u64::from(traits & traits::LETTER != 0 && traits & traits::UPPER != 0);
        }
    }
    (letters, capitals)
}

/// Words: runs of characters between spaces; in scripts without spaces, characters.
fn num_words(line: &str) -> u64 {
    if line.is_ascii() {
        return line.split_ascii_whitespace().count() as u64;
    }
    let words = |run: &str| {
        let unspaced = run.chars().filter(|&char| is_unspaced(char)).count();
        unspaced + usize::from(unspaced < run.chars().count())
    };
    line.split_ascii_whitespace().map(words).sum::<usize>() as u64
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    /// Repetition as it is defined, on strings.
    fn by_definition(pieces: &[Vec<&str>]) -> Repeats {
        let chars = |piece: &[&str]| piece.iter().map(|line| line.chars().count() as u64).sum::<u64>();
        let mut seen = HashSet::new();
        let again: Vec<_> = pieces.iter().filter(|piece| !seen.insert(*piece)).collect();
        Repeats {
            pieces: share(again.len() as u64, pieces.len() as u64),
            chars: share(again.iter().map(|p| chars(p)).sum(), pieces.iter().map(|p| chars(p)).sum()),
        }
    }

    proptest! {
        #[test]
        fn pieces_repeat_as_defined(text in "(ab|c|é漢|\n|\n\n| \n|  )*") {
            let lines: Vec<&str> = text.split('\n').map(str::trim).collect();
            let paragraphs: Vec<Vec<&str>> =
                lines.split(|line| line.is_empty()).filter(|lines| !lines.is_empty()).map(<[&str]>::to_vec).collect();
            let lines: Vec<Vec<&str>> = paragraphs.concat().into_iter().map(|line| vec![line]).collect();
            let found = Lines::of(&text);
            prop_assert_eq!(found.line_repeats, by_definition(&lines));
            prop_assert_eq!(found.paragraph_repeats, by_definition(&paragraphs));
            prop_assert_eq!(found.total, lines.len() as u64);
        }
    }

    #[test]
    fn lines_are_told_apart() {
        let found =
            Lines::of("- The cat…\n\n  ends here. \nand a line of thirty characters\n漢字です。\nmore...");
        let expected =
            Lines { total: 5, bullet: 1, ellipsis: 2, ended: 4, short: 4, noise_words: 1, ..found };
        assert_eq!(found, expected);
    }

    #[test]
    fn lines_that_are_not_prose_are_known() {
        for line in ["Home", "SIGN IN NOW", "12.50 / 3", "3 likes", "15k views", "ВХОД на САЙТ", "漢"]
        {
            assert!(is_noise(line), "{line}");
        }
        for line in
            ["Two words", "The BBC is here", "3 men in a boat", "漢字", "3 漢字", "- -", "It was 1984."]
        {
            assert!(!is_noise(line), "{line}");
        }
    }
}
