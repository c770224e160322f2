//! Whether a text is in its normal form already, 64 bytes at a time.

use std::sync::LazyLock;

use unicode_normalization::char::canonical_combining_class;
use unicode_normalization::{IsNormalized, is_nfc, is_nfc_quick};

use super::normalize::is_kept;
use super::table::{CharTable, READABLE, readable};
use crate::masks::{Bits, Classify, WIDTH, Work, below, best};

/// What stands between a text and its normal form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// Nothing, if neither end has blank lines or spaces.
    Normal,
    /// Spaces at the ends of lines, or too many blank lines.
    Spaces,
    /// Characters that go or become others.
    Chars,
}

/// The spelling of a text.
pub(super) fn survey(text: &str) -> Spelling {
    best(Survey { text })
}

/// A character that may go, become another or compose with those around it.
const UNSETTLED: u8 = 1;
/// An unsettled one that stays as it is behind a settled one.
const MARK: u8 = 2;

static SETTLED: LazyLock<CharTable> = LazyLock::new(|| CharTable::build(unsettled));

/// What is known of a character: nothing if it stays as it is.
pub(super) fn unsettled(char: char) -> u8 {
    let is_stable = is_kept(char) && is_nfc_quick(std::iter::once(char)) == IsNormalized::Yes;
    match (is_stable, canonical_combining_class(char)) {
        (true, 0) => 0,
        (true, _) => UNSETTLED | MARK,
        _ => UNSETTLED,
    }
}

/// [`survey`] as work for the instructions of this processor.
struct Survey<'t> {
    text: &'t str,
}

impl Work for Survey<'_> {
    type Output = Spelling;

    #[inline(always)]
    unsafe fn run<C: Classify>(self) -> Spelling {
        let bytes = self.text.as_bytes();
        let table = &*SETTLED;
        let mut marks = Marks { text: self.text, table, settled_from: 0 };
        let (mut pos, mut spelling) = (0, Spelling::Normal);
        // Whether the last byte was a space, and which of the last two were line feeds.
        let (mut space, mut feeds) = (0, 0);
        while pos < bytes.len() {
            let mut padded = [b'.'; READABLE];
            let window = readable(&bytes[pos..], &mut padded);
            let head = window.first_chunk().unwrap_or(&[b'.'; WIDTH]);
            let is_control = |byte: u8| byte < b' ' && byte != b'\n' && byte != b'\t' || byte == 0x7f;
            if head.iter().fold(false, |any, &byte| any | is_control(byte)) {
                return Spelling::Chars;
            }
            // SAFETY: the caller's.
            let ascii = unsafe { C::classify(head) };
            let mut len = WIDTH;
            if ascii.wide != 0 {
                // SAFETY: the caller's.
                let (wide, unsettled) = unsafe {
                    let wide = table.look_up::<C>(window, &ascii);
                    let unsettled = wide.having::<C>(UNSETTLED);
                    (wide, unsettled)
                };
                len = wide.len;
                if Bits(unsettled).any(|at| !marks.is_normal(pos + at)) {
                    return Spelling::Chars;
                }
            }
            let (spaces, newlines) = (ascii.space & !ascii.newline, ascii.newline & below(len));
            let third = newlines & (newlines << 1 | feeds >> 1) & (newlines << 2 | feeds);
            if newlines & (spaces << 1 | space) | third != 0 {
                spelling = Spelling::Spaces;
            }
            space = spaces >> (len - 1) & 1;
            feeds = newlines >> (len - 2);
            pos += len;
        }
        spelling
    }
}

/// Looks at the characters that are not settled.
struct Marks<'t> {
    text: &'t str,
    table: &'t CharTable,
    /// The end of the last of them.
    settled_from: usize,
}

impl Marks<'_> {
    /// Whether the character at `at` and those it may compose with are in their normal form.
    fn is_normal(&mut self, at: usize) -> bool {
        if at < self.settled_from {
            return true;
        }
        let Some(char) = self.text[at..].chars().next() else { return true };
        let is_first = at == 0 || at != self.settled_from;
        if is_first && self.bits(char) & MARK != 0 {
            self.settled_from = at + char.len_utf8();
            return true;
        }
        let unsettled = |char: &char| self.bits(*char) & UNSETTLED != 0;
        let before = self.text[..at].chars().rev();
        // Back to a settled character, which composes with what follows.
        let run: usize = before.clone().take_while(unsettled).map(char::len_utf8).sum();
        let start = at - run - self.text[..at - run].chars().next_back().map_or(0, char::len_utf8);
        let end = at + self.text[at..].chars().take_while(unsettled).map(char::len_utf8).sum::<usize>();
        self.settled_from = end;
        let part = &self.text[start..end];
        part.chars().all(|char| char.is_ascii() || is_kept(char)) && is_nfc(part)
    }

    fn bits(&self, char: char) -> u8 {
        self.table.get(char as u32)
    }
}
