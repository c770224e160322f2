//! What the quality rules measure on one text.

use std::cell::OnceCell;

use rustc_hash::FxHashMap;

use super::repeats::{NgramRepeats, PieceRepeats, ngram_repeats, piece_repeats};
use super::words::is_unspaced;

/// English words of which ordinary prose has at least two (Gopher).
const STOP_WORDS: [&str; 8] = ["the", "be", "to", "of", "and", "that", "have", "with"];
const BULLETS: [char; 10] = ['•', '‣', '▪', '▫', '◦', '●', '■', '-', '–', '*'];
/// Characters that end a sentence, and what may close after them.
const SENTENCE_ENDS: &str = ".!?…:;\"'”’»)。！？」』؟۔।॥။។";
/// Equal characters in a row that count as repeated, and a line of fewer characters is short (`FineWeb`).
const MIN_RUN: u64 = 10;
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
    /// One bit for each of [`STOP_WORDS`] that occurs.
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
            line.split_whitespace().for_each(|word| counts.add_word(word, &mut letters, &mut run));
        }
        counts.repeated = run.finish();
        (counts.letters, counts.top_letter) = letters.total_and_top();
        counts
    }

    /// How many of [`STOP_WORDS`] occur.
    pub(super) fn stop_words(&self) -> u32 {
        self.stop_words.count_ones()
    }

    fn add_line(&mut self, line: &str) {
        let trimmed = line.trim();
        let Some(last) = trimmed.chars().next_back() else { return };
        self.lines += 1;
        self.bullet_lines += u64::from(trimmed.starts_with(BULLETS));
        self.ellipsis_lines += u64::from(trimmed.ends_with("...") || last == '…');
        self.ended_lines += u64::from(SENTENCE_ENDS.contains(last));
        self.short_lines += u64::from(trimmed.chars().count() < SHORT_LINE);
    }

    fn add_word(&mut self, word: &str, letters: &mut Letters, run: &mut Run) {
        if word.is_ascii() {
            self.add_ascii_word(word.as_bytes(), letters, run);
        } else {
            self.add_any_word(word, letters, run);
        }
        if let Some(place) = STOP_WORDS.iter().position(|stop| word.eq_ignore_ascii_case(stop)) {
            self.stop_words |= 1 << place;
        }
    }

    /// [`Counts::add_any_word`] without decoding.
    fn add_ascii_word(&mut self, word: &[u8], letters: &mut Letters, run: &mut Run) {
        let (mut has_letter, mut has_symbol) = (false, false);
        for byte in word {
            let lower = byte.to_ascii_lowercase();
            letters.ascii[lower as usize] += 1;
            run.add(lower as char);
            has_letter |= lower.is_ascii_lowercase();
            has_symbol |= matches!(byte, b'#' | b'.');
        }
        if has_symbol {
            let hashes = word.split(|&byte| byte == b'#').count() - 1;
            let dots = word.split(|&byte| byte != b'.').filter(|dots| dots.len() >= 3).count();
            self.symbols += (hashes + dots) as u64;
        }
        self.visible += word.len() as u64;
        self.words += 1;
        self.spaced_words += 1;
        self.spaced_chars += word.len() as u64;
        self.alphabetic_words += u64::from(has_letter);
    }

    fn add_any_word(&mut self, word: &str, letters: &mut Letters, run: &mut Run) {
        let (mut spaced, mut spaced_letters, mut dots) = (0, false, 0u32);
        for char in word.chars() {
            let lower = if char.is_ascii() { char.to_ascii_lowercase() } else { lower(char) };
            let is_letter = letters.add(lower);
            run.add(lower);
            self.visible += 1;
            dots = if char == '.' { dots + 1 } else { 0 };
            self.symbols += u64::from(char == '#' || char == '…' || dots == 3);
            if is_unspaced(char) {
                self.words += 1;
                self.alphabetic_words += u64::from(is_letter);
            } else {
                spaced += 1;
                spaced_letters |= is_letter;
            }
        }
        if spaced > 0 {
            self.words += 1;
            self.spaced_words += 1;
            self.spaced_chars += spaced;
            self.alphabetic_words += u64::from(spaced_letters);
        }
    }
}

/// One character for a letter in any case; the rare letters that lower to several keep the first.
fn lower(char: char) -> char {
    char.to_lowercase().next().unwrap_or(char)
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

/// Counts the characters in long runs of equal ones; spaces do not end a run.
#[derive(Default)]
struct Run {
    char: char,
    len: u64,
    repeated: u64,
}

impl Run {
    fn add(&mut self, char: char) {
        if char == self.char {
            self.len += 1;
        } else {
            self.end();
            (self.char, self.len) = (char, 1);
        }
    }

    fn end(&mut self) {
        if self.len >= MIN_RUN {
            self.repeated += self.len;
        }
    }

    fn finish(mut self) -> u64 {
        self.end();
        self.repeated
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ascii_words_are_counted_like_any_other(words in prop::collection::vec("[!-~]{1,12}|[a#.]{1,20}", 0..20)) {
            let mut counts = [Counts::default(), Counts::default()];
            let mut letters = [Letters::default(), Letters::default()];
            let mut runs = [Run::default(), Run::default()];
            for word in &words {
                counts[0].add_ascii_word(word.as_bytes(), &mut letters[0], &mut runs[0]);
                counts[1].add_any_word(word, &mut letters[1], &mut runs[1]);
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
