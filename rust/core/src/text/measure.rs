//! What the quality rules measure on one text.

use std::cell::OnceCell;

use rustc_hash::FxHashMap;

use super::repeats::{NgramRepeats, PieceRepeats, ngram_repeats, piece_repeats};
use super::words::is_unspaced;

/// Equal characters in a row that count as repeated.
const MIN_RUN: u64 = 10;
/// A line of fewer characters is short (`FineWeb`).
const SHORT_LINE: usize = 30;

/// A text and what has been measured on it so far; repetition is measured when it is first asked for.
pub(super) struct Page<'a> {
    text: &'a str,
    pub(super) counts: Counts,
    lines: OnceCell<PieceRepeats>,
    paragraphs: OnceCell<PieceRepeats>,
    ngrams: OnceCell<NgramRepeats>,
}

/// Everything that one pass over the characters gives.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Counts {
    pub(super) chars: u64,
    /// Runs of characters between spaces; in scripts without spaces, characters.
    pub(super) words: u64,
    /// Words of scripts with spaces, and their characters.
    pub(super) spaced_words: u64,
    pub(super) spaced_chars: u64,
    /// Words with at least one letter.
    pub(super) alphabetic_words: u64,
    /// `#`, `...` and `…`.
    pub(super) symbols: u64,
    /// One bit for each of the words of [`stop_word`] that occurs.
    stop_words: u8,
    /// Characters that are not spaces, and those of them in runs of [`MIN_RUN`] equal ones.
    pub(super) visible: u64,
    pub(super) repeated: u64,
    pub(super) letters: u64,
    /// Instances of the most frequent letter.
    pub(super) top_letter: u64,
    /// Lines that are not blank, and some kinds of them.
    pub(super) lines: u64,
    pub(super) bullet_lines: u64,
    pub(super) ellipsis_lines: u64,
    pub(super) ended_lines: u64,
    pub(super) short_lines: u64,
}

impl<'a> Page<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let counts = Counts::of(text);
        Self { text, counts, lines: OnceCell::new(), paragraphs: OnceCell::new(), ngrams: OnceCell::new() }
    }

    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    pub(super) fn line_repeats(&self) -> &PieceRepeats {
        self.lines.get_or_init(|| piece_repeats(self.text.split('\n')))
    }

    pub(super) fn paragraph_repeats(&self) -> &PieceRepeats {
        self.paragraphs.get_or_init(|| piece_repeats(self.text.split("\n\n")))
    }

    pub(super) fn ngram_repeats(&self) -> &NgramRepeats {
        self.ngrams.get_or_init(|| ngram_repeats(self.text))
    }
}

impl Counts {
    fn of(text: &str) -> Self {
        let mut counts = Self { chars: text.chars().count() as u64, ..Self::default() };
        let mut letters = Letters::default();
        let mut run = Run::default();
        for line in text.split('\n') {
            counts.add_line(line);
            if line.is_ascii() {
                counts.add_ascii_words(line, &mut letters, &mut run);
            } else {
                counts.add_words(line, &mut letters, &mut run);
            }
        }
        (counts.letters, counts.top_letter) = letters.total_and_top();
        counts
    }

    /// How many different stop words occur.
    pub(super) fn stop_words(&self) -> u32 {
        self.stop_words.count_ones()
    }

    fn add_line(&mut self, line: &str) {
        let trimmed = line.trim();
        let mut chars = trimmed.chars();
        let (Some(first), last) = (chars.clone().next(), chars.next_back().unwrap_or_default()) else {
            return;
        };
        self.lines += 1;
        self.bullet_lines += u64::from(is_bullet(first));
        self.ellipsis_lines += u64::from(trimmed.ends_with("...") || last == '…');
        self.ended_lines += u64::from(is_sentence_end(last));
        self.short_lines += u64::from(trimmed.chars().take(SHORT_LINE).count() < SHORT_LINE);
    }

    fn add_words(&mut self, line: &str, letters: &mut Letters, run: &mut Run) {
        for word in line.split_whitespace() {
            let (mut spaced, mut has_letter, mut dots, mut spelled) = (0, false, 0u32, 0);
            for char in word.chars() {
                let lower = char.to_lowercase().next().unwrap_or(char); // several only for a few rare letters
                let is_letter = letters.add(lower);
                self.repeated += run.add(u32::from(lower));
                self.visible += 1;
                dots = if char == '.' { dots + 1 } else { 0 };
                self.symbols += u64::from(char == '#' || char == '…' || dots == 3);
                spelled = spell(spelled, lower);
                if is_unspaced(char) {
                    self.words += 1;
                    self.alphabetic_words += u64::from(is_letter);
                } else {
                    spaced += 1;
                    has_letter |= is_letter;
                }
            }
            if spaced > 0 {
                self.words += 1;
                self.spaced_words += 1;
                self.spaced_chars += spaced;
                self.alphabetic_words += u64::from(has_letter);
                self.stop_words |= stop_word(spelled);
            }
        }
    }

    /// [`Counts::add_words`] in one pass over the bytes.
    fn add_ascii_words(&mut self, line: &str, letters: &mut Letters, run: &mut Run) {
        let (mut words, mut alphabetic_words, mut visible, mut repeated, mut symbols) = (0, 0, 0, 0, 0);
        let (mut has_letter, mut dots, mut spelled) = (false, 0u32, 0);
        for byte in line.bytes() {
            if byte.is_ascii_whitespace() || byte == 0x0b {
                words += u64::from(spelled != 0);
                self.stop_words |= stop_word(spelled);
                (has_letter, dots, spelled) = (false, 0, 0);
                continue;
            }
            let lower = byte.to_ascii_lowercase();
            letters.ascii[lower as usize] += 1;
            let is_letter = lower.is_ascii_lowercase();
            alphabetic_words += u64::from(is_letter) & u64::from(!has_letter);
            has_letter |= is_letter;
            repeated += run.add(u32::from(lower));
            dots = if byte == b'.' { dots + 1 } else { 0 };
            symbols += u64::from(byte == b'#' || dots == 3);
            spelled = spell(spelled, lower as char);
            visible += 1;
        }
        words += u64::from(spelled != 0);
        self.stop_words |= stop_word(spelled);
        self.words += words;
        self.spaced_words += words;
        self.alphabetic_words += alphabetic_words;
        self.visible += visible;
        self.spaced_chars += visible;
        self.repeated += repeated;
        self.symbols += symbols;
    }
}

fn is_bullet(char: char) -> bool {
    matches!(char, '•' | '‣' | '▪' | '▫' | '◦' | '●' | '■' | '-' | '–' | '*')
}

/// Whether a character ends a sentence or closes a quotation after it.
fn is_sentence_end(char: char) -> bool {
    matches!(char, '.' | '!' | '?' | '…' | ':' | ';' | '"' | '\'' | '”' | '’' | '»' | ')')
        || matches!(char, '。' | '！' | '？' | '」' | '』' | '؟' | '۔' | '।' | '॥' | '။' | '។')
}

/// The last eight bytes of a word; any other character than ASCII makes it unlike every stop word.
fn spell(spelled: u64, lower: char) -> u64 {
    spelled << 8 | u64::from(lower).min(0xff)
}

/// The bit of one of the English words of which ordinary prose has at least two (Gopher).
fn stop_word(spelled: u64) -> u8 {
    const fn word(letters: &str) -> u64 {
        let (mut spelled, mut at) = (0, 0);
        while at < letters.len() {
            spelled = spelled << 8 | letters.as_bytes()[at] as u64;
            at += 1;
        }
        spelled
    }
    const WORDS: [u64; 8] = [
        word("the"),
        word("be"),
        word("to"),
        word("of"),
        word("and"),
        word("that"),
        word("have"),
        word("with"),
    ];
    WORDS.iter().position(|&word| word == spelled).map_or(0, |place| 1 << place)
}

/// How often each letter occurs; for ASCII, each character.
struct Letters {
    ascii: [u64; 128],
    others: FxHashMap<char, u64>,
}

impl Default for Letters {
    fn default() -> Self {
        Self { ascii: [0; 128], others: FxHashMap::default() }
    }
}

impl Letters {
    /// Counts a lower-case character and says whether it is a letter.
    fn add(&mut self, char: char) -> bool {
        if char.is_ascii() {
            self.ascii[char as usize] += 1;
            char.is_ascii_lowercase()
        } else if char.is_alphabetic() {
            *self.others.entry(char).or_default() += 1;
            true
        } else {
            false
        }
    }

    fn total_and_top(&self) -> (u64, u64) {
        let ascii = &self.ascii[usize::from(b'a')..=usize::from(b'z')];
        let counts = || ascii.iter().chain(self.others.values()).copied();
        (counts().sum(), counts().max().unwrap_or(0))
    }
}

/// The run of equal characters that is going on; spaces do not end it.
#[derive(Default)]
struct Run {
    char: u32,
    len: u64,
}

impl Run {
    /// Adds a character and returns how many more now lie in long runs.
    fn add(&mut self, char: u32) -> u64 {
        self.len = if char == self.char { self.len + 1 } else { 1 };
        self.char = char;
        match self.len {
            MIN_RUN => MIN_RUN,
            len => u64::from(len > MIN_RUN),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ascii_lines_are_counted_like_any_other(lines in prop::collection::vec("([!-~]{1,9}|[a#.]{1,20}|[ \t]|the | To )*", 0..6)) {
            let mut counts = [Counts::default(), Counts::default()];
            let mut letters = [Letters::default(), Letters::default()];
            let mut runs = [Run::default(), Run::default()];
            for line in &lines {
                counts[0].add_ascii_words(line, &mut letters[0], &mut runs[0]);
                counts[1].add_words(line, &mut letters[1], &mut runs[1]);
            }
            prop_assert_eq!(&counts[0], &counts[1]);
            prop_assert_eq!(letters[0].total_and_top(), letters[1].total_and_top());
        }
    }

    #[test]
    fn a_text_is_counted_as_defined() {
        let counts = Counts::of("The cat… and # THE dog.\n\n - 漢字 x...\nmmmmmMMMMM mm é!");
        let expected = Counts {
            chars: 52,
            words: 13,
            spaced_words: 11,
            spaced_chars: 37,
            alphabetic_words: 11,
            symbols: 3,
            stop_words: 0b1_0001,
            visible: 39,
            repeated: 12,
            letters: 31,
            top_letter: 12,
            lines: 3,
            bullet_lines: 1,
            ellipsis_lines: 1,
            ended_lines: 3,
            short_lines: 3,
        };
        assert_eq!(counts, expected);
    }
}
