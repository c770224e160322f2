//! What a character beyond ASCII is to those who cut text into words.

use std::sync::LazyLock;

use unicode_normalization::IsNormalized;
use unicode_normalization::char::{canonical_combining_class, is_combining_mark};
use unicode_normalization::is_nfc_quick;

use super::fold::lower;
use super::table::CharTable;
use super::words::is_unspaced;

/// The kind of a character, and whether it may change when its word is composed and put in lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind(u8);

impl Kind {
    /// Not part of a word.
    pub(super) const OTHER: Self = Self(0);
    /// Part of a word: a letter or a digit.
    pub(super) const LETTER: Self = Self(1);
    /// A word of its own.
    pub(super) const ALONE: Self = Self(2);
    /// Part of the word that it follows, if it follows one.
    pub(super) const MARK: Self = Self(3);
    /// White space.
    pub(super) const SPACE: Self = Self(4);
    /// Set in characters that are not what they look like in the normal form of a word.
    const CHANGES: u8 = 8;
    /// Kinds with and without [`Self::CHANGES`].
    pub(super) const COUNT: usize = 16;

    /// Of any character.
    fn find(char: char) -> Self {
        let kind = if is_combining_mark(char) {
            Self::MARK
        } else if char.is_alphanumeric() {
            if is_unspaced(char) { Self::ALONE } else { Self::LETTER }
        } else if char.is_whitespace() {
            Self::SPACE
        } else {
            Self::OTHER
        };
        let is_lower = lower(char).eq([char]);
        let is_composed =
            is_nfc_quick(std::iter::once(char)) == IsNormalized::Yes && canonical_combining_class(char) == 0;
        Self(kind.0 | if is_lower && is_composed { 0 } else { Self::CHANGES })
    }

    /// A number below [`Self::COUNT`].
    #[inline(always)]
    pub(super) fn index(self) -> usize {
        usize::from(self.0) % Self::COUNT
    }

    /// The number of the same kind that changes.
    pub(super) const fn changing(self) -> usize {
        (self.0 | Self::CHANGES) as usize
    }
}

/// The kinds of all characters.
pub(super) struct Kinds(CharTable);

static KINDS: LazyLock<Kinds> = LazyLock::new(|| Kinds(CharTable::build(|char| Kind::find(char).0)));

impl Kinds {
    pub(super) fn get() -> &'static Self {
        &KINDS
    }

    /// The kind of a code point; of another number, that it is not part of a word.
    #[inline(always)]
    pub(super) fn of(&self, code: u32) -> Kind {
        Kind(self.0.get(code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_has_its_kind() {
        let differs = |&char: &char| Kinds::get().of(char as u32) != Kind::find(char);
        assert_eq!(('\u{80}'..=char::MAX).find(differs), None);
        assert_eq!(Kinds::get().of(u32::MAX), Kind::OTHER);
    }
}
