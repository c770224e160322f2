//! What one pass over the characters of a text gives, 64 bytes at a time.

use super::runs::{Links, Masks, count};
use super::stop_words::stop_word;
use crate::masks::{Bits, Classify, WIDTH, Work, below, best};
use crate::text::table::{READABLE, readable};
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
    /// One bit for each stop word that occurs, until as many were found as are sought.
    stop_words: u8,
    /// Characters that are not spaces, and those of them in long runs of equal ones.
    pub(super) visible: u64,
    pub(super) repeated: u64,
    pub(super) letters: u64,
    /// At least the instances of the most frequent letter.
    pub(super) top_letter_bound: u64,
    /// Times that "lorem ipsum" occurs.
    pub(super) lorem_ipsum: u64,
}

/// What a text has up to the end of a line.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Until {
    /// The line feed, or the end of the text.
    pub(super) end: usize,
    pub(super) chars: u64,
    /// Runs of characters between spaces.
    pub(super) runs: u64,
    pub(super) letters: u64,
    pub(super) capitals: u64,
}

impl Counts {
    /// Counts what is in a text, and up to the end of each line; looks for so many different stop words.
    pub(super) fn of(text: &str, sought_stop_words: u32, lines: &mut Vec<Until>) -> Self {
        lines.clear();
        best(Pass { text, sought_stop_words, lines })
    }

    /// How many different stop words occur, up to those that were sought.
    pub(super) fn stop_words(&self) -> u32 {
        self.stop_words.count_ones()
    }
}

/// [`Counts::of`] as work for the instructions of this processor.
struct Pass<'t> {
    text: &'t str,
    sought_stop_words: u32,
    lines: &'t mut Vec<Until>,
}

impl Work for Pass<'_> {
    type Output = Counts;

    #[inline(always)]
    unsafe fn run<C: Classify>(self) -> Counts {
        let bytes = self.text.as_bytes();
        let mut counts = Counts::default();
        let mut links = Links::default();
        let (mut all_unspaced, mut no_letter) = (Whole::default(), Whole::default());
        let (mut before, mut until) = (Before::default(), Until::default());
        let (mut groups, mut num_odd, mut is_mixed, mut unspaced_chars) = ([0; 8], 0, false, 0);
        let mut seeks_stop_words = self.sought_stop_words > 0;
        let mut pos = 0;
        // The last window always has room for a space, which ends the last word and sentence.
        while pos <= bytes.len() {
            let mut padded = [b' '; READABLE];
            let window = readable(&bytes[pos..], &mut padded);
            let head = window.first_chunk().unwrap_or(&[b' '; WIDTH]);
            // SAFETY: the caller's.
            let ascii = unsafe { C::classify(head) };
            let mut wide = Wide::default();
            if ascii.wide != 0 {
                // SAFETY: the caller's.
                wide = unsafe { Wide::find::<C>(bytes, pos, window, &ascii) };
            }
            let (len, inside) = (wide.len, below(wide.len));
            // SAFETY: the caller's.
            let equal = |byte: u8| unsafe { C::equal(head, &[byte; WIDTH]) } & inside;
            // The bit of the last byte of this window becomes that of the byte before the next.
            let last = |mask: u64| mask >> (len - 1);
            let (visible, tail) = (!ascii.space & inside, ascii.tail & inside);
            let starts = visible & !(visible << 1 | before.visible);

            let capitals = ascii.upper | wide.capitals;
            let letters = ascii.upper | ascii.lower | wide.letters;
            for at in Bits(equal(b'\n')) {
                let count = |mask: u64| (mask & below(at)).count_ones() as u64;
                self.lines.push(Until {
                    end: pos + at,
                    chars: until.chars + at as u64 - count(tail),
                    runs: until.runs + count(starts),
                    letters: until.letters + count(letters),
                    capitals: until.capitals + count(capitals),
                });
            }
            until.chars += len as u64 - tail.count_ones() as u64;
            until.runs += starts.count_ones() as u64;
            until.letters += letters.count_ones() as u64;
            until.capitals += capitals.count_ones() as u64;

            let group: [u8; WIDTH] = std::array::from_fn(|at| traits::group(head[at]));
            let lasts = (letters & !ascii.wide) | wide.last_of_letters;
            for (number, count) in groups.iter_mut().enumerate() {
                // SAFETY: the caller's.
                let of_group = unsafe { C::equal(&group, &[number as u8; WIDTH]) };
                *count += (of_group & lasts).count_ones() as u64;
            }
            num_odd += wide.odd.count_ones() as u64;
            is_mixed |= wide.is_mixed;

            unspaced_chars += wide.unspaced_chars;
            counts.alphabetic_words += wide.unspaced_letters;
            let spaced_letters = ascii.upper | ascii.lower | wide.spaced_letters;
            all_unspaced.add(visible & wide.unspaced, starts, ascii.space, len);
            no_letter.add(visible & !spaced_letters, starts, ascii.space, len);
            counts.visible += (visible & !tail).count_ones() as u64;

            let dots = equal(b'.');
            let third = dots & (dots << 1 | before.dots >> 1) & (dots << 2 | before.dots);
            counts.symbols += (third & !(third << 1 | before.third)).count_ones() as u64
                + equal(b'#').count_ones() as u64
                + wide.ellipses;
            counts.braces += (equal(b'{') | equal(b'}')).count_ones() as u64;
            let marks = dots | equal(b'!') | equal(b'?');
            let closers =
                (ascii.space | ascii.apostrophe) & inside | equal(b'"') | equal(b')') | wide.closers;
            counts.sentences += ((marks << 1 | before.marks) & closers).count_ones() as u64 + wide.full_stops;
            if seeks_stop_words {
                for at in Bits(starts) {
                    counts.stop_words |= stop_word(window, at);
                }
                seeks_stop_words = counts.stop_words() < self.sought_stop_words;
            }

            let folded: [u8; WIDTH] = std::array::from_fn(|at| head[at] | 0x20);
            let previous = behind(bytes, pos, 1);
            let shifted: [u8; WIDTH] = std::array::from_fn(|at| previous[at] | 0x20);
            // SAFETY: the caller's.
            let (same, p, s) = unsafe {
                let is = |byte: u8| C::equal(&folded, &[byte; WIDTH]);
                (C::equal(&folded, &shifted), is(b'p') & inside, is(b's') & inside)
            };
            // Rare letters in a row: of the filler text, or not.
            for at in Bits((p << 1 | before.p) & s) {
                let (start, end) = bytes.split_at(pos + at);
                counts.lorem_ipsum += u64::from(is_lorem_ipsum(start, end));
            }
            let after_space = ascii.space << 1 | before.visible ^ 1;
            let linked = (same & !ascii.wide | ascii.space | after_space | wide.linked | before.odd) & inside;
            links.add(self.text, pos, len, Masks { linked, visible, tail });

            before = Before {
                visible: last(visible),
                dots: dots >> (len - 2),
                third: last(third),
                marks: last(marks),
                p: last(p),
                odd: wide.after_odd,
            };
            pos += len;
        }
        until.end = bytes.len();
        // The spaces behind the text were counted.
        until.chars -= (pos - bytes.len()) as u64;
        self.lines.push(until);
        counts.chars = until.chars;
        counts.letters = until.letters;
        counts.spaced_words = until.runs - all_unspaced.count;
        counts.words = counts.spaced_words + unspaced_chars;
        counts.alphabetic_words += until.runs - no_letter.count;
        counts.spaced_chars = counts.visible - unspaced_chars;
        counts.top_letter_bound = groups.into_iter().max().unwrap_or(0) + num_odd;
        // A letter beyond ASCII may be small in ASCII: its runs are not seen in the masks.
        counts.repeated = if is_mixed { count(self.text) } else { links.finish(self.text) };
        counts
    }
}

/// The 64 bytes that begin `offset` before `pos`; spaces where there are none.
#[inline(always)]
fn behind(bytes: &[u8], pos: usize, offset: usize) -> [u8; WIDTH] {
    if let Some(window) = pos.checked_sub(offset).and_then(|start| bytes[start..].first_chunk()) {
        return *window;
    }
    let byte = |at: usize| (pos + at).checked_sub(offset).and_then(|place| bytes.get(place));
    std::array::from_fn(|at| byte(at).copied().unwrap_or(b' '))
}

/// Whether "lorem ip" and "sum" meet here.
#[cold]
fn is_lorem_ipsum(start: &[u8], end: &[u8]) -> bool {
    let (last, first) = (start.last_chunk::<8>(), end.first_chunk::<3>());
    last.is_some_and(|last| last.eq_ignore_ascii_case(b"lorem ip"))
        && first.is_some_and(|first| first.eq_ignore_ascii_case(b"sum"))
}

/// What the window before says about the first bytes of the next one.
#[derive(Default)]
struct Before {
    /// Whether its last byte is visible, and so on; of `dots`, its last two.
    visible: u64,
    dots: u64,
    third: u64,
    marks: u64,
    p: u64,
    odd: u64,
}

/// What the characters beyond ASCII add, as masks of first bytes unless they say otherwise.
struct Wide {
    /// Bytes of the window that hold whole characters.
    len: usize,
    letters: u64,
    /// Last bytes of letters.
    last_of_letters: u64,
    /// All bytes of letters of scripts with spaces.
    spaced_letters: u64,
    capitals: u64,
    /// All bytes of characters of scripts without spaces.
    unspaced: u64,
    closers: u64,
    /// Characters whose lower case is of another group.
    odd: u64,
    /// All bytes that may belong to the same run as the character before.
    linked: u64,
    /// Whether the first byte of the next window may.
    after_odd: u64,
    unspaced_chars: u64,
    unspaced_letters: u64,
    full_stops: u64,
    ellipses: u64,
    /// Whether a character is an ASCII letter in lower case.
    is_mixed: bool,
}

impl Default for Wide {
    /// Of a window of ASCII.
    #[inline(always)]
    fn default() -> Self {
        Self {
            len: WIDTH,
            letters: 0,
            last_of_letters: 0,
            spaced_letters: 0,
            capitals: 0,
            unspaced: 0,
            closers: 0,
            odd: 0,
            linked: 0,
            after_odd: 0,
            unspaced_chars: 0,
            unspaced_letters: 0,
            full_stops: 0,
            ellipses: 0,
            is_mixed: false,
        }
    }
}

impl Wide {
    /// # Safety
    /// The processor has the instructions of `C`.
    #[inline(always)]
    unsafe fn find<C: Classify>(
        bytes: &[u8],
        pos: usize,
        window: &[u8; READABLE],
        ascii: &crate::masks::Ascii,
    ) -> Self {
        // SAFETY: the caller's.
        let found = unsafe { traits::table().look_up::<C>(window, ascii) };
        // SAFETY: the caller's.
        let having = |bits: u8| unsafe { found.having::<C>(bits) };
        let count = |mask: u64| mask.count_ones() as u64;
        let (letters, unspaced, odd) =
            (having(traits::LETTER), having(traits::UNSPACED), having(traits::ODD));
        let two = found.leads & !found.three;
        // Whether the last byte of a character is of the group of the byte `len` before it.
        let alike = |len: usize| {
            let (group, other) = (behind(bytes, pos, 0), behind(bytes, pos, len));
            let group: [u8; WIDTH] = std::array::from_fn(|at| traits::group(group[at]));
            let other: [u8; WIDTH] = std::array::from_fn(|at| traits::group(other[at]));
            // SAFETY: the caller's.
            unsafe { C::equal(&group, &other) }
        };
        // Characters of four bytes are rare, so each may be equal to the one before.
        let linked = two & alike(2) >> 1 | found.three & !found.four & alike(3) >> 2 | found.four;
        let after_odd = found.last(odd);
        Self {
            len: found.len,
            letters,
            last_of_letters: found.last(letters),
            spaced_letters: found.own(letters & !unspaced),
            capitals: letters & having(traits::UPPER),
            unspaced: found.own(unspaced),
            closers: having(traits::CLOSER),
            odd,
            linked: linked | odd | ascii.tail | after_odd << 1,
            after_odd: after_odd >> (found.len - 1) & 1,
            unspaced_chars: count(unspaced),
            unspaced_letters: count(unspaced & letters),
            full_stops: count(having(traits::FULL_STOP)),
            ellipses: count(having(traits::ELLIPSIS)),
            is_mixed: having(traits::MIXED) != 0,
        }
    }
}

/// Counts the words, cut by spaces, all of whose bytes are of one kind.
#[derive(Default)]
struct Whole {
    count: u64,
    /// Whether such a word may go on in the next window.
    goes_on: u64,
}
impl Whole {
    /// Adds a window: the bytes of the kind, those that start a word, and the spaces.
    #[inline(always)]
    fn add(&mut self, kind: u64, starts: u64, spaces: u64, len: usize) {
        // Adding the first bit of a run carries to the bit behind it, over the end of the window if need be.
        let sum = u128::from(kind) + u128::from(kind & starts) + u128::from(self.goes_on);
        self.goes_on = (sum >> len) as u64 & 1;
        self.count += (sum as u64 & !kind & spaces & below(len)).count_ones() as u64;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{letters, runs};
    use super::*;
    use crate::masks::Portable;
    #[cfg(target_arch = "x86_64")]
    use crate::masks::{Avx2, Avx512};
    use crate::text::traits::lower;
    use crate::text::{is_unspaced, normalize};

    /// What a way to classify finds, and up to the end of each line.
    fn found<C: Classify>(text: &str) -> (Counts, Vec<Until>) {
        let mut lines = Vec::new();
        let pass = Pass { text, sought_stop_words: 8, lines: &mut lines };
        // SAFETY: the test detects what `C` needs.
        (unsafe { pass.run::<C>() }, lines)
    }

    /// What is in the text up to the end of each line.
    fn lines_by_definition(text: &str) -> Vec<Until> {
        let ends = text.match_indices('\n').map(|(at, _)| at).chain([text.len()]);
        let until = |end| {
            let before: &str = &text[..end];
            let count = |is: fn(&char) -> bool| before.chars().filter(is).count() as u64;
            Until {
                end,
                chars: count(|_| true),
                runs: before.split_ascii_whitespace().count() as u64,
                letters: count(|char| char.is_alphabetic()),
                capitals: count(|char| char.is_alphabetic() && !char.to_lowercase().eq([*char])),
            }
        };
        ends.map(until).collect()
    }

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
        counts.top_letter_bound = letters.iter().map(instances).max().unwrap_or(0);
        counts.lorem_ipsum = text.to_ascii_lowercase().matches("lorem ipsum").count() as u64;
        counts.repeated = runs::count(text);
        counts
    }

    /// Texts with all kinds of characters, in runs, so that windows end inside words.
    fn texts() -> impl Strategy<Value = String> {
        let parts = [
            " ", " ", " ", "\n", "\t", ".", "!", "\"", ")", "a", "A", "b", "the ", "The", " of", "#", "{",
            "}", "…", "”", "。", "漢", "字", "ー", "é", "É", "м", "М", "9", "²", "İ", "ท", "한", "🙂",
            "don't", "word ", "K", "Ā", "ā", "Lorem ", "ipsum", "\u{1e9e}", "😀", "Ǆ", "ǅ",
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
            let expected = (by_definition(&text), lines_by_definition(&text));
            prop_assert_eq!(letters::most_frequent(&text), expected.0.top_letter_bound);
            let check = |(mut counts, lines): (Counts, Vec<Until>)| {
                assert!(counts.top_letter_bound >= expected.0.top_letter_bound);
                counts.top_letter_bound = expected.0.top_letter_bound;
                assert_eq!(counts.stop_words(), expected.0.stop_words());
                counts.stop_words = expected.0.stop_words;
                assert_eq!((counts, lines), expected);
            };
            check(found::<Portable>(&text));
            #[cfg(target_arch = "x86_64")]
            {
                if is_x86_feature_detected!("avx2") {
                    check(found::<Avx2>(&text));
                }
                if is_x86_feature_detected!("avx512vbmi") && is_x86_feature_detected!("avx512bw") {
                    check(found::<Avx512>(&text));
                }
            }
        }
    }
}
