//! One spelling for texts that differ in case, white space and composition alone.
//!
//! [`fold_slowly`] is the definition. White space divides a text into parts that can be folded alone, so [`Folder`] copies 64
//! bytes at once where no character beyond ASCII changes, and asks the definition for the other parts.

use std::sync::LazyLock;

use unicode_normalization::UnicodeNormalization;

use super::normalize;
use super::survey::unsettled;
use super::table::{CharTable, READABLE, readable};
use crate::masks::{Ascii, Classify, WIDTH, Work, below, best};

/// A text after [`normalize`], in lower case, with one space for each run of white space and none at the ends.
pub fn fold(text: &str) -> String {
    String::from_utf8_lossy(Folder::default().fold(text)).into_owned()
}

/// Folds texts; its memory is kept from one to the next.
#[derive(Debug, Default)]
pub(crate) struct Folder {
    /// What is written, and room for a window behind it.
    out: Vec<u8>,
}

impl Folder {
    /// The bytes of [`fold`].
    pub(crate) fn fold(&mut self, text: &str) -> &[u8] {
        let len = best(Fold { text, out: &mut self.out, word: 0, written: 0, len: 0, is_open: false });
        &self.out[..len]
    }
}

/// Appends a text as it is defined to be folded.
fn fold_slowly(text: &str, folded: &mut String) {
    let start = folded.len();
    for run in normalize(text).split_whitespace() {
        if folded.len() > start {
            folded.push(' ');
        }
        folded.extend(run.chars().flat_map(lower));
    }
}

/// Characters that fold to something else, or depend on those around them.
static CHANGING: LazyLock<CharTable> =
    LazyLock::new(|| CharTable::build(|char| u8::from(unsettled(char) != 0 || !lower(char).eq([char]))));

/// [`Folder::fold`] as work for the instructions of this processor.
struct Fold<'a> {
    text: &'a str,
    out: &'a mut Vec<u8>,
    /// Where the part between white space that is being read starts in the text, and in `out`.
    word: usize,
    written: usize,
    /// Bytes that are written.
    len: usize,
    /// Whether something was written since the last space.
    is_open: bool,
}

impl Work for Fold<'_> {
    type Output = usize;

    #[inline(always)]
    unsafe fn run<C: Classify>(mut self) -> usize {
        let bytes = self.text.as_bytes();
        let mut slow = String::new();
        let mut pos = 0;
        while pos < bytes.len() {
            let left = bytes.len() - pos;
            let mut padded = [b' '; READABLE];
            let window = readable(&bytes[pos..], &mut padded);
            let head = window.first_chunk().unwrap_or(&[b' '; WIDTH]);
            // SAFETY: the caller's.
            let ascii = unsafe { C::classify(head) };
            let (mut len, mut changing) = (left.min(WIDTH), controls(head));
            if ascii.wide != 0 {
                // SAFETY: the caller's.
                let (wide, of_wide) = unsafe {
                    let wide = CHANGING.look_up::<C>(window, &ascii);
                    let of_wide = wide.having::<C>(1);
                    (wide, of_wide)
                };
                len = len.min(wide.len);
                changing |= of_wide;
            }
            if changing == 0 {
                self.copy(head, &ascii, pos, len);
                pos += len;
                continue;
            }
            let first = changing.trailing_zeros() as usize;
            let spaces = ascii.space & below(first);
            if spaces != 0 {
                self.copy(head, &ascii, pos, spaces.ilog2() as usize + 1);
            }
            let after = &bytes[pos + first..];
            let end = pos + first + after.iter().position(|&byte| is_space(byte)).unwrap_or(after.len());
            slow.clear();
            fold_slowly(&self.text[self.word..end], &mut slow);
            self.len = self.written;
            self.make_room(slow.len());
            self.out[self.len..self.len + slow.len()].copy_from_slice(slow.as_bytes());
            self.len += slow.len();
            self.is_open = !slow.is_empty();
            pos = end;
        }
        self.len - usize::from(!self.is_open && self.len > 0)
    }
}

impl Fold<'_> {
    /// Writes the first `len` bytes of a window, none of which is of a character that changes.
    #[inline(always)]
    fn copy(&mut self, window: &[u8; WIDTH], ascii: &Ascii, pos: usize, len: usize) {
        // Of each run of white space, the first is written, and none where the text begins.
        let spaces = ascii.space & below(len);
        let dropped = spaces & (spaces << 1 | u64::from(!self.is_open));
        let mut folded = [0; 2 * WIDTH];
        for (folded, &byte) in folded.iter_mut().zip(window) {
            let small = if byte.is_ascii_uppercase() { byte | 0x20 } else { byte };
            *folded = if is_space(byte) { b' ' } else { small };
        }
        self.make_room(2 * WIDTH);
        let mut kept = !dropped & below(len);
        while kept != 0 {
            let start = kept.trailing_zeros() as usize % WIDTH;
            let run = (!(kept >> start)).trailing_zeros() as usize;
            self.out[self.len..self.len + WIDTH].copy_from_slice(&folded[start..start + WIDTH]);
            self.len += run;
            kept &= !(below(run) << start);
        }
        if spaces != 0 {
            let last = spaces.ilog2() as usize;
            (self.word, self.written) = (pos + last + 1, self.len - (len - 1 - last));
        }
        self.is_open = spaces >> (len - 1) & 1 == 0;
    }

    /// Makes room for so many bytes behind what is written.
    #[inline(always)]
    fn make_room(&mut self, more: usize) {
        if self.out.len() < self.len + more {
            self.out.resize(2 * self.out.len() + self.text.len() + more, 0);
        }
    }
}

/// ASCII white space; the vertical tab too.
fn is_space(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | b' ')
}

/// The bytes of ASCII that fold to nothing.
#[inline(always)]
fn controls(window: &[u8; WIDTH]) -> u64 {
    let is_control = |byte: u8| byte < b' ' && !is_space(byte) || byte == 0x7f;
    if !window.iter().fold(false, |any, &byte| any | is_control(byte)) {
        return 0;
    }
    window.iter().rev().fold(0, |mask, &byte| mask << 1 | u64::from(is_control(byte)))
}

/// The characters of a word, composed and in lower case.
pub(super) fn normal_chars(word: &str) -> impl Iterator<Item = char> {
    word.nfc().flat_map(lower)
}

/// A character in lower case, where the two small sigmas are one.
pub(super) fn lower(char: char) -> impl Iterator<Item = char> {
    char.to_lowercase().map(|char| if char == 'ς' { 'σ' } else { char })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    #[cfg(target_arch = "x86_64")]
    use crate::masks::Avx2;
    use crate::masks::Portable;

    #[test]
    fn case_spaces_and_composition_have_one_spelling() {
        for (text, expected) in [
            ("Café  au\nlait", "café au lait"),
            (" cafe\u{301} AU\u{3000}lait\r\n", "café au lait"),
            ("ΟΔΟΣ οδος", "οδοσ οδοσ"),
            (" \n", ""),
        ] {
            assert_eq!(fold(text), expected, "{text:?}");
        }
    }

    fn fold_by<C: Classify>(text: &str) -> String {
        let mut out = Vec::new();
        let fold = Fold { text, out: &mut out, word: 0, written: 0, len: 0, is_open: false };
        // SAFETY: the test detects what `C` needs.
        let len = unsafe { fold.run::<C>() };
        String::from_utf8(out[..len].to_vec()).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]
        #[test]
        fn windows_fold_as_defined(
            parts in prop::collection::vec(
                (
                    prop_oneof![
                        20 => proptest::sample::select("   \n\t\r\x0b\0\x7faaBzÉéς9漢字か\u{3000}\u{a0}\u{ad}\u{301}Мм🙂İ".chars().collect::<Vec<_>>()),
                        1 => any::<char>(),
                    ],
                    prop_oneof![20 => 1..4usize, 1 => 10..150usize],
                ),
                0..60,
            ),
        ) {
            let text: String = parts.iter().flat_map(|&(char, n)| std::iter::repeat_n(char, n)).collect();
            let mut expected = String::new();
            fold_slowly(&text, &mut expected);
            prop_assert_eq!(&fold(&text), &expected);
            prop_assert_eq!(&fold_by::<Portable>(&text), &expected);
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") {
                prop_assert_eq!(&fold_by::<Avx2>(&text), &expected);
            }
        }
    }
}
