//! Cutting text into the pieces that merges never cross.
//!
//! Each pattern is a published regular expression, written here twice: as a scanner of one piece at a time, and
//! as logic on windows of 64 bytes that gives many cuts at once. The expressions themselves are kept as the
//! reference that the tests compare with and as the names that tokenizer files use.

mod cuts;
mod scalar;
mod window;

pub(super) use cuts::Cuts;

pub(super) use crate::masks::{Bits, below};
use crate::{Error, Result};

/// How text is cut before merging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// The pattern of GPT-2: a contraction, or a run of letters, numbers or other characters with one
    /// space before it, or white space.
    Gpt2,
    /// The pattern of cl100k, also used by Llama 3: contractions of any case, letters with one leading
    /// character, at most three digits, line ends kept with what precedes them.
    Cl100k,
    /// The pattern of Qwen 2 and 3: cl100k with every digit alone, so sums have one token a digit.
    Qwen2,
    /// The pattern of o200k: cl100k that also cuts where capitals start, counts marks as letters and keeps
    /// contractions with their word.
    O200k,
    /// Every character alone.
    Characters,
}

const GPT2: &str = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const CL100K: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const O200K: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

impl Pattern {
    /// All patterns.
    pub const ALL: [Self; 5] = [Self::Gpt2, Self::Cl100k, Self::Qwen2, Self::O200k, Self::Characters];

    /// The name used in files and arguments.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gpt2 => "gpt2",
            Self::Cl100k => "cl100k",
            Self::Qwen2 => "qwen2",
            Self::O200k => "o200k",
            Self::Characters => "characters",
        }
    }

    /// The pattern of that name.
    ///
    /// # Errors
    /// [`Error::Value`] if there is none.
    pub fn from_name(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|pattern| pattern.name() == name).ok_or_else(|| {
            Error::value(format!(
                "unknown pattern {name:?}; expected one of {}",
                Self::ALL.map(Self::name).join(", ")
            ))
        })
    }

    /// The regular expression that the scanner implements.
    pub fn regex(self) -> &'static str {
        match self {
            Self::Gpt2 => GPT2,
            Self::Cl100k => CL100K,
            Self::Qwen2 => QWEN2,
            Self::O200k => O200K,
            Self::Characters => r"(?s:.)",
        }
    }

    /// The pieces of `text` in order; together they are the whole text.
    pub fn pieces(self, text: &str) -> Pieces<'_> {
        Pieces { cuts: self.cuts(text), start: 0, next: 0 }
    }

    /// The ends of the pieces of `text`.
    pub(super) fn cuts(self, text: &str) -> Cuts<'_> {
        Cuts::new(self, text)
    }
}

/// The pieces of a text, as bytes: [`Pattern::pieces`].
pub struct Pieces<'t> {
    cuts: Cuts<'t>,
    /// Where the next piece starts.
    start: usize,
    /// Its end among the cuts at hand.
    next: usize,
}

impl<'t> Iterator for Pieces<'t> {
    type Item = &'t [u8];

    #[inline]
    fn next(&mut self) -> Option<&'t [u8]> {
        if self.next == self.cuts.ends().len() {
            self.next = 0;
            self.cuts.advance();
        }
        let end = *self.cuts.ends().get(self.next)?;
        let piece = &self.cuts.text().as_bytes()[self.start..end];
        self.start = end;
        self.next += 1;
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::LazyLock;

    use fancy_regex::Regex;
    use proptest::prelude::*;

    fn pieces(pattern: Pattern, text: &str) -> Vec<&str> {
        pattern.pieces(text).map(|piece| std::str::from_utf8(piece).unwrap()).collect()
    }

    /// The references: the published expressions, run by a backtracking engine.
    static REGEXES: LazyLock<[Regex; 5]> =
        LazyLock::new(|| Pattern::ALL.map(|pattern| Regex::new(pattern.regex()).unwrap()));

    fn by_regex(pattern: Pattern, text: &str) -> Vec<&str> {
        REGEXES[pattern as usize].find_iter(text).map(|found| found.unwrap().as_str()).collect()
    }

    #[test]
    fn words_keep_their_space() {
        assert_eq!(
            pieces(Pattern::Gpt2, "I'm  here\n\n now 42!"),
            ["I", "'m", " ", " here", "\n\n", " now", " 42", "!"]
        );
        assert_eq!(
            pieces(Pattern::Cl100k, "I'LL (say) 12345\n x"),
            ["I", "'LL", " (", "say", ")", " ", "123", "45", "\n", " x"]
        );
        assert_eq!(pieces(Pattern::Qwen2, " 37 + 4"), [" ", "3", "7", " +", " ", "4"]);
        assert_eq!(
            pieces(Pattern::O200k, "don't've APIKey (x)\n/\n y"),
            ["don't", "'ve", " APIKey", " (", "x", ")\n/\n", " y"]
        );
        assert_eq!(pieces(Pattern::Characters, "a é🙂"), ["a", " ", "é", "🙂"]);
    }

    #[test]
    fn every_character_is_cut_as_the_expression_says() {
        let all: Vec<char> = ('\0'..=char::MAX).collect();
        for some in all.chunks(1000) {
            let text: String = some.iter().flat_map(|&c| ['a', c, '1', c]).collect();
            for pattern in [Pattern::Gpt2, Pattern::Cl100k, Pattern::Qwen2, Pattern::O200k] {
                assert_eq!(
                    pieces(pattern, &text),
                    by_regex(pattern, &text),
                    "{pattern:?} U+{:04X}",
                    some[0] as u32
                );
            }
        }
    }

    /// Text dense in the characters that patterns treat specially.
    pub(super) fn tricky() -> impl Strategy<Value = String> {
        let tricky = proptest::sample::select(
            "   \t\n\r\n\u{85}\u{a0}\u{3000}'''sSdDmMtTlLvVrReEſK  abcABCéßЖ中文字ʰǅ123²Ⅷ٣.,!?-_//(<|>)\u{301}🙂👩\u{200d}".chars().collect::<Vec<_>>(),
        );
        // Runs, so that windows end inside them; few kinds at a time, so that some follow each other often.
        let run =
            (prop_oneof![9 => tricky, 1 => any::<char>()], prop_oneof![9 => 1..3usize, 1 => 3..90usize]);
        let runs = proptest::collection::vec(run, 0..60);
        let text =
            |runs: Vec<(char, usize)>| runs.iter().flat_map(|&(c, n)| std::iter::repeat_n(c, n)).collect();
        prop_oneof![
            runs.prop_map(text),
            "[a-cA-C '/\n]{0,200}",
            "[aA中'\n /]{0,200}",
            "[ \n\t\u{3000}x.]{0,200}",
            "[0-9²٣ ]{0,200}"
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn scanners_equal_their_expressions(text in tricky()) {
            for pattern in Pattern::ALL {
                prop_assert_eq!(pieces(pattern, &text), by_regex(pattern, &text));
            }
        }
    }
}
