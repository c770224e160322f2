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
mod x86 {
    #[allow(clippy::wildcard_imports)]
    use std::arch::x86_64::*;

    use super::{Ascii, Classify, KINDS, WIDTH, Work};

    /// Whether [`by_avx512`] may be called.
    #[inline]
    pub(super) fn has_avx512() -> bool {
        is_x86_feature_detected!("avx512vbmi")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
    }

    /// Whether [`by_avx2`] may be called.
    #[inline]
    pub(super) fn has_avx2() -> bool {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
    }

    /// # Safety
    /// [`has_avx512`]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512dq,avx512vl,bmi1,bmi2,lzcnt,popcnt")]
    pub(super) unsafe fn by_avx512<W: Work>(work: W) -> W::Output {
        // SAFETY: the caller's.
        unsafe { work.run::<Avx512>() }
    }

    /// # Safety
    /// [`has_avx2`]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    pub(super) unsafe fn by_avx2<W: Work>(work: W) -> W::Output {
        // SAFETY: the caller's.
        unsafe { work.run::<Avx2>() }
    }

    /// Needs AVX-512 F, BW and VBMI.
    pub(crate) struct Avx512;

    impl Classify for Avx512 {
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
        unsafe fn classify(bytes: &[u8; WIDTH]) -> Ascii {
            // SAFETY: each load is of 64 bytes that are there.
            let load = |at: *const u8| unsafe { _mm512_loadu_si512(at.cast()) };
            let text = load(bytes.as_ptr());
            let (low, high) = KINDS.split_at(WIDTH);
            let wide = _mm512_movepi8_mask(text);
            // The lookup takes seven bits of each byte, so wide bytes are left out.
            let (low, high) = (load(low.as_ptr()), load(high.as_ptr()));
            let kinds = _mm512_maskz_permutex2var_epi8(!wide, low, text, high);
            let is = |kind: u8| _mm512_test_epi8_mask(kinds, _mm512_set1_epi8(kind as i8));
            Ascii {
                upper: is(super::UPPER),
                lower: is(super::LOWER),
                number: is(super::NUMBER),
                space: is(super::SPACE),
                newline: is(super::NEWLINE),
                blank: is(super::BLANK),
                apostrophe: is(super::APOSTROPHE),
                slash: is(super::SLASH),
                wide,
                tail: _mm512_cmplt_epi8_mask(text, _mm512_set1_epi8(FIRST_LEAD)),
            }
        }

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
        unsafe fn equal(left: &[u8; WIDTH], right: &[u8; WIDTH]) -> u64 {
            // SAFETY: each load is of 64 bytes that are there.
            let load = |bytes: &[u8; WIDTH]| unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) };
            _mm512_cmpeq_epi8_mask(load(left), load(right))
        }
    }

    /// The first byte that starts a character, as a signed number: bytes from 0x80 to 0xbf are below it.
    const FIRST_LEAD: i8 = 0xc0_u8 as i8;

    /// Needs AVX2.
    pub(crate) struct Avx2;

    impl Classify for Avx2 {
        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn classify(bytes: &[u8; WIDTH]) -> Ascii {
            // SAFETY: both halves are 32 bytes that are there.
            let load = |start| unsafe { _mm256_loadu_si256(bytes.as_ptr().add(start).cast()) };
            let (low, high) = (load(0), load(32));
            let mask = |low, high| {
                let [low, high] = [low, high].map(|half| u64::from(_mm256_movemask_epi8(half) as u32));
                low | high << 32
            };
            let byte = |byte: u8| _mm256_set1_epi8(byte as i8);
            let equal = |to| mask(_mm256_cmpeq_epi8(low, byte(to)), _mm256_cmpeq_epi8(high, byte(to)));
            // Bytes from `first` to `last`, as distances from `first` that are at most the range's.
            let range = |first: u8, last: u8| {
                let in_range = |half| {
                    let distance = _mm256_sub_epi8(half, byte(first));
                    _mm256_cmpeq_epi8(_mm256_min_epu8(distance, byte(last - first)), distance)
                };
                mask(in_range(low), in_range(high))
            };
            let first_lead = _mm256_set1_epi8(FIRST_LEAD);
            let blank = equal(b' ');
            Ascii {
                upper: range(b'A', b'Z'),
                lower: range(b'a', b'z'),
                number: range(b'0', b'9'),
                space: range(0x09, 0x0d) | blank,
                newline: equal(b'\n') | equal(b'\r'),
                blank,
                apostrophe: equal(b'\''),
                slash: equal(b'/'),
                wide: mask(low, high),
                tail: mask(_mm256_cmpgt_epi8(first_lead, low), _mm256_cmpgt_epi8(first_lead, high)),
            }
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn equal(left: &[u8; WIDTH], right: &[u8; WIDTH]) -> u64 {
            let half = |start: usize| {
                // SAFETY: both loads are of 32 bytes that are there.
                let load =
                    |bytes: &[u8; WIDTH]| unsafe { _mm256_loadu_si256(bytes.as_ptr().add(start).cast()) };
                u64::from(_mm256_movemask_epi8(_mm256_cmpeq_epi8(load(left), load(right))) as u32)
            };
            half(0) | half(32) << 32
        }
    }
}

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
