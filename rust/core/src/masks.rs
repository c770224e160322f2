//! Sixty-four bytes of text at once: masks with one bit a byte, and which bytes are of which kind.
//!
//! Bytes are classified by AVX-512 or AVX2 when the processor has it, else eight at a time; the masks are equal.

/// Bytes in a window.
pub(crate) const WIDTH: usize = 64;

/// One bit for each byte of a window.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ascii {
    pub(crate) upper: u64,
    pub(crate) lower: u64,
    pub(crate) number: u64,
    pub(crate) space: u64,
    /// `\r` and `\n`.
    pub(crate) newline: u64,
    /// U+0020.
    pub(crate) blank: u64,
    pub(crate) apostrophe: u64,
    pub(crate) slash: u64,
    /// Bytes of characters beyond ASCII.
    pub(crate) wide: u64,
    /// Bytes of characters beyond ASCII that are not the first.
    pub(crate) tail: u64,
}

/// The bits below `len`, which is at most 64.
#[inline(always)]
pub(crate) fn below(len: usize) -> u64 {
    if len >= WIDTH { u64::MAX } else { (1 << len) - 1 }
}

/// The first bit of each run.
#[inline(always)]
pub(crate) fn firsts(runs: u64) -> u64 {
    runs & !(runs << 1)
}

/// The bits of `runs` from each bit of `from` to the end of its run; `from` lies in `runs`.
#[inline(always)]
pub(crate) fn onward(runs: u64, from: u64) -> u64 {
    runs & !runs.wrapping_add(from)
}

/// The bit after each run, for the runs that start at `from`.
#[inline(always)]
pub(crate) fn after(runs: u64, from: u64) -> u64 {
    runs.wrapping_add(from) & !runs
}

/// The bits that are set, from the lowest.
pub(crate) struct Bits(pub(crate) u64);

impl Iterator for Bits {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        let bit = (self.0 != 0).then(|| self.0.trailing_zeros() as usize);
        self.0 &= self.0.wrapping_sub(1);
        bit
    }
}

/// One way to classify bytes.
pub(crate) trait Classify {
    /// The masks of 64 bytes.
    ///
    /// # Safety
    /// The processor has the instructions that the implementation is named after.
    unsafe fn classify(bytes: &[u8; WIDTH]) -> Ascii;

    /// The places where both have the same byte.
    ///
    /// # Safety
    /// As [`Classify::classify`].
    unsafe fn equal(left: &[u8; WIDTH], right: &[u8; WIDTH]) -> u64;

    /// The places whose byte has any of `bits`.
    ///
    /// # Safety
    /// As [`Classify::classify`].
    unsafe fn having(bytes: &[u8; WIDTH], bits: u8) -> u64;

    /// Puts the entry that the low six bits of a byte name into `into`, for the bytes of `at`.
    ///
    /// # Safety
    /// As [`Classify::classify`].
    unsafe fn look_up(bytes: &[u8; WIDTH], table: &[u8; WIDTH], at: u64, into: &mut [u8; WIDTH]);
}

// Bits of a byte in `KINDS`. Line ends and blanks are white space as well.
const UPPER: u8 = 1;
const LOWER: u8 = 2;
const NUMBER: u8 = 4;
const SPACE: u8 = 8;
const NEWLINE: u8 = 16;
const BLANK: u8 = 32;
const APOSTROPHE: u8 = 64;
const SLASH: u8 = 128;

/// What each ASCII character is.
static KINDS: [u8; 128] = {
    let mut kinds = [0; 128];
    let mut byte = 0;
    while byte < 128 {
        kinds[byte as usize] = match byte {
            b'A'..=b'Z' => UPPER,
            b'a'..=b'z' => LOWER,
            b'0'..=b'9' => NUMBER,
            b'\r' | b'\n' => NEWLINE | SPACE,
            b' ' => BLANK | SPACE,
            0x09 | 0x0b | 0x0c => SPACE,
            b'\'' => APOSTROPHE,
            b'/' => SLASH,
            _ => 0,
        };
        byte += 1;
    }
    kinds
};

/// For any processor.
pub(crate) struct Portable;

impl Classify for Portable {
    #[inline(always)]
    unsafe fn classify(bytes: &[u8; WIDTH]) -> Ascii {
        const EACH: u64 = 0x0101_0101_0101_0101;
        /// The lowest bits of eight bytes, as one byte.
        #[inline(always)]
        fn gather(bytes: u64) -> u64 {
            (bytes & EACH).wrapping_mul(0x0102_0408_1020_4080) >> 56
        }
        let mut ascii = Ascii::default();
        for (i, word) in bytes.as_chunks::<8>().0.iter().enumerate() {
            let kind = |byte: u8| if byte < 128 { KINDS[byte as usize] } else { 0 };
            let kinds = u64::from_le_bytes(word.map(kind));
            let word = u64::from_le_bytes(*word);
            let mask_of = |bytes: u64| gather(bytes) << (8 * i);
            ascii.upper |= mask_of(kinds);
            ascii.lower |= mask_of(kinds >> 1);
            ascii.number |= mask_of(kinds >> 2);
            ascii.space |= mask_of(kinds >> 3);
            ascii.newline |= mask_of(kinds >> 4);
            ascii.blank |= mask_of(kinds >> 5);
            ascii.apostrophe |= mask_of(kinds >> 6);
            ascii.slash |= mask_of(kinds >> 7);
            ascii.wide |= mask_of(word >> 7);
            ascii.tail |= mask_of(word >> 7 & !(word >> 6));
        }
        ascii
    }

    #[inline(always)]
    unsafe fn equal(left: &[u8; WIDTH], right: &[u8; WIDTH]) -> u64 {
        (0..WIDTH).fold(0, |mask, at| mask | u64::from(left[at] == right[at]) << at)
    }

    #[inline(always)]
    unsafe fn having(bytes: &[u8; WIDTH], bits: u8) -> u64 {
        (0..WIDTH).fold(0, |mask, at| mask | u64::from(bytes[at] & bits != 0) << at)
    }

    #[inline(always)]
    unsafe fn look_up(bytes: &[u8; WIDTH], table: &[u8; WIDTH], at: u64, into: &mut [u8; WIDTH]) {
        for place in Bits(at) {
            into[place] = table[usize::from(bytes[place]) % WIDTH];
        }
    }
}

/// Work that is compiled for each way to classify bytes.
pub(crate) trait Work {
    /// What it gives.
    type Output;

    /// Does the work; inlined into functions that may use the instructions of `C`.
    ///
    /// # Safety
    /// The processor has the instructions of `C`.
    unsafe fn run<C: Classify>(self) -> Self::Output;
}

/// Does the work with the best instructions of this processor.
#[inline]
pub(crate) fn best<W: Work>(work: W) -> W::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if x86::has_avx512() {
            // SAFETY: just detected.
            return unsafe { x86::by_avx512(work) };
        }
        if x86::has_avx2() {
            // SAFETY: just detected.
            return unsafe { x86::by_avx2(work) };
        }
    }
    // SAFETY: it needs no instructions.
    unsafe { work.run::<Portable>() }
}

#[cfg(all(test, target_arch = "x86_64"))]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn by_definition(bytes: &[u8; WIDTH]) -> [u64; 10] {
        let mask = |is: &dyn Fn(u8) -> bool| (0..WIDTH).map(|i| u64::from(is(bytes[i])) << i).sum();
        [
            mask(&|byte| byte.is_ascii_uppercase()),
            mask(&|byte| byte.is_ascii_lowercase()),
            mask(&|byte| byte.is_ascii_digit()),
            mask(&|byte| char::from(byte).is_whitespace() && byte.is_ascii()),
            mask(&|byte| matches!(byte, b'\r' | b'\n')),
            mask(&|byte| byte == b' '),
            mask(&|byte| byte == b'\''),
            mask(&|byte| byte == b'/'),
            mask(&|byte| !byte.is_ascii()),
            mask(&|byte| matches!(byte, 0x80..=0xbf)),
        ]
    }

    fn masks(ascii: Ascii) -> [u64; 10] {
        let Ascii { upper, lower, number, space, newline, blank, apostrophe, slash, wide, tail } = ascii;
        [upper, lower, number, space, newline, blank, apostrophe, slash, wide, tail]
    }

    fn looked_up<C: Classify>(
        bytes: &[u8; WIDTH],
        table: &[u8; WIDTH],
        at: u64,
        bits: u8,
    ) -> ([u8; WIDTH], u64) {
        let mut into = *bytes;
        // SAFETY: the test detects what `C` needs.
        unsafe { C::look_up(bytes, table, at, &mut into) };
        // SAFETY: the same.
        (into, unsafe { C::having(bytes, bits) })
    }

    proptest! {
        #[test]
        fn all_ways_find_equal_bytes(left in proptest::array::uniform32(0..4u8), right in proptest::array::uniform32(0..4u8)) {
            let [left, right]: [[u8; WIDTH]; 2] = [left, right].map(|half| std::array::from_fn(|i| half[i * 7 % 32]));
            let expected: u64 = (0..WIDTH).map(|i| u64::from(left[i] == right[i]) << i).sum();
            // SAFETY: it needs no instructions.
            prop_assert_eq!(unsafe { Portable::equal(&left, &right) }, expected);
            #[cfg(target_arch = "x86_64")]
            {
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: just detected.
                    prop_assert_eq!(unsafe { Avx2::equal(&left, &right) }, expected);
                }
                if is_x86_feature_detected!("avx512vbmi") && is_x86_feature_detected!("avx512bw") {
                    // SAFETY: just detected.
                    prop_assert_eq!(unsafe { Avx512::equal(&left, &right) }, expected);
                }
            }
        }

        #[test]
        fn all_ways_look_up_the_same(
            bytes in proptest::array::uniform32(any::<[u8; 2]>()),
            table in proptest::array::uniform32(any::<[u8; 2]>()),
            (at, bits) in any::<(u64, u8)>(),
        ) {
            let [bytes, table]: [[u8; WIDTH]; 2] =
                [bytes, table].map(|pairs| std::array::from_fn(|i| pairs[i / 2][i % 2]));
            let expected = std::array::from_fn(|i| {
                if at >> i & 1 == 1 { table[usize::from(bytes[i] & 63)] } else { bytes[i] }
            });
            let having: u64 = (0..WIDTH).map(|i| u64::from(bytes[i] & bits != 0) << i).sum();
            let expected = (expected, having);
            prop_assert_eq!(looked_up::<Portable>(&bytes, &table, at, bits), expected);
            #[cfg(target_arch = "x86_64")]
            {
                if is_x86_feature_detected!("avx2") {
                    prop_assert_eq!(looked_up::<Avx2>(&bytes, &table, at, bits), expected);
                }
                if is_x86_feature_detected!("avx512vbmi") && is_x86_feature_detected!("avx512bw") {
                    prop_assert_eq!(looked_up::<Avx512>(&bytes, &table, at, bits), expected);
                }
            }
        }

        #[test]
        fn all_ways_agree(bytes in proptest::array::uniform32(any::<[u8; 2]>())) {
            let bytes: [u8; WIDTH] = std::array::from_fn(|i| bytes[i / 2][i % 2]);
            let expected = by_definition(&bytes);
            // SAFETY: it needs no instructions.
            prop_assert_eq!(masks(unsafe { Portable::classify(&bytes) }), expected);
            #[cfg(target_arch = "x86_64")]
            {
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: just detected.
                    prop_assert_eq!(masks(unsafe { Avx2::classify(&bytes) }), expected);
                }
                if is_x86_feature_detected!("avx512vbmi") && is_x86_feature_detected!("avx512bw") {
                    // SAFETY: just detected.
                    prop_assert_eq!(masks(unsafe { Avx512::classify(&bytes) }), expected);
                }
            }
        }
    }
}
