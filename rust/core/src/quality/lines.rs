//! What the lines and paragraphs of a text are like, and which of them repeat.

use super::counts::Until;
use super::share;
use crate::text::{KEYS, is_unspaced, mix};

/// A line of fewer characters is short (`FineWeb`).
const SHORT_LINE: u64 = 30;
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
    /// Looks at the lines of a text, which end there.
    pub(super) fn of(text: &str, ends: &[Until], seen: &mut [Seen; 2]) -> Self {
        let mut found = Self::default();
        let [lines, paragraphs] = seen;
        lines.clear(ends.len());
        paragraphs.clear(ends.len());
        let mut paragraph = (0, 0);
        for line in Line::all(text, ends) {
            let (Some(first), Some(last)) = (line.text.chars().next(), line.text.chars().next_back()) else {
                paragraphs.end(&mut paragraph);
                continue;
            };
            let hash = hash(line.text.as_bytes());
            lines.add(hash, line.chars);
            paragraph = (mix(paragraph.0, MULTIPLIER) ^ hash, paragraph.1 + line.chars);
            found.total += 1;
            found.bullet += u64::from(is_bullet(first));
            found.ellipsis += u64::from(is_ellipsis(line.text, last));
            found.ended += u64::from(is_sentence_end(last));
            found.short += u64::from(line.chars < SHORT_LINE);
            found.noise_words += if line.is_noise() { line.num_words() } else { 0 };
        }
        paragraphs.end(&mut paragraph);
        (found.line_repeats, found.paragraph_repeats) = (lines.repeats(), paragraphs.repeats());
        found
    }
}

/// The hashes of pieces, each in the first free slot from the one that it names, and how much of them came before.
#[derive(Default)]
pub(super) struct Seen {
    slots: Vec<u64>,
    /// Pieces and characters: all, and those that came before.
    all: [u64; 2],
    again: [u64; 2],
}

impl Seen {
    /// Makes room for so many pieces.
    fn clear(&mut self, num_pieces: usize) {
        self.slots.clear();
        self.slots.resize((2 * num_pieces).next_power_of_two(), 0);
        (self.all, self.again) = ([0; 2], [0; 2]);
    }

    /// Adds a piece of so many characters.
    fn add(&mut self, hash: u64, chars: u64) {
        // Zero marks free slots.
        let hash = hash.max(1);
        let mut slot = hash as usize;
        let is_again = loop {
            slot &= self.slots.len() - 1;
            match self.slots[slot] {
                0 => break false,
                other if other == hash => break true,
                _ => slot += 1,
            }
        };
        self.slots[slot] = hash;
        self.all = [self.all[0] + 1, self.all[1] + chars];
        if is_again {
            self.again = [self.again[0] + 1, self.again[1] + chars];
        }
    }

    /// Adds the paragraph that ends here, if there is one.
    fn end(&mut self, paragraph: &mut (u64, u64)) {
        let (hash, chars) = std::mem::take(paragraph);
        if chars > 0 {
            self.add(hash, chars);
        }
    }

    fn repeats(&self) -> Repeats {
        Repeats { pieces: share(self.again[0], self.all[0]), chars: share(self.again[1], self.all[1]) }
    }
}

/// A line without the white space around it.
fn trim(line: &str) -> &str {
    let is_text = |byte: &u8| !matches!(byte, b' ' | b'\t');
    let Some(start) = line.bytes().position(|byte| is_text(&byte)) else { return "" };
    let end = line.bytes().rposition(|byte| is_text(&byte)).map_or(start, |last| last + 1);
    &line[start..end]
}

/// Names a line.
fn hash(line: &[u8]) -> u64 {
    let words = |chunk: &[u8; 32]| {
        let word = |at: usize| chunk[at..].first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
        [word(0), word(8), word(16), word(24)]
    };
    // Two hashes, as each step waits for the one before.
    let step = |[even, odd]: [u64; 2], chunk: &[u8; 32]| {
        let [a, b, c, d] = words(chunk);
        [mix(a ^ KEYS[0], b ^ even), mix(c ^ KEYS[0], d ^ odd)]
    };
    let hashes = line.as_chunks().0.iter().fold([KEYS[1] ^ line.len() as u64, KEYS[1]], step);
    // What is left, with some of what came before if there is some: the length tells how much.
    let mut padded = [0; 32];
    let rest = line.last_chunk().unwrap_or_else(|| {
        padded[..line.len()].copy_from_slice(line);
        &padded
    });
    let [even, odd] = step(hashes, rest);
    mix(even, MULTIPLIER) ^ odd
}

fn is_bullet(char: char) -> bool {
    matches!(char, '•' | '‣' | '▪' | '▫' | '◦' | '●' | '■' | '-' | '–' | '*')
}

/// Whether a line that ends with `last` ends with three dots.
pub(super) fn is_ellipsis(line: &str, last: char) -> bool {
    last == '…' || last == '.' && line.ends_with("...")
}

/// Whether a character ends a sentence or closes a quotation after it.
fn is_sentence_end(char: char) -> bool {
    matches!(char, '.' | '!' | '?' | '…' | ':' | ';' | '"' | '\'' | '”' | '’' | '»' | ')')
        || matches!(char, '。' | '！' | '？' | '」' | '』' | '؟' | '۔' | '।' | '॥' | '။' | '។')
}

/// A line without the white space around it, and what is in it.
pub(super) struct Line<'t> {
    pub(super) text: &'t str,
    chars: u64,
    /// Runs of characters between spaces.
    runs: u64,
    letters: u64,
    /// Letters that have a lower case.
    capitals: u64,
}

impl<'t> Line<'t> {
    /// The lines of a text, which end there.
    pub(super) fn all(text: &'t str, ends: &[Until]) -> impl Iterator<Item = Self> {
        let (mut start, mut before) = (0, Until::default());
        ends.iter().map(move |until| {
            let line = &text[start..until.end];
            let trimmed = trim(line);
            let line = Self {
                text: trimmed,
                chars: until.chars - before.chars - (line.len() - trimmed.len()) as u64,
                runs: until.runs - before.runs,
                letters: until.letters - before.letters,
                capitals: until.capitals - before.capitals,
            };
            start = until.end + 1;
            before = Until { chars: until.chars + 1, ..*until };
            line
        })
    }

    /// Whether it is not prose, in one of four ways.
    fn is_noise(&self) -> bool {
        is_uppercase(self) || is_number(self) || is_counter(self) || is_one_word(self)
    }

    /// Words: runs of characters between spaces; in scripts without spaces, characters.
    pub(super) fn num_words(&self) -> u64 {
        if self.text.is_ascii() { self.runs } else { self.words().count() as u64 }
    }

    /// Whether it has no more words than runs.
    fn has_a_word_a_run(&self) -> bool {
        self.text.is_ascii() || self.words().nth(self.runs as usize).is_none()
    }

    /// An entry for each word.
    fn words(&self) -> impl Iterator<Item = ()> {
        self.text.split_ascii_whitespace().flat_map(words_of_run)
    }
}

/// Whether a line has more capitals than other letters.
pub(super) fn is_uppercase(line: &Line<'_>) -> bool {
    2 * line.capitals > line.letters
}

/// Whether a line has digits but no letter.
pub(super) fn is_number(line: &Line<'_>) -> bool {
    line.letters == 0 && line.text.contains(char::is_numeric)
}

/// Whether a line is a number and a word, as in "3 likes".
pub(super) fn is_counter(line: &Line<'_>) -> bool {
    line.runs == 2 && line.text.starts_with(char::is_numeric) && line.has_a_word_a_run()
}

/// Whether a line is one word.
pub(super) fn is_one_word(line: &Line<'_>) -> bool {
    line.runs == 1 && line.has_a_word_a_run()
}

/// An entry for each word of a run: the characters of scripts without spaces, and the others together.
fn words_of_run(run: &str) -> impl Iterator<Item = ()> + '_ {
    let mut has_spaced = false;
    run.chars().filter_map(move |char| {
        let is_word = is_unspaced(char) || !has_spaced;
        has_spaced |= !is_unspaced(char);
        is_word.then_some(())
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::super::counts::Counts;
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

    fn lines_of(text: &str) -> Lines {
        let mut ends = Vec::new();
        Counts::of(text, 0, &mut ends);
        Lines::of(text, &ends, &mut Default::default())
    }

    fn is_noise(line: &str) -> bool {
        lines_of(line).noise_words > 0
    }

    proptest! {
        #[test]
        fn pieces_repeat_as_defined(text in "(ab|c|é漢|\n|\n\n| \n|  )*") {
            let lines: Vec<&str> = text.split('\n').map(str::trim).collect();
            let paragraphs: Vec<Vec<&str>> =
                lines.split(|line| line.is_empty()).filter(|lines| !lines.is_empty()).map(<[&str]>::to_vec).collect();
            let lines: Vec<Vec<&str>> = paragraphs.concat().into_iter().map(|line| vec![line]).collect();
            let found = lines_of(&text);
            prop_assert_eq!(found.line_repeats, by_definition(&lines));
            prop_assert_eq!(found.paragraph_repeats, by_definition(&paragraphs));
            prop_assert_eq!(found.total, lines.len() as u64);
        }
    }

    #[test]
    fn lines_are_told_apart() {
        let found =
            lines_of("- The cat…\n\n  ends here. \nand a line of thirty characters\n漢字です。\nmore...");
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
