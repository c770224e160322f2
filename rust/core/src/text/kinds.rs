//! What a character beyond ASCII is to those who cut text into words.

use std::sync::LazyLock;

use unicode_normalization::IsNormalized;
use unicode_normalization::char::{canonical_combining_class, is_combining_mark};
use unicode_normalization::is_nfc_quick;

use super::fold::lower;
use super::table::CharTable;
use super::words::is_unspaced;

/// Part of a word: a letter or a digit.
pub(super) const LETTER: u8 = 1;
/// A word of its own.
pub(super) const ALONE: u8 = 2;
/// Part of the word that it follows, if it follows one.
pub(super) const MARK: u8 = 4;
/// White space.
pub(super) const SPACE: u8 = 8;
/// Part of a word, and not what it looks like in the normal form of the word.
pub(super) const CHANGES: u8 = 16;

static KINDS: LazyLock<CharTable> = LazyLock::new(|| CharTable::build(kind));

/// The kinds of all characters.
pub(super) fn table() -> &'static CharTable {
    &KINDS
}

fn kind(char: char) -> u8 {
    if is_combining_mark(char) {
        MARK | changes(char)
    } else if char.is_alphanumeric() {
        changes(char) | if is_unspaced(char) { ALONE } else { LETTER }
    } else if char.is_whitespace() {
        SPACE
    } else {
        0
    }
}

fn changes(char: char) -> u8 {
    let is_lower = lower(char).eq([char]);
    let is_composed =
        is_nfc_quick(std::iter::once(char)) == IsNormalized::Yes && canonical_combining_class(char) == 0;
    if is_lower && is_composed { 0 } else { CHANGES }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_has_its_kind() {
        let differs = |&char: &char| table().get(char as u32) != kind(char);
        assert_eq!(('\u{80}'..=char::MAX).find(differs), None);
        assert_eq!(table().get(u32::MAX), 0);
    }
}
