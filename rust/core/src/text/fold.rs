//! One spelling for texts that differ in case, white space and composition alone.

use unicode_normalization::UnicodeNormalization;

use super::normalize;

/// A text after [`normalize`], in lower case, with one space for each run of white space and none at the ends.
pub fn fold(text: &str) -> String {
    let normal = normalize(text);
    let mut folded = String::with_capacity(normal.len());
    for run in normal.split_whitespace() {
        if !folded.is_empty() {
            folded.push(' ');
        }
        if run.is_ascii() {
            let start = folded.len();
            folded.push_str(run);
            folded[start..].make_ascii_lowercase();
        } else {
            folded.extend(run.chars().flat_map(lower));
        }
    }
    folded
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
    use super::*;

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
}
