//! What a character is to those who clean texts and judge them: a few bits, from a table.

use std::sync::LazyLock;

use super::table::CharTable;
use super::words::is_unspaced;

/// A letter.
pub(crate) const LETTER: u8 = 1;
/// Of a script whose words are not separated by spaces.
pub(crate) const UNSPACED: u8 = 2;
/// Its lower case is another character.
pub(crate) const UPPER: u8 = 4;
/// Its lower case is of another [`group`].
pub(crate) const ODD: u8 = 8;
/// Ends a sentence wherever it stands.
pub(crate) const FULL_STOP: u8 = 16;
/// Closes a quotation.
pub(crate) const CLOSER: u8 = 32;
/// The one character for three dots.
pub(crate) const ELLIPSIS: u8 = 64;
/// Its lower case is an ASCII letter.
pub(crate) const MIXED: u8 = 128;

static TRAITS: LazyLock<CharTable> = LazyLock::new(|| CharTable::build(traits));

/// The traits of every character.
pub(crate) fn table() -> &'static CharTable {
    &TRAITS
}

/// One of eight groups of characters, by the last byte of their UTF-8. Nearly always that of the lower case too.
#[inline(always)]
pub(crate) fn group(last_byte: u8) -> u8 {
    last_byte & 7
}

/// A character in lower case; the first character where a few rare letters become several.
#[inline]
pub(crate) fn lower(char: char) -> char {
    char.to_lowercase().next().unwrap_or(char)
}

fn traits(char: char) -> u8 {
    let lower = lower(char);
    // The last six bits of a character are those of its last byte.
    let group_of = |char: char| group(char as u8);
    [
        (LETTER, char.is_alphabetic()),
        (UNSPACED, is_unspaced(char)),
        (UPPER, !char.to_lowercase().eq([char])),
        (ODD, group_of(lower) != group_of(char)),
        (FULL_STOP, matches!(char, '。' | '！' | '？' | '؟' | '۔' | '।' | '॥' | '။' | '។')),
        (CLOSER, matches!(char, '”' | '’' | '»')),
        (ELLIPSIS, char == '…'),
        (MIXED, lower.is_ascii() && !char.is_ascii()),
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
