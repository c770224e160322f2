//! Words without strings: each word of a text as a hash and its number of characters.
//!
//! A word is a maximal run of letters, digits and their combining marks; case and the way that accents are spelled
//! (composed or not) do not count. In scripts written without spaces (Han, kana, Thai, Lao, Burmese, Khmer) every
//! character is a word. [`spell_words`] is the definition; [`for_each_word`] finds the same words in windows of 64
//! bytes, from masks.

use std::ops::Range;

use unicode_normalization::char::is_combining_mark;

use super::fold::normal_chars;
use super::kinds;
use super::table::{READABLE, readable};
use crate::masks::{Ascii, Bits, Classify, WIDTH, Work, below, best, onward};

/// One word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word {
    /// Hash of the word in lower case, composed (NFC).
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

/// The words of a text, each a string: what [`for_each_word`] hashes.
pub fn spell_words(text: &str) -> Vec<String> {
    word_ranges(text).map(|range| spell_word(&text[range]).collect()).collect()
}

/// The words of a text, each the range of its bytes.
pub fn word_ranges(text: &str) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut pos = 0;
    std::iter::from_fn(move || {
        let start = pos + text[pos..].find(starts_word)?;
        pos = start + word_len(&text[start..]);
        Some(start..pos)
    })
}

/// The characters that a word counts as: composed and in lower case.
pub fn spell_word(word: &str) -> impl Iterator<Item = char> {
    normal_chars(word)
}

/// Calls `visit` with each word in order.
#[inline]
pub fn for_each_word(text: &str, visit: impl FnMut(Word)) {
    best(Cut::<Letters, _> { text, visit, cutter: std::marker::PhantomData });
}

/// Calls `visit` with each run of characters that are not white space, as it is written.
#[inline]
pub fn for_each_run(text: &str, visit: impl FnMut(Word)) {
    best(Cut::<Runs, _> { text, visit, cutter: std::marker::PhantomData });
}

fn starts_word(char: char) -> bool {
    char.is_alphanumeric() && !is_combining_mark(char)
}

/// Bytes of the word that `text` starts with.
fn word_len(text: &str) -> usize {
    let mut is_alone = false;
    let goes_on = |(place, char): (usize, char)| {
        if place == 0 {
            is_alone = is_unspaced(char);
            return true;
        }
        is_combining_mark(char) || !is_alone && starts_word(char) && !is_unspaced(char)
    };
    let len = |(place, char): (usize, char)| place + char.len_utf8();
    let mut goes_on = goes_on;
    text.char_indices().take_while(|&at| goes_on(at)).last().map_or(0, len)
}

/// How text is cut.
trait Cutter {
    /// The words of a window.
    ///
    /// # Safety
    /// The processor has the instructions of `C`.
    unsafe fn words<C: Classify>(ascii: &Ascii, window: &[u8; READABLE], len: usize) -> Words;
    /// Bytes of the word that `text` starts with: the slow way, for words longer than a window.
    fn word_len(text: &str) -> usize;
    /// Whether ASCII letters count as their lower case.
    const FOLDS_CASE: bool;
}

/// Words as masks. Nothing is set beyond `len`.
struct Words {
    /// Bytes in words.
    inside: u64,
    /// First bytes of words.
    starts: u64,
    /// Bytes of characters that may change when the word is put into its normal form.
    changing: u64,
    /// Bytes of the window that hold whole characters.
    len: usize,
}

/// [`for_each_word`] and [`for_each_run`] as work for the instructions of this processor.
struct Cut<'t, K, V> {
    text: &'t str,
    visit: V,
    cutter: std::marker::PhantomData<K>,
}

impl<K: Cutter, V: FnMut(Word)> Work for Cut<'_, K, V> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<C: Classify>(mut self) {
        let bytes = self.text.as_bytes();
        let mut spelled = Vec::new();
        let mut pos = 0;
        while pos < bytes.len() {
            let left = bytes.len() - pos;
            let mut padded = [b' '; READABLE];
            let window = readable(&bytes[pos..], &mut padded);
            let head = window.first_chunk().unwrap_or(&[b' '; WIDTH]);
            // SAFETY: the caller's.
            let ascii = unsafe { C::classify(head) };
            // SAFETY: the same.
            let mut words = unsafe { K::words::<C>(&ascii, window, left.min(WIDTH)) };
            let ends = !words.inside | words.starts;
            let mut next = words.len;
            if left >= WIDTH && words.inside >> (words.len - 1) & 1 != 0 {
                // The last word may go on behind the window: the next one starts with it.
                next = words.starts.ilog2() as usize;
                words.starts &= below(next);
                if next == 0 {
                    next = K::word_len(&self.text[pos..]);
                    (self.visit)(long_word::<K>(&self.text[pos..pos + next], &mut spelled));
                    pos += next;
                    continue;
                }
            }
            for at in Bits(words.starts) {
                let len = (ends >> at >> 1).trailing_zeros() as usize + 1;
                let own = below(len) << at;
                let hash = if words.changing & own == 0 {
                    hash_within::<K>(window, at, len)
                } else {
                    hash_changing(&self.text[pos + at..pos + at + len], &mut spelled)
                };
                (self.visit)(Word { hash, num_chars: (own & !ascii.tail).count_ones() });
            }
            pos += next;
        }
    }
}

struct Letters;

impl Cutter for Letters {
    const FOLDS_CASE: bool = true;

    #[inline(always)]
    unsafe fn words<C: Classify>(ascii: &Ascii, window: &[u8; READABLE], len: usize) -> Words {
        let plain = ascii.upper | ascii.lower | ascii.number;
        if ascii.wide == 0 {
            return Words { inside: plain, starts: plain & !(plain << 1), changing: 0, len };
        }
        // SAFETY: the caller's.
        let wide = unsafe { kinds::table().look_up::<C>(window, ascii) };
        // SAFETY: the caller's.
        let having = |bits: u8| unsafe { wide.having::<C>(bits) };
        let len = len.min(wide.len);
        let (alone_leads, mark) = (having(kinds::ALONE), wide.own(having(kinds::MARK)));
        let alone = wide.own(alone_leads);
        let head = (plain & below(len)) | wide.own(having(kinds::LETTER)) | alone;
        let inside = head | onward(mark, head << 1 & mark);
        let alone = alone | onward(mark, alone << 1 & mark);
        let starts = inside & (!(inside << 1) | alone_leads | alone << 1 & !alone);
        Words { inside, starts, changing: wide.own(having(kinds::CHANGES)), len }
    }

    fn word_len(text: &str) -> usize {
        word_len(text)
    }
}

struct Runs;

impl Cutter for Runs {
    const FOLDS_CASE: bool = false;

    #[inline(always)]
    unsafe fn words<C: Classify>(ascii: &Ascii, window: &[u8; READABLE], len: usize) -> Words {
        let (mut space, mut len) = (ascii.space, len);
        if ascii.wide != 0 {
            // SAFETY: the caller's.
            let (wide, spaces) = unsafe {
                let wide = kinds::table().look_up::<C>(window, ascii);
                let spaces = wide.having::<C>(kinds::SPACE);
                (wide, spaces)
            };
            space |= wide.own(spaces);
            len = len.min(wide.len);
        }
        let inside = !space & below(len);
        Words { inside, starts: inside & !(inside << 1), changing: 0, len }
    }

    fn word_len(text: &str) -> usize {
        text.find(char::is_whitespace).unwrap_or(text.len())
    }
}

/// Two odd numbers whose bits follow no pattern. Their highest bytes do not occur in UTF-8, so no text is equal to
/// them and multiplied by zero.
pub(crate) const KEYS: [u64; 2] = [0xffb3_79b9_7f4a_7c15, 0xfee8_feb8_6659_fd93];

/// Multiplies to 128 bits and folds the halves: every input bit reaches every output bit.
#[inline(always)]
pub(crate) fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// The hash of up to 16 bytes, zeros where there are none, after what came before them.
#[inline(always)]
fn hash_step(hash: u64, chunk: [u64; 2]) -> u64 {
    mix(chunk[0] ^ KEYS[0], chunk[1] ^ hash)
}

fn hash_bytes(bytes: &[u8]) -> u64 {
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
    let step = |hash, chunk: &[u8]| {
        let (low, high) = chunk.split_at(chunk.len().min(8));
        hash_step(hash, [word(low), word(high)])
    };
    bytes.chunks(16).fold(KEYS[1], step)
}

/// [`hash_bytes`] of `len` bytes of a window, its ASCII letters in lower case if the cutter folds case.
#[inline(always)]
fn hash_within<K: Cutter>(window: &[u8; READABLE], at: usize, len: usize) -> u64 {
    let mut hash = KEYS[1];
    let (mut at, mut left) = (at, len);
    loop {
        let read = |offset: usize| {
            let start = at % WIDTH + offset;
            let chunk = window[start..start + 8].try_into().map_or(0, u64::from_le_bytes);
            // In words, the bytes below 128 are letters and digits: this bit makes letters small and digits stay.
            if K::FOLDS_CASE { chunk | (!chunk & 0x8080_8080_8080_8080) >> 2 } else { chunk }
        };
        let kept = KEPT[left.min(16)];
        hash = hash_step(hash, [read(0) & kept[0], read(8) & kept[1]]);
        if left <= 16 {
            return hash;
        }
        (at, left) = (at + 16, left - 16);
    }
}

/// Masks of the first bytes of 16.
static KEPT: [[u64; 2]; 17] = {
    let mut kept = [[0; 2]; 17];
    let mut len = 1;
    while len <= 16 {
        kept[len] =
            if len <= 8 { [u64::MAX >> (64 - 8 * len), 0] } else { [u64::MAX, u64::MAX >> (128 - 8 * len)] };
        len += 1;
    }
    kept
};

/// The hash of a word with characters that change.
#[cold]
fn hash_changing(word: &str, spelled: &mut Vec<u8>) -> u64 {
    spelled.clear();
    for char in normal_chars(word) {
        spelled.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
    }
    hash_bytes(spelled)
}

#[cold]
fn long_word<K: Cutter>(word: &str, spelled: &mut Vec<u8>) -> Word {
    let hash = if K::FOLDS_CASE { hash_changing(word, spelled) } else { hash_bytes(word.as_bytes()) };
    Word { hash, num_chars: word.chars().count() as u32 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use unicode_normalization::UnicodeNormalization;

    use super::*;
    #[cfg(target_arch = "x86_64")]
    use crate::masks::Avx2;
    use crate::masks::Portable;

    fn hashed(text: &str) -> Vec<Word> {
        let mut words = Vec::new();
        for_each_word(text, |word| words.push(word));
        words
    }

    fn hashed_by<C: Classify, K: Cutter>(text: &str) -> Vec<Word> {
        let mut words = Vec::new();
        let cut = Cut::<K, _> { text, visit: |word| words.push(word), cutter: std::marker::PhantomData };
        // SAFETY: the tests detect what `C` needs.
        unsafe { cut.run::<C>() };
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
            ("CAFE\u{301} か\u{3099}x", vec!["café", "が", "x"]),
        ] {
            assert_eq!(spell_words(text), expected, "{text}");
        }
    }

    /// Texts with all kinds of characters, in runs, so that windows end inside words.
    fn texts() -> impl Strategy<Value = String> {
        let tricky: Vec<char> =
            "   \n\t.-'\u{85}\u{a0}\u{3000}aabZÉéİß9²漢字かゞท\u{e35}\u{301}\u{323}\u{3099}\u{94d}हनㅎ한\u{1100}\u{1161}🙂\u{212b}\u{f900}"
                .chars()
                .collect();
        let run = (
            prop_oneof![20 => proptest::sample::select(tricky), 1 => any::<char>()],
            prop_oneof![20 => 1..4usize, 1 => 10..150usize],
        );
        prop::collection::vec(run, 0..60)
            .prop_map(|runs| runs.iter().flat_map(|&(char, n)| std::iter::repeat_n(char, n)).collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]
        #[test]
        fn hashes_are_those_of_the_spelled_words(text in texts()) {
            let expected: Vec<u64> = spell_words(&text).iter().map(|word| hash_bytes(word.as_bytes())).collect();
            let hashes = |words: Vec<Word>| words.iter().map(|word| word.hash).collect::<Vec<_>>();
            prop_assert_eq!(hashes(hashed(&text)), &*expected);
            prop_assert_eq!(hashes(hashed_by::<Portable, Letters>(&text)), &*expected);
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") {
                prop_assert_eq!(hashes(hashed_by::<Avx2, Letters>(&text)), &*expected);
            }
            let mut runs = Vec::new();
            for_each_run(&text, |word| runs.push(word));
            let run = |run: &str| Word { hash: hash_bytes(run.as_bytes()), num_chars: run.chars().count() as u32 };
            prop_assert_eq!(runs, text.split_whitespace().map(run).collect::<Vec<_>>());
        }

        #[test]
        fn composition_does_not_change_the_words(text in texts()) {
            let composed: String = text.nfc().collect();
            prop_assert_eq!(spell_words(&text), spell_words(&composed));
            let decomposed: String = text.nfd().collect();
            prop_assert_eq!(spell_words(&text), spell_words(&decomposed));
        }

        #[test]
        fn case_does_not_change_an_ascii_word(word in "[a-zA-Z0-9]{1,80}", pad in "[ .]{0,9}") {
            let padded = format!("{word}{pad}");
            prop_assert_eq!(hashed(&padded), hashed(&word.to_ascii_uppercase()));
            prop_assert_eq!(hashed(&padded)[0].num_chars as usize, word.len());
        }
    }
}
