//! What a character is to those who clean texts and judge them: a few bits, from a table.

use std::sync::LazyLock;

use unicode_normalization::char::canonical_combining_class;
use unicode_normalization::{IsNormalized, is_nfc_quick};

use super::normalize::is_kept;
use super::table::CharTable;
use super::words::is_unspaced;

/// A letter.
pub(crate) const LETTER: u8 = 1;
/// Of a script whose words are not separated by spaces.
pub(crate) const UNSPACED: u8 = 2;
/// Its lower case is another character.
pub(crate) const UPPER: u8 = 4;
/// [`super::normalize`] may change it, or the characters around it.
pub(crate) const UNSETTLED: u8 = 8;
/// Ends a sentence wherever it stands.
pub(crate) const FULL_STOP: u8 = 16;
/// Closes a quotation.
pub(crate) const CLOSER: u8 = 32;
/// The one character for three dots.
pub(crate) const ELLIPSIS: u8 = 64;

static TRAITS: LazyLock<CharTable> = LazyLock::new(|| CharTable::build(traits));

/// The traits of every character.
pub(crate) fn table() -> &'static CharTable {
    &TRAITS
}

fn traits(char: char) -> u8 {
    let is_settled = is_kept(char)
        && canonical_combining_class(char) == 0
        && is_nfc_quick(std::iter::once(char)) == IsNormalized::Yes;
    [
        (LETTER, char.is_alphabetic()),
        (UNSPACED, is_unspaced(char)),
        (UPPER, !char.to_lowercase().eq([char])),
        (UNSETTLED, !is_settled),
        (FULL_STOP, matches!(char, '。' | '！' | '？' | '؟' | '۔' | '।' | '॥' | '။' | '។')),
        (CLOSER, matches!(char, '”' | '’' | '»')),
        (ELLIPSIS, char == '…'),
    ]
    .iter()
    .map(|&(bit, is_set)| if is_set { bit } else { 0 })
    .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_has_its_traits() {
        let differs = |&char: &char| table().get(char as u32) != traits(char);
        assert_eq!(('\u{80}'..='\u{33fff}').find(differs), None);
        assert_eq!(table().get(u32::MAX), 0);
    }
}
