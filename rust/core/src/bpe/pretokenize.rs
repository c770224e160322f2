//! Cutting text into the pieces that merges never cross.
//!
//! Each pattern is a published regular expression, written here as a scanner: the alternatives of the
//! expression, in its order, each as a loop over character classes. Every scanner looks at a character a
//! bounded number of times, so time is linear on every input. The expressions themselves are kept as the
//! reference that the tests compare with and as the names that tokenizer files use.

use super::unicode::{ASCII, Class, Classes};
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
    /// Every character alone.
    Characters,
}

const GPT2: &str = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const CL100K: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl Pattern {
    /// All patterns.
    pub const ALL: [Self; 4] = [Self::Gpt2, Self::Cl100k, Self::Qwen2, Self::Characters];

    /// The name used in files and arguments.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gpt2 => "gpt2",
            Self::Cl100k => "cl100k",
            Self::Qwen2 => "qwen2",
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
            Self::Characters => r"(?s:.)",
        }
    }

    /// The pieces of `text` in order; together they are the whole text.
    pub fn pieces(self, text: &str) -> Pieces<'_> {
        Pieces { pattern: self, scan: Scan { text, classes: Classes::get() }, start: 0 }
    }
}

/// The pieces of a text, as bytes: [`Pattern::pieces`].
pub struct Pieces<'t> {
    pattern: Pattern,
    scan: Scan<'t>,
    start: usize,
}

impl<'t> Iterator for Pieces<'t> {
    type Item = &'t [u8];

    #[inline]
    fn next(&mut self) -> Option<&'t [u8]> {
        let bytes = self.scan.text.as_bytes();
        if self.start == bytes.len() {
            return None;
        }
        let end = match self.pattern {
            Pattern::Gpt2 => self.scan.gpt2(self.start),
            Pattern::Cl100k => self.scan.cl100k(self.start, 3),
            Pattern::Qwen2 => self.scan.cl100k(self.start, 1),
            Pattern::Characters => self.start + self.scan.at(self.start).map_or(0, |(_, len)| len),
        };
        let piece = &bytes[self.start..end];
        self.start = end;
        Some(piece)
    }
}

/// A text with the tables to read it. Positions are byte offsets at character boundaries.
struct Scan<'t> {
    text: &'t str,
    classes: &'static Classes,
}

impl Scan<'_> {
    /// Class and byte length of the character at `pos`, or nothing at the end.
    #[inline]
    fn at(&self, pos: usize) -> Option<(Class, usize)> {
        let first = *self.text.as_bytes().get(pos)?;
        Some(if first < 0x80 { (ASCII[first as usize], 1) } else { self.wide(pos, first) })
    }

    /// [`Scan::at`] for characters of more than one byte.
    fn wide(&self, pos: usize, first: u8) -> (Class, usize) {
        // The text is valid UTF-8, so the lead byte tells the length and the tail is there.
        let bytes = self.text.as_bytes();
        let tail = |i: usize| u32::from(bytes[pos + i] & 0x3f);
        let (code, len) = if first < 0xe0 {
            (u32::from(first & 0x1f) << 6 | tail(1), 2)
        } else if first < 0xf0 {
            (u32::from(first & 0x0f) << 12 | tail(1) << 6 | tail(2), 3)
        } else {
            (u32::from(first & 0x07) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3), 4)
        };
        (self.classes.of(code), len)
    }

    #[inline]
    fn is(&self, pos: usize, class: Class) -> bool {
        self.at(pos).is_some_and(|(found, _)| found == class)
    }

    /// End of the run of `class` that starts at `pos`.
    #[inline]
    fn run(&self, mut pos: usize, class: Class) -> usize {
        let bytes = self.text.as_bytes();
        loop {
            while let Some(&byte) = bytes.get(pos)
                && byte < 0x80
                && ASCII[byte as usize] == class
            {
                pos += 1;
            }
            match self.at(pos) {
                Some((found, len)) if found == class => pos += len,
                _ => return pos,
            }
        }
    }

    fn gpt2(&self, pos: usize) -> usize {
        let bytes = self.text.as_bytes();
        if bytes[pos] == b'\''
            && let Some(len) = contraction(&bytes[pos + 1..])
        {
            return pos + 1 + len;
        }
        // One space joins the run after it, whatever its class.
        let start = pos + usize::from(bytes[pos] == b' ');
        match self.at(start) {
            Some((class, len)) if class != Class::Space => self.run(start + len, class),
            _ => self.space(pos).0,
        }
    }

    fn cl100k(&self, pos: usize, most_numbers: usize) -> usize {
        let bytes = self.text.as_bytes();
        let Some((class, len)) = self.at(pos) else { return pos };
        let first = bytes[pos];
        if first == b'\''
            && let Some(len) = contraction_any_case(&bytes[pos + 1..])
        {
            return pos + 1 + len;
        }
        match class {
            Class::Letter => return self.run(pos + len, Class::Letter),
            Class::Number => return self.numbers(pos, most_numbers),
            _ if is_line_end(first) => {}
            _ if self.is(pos + len, Class::Letter) => return self.run(pos + len, Class::Letter),
            _ => {}
        }
        let start = pos + usize::from(first == b' ');
        if self.is(start, Class::Other) {
            let end = self.run(start, Class::Other);
            let line_ends = bytes[end..].iter().take_while(|&&byte| is_line_end(byte)).count();
            return end + line_ends;
        }
        match self.space(pos) {
            (_, Some(line_end)) => line_end,
            (end, None) => end,
        }
    }

    fn numbers(&self, mut pos: usize, most: usize) -> usize {
        for _ in 0..most {
            match self.at(pos) {
                Some((Class::Number, len)) => pos += len,
                _ => break,
            }
        }
        pos
    }

    /// White space at `pos`: where `\s+(?!\S)|\s+` ends, and the end of the last `\r` or `\n` in the run.
    fn space(&self, pos: usize) -> (usize, Option<usize>) {
        let bytes = self.text.as_bytes();
        let (mut end, mut last, mut line_end) = (pos, pos, None);
        while let Some((Class::Space, len)) = self.at(end) {
            last = end;
            end += len;
            if is_line_end(bytes[last]) {
                line_end = Some(end);
            }
        }
        // The last character stays with the word after it, unless it is the only one or nothing follows.
        let cut = if end == bytes.len() || last == pos { end } else { last };
        (cut, line_end)
    }
}

fn is_line_end(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

/// Length of `s`, `d`, `m`, `t`, `ll`, `ve` or `re` at the start of what follows an apostrophe.
fn contraction(rest: &[u8]) -> Option<usize> {
    match rest {
        [b's' | b'd' | b'm' | b't', ..] => Some(1),
        [b'l', b'l', ..] | [b'v' | b'r', b'e', ..] => Some(2),
        _ => None,
    }
}

/// [`contraction`] in any case; `ſ` (U+017F) is a lower-case form of `S`.
fn contraction_any_case(rest: &[u8]) -> Option<usize> {
    if rest.starts_with("ſ".as_bytes()) {
        return Some(2);
    }
    let mut lower = [0; 2];
    for (to, from) in lower.iter_mut().zip(rest) {
        *to = from.to_ascii_lowercase();
    }
    contraction(&lower)
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
    static REGEXES: LazyLock<[Regex; 4]> =
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
        assert_eq!(pieces(Pattern::Characters, "a é🙂"), ["a", " ", "é", "🙂"]);
    }

    #[test]
    fn every_character_is_cut_as_the_expression_says() {
        let all: Vec<char> = ('\0'..=char::MAX).collect();
        for some in all.chunks(1000) {
            let text: String = some.iter().flat_map(|&c| ['a', c, '1', c]).collect();
            for pattern in [Pattern::Gpt2, Pattern::Cl100k, Pattern::Qwen2] {
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
    fn tricky() -> impl Strategy<Value = String> {
        let tricky = proptest::sample::select(
            "   \t\n\r\u{85}\u{a0}\u{3000}'''sSdDmMtTlLvVrReEſK  abcéßЖ中文字12²Ⅷ٣.,!?-_(<|>)\u{301}🙂👩\u{200d}".chars().collect::<Vec<_>>(),
        );
        proptest::collection::vec(prop_oneof![9 => tricky, 1 => any::<char>()], 0..40)
            .prop_map(|chars| chars.into_iter().collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn scanners_equal_their_expressions(text in tricky()) {
            for pattern in Pattern::ALL {
                prop_assert_eq!(pieces(pattern, &text), by_regex(pattern, &text));
            }
        }
    }
}
