//! One spelling for the same text: line ends, spaces, control characters, composed letters.

use std::borrow::Cow;

use unicode_normalization::{UnicodeNormalization, is_nfc};

use super::survey::{Spelling, survey};

/// Blank lines that are kept in a row: more are a paragraph break too.
const MAX_NEWLINES: usize = 2;

/// Cleans a text without touching its words. Doing it twice changes nothing.
///
/// - CR LF, CR, vertical tab, form feed, NEL and the Unicode separators become line feeds.
/// - Unicode spaces become the ASCII space; their number stays, so indentation survives. Spaces at line ends
///   go, blank lines at both ends of the text go, and more than one blank line in a row becomes one.
/// - Control characters, soft hyphens, byte order marks and marks that override the writing direction go.
/// - Letters and their accents are composed (NFC).
///
/// A text that is clean but for the blank lines around it is a part of the given one.
pub fn normalize(text: &str) -> Cow<'_, str> {
    let inner = trim_blank(text);
    match survey(inner) {
        Spelling::Normal => Cow::Borrowed(inner),
        Spelling::Spaces => Cow::Owned(clean_spaces(inner)),
        Spelling::Chars => Cow::Owned(clean_chars(text)),
    }
}

/// The text without blank lines around it and spaces at its end.
fn trim_blank(text: &str) -> &str {
    let blank = [' ', '\t', '\n'];
    let text = text.trim_end_matches(blank);
    let indent = text.len() - text.trim_start_matches(blank).len();
    let start = memchr::memrchr(b'\n', &text.as_bytes()[..indent]).map_or(0, |last| last + 1);
    &text[start..]
}

/// The parts of a text between line feeds.
fn split_lines(text: &str) -> impl Iterator<Item = &str> {
    let mut start = 0;
    let ends = memchr::memchr_iter(b'\n', text.as_bytes()).chain([text.len()]);
    ends.map(move |end| {
        let line = &text[start..end];
        start = end + 1;
        line
    })
}

/// What [`clean_chars`] does with a character.
enum Class {
    Keep,
    Space(char),
    Newline,
    Remove,
}

fn class(char: char) -> Class {
    match char {
        '\t' | ' ' => Class::Space(char),
        '\n' | '\r' | '\x0b' | '\x0c' | '\u{85}' | '\u{2028}' | '\u{2029}' => Class::Newline,
        '\u{a0}' | '\u{1680}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}' => {
            Class::Space(' ')
        }
        '\u{ad}' | '\u{2060}' | '\u{feff}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            Class::Remove
        }
        _ if char.is_control() => Class::Remove,
        _ => Class::Keep,
    }
}

/// Whether a character stays as it is when spaces are cleaned.
pub(super) fn is_kept(char: char) -> bool {
    matches!(class(char), Class::Keep)
}

/// The normal form of a text whose characters all stay.
fn clean_spaces(text: &str) -> String {
    let mut out = Writer::for_text(text);
    for (number, line) in split_lines(text).enumerate() {
        if number > 0 {
            out.newline();
        }
        out.text(line.trim_end_matches([' ', '\t']));
    }
    out.out
}

/// The normal form of any text.
fn clean_chars(text: &str) -> String {
    let mut out = Writer::for_text(text);
    for (number, line) in split_lines(text).enumerate() {
        if number > 0 {
            out.newline();
        }
        if survey(line) != Spelling::Chars {
            out.text(line.trim_end_matches([' ', '\t']));
            continue;
        }
        // Line feeds compose with nothing, so each line can be composed alone.
        let start = out.out.len();
        for (place, char) in line.strip_suffix('\r').unwrap_or(line).char_indices() {
            match class(char) {
                Class::Keep => out.text(&line[place..place + char.len_utf8()]),
                Class::Space(space) => out.spaces.push(space),
                Class::Newline => out.newline(),
                Class::Remove => {}
            }
        }
        let written = &out.out[start..];
        if !written.is_ascii() && !is_nfc(written) {
            let composed: String = written.nfc().collect();
            out.out.replace_range(start.., &composed);
        }
    }
    out.out
}

/// Text whose spaces and line feeds are written when something visible follows.
struct Writer {
    out: String,
    newlines: usize,
    spaces: String,
}

impl Writer {
    fn for_text(text: &str) -> Self {
        Self { out: String::with_capacity(text.len()), newlines: 0, spaces: String::new() }
    }

    fn text(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        if !self.out.is_empty() {
            self.out.extend(std::iter::repeat_n('\n', self.newlines.min(MAX_NEWLINES)));
        }
        self.newlines = 0;
        self.out.push_str(&self.spaces);
        self.spaces.clear();
        self.out.push_str(text);
    }

    fn newline(&mut self) {
        self.newlines += 1;
        self.spaces.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn clean_text_is_borrowed() {
        for text in ["", "a b", "if x:\n\tdo  this\n\n    return é", "漢字"] {
            assert!(matches!(normalize(text), Cow::Borrowed(_)), "{text:?}");
        }
    }

    #[test]
    fn spaces_line_ends_and_controls_have_one_spelling() {
        for (text, expected) in [
            ("\u{feff}\r\n \n  a \t\r\nb\rc\u{2028}d\u{85}e\x0cf", "  a\nb\nc\nd\ne\nf"),
            ("a\n\n\n\n\nb\n \n\nc\n\n", "a\n\nb\n\nc"),
            ("a\u{a0}b\u{3000}\u{2003}c", "a b  c"),
            ("so\u{ad}ft\0 \u{1b}[0m\u{202e}x\u{7f}", "soft [0mx"),
            ("e\u{301}\u{200b}\u{200d}", "é\u{200b}\u{200d}"),
            ("e\u{ad}\u{301}", "é"),
            (" \t\n ", ""),
        ] {
            assert_eq!(normalize(text), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn twice_is_once(text in "[a-z \t\r\n\u{0}\u{85}\u{a0}\u{ad}\u{301}\u{2028}\u{3000}\u{212b}é漢]*|\\PC*") {
            let once = normalize(&text).into_owned();
            prop_assert_eq!(normalize(&once), once.as_str());
        }

        #[test]
        fn words_are_those_of_the_composed_text(text in "[a-zA-Z0-9é\u{301} \n\t,.]*") {
            let composed: String = text.nfc().collect();
            prop_assert!(normalize(&text).split_whitespace().eq(composed.split_whitespace()));
        }
    }
}
