//! Words of which ordinary English prose has at least two (Gopher).

/// How many there are.
pub(super) const NUM_STOP_WORDS: u32 = 8;

/// Each where [`place`] finds it, in little-endian order.
static STOP_WORDS: [u32; 8] = {
    let words: [&[u8]; 8] = [b"the", b"be", b"to", b"of", b"and", b"that", b"have", b"with"];
    let (mut spelled, mut i) = ([0; 8], 0);
    while i < 8 {
        let (mut word, mut at) = (0, words[i].len());
        while at > 0 {
            at -= 1;
            word = word << 8 | words[i][at] as u32;
        }
        assert!(spelled[place(word)] == 0, "no two words are in one place");
        spelled[place(word)] = word;
        i += 1;
    }
    spelled
};

/// The place of a word in the list: the multiplier gives each its own.
#[inline(always)]
const fn place(word: u32) -> usize {
    (word.wrapping_mul(MULTIPLIER) >> 29) as usize
}

const MULTIPLIER: u32 = 0x6ec9_d287;

/// The bit of the stop word that starts at `at`, if one does.
#[inline(always)]
pub(super) fn stop_word(bytes: &[u8], at: usize) -> u8 {
    let mut padded = [b' '; 5];
    let word = bytes[at..].first_chunk::<5>().unwrap_or_else(|| {
        padded[..bytes.len() - at].copy_from_slice(&bytes[at..]);
        &padded
    });
    let ends = |i: usize| usize::from(word[i].is_ascii_whitespace());
    // Bytes up to the first space: 2, 3, 4, or more.
    let len = 2 + (1 - ends(2)) * (1 + (1 - ends(3)) * (2 - ends(4)));
    let mask = [0, 0, 0xffff, 0xff_ffff, u32::MAX, 0][len];
    // Every letter of the list stays as it is with the bit of small letters set, and no other visible byte becomes one.
    let lower = (u32::from_le_bytes([word[0], word[1], word[2], word[3]]) | 0x2020_2020) & mask;
    let place = place(lower);
    u8::from(lower == STOP_WORDS[place] && lower != 0) << place
}
