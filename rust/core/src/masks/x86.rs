//! Bytes classified by AVX-512 or AVX2.

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
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2") && is_x86_feature_detected!("lzcnt")
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

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    unsafe fn having(bytes: &[u8; WIDTH], bits: u8) -> u64 {
        // SAFETY: the load is of 64 bytes that are there.
        let bytes = unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) };
        _mm512_test_epi8_mask(bytes, _mm512_set1_epi8(bits as i8))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    unsafe fn look_up(bytes: &[u8; WIDTH], table: &[u8; WIDTH], at: u64, into: &mut [u8; WIDTH]) {
        // SAFETY: each load and the store are of 64 bytes that are there.
        unsafe {
            let load = |bytes: &[u8; WIDTH]| _mm512_loadu_si512(bytes.as_ptr().cast());
            let found = _mm512_mask_permutexvar_epi8(load(into), at, load(bytes), load(table));
            _mm512_storeu_si512(into.as_mut_ptr().cast(), found);
        }
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
            let load = |bytes: &[u8; WIDTH]| unsafe { _mm256_loadu_si256(bytes.as_ptr().add(start).cast()) };
            u64::from(_mm256_movemask_epi8(_mm256_cmpeq_epi8(load(left), load(right))) as u32)
        };
        half(0) | half(32) << 32
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn having(bytes: &[u8; WIDTH], bits: u8) -> u64 {
        let half = |start: usize| {
            // SAFETY: the load is of 32 bytes that are there.
            let half = unsafe { _mm256_loadu_si256(bytes.as_ptr().add(start).cast()) };
            let kept = _mm256_and_si256(half, _mm256_set1_epi8(bits as i8));
            u64::from(!_mm256_movemask_epi8(_mm256_cmpeq_epi8(kept, _mm256_setzero_si256())) as u32)
        };
        half(0) | half(32) << 32
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn look_up(bytes: &[u8; WIDTH], table: &[u8; WIDTH], at: u64, into: &mut [u8; WIDTH]) {
        // The byte of a mask that is for each byte of 32, and its bit in there.
        let byte = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
        let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
        for start in [0, 32] {
            // SAFETY: each load and the store are of 16 or 32 bytes that are there.
            unsafe {
                let place = into.as_mut_ptr().add(start);
                let index = _mm256_loadu_si256(bytes.as_ptr().add(start).cast());
                let low = _mm256_and_si256(index, _mm256_set1_epi8(0xf));
                let quarter = |i: usize| {
                    let quarter = _mm_loadu_si128(table.as_ptr().add(16 * i).cast());
                    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(quarter), low)
                };
                // Bits 4 and 5 of the index, where a blend looks: at the top.
                let (bit4, bit5) = (_mm256_slli_epi16::<3>(index), _mm256_slli_epi16::<2>(index));
                let found = _mm256_blendv_epi8(
                    _mm256_blendv_epi8(quarter(0), quarter(1), bit4),
                    _mm256_blendv_epi8(quarter(2), quarter(3), bit4),
                    bit5,
                );
                let mask = _mm256_shuffle_epi8(_mm256_set1_epi32((at >> start) as i32), byte);
                let is_at = _mm256_cmpeq_epi8(_mm256_and_si256(mask, bit), bit);
                let old = _mm256_loadu_si256(place.cast());
                _mm256_storeu_si256(place.cast(), _mm256_blendv_epi8(old, found, is_at));
            }
        }
    }
}
