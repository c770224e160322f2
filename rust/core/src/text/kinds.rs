//! What a character beyond ASCII is to those who cut text into words.

use std::sync::LazyLock;

use unicode_normalization::IsNormalized;
use unicode_normalization::char::{canonical_combining_class, is_combining_mark};
use unicode_normalization::is_nfc_quick;

use super::fold::lower;
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

const PAGE: usize = 256;
const NUM_PAGES: usize = 0x11_0000 / PAGE;

/// The kinds of all characters: a page number for each 256 code points, and the distinct pages.
pub(super) struct Kinds {
    page_of: Box<[u8; NUM_PAGES]>,
    pages: Vec<[Kind; PAGE]>,
}

static KINDS: LazyLock<Kinds> = LazyLock::new(Kinds::build);

impl Kinds {
    pub(super) fn get() -> &'static Self {
        &KINDS
    }

    /// The kind of a code point; of another number, that it is not part of a word.
    #[inline(always)]
    pub(super) fn of(&self, code: u32) -> Kind {
        match self.page_of.get(code as usize / PAGE) {
            Some(&page) => self.pages[usize::from(page)][code as usize % PAGE],
            None => Kind::OTHER,
        }
    }

    fn build() -> Self {
        let mut kinds = Self { page_of: Box::new([0; NUM_PAGES]), pages: Vec::new() };
        for number in 0..NUM_PAGES {
            let kind = |i| char::from_u32((number * PAGE + i) as u32).map_or(Kind::OTHER, Kind::find);
            // Between the last ideographs and the last marks nothing is assigned.
            let is_empty = (0x340..0xe00).contains(&number) || number > 0xe01;
            let page: [Kind; PAGE] = if is_empty { [Kind::OTHER; PAGE] } else { std::array::from_fn(kind) };
            let known = kinds.pages.iter().position(|other| *other == page);
            kinds.page_of[number] = known.unwrap_or_else(|| {
                kinds.pages.push(page);
                kinds.pages.len() - 1
            }) as u8;
        }
        debug_assert!(kinds.pages.len() <= PAGE, "page numbers fit a byte");
        kinds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_fit_their_numbers() {
        assert!(Kinds::get().pages.len() <= 256, "{}", Kinds::get().pages.len());
    }

    #[test]
    fn every_character_has_its_kind() {
        let differs = |&char: &char| Kinds::get().of(char as u32) != Kind::find(char);
        assert_eq!(('\u{80}'..=char::MAX).find(differs), None);
        assert_eq!(Kinds::get().of(u32::MAX), Kind::OTHER);
    }
}
