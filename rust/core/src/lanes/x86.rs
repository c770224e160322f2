//! Sixteen floats in one register of AVX-512 or two of AVX2.

#[allow(clippy::wildcard_imports)]
use std::arch::x86_64::*;

use super::{Lanes, Line, WIDTH, Work};

/// Whether [`by_avx512`] may be called.
#[inline]
pub(super) fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
        && has_avx2()
}

/// Whether [`by_avx2`] may be called.
#[inline]
pub(super) fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// Whether [`by_avx512_bf16`] may be called.
#[inline]
pub(super) fn has_avx512_bf16() -> bool {
    is_x86_feature_detected!("avx512bf16") && has_avx512()
}

/// # Safety
/// [`has_avx512_bf16`]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma")]
pub(super) unsafe fn by_avx512_bf16<W: Work>(work: W) -> W::Output {
    // SAFETY: the caller's.
    unsafe { work.run::<Avx512<true>>() }
}

/// # Safety
/// [`has_avx512`]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
pub(super) unsafe fn by_avx512<W: Work>(work: W) -> W::Output {
    // SAFETY: the caller's.
    unsafe { work.run::<Avx512<false>>() }
}

/// # Safety
/// [`has_avx2`]
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn by_avx2<W: Work>(work: W) -> W::Output {
    // SAFETY: the caller's.
    unsafe { work.run::<Avx2>() }
}

/// Needs AVX-512 F, DQ and VNNI, and BF16 if it is to be used.
pub(crate) struct Avx512<const HAS_BF16: bool>;

impl<const HAS_BF16: bool> Lanes for Avx512<HAS_BF16> {
    type Floats = __m512;
    type Ints = __m512i;
    const ROWS: usize = 8;

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn splat(value: f32) -> __m512 {
        _mm512_set1_ps(value)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(from: &[f32; WIDTH]) -> __m512 {
        // SAFETY: sixteen floats are there.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn store(to: &mut [f32; WIDTH], values: __m512) {
        // SAFETY: there is room for sixteen floats.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), values) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        _mm512_add_ps(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        _mm512_mul_ps(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        _mm512_fmadd_ps(a, b, c)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    unsafe fn sum(values: __m512) -> f32 {
        sum_halves(_mm256_add_ps(_mm512_castps512_ps256(values), _mm512_extractf32x8_ps::<1>(values)))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load_brief(from: &[u16; WIDTH]) -> __m512 {
        // SAFETY: thirty-two bytes are there.
        let bits = unsafe { _mm256_loadu_si256(from.as_ptr().cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load_bytes(from: &[i8; WIDTH]) -> __m512 {
        // SAFETY: sixteen bytes are there.
        let bytes = unsafe { _mm_loadu_si128(from.as_ptr().cast()) };
        _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn dot_pairs(sums: __m512, weights: &Line, activations: [u16; 2]) -> __m512 {
        // SAFETY: a line is aligned and has sixty-four bytes.
        let weights = unsafe { _mm512_load_si512(weights.0.as_ptr().cast()) };
        let activations = _mm512_set1_epi32(bytemuck::cast(activations));
        if HAS_BF16 {
            // SAFETY: the caller's.
            return unsafe { dot_bf16(sums, weights, activations) };
        }
        let second = |pairs| {
            let high = _mm512_set1_epi32(0xFFFF_0000_u32 as i32);
            _mm512_castsi512_ps(_mm512_and_si512(pairs, high))
        };
        let first = |pairs| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs));
        let sums = _mm512_fmadd_ps(second(weights), second(activations), sums);
        _mm512_fmadd_ps(first(weights), first(activations), sums)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn dot_start(total: i32) -> __m512i {
        _mm512_set1_epi32(-128 * total)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn dot(sums: __m512i, weights: &Line, activations: [i8; 4]) -> __m512i {
        // SAFETY: a line is aligned and has sixty-four bytes.
        let weights = unsafe { _mm512_load_si512(weights.0.as_ptr().cast()) };
        _mm512_dpbusd_epi32(sums, weights, _mm512_set1_epi32(bytemuck::cast(activations)))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn to_floats(values: __m512i) -> __m512 {
        _mm512_cvtepi32_ps(values)
    }
}

/// Needs AVX2 and FMA.
pub(crate) struct Avx2;

impl Lanes for Avx2 {
    type Floats = [__m256; 2];
    type Ints = [__m256i; 2];
    const ROWS: usize = 2;

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn splat(value: f32) -> [__m256; 2] {
        [_mm256_set1_ps(value); 2]
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load(from: &[f32; WIDTH]) -> [__m256; 2] {
        // SAFETY: sixteen floats are there.
        unsafe { [_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from.as_ptr().add(8))] }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn store(to: &mut [f32; WIDTH], values: [__m256; 2]) {
        // SAFETY: there is room for sixteen floats.
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), values[0]);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), values[1]);
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn add(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])]
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn mul(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn mul_add(a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])]
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn sum(values: [__m256; 2]) -> f32 {
        sum_halves(_mm256_add_ps(values[0], values[1]))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load_brief(from: &[u16; WIDTH]) -> [__m256; 2] {
        // SAFETY: thirty-two bytes are there.
        let half = |start| unsafe { _mm_loadu_si128(from.as_ptr().add(start).cast()) };
        let widen = |bits| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits)));
        [widen(half(0)), widen(half(8))]
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load_bytes(from: &[i8; WIDTH]) -> [__m256; 2] {
        // SAFETY: sixteen bytes are there.
        let bytes = unsafe { _mm_loadu_si128(from.as_ptr().cast()) };
        let widen = |bytes| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
        [widen(bytes), widen(_mm_srli_si128::<8>(bytes))]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn dot_pairs(sums: [__m256; 2], weights: &Line, activations: [u16; 2]) -> [__m256; 2] {
        let (weights, activations) = (load_line(weights), _mm256_set1_epi32(bytemuck::cast(activations)));
        let high = _mm256_set1_epi32(0xFFFF_0000_u32 as i32);
        let second = |pairs| _mm256_castsi256_ps(_mm256_and_si256(pairs, high));
        let first = |pairs| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs));
        let dot = |sums, weights| {
            let sums = _mm256_fmadd_ps(second(weights), second(activations), sums);
            _mm256_fmadd_ps(first(weights), first(activations), sums)
        };
        [dot(sums[0], weights[0]), dot(sums[1], weights[1])]
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn dot_start(_total: i32) -> [__m256i; 2] {
        [_mm256_setzero_si256(); 2]
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn dot(sums: [__m256i; 2], weights: &Line, activations: [i8; 4]) -> [__m256i; 2] {
        let activations = _mm256_set1_epi32(bytemuck::cast(activations));
        let weights = load_line(weights);
        let product = |sums, weights| {
            // Signs go to the activations: pairs are then at most 2 * 127 * 127, which 16 bits hold.
            let weights = _mm256_xor_si256(weights, _mm256_set1_epi8(-128));
            let pairs =
                _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(activations, weights));
            _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        };
        [product(sums[0], weights[0]), product(sums[1], weights[1])]
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn to_floats(values: [__m256i; 2]) -> [__m256; 2] {
        [_mm256_cvtepi32_ps(values[0]), _mm256_cvtepi32_ps(values[1])]
    }
}

/// The products of sixteen pairs in one instruction. Results below 2^-126 become 0.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn dot_bf16(sums: __m512, weights: __m512i, activations: __m512i) -> __m512 {
    // SAFETY: thirty-two bfloat16 are as large as sixteen integers, and all bits are allowed in both.
    let pairs = |bits: __m512i| unsafe { std::mem::transmute::<__m512i, __m512bh>(bits) };
    _mm512_dpbf16_ps(sums, pairs(weights), pairs(activations))
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_line(from: &Line) -> [__m256i; 2] {
    // SAFETY: a line is aligned and has sixty-four bytes.
    unsafe { [_mm256_load_si256(from.0.as_ptr().cast()), _mm256_load_si256(from.0.as_ptr().add(32).cast())] }
}

#[inline]
#[target_feature(enable = "avx")]
fn sum_halves(eight: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}
