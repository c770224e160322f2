//! Words without strings: each word of a text as a hash, its length and its place.
//!
//! A word is a maximal run of letters, digits and their combining marks; case does not count. In scripts written
//! without spaces (Han, kana, Thai, Lao, Burmese, Khmer) every character is a word.

use unicode_normalization::char::is_combining_mark;

/// One word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word {
    /// Hash of the lower-case word.
    pub hash: u64,
    /// Characters in it.
    pub num_chars: u32,
}

/// Whether words of this character's script are not separated by spaces.
pub fn is_unspaced(char: char) -> bool {
    matches!(u32::from(char),
        0x0e00..=0x0eff | 0x1000..=0x109f | 0x1780..=0x17ff // Thai and Lao, Burmese, Khmer
        | 0x3005..=0x3007 | 0x3040..=0x30ff | 0x31f0..=0x31ff | 0xff66..=0xff9d // iteration marks, kana
        | 0x3400..=0x4dbf | 0x4e00..=0x9fff | 0xf900..=0xfaff | 0x20000..=0x3ffff) // Han
}

/// Calls `visit` with each word in order.
pub fn for_each_word(text: &str, mut visit: impl FnMut(Word)) {
    let bytes = text.as_bytes();
    let mut spelled = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at].is_ascii_alphanumeric() {
            let start = at;
            at += bytes[at..].iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
            if bytes.get(at).is_none_or(u8::is_ascii) {
                visit(Word { hash: hash_ascii(bytes, start, at), num_chars: (at - start) as u32 });
            } else {
                at = slow_word(text, start, &mut spelled, &mut visit);
            }
        } else if bytes[at].is_ascii() {
            at += 1;
        } else {
            at = slow_word(text, at, &mut spelled, &mut visit);
        }
    }
}

/// The words of a text, each a lower-case string: what [`for_each_word`] hashes.
pub fn spell_words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut kind = Kind::Other;
    for char in text.chars() {
        kind = kind_after(char, kind);
        match kind {
            Kind::Other => continue,
            Kind::First | Kind::Alone => words.push(String::new()),
            Kind::Inner | Kind::AloneMark => {}
        }
        if let Some(word) = words.last_mut() {
            word.extend(char.to_lowercase());
        }
    }
    words
}

/// What a character is, given what the one before it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Not part of a word.
    Other,
    /// Begins a word.
    First,
    /// Goes on with a word.
    Inner,
    /// A word of its own.
    Alone,
    /// A mark on a character that is a word of its own.
    AloneMark,
}

fn kind_after(char: char, before: Kind) -> Kind {
    if char.is_ascii() {
        return match (char.is_ascii_alphanumeric(), before) {
            (false, _) => Kind::Other,
            (true, Kind::First | Kind::Inner) => Kind::Inner,
            (true, _) => Kind::First,
        };
    }
    if is_combining_mark(char) {
        return match before {
            Kind::Other => Kind::Other,
            Kind::First | Kind::Inner => Kind::Inner,
            Kind::Alone | Kind::AloneMark => Kind::AloneMark,
        };
    }
    if !char.is_alphanumeric() {
        return Kind::Other;
    }
    match before {
        _ if is_unspaced(char) => Kind::Alone,
        Kind::First | Kind::Inner => Kind::Inner,
        _ => Kind::First,
    }
}

/// Visits the word at `start` character by character, or skips one character, and returns where to go on.
fn slow_word(text: &str, start: usize, spelled: &mut Vec<u8>, visit: &mut impl FnMut(Word)) -> usize {
    spelled.clear();
    let (mut kind, mut num_chars) = (Kind::Other, 0);
    for (place, char) in text[start..].char_indices() {
        kind = kind_after(char, kind);
        let is_next = place > 0 && !matches!(kind, Kind::Inner | Kind::AloneMark);
        if is_next || kind == Kind::Other {
            if num_chars > 0 {
                visit(Word { hash: hash_bytes(spelled), num_chars });
            }
            return start + if place == 0 { char.len_utf8() } else { place };
        }
        for lower in char.to_lowercase() {
            spelled.extend_from_slice(lower.encode_utf8(&mut [0; 4]).as_bytes());
        }
        num_chars += 1;
    }
    visit(Word { hash: hash_bytes(spelled), num_chars });
    text.len()
}

const KEYS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xd6e8_feb8_6659_fd93];
/// Sets the bit that tells lower-case from upper-case ASCII letters; digits have it set.
const LOWER: u64 = 0x2020_2020_2020_2020;

/// Multiplies to 128 bits and folds the halves: every input bit reaches every output bit.
pub(crate) fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

fn hash_start(len: usize) -> u64 {
    KEYS[0] ^ (len as u64).wrapping_mul(KEYS[1])
}

fn hash_step(hash: u64, chunk: u64) -> u64 {
    mix(hash ^ chunk, KEYS[1]) ^ KEYS[0]
}

/// [`hash_bytes`] of `bytes[start..stop]` in lower case, which are ASCII letters and digits.
fn hash_ascii(bytes: &[u8], start: usize, stop: usize) -> u64 {
    let mut hash = hash_start(stop - start);
    let mut at = start;
    while at < stop {
        let chunk = match bytes.get(at..at + 8).and_then(|chunk| chunk.try_into().ok()) {
            Some(chunk) => u64::from_le_bytes(chunk),
            None => partial_chunk(&bytes[at..stop.min(at + 8)]),
        };
        let keep = (stop - at).min(8) * 8;
        hash = hash_step(hash, (chunk | LOWER) & (u64::MAX >> (64 - keep)));
        at += 8;
    }
    hash
}

fn hash_bytes(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(hash_start(bytes.len()), |hash, chunk| hash_step(hash, partial_chunk(chunk)))
}

fn partial_chunk(chunk: &[u8]) -> u64 {
    chunk.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hashed(text: &str) -> Vec<Word> {
        let mut words = Vec::new();
        for_each_word(text, |word| words.push(word));
        words
    }

    #[test]
    fn words_are_runs_of_letters_or_single_unspaced_characters() {
        for (text, expected) in [
            ("It's 3.5 km, NAÏVE café!", vec!["it", "s", "3", "5", "km", "naïve", "café"]),
            ("漢字かな and 한국어 말", vec!["漢", "字", "か", "な", "and", "한국어", "말"]),
            ("ที่ไทย", vec!["ที่", "ไ", "ท", "ย"]),
            ("abc漢def", vec!["abc", "漢", "def"]),
            ("हिन्दी भाषा", vec!["हिन्दी", "भाषा"]),
            ("\u{301}x --- ", vec!["x"]),
        ] {
            assert_eq!(spell_words(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn hashes_are_those_of_the_spelled_words(text in "[a-zA-Z0-9 éÉ漢ท\u{e35}\u{301}İß.-]{0,60}|\\PC{0,40}") {
            let spelled = spell_words(&text);
            let words = hashed(&text);
            let expected: Vec<u64> = spelled.iter().map(|word| hash_bytes(word.as_bytes())).collect();
            prop_assert_eq!(words.iter().map(|word| word.hash).collect::<Vec<_>>(), expected);
        }

        #[test]
        fn case_does_not_change_an_ascii_word(word in "[a-zA-Z0-9]{1,40}", pad in "[ .]{0,9}") {
            let padded = format!("{word}{pad}");
            prop_assert_eq!(hashed(&padded), hashed(&word.to_ascii_uppercase()));
            prop_assert_eq!(hashed(&padded)[0].num_chars as usize, word.len());
        }
    }
}
