//! What one pass over the characters of a text gives, 64 bytes at a time.

use rustc_hash::FxHashMap;

use super::runs::{Links, Masks, count, lower};
use crate::masks::{Bits, Classify, WIDTH, Work, below, best};
use crate::text::traits;

/// Counts over a whole text.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Counts {
    pub(super) chars: u64,
    /// Runs of characters between spaces; in scripts without spaces, characters.
    pub(super) words: u64,
    /// Words of scripts with spaces, and their characters.
    pub(super) spaced_words: u64,
    pub(super) spaced_chars: u64,
    /// Words with at least one letter.
    pub(super) alphabetic_words: u64,
    /// `#`, `...` and `…`.
    pub(super) symbols: u64,
    /// `{` and `}`.
    pub(super) braces: u64,
    /// Sentence marks before a space, the end or a closing quote; marks of scripts without spaces anywhere.
    pub(super) sentences: u64,
    /// One bit for each of [`STOP_WORDS`] that occurs.
    stop_words: u8,
    /// Characters that are not spaces, and those of them in long runs of equal ones.
    pub(super) visible: u64,
    pub(super) repeated: u64,
    pub(super) letters: u64,
    /// Instances of the most frequent letter.
    pub(super) top_letter: u64,
}

impl Counts {
    /// Counts what is in a text.
    pub(super) fn of(text: &str) -> Self {
        best(Pass { text })
    }

    /// How many different stop words occur.
    pub(super) fn stop_words(&self) -> u32 {
        self.stop_words.count_ones()
    }
}

/// [`Counts::of`] as work for the instructions of this processor.
struct Pass<'t> {
    text: &'t str,
}

impl Work for Pass<'_> {
    type Output = Counts;

    #[inline(always)]
    unsafe fn run<C: Classify>(self) -> Counts {
        let bytes = self.text.as_bytes();
        let mut counts = Counts::default();
        let (mut letters, mut links) = (Letters::default(), Links::default());
        let (mut all_unspaced, mut no_letter) = (Whole::default(), Whole::default());
        let (mut before, mut last_wide, mut is_mixed) = (Before::default(), None, false);
        let (mut tails, mut runs, mut unspaced_chars, mut last_byte) = (0, 0, 0, b' ');
        let mut pos = 0;
        // The last window always has room for a space, which ends the last word and sentence.
        while pos <= bytes.len() {
            let left = bytes.len() - pos;
            let mut padded = [b' '; WIDTH];
            let window = bytes[pos..].first_chunk::<WIDTH>().unwrap_or_else(|| {
                padded[..left].copy_from_slice(&bytes[pos..]);
                &padded
            });
            // SAFETY: the caller's.
            let ascii = unsafe { C::classify(window) };
            // SAFETY: the caller's.
            let equal = |byte: u8| unsafe { C::equal(window, &[byte; WIDTH]) };
            let visible = !ascii.space;
            let starts = visible & !(visible << 1 | before.visible);
            let mut wide = Wide { unspaced: before.unspaced, letter: before.letter, ..Wide::default() };
            let mut linked = before.linked;
            for at in Bits(ascii.wide & !ascii.tail) {
                let Some(char) = self.text[pos + at..].chars().next() else { break };
                let own = u128::from(below(char.len_utf8())) << at;
                let traits = wide.add(char, own, at);
                if traits & traits::LETTER != 0 {
                    let lower = letters.add(char, traits);
                    if last_wide == Some(lower) {
                        linked |= own;
                    }
                    if lower.is_ascii() {
                        is_mixed = true;
                    }
                    last_wide = Some(lower);
                } else {
                    if last_wide == Some(char) {
                        linked |= own;
                    }
                    last_wide = Some(char);
                }
            }
            let unspaced = wide.unspaced as u64;
            let spaced_letter = ascii.upper | ascii.lower | wide.letter as u64 & !unspaced;
            runs += starts.count_ones() as u64;
            counts.alphabetic_words += wide.unspaced_letters;
            unspaced_chars += wide.unspaced_chars;
            all_unspaced.add(visible & unspaced, starts, ascii.space);
            no_letter.add(visible & !spaced_letter, starts, ascii.space);
            counts.visible += (visible & !ascii.tail).count_ones() as u64;
            tails += ascii.tail.count_ones() as u64;
            letters.add_window(window);

            let dots = equal(b'.');
            let third = dots & (dots << 1 | before.dots >> 63) & (dots << 2 | before.dots >> 62);
            counts.symbols +=
                (third & !(third << 1 | before.third >> 63)).count_ones() as u64 + wide.ellipses;
            let marks = dots | equal(b'!') | equal(b'?');
            let closers = ascii.space | equal(b'"') | ascii.apostrophe | equal(b')') | wide.closers;
            counts.sentences +=
                ((marks << 1 | before.marks >> 63) & closers).count_ones() as u64 + wide.full_stops;
            if counts.stop_words != u8::MAX {
                for at in Bits(starts) {
                    counts.stop_words |= stop_word(bytes, pos + at);
                }
            }
            let (mut folded, mut shifted) = ([0; WIDTH], [last_byte | 0x20; WIDTH]);
            for at in 0..WIDTH {
                folded[at] = window[at] | 0x20;
            }
            shifted[1..].copy_from_slice(&folded[..WIDTH - 1]);
            // SAFETY: the caller's.
            let same = unsafe { C::equal(&folded, &shifted) } & !ascii.wide;
            let after_space = ascii.space << 1 | before.visible ^ 1;
            let linked_now = same | ascii.space | after_space | linked as u64;
            links.add(self.text, pos, Masks { linked: linked_now, visible, tail: ascii.tail });

            last_byte = window[WIDTH - 1];
            before = Before {
                visible: visible >> 63,
                dots,
                third,
                marks,
                unspaced: wide.unspaced >> WIDTH,
                letter: wide.letter >> WIDTH,
                linked: linked >> WIDTH,
            };
            pos += WIDTH;
        }
        counts.chars = bytes.len() as u64 - tails;
        counts.spaced_words = runs - all_unspaced.count;
        counts.words = counts.spaced_words + unspaced_chars;
        counts.alphabetic_words += runs - no_letter.count;
        counts.spaced_chars = counts.visible - unspaced_chars;
        counts.symbols += letters.of(b'#');
        counts.braces = letters.of(b'{') + letters.of(b'}');
        (counts.letters, counts.top_letter) = letters.total_and_top();
        // A letter beyond ASCII may be small in ASCII: its runs are not seen in the masks.
        counts.repeated = if is_mixed { count(self.text) } else { links.finish(self.text) };
        counts
    }
}

/// What the window before says about the first bytes of the next one.
#[derive(Default)]
struct Before {
    /// Whether its last byte is visible.
    visible: u64,
    dots: u64,
    third: u64,
    marks: u64,
    unspaced: u128,
    letter: u128,
    linked: u128,
}

/// What the characters beyond ASCII add: masks of their bytes, also those in the next window.
#[derive(Default)]
struct Wide {
    unspaced: u128,
    letter: u128,
    closers: u64,
    unspaced_chars: u64,
    unspaced_letters: u64,
    full_stops: u64,
    ellipses: u64,
}

impl Wide {
    /// Adds a character and returns its traits.
    #[inline(always)]
    fn add(&mut self, char: char, own: u128, at: usize) -> u8 {
        let traits = traits::table().get(char as u32);
        let has = |bit: u8| traits & bit != 0;
        if has(traits::UNSPACED) {
            self.unspaced |= own;
            self.unspaced_chars += 1;
            self.unspaced_letters += u64::from(has(traits::LETTER));
        }
        if has(traits::LETTER) {
            self.letter |= own;
        }
        self.closers |= u64::from(has(traits::CLOSER)) << at;
        self.full_stops += u64::from(has(traits::FULL_STOP));
        self.ellipses += u64::from(has(traits::ELLIPSIS));
        traits
    }
}

/// Counts the words, cut by spaces, all of whose bytes are of one kind.
#[derive(Default)]
struct Whole {
    count: u64,
    /// Whether such a word may go on in the next window.
    goes_on: bool,
}

impl Whole {
    /// Adds a window: the bytes of the kind, those that start a word, and the spaces.
    #[inline(always)]
    fn add(&mut self, kind: u64, starts: u64, spaces: u64) {
        // Adding the first bit of a run carries to the bit behind it, over the end of the window if need be.
        let (sum, over) = kind.overflowing_add(kind & starts);
        let (sum, over_too) = sum.overflowing_add(u64::from(self.goes_on));
        self.goes_on = over | over_too;
        self.count += (sum & !kind & spaces).count_ones() as u64;
    }
}

/// Words of which ordinary English prose has at least two (Gopher), in little-endian order.
const STOP_WORDS: [u32; 8] = {
    let words: [&[u8]; 8] = [b"the", b"be", b"to", b"of", b"and", b"that", b"have", b"with"];
    let (mut spelled, mut i) = ([0; 8], 0);
    while i < 8 {
        let mut at = words[i].len();
        while at > 0 {
            at -= 1;
            spelled[i] = spelled[i] << 8 | words[i][at] as u32;
        }
        i += 1;
    }
    spelled
};

/// The bit of the stop word that starts at `at`, if one does.
#[inline(always)]
fn stop_word(bytes: &[u8], at: usize) -> u8 {
    let mut padded = [b' '; 5];
    let word = bytes[at..].first_chunk::<5>().unwrap_or_else(|| {
        padded[..bytes.len() - at].copy_from_slice(&bytes[at..]);
        &padded
    });
    let len = if word[2].is_ascii_whitespace() {
        2
    } else if word[3].is_ascii_whitespace() {
        3
    } else if word[4].is_ascii_whitespace() {
        4
    } else {
        return 0;
    };
    let spelled = u32::from_le_bytes([word[0], word[1], word[2], word[3]]) & u32::MAX >> (32 - 8 * len);
    // Every letter of the list stays as it is with the bit of small letters set, and no other visible byte becomes one.
    let lower = spelled | 0x2020_2020 & u32::MAX >> (32 - 8 * len);
    STOP_WORDS.iter().enumerate().map(|(i, &stop)| u8::from(lower == stop) << i).sum()
}

/// How often each letter occurs; for ASCII, each byte.
struct Letters {
    // Four tables, because increments of one entry wait for each other.
    bytes: [[u32; 256]; 4],
    wide: FxHashMap<char, u64>,
}

impl Default for Letters {
    fn default() -> Self {
        Self { bytes: [[0; 256]; 4], wide: FxHashMap::default() }
    }
}

impl Letters {
    #[inline(always)]
    fn add_window(&mut self, window: &[u8; WIDTH]) {
        let [first, second, third, fourth] = &mut self.bytes;
        for &[a, b, c, d] in window.as_chunks::<4>().0 {
            first[usize::from(a)] += 1;
            second[usize::from(b)] += 1;
            third[usize::from(c)] += 1;
            fourth[usize::from(d)] += 1;
        }
    }

    /// Counts a letter beyond ASCII and returns it in lower case.
    #[inline(always)]
    fn add(&mut self, char: char, traits: u8) -> char {
        let lower = if traits & traits::UPPER != 0 { lower(char) } else { char };
        *self.wide.entry(lower).or_default() += 1;
        lower
    }

    fn of(&self, byte: u8) -> u64 {
        self.bytes.iter().map(|table| u64::from(table[usize::from(byte)])).sum()
    }

    fn total_and_top(&self) -> (u64, u64) {
        let ascii = |letter: u8| {
            let wide = self.wide.get(&char::from(letter)).copied().unwrap_or_default();
            self.of(letter) + self.of(letter.to_ascii_uppercase()) + wide
        };
        let wide = self.wide.iter().filter(|(char, _)| !char.is_ascii()).map(|(_, &count)| count);
        let counts = || (b'a'..=b'z').map(ascii).chain(wide.clone());
        (counts().sum(), counts().max().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::runs;
    use super::*;
    #[cfg(target_arch = "x86_64")]
    use crate::masks::Avx2;
    use crate::masks::Portable;
    use crate::text::{is_unspaced, normalize};

    /// The definitions, word for word and character for character.
    fn by_definition(text: &str) -> Counts {
        let mut counts = Counts { chars: text.chars().count() as u64, ..Counts::default() };
        let stop_words = ["the", "be", "to", "of", "and", "that", "have", "with"];
        for word in text.split_ascii_whitespace() {
            let is_letter = |char: &char| char.is_alphabetic();
            let (unspaced, spaced): (Vec<char>, Vec<char>) =
                word.chars().partition(|&char| is_unspaced(char));
            counts.words += unspaced.len() as u64;
            counts.alphabetic_words += unspaced.iter().filter(|char| is_letter(char)).count() as u64;
            if !spaced.is_empty() {
                counts.words += 1;
                counts.spaced_words += 1;
                counts.spaced_chars += spaced.len() as u64;
                counts.alphabetic_words += u64::from(spaced.iter().any(is_letter));
            }
            counts.stop_words |= stop_words
                .iter()
                .position(|stop| stop.eq_ignore_ascii_case(word))
                .map_or(0, |place| 1 << place);
            counts.visible += word.chars().count() as u64;
            counts.symbols += word.matches(['#', '…']).count() as u64;
            counts.symbols += word.split(|char| char != '.').filter(|dots| dots.len() >= 3).count() as u64;
        }
        counts.braces = text.matches(['{', '}']).count() as u64;
        let chars: Vec<char> = text.chars().chain([' ']).collect();
        let ends = |pair: &&[char]| {
            matches!(pair[0], '.' | '!' | '?')
                && matches!(pair[1], ' ' | '\n' | '\t' | '"' | '\'' | ')' | '”' | '’' | '»')
        };
        counts.sentences = chars.windows(2).filter(ends).count() as u64;
        counts.sentences += text.matches(['。', '！', '？', '؟', '۔', '।', '॥', '။', '។']).count() as u64;
        let letters: Vec<char> = text.chars().filter(|char| char.is_alphabetic()).map(lower).collect();
        counts.letters = letters.len() as u64;
        let instances = |letter: &char| letters.iter().filter(|other| *other == letter).count() as u64;
        counts.top_letter = letters.iter().map(instances).max().unwrap_or(0);
        counts.repeated = runs::count(text);
        counts
    }

    /// Texts with all kinds of characters, in runs, so that windows end inside words.
    fn texts() -> impl Strategy<Value = String> {
        let parts = [
            " ", " ", " ", "\n", "\t", ".", "!", "\"", ")", "a", "A", "b", "the ", "The", " of", "#", "{",
            "}", "…", "”", "。", "漢", "字", "ー", "é", "É", "м", "М", "9", "²", "İ", "ท", "한", "🙂",
            "don't", "word ",
        ];
        let run = (proptest::sample::select(parts.to_vec()), prop_oneof![9 => 1..3usize, 1 => 5..90usize]);
        prop::collection::vec(run, 0..50)
            .prop_map(|runs| runs.iter().map(|&(part, times)| part.repeat(times)).collect::<String>())
            .prop_map(|text| normalize(&text).into_owned())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]
        #[test]
        fn windows_count_what_is_defined(text in texts()) {
            let expected = by_definition(&text);
            prop_assert_eq!(&Counts::of(&text), &expected);
            // SAFETY: it needs no instructions.
            prop_assert_eq!(unsafe { Pass { text: &text }.run::<Portable>() }, expected.clone());
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") {
                // SAFETY: just detected.
                prop_assert_eq!(unsafe { Pass { text: &text }.run::<Avx2>() }, expected);
            }
        }
    }
}
