//! Sixteen floats at once, by AVX-512, AVX2 or what the compiler makes of plain code (NEON on 64-bit ARM).
//!
//! Every level does the same operations in the same order, so where the processor multiplies and adds with one
//! rounding, results are equal bit for bit. Plain code on x86-64 rounds twice. Integers are exact everywhere.

#[cfg(target_arch = "x86_64")]
mod x86;

use bytemuck::{Pod, Zeroable};

/// Floats in a vector.
#[doc(hidden)]
pub const WIDTH: usize = 16;

/// Sixty-four bytes that begin where a cache line does.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
#[doc(hidden)]
pub struct Line(pub [u8; 64]);

/// Operations on vectors of [`WIDTH`] numbers. All are unsafe for one reason: the processor must have the
/// instructions that the implementation is named after; [`Level::run`] sees to it.
#[allow(clippy::missing_safety_doc)]
#[doc(hidden)]
pub trait Lanes {
    /// Floats.
    type Floats: Copy;
    /// 32-bit integers.
    type Ints: Copy;
    /// Rows of a matrix product that the registers hold beside two vectors of weights.
    const ROWS: usize;

    unsafe fn splat(value: f32) -> Self::Floats;
    unsafe fn load(from: &[f32; WIDTH]) -> Self::Floats;
    unsafe fn store(to: &mut [f32; WIDTH], values: Self::Floats);
    unsafe fn add(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    unsafe fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a * b + c`.
    unsafe fn mul_add(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// The sum of all, by halves: lanes 8 apart first.
    unsafe fn sum(values: Self::Floats) -> f32;
    /// Sixteen bfloat16.
    unsafe fn load_brief(from: &[u16; WIDTH]) -> Self::Floats;
    /// Sixteen integers.
    unsafe fn load_bytes(from: &[i8; WIDTH]) -> Self::Floats;
    /// Adds to each lane the product of the second bfloat16 of its pair of weights with the second of a pair of
    /// activations, then that of the first ones, each with one rounding.
    unsafe fn dot_pairs(sums: Self::Floats, weights: &Line, activations: [u16; 2]) -> Self::Floats;

    /// What [`Lanes::dot`] starts from, for activations that sum to `total` in all.
    unsafe fn dot_start(total: i32) -> Self::Ints;
    /// Adds to each lane the products of its four weights, which are 128 too large, with four activations. None of
    /// them is -128.
    unsafe fn dot(sums: Self::Ints, weights: &Line, activations: [i8; 4]) -> Self::Ints;
    unsafe fn to_floats(values: Self::Ints) -> Self::Floats;
}

/// A kind of instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// AVX-512 with VNNI and BF16.
    Avx512Bf16,
    /// AVX-512 with VNNI.
    Avx512,
    /// AVX2 with FMA.
    Avx2,
    /// Whatever the compiler takes for this kind of processor.
    Plain,
}

/// Work that is compiled for each level.
pub(crate) trait Work {
    /// What it gives.
    type Output;
    /// Whether it uses [`Lanes::dot_pairs`], and so gains from instructions for bfloat16.
    const HAS_PAIRS: bool = false;

    /// Does the work; inlined into functions that may use the instructions of `L`.
    ///
    /// # Safety
    /// The processor has the instructions of `L`.
    unsafe fn run<L: Lanes>(self) -> Self::Output;
}

/// Plain code, which the compiler makes vectors of.
pub(crate) struct Plainly<F>(pub(crate) F);

impl<F: FnOnce()> Work for Plainly<F> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        (self.0)();
    }
}

impl Level {
    /// The levels of this processor, the best first.
    pub fn available() -> Vec<Self> {
        let mut levels = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if x86::has_avx512_bf16() {
                levels.push(Self::Avx512Bf16);
            }
            if x86::has_avx512() {
                levels.push(Self::Avx512);
            }
            if x86::has_avx2() {
                levels.push(Self::Avx2);
            }
        }
        levels.push(Self::Plain);
        levels
    }

    /// The best level of this processor.
    pub fn best() -> Self {
        Self::available()[0]
    }

    /// Does the work at this level, or at a lower one where the processor lacks it.
    #[inline]
    pub(crate) fn run<W: Work>(self, work: W) -> W::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: just detected.
            Self::Avx512Bf16 if W::HAS_PAIRS && x86::has_avx512_bf16() => unsafe {
                x86::by_avx512_bf16(work)
            },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: just detected.
            Self::Avx512Bf16 | Self::Avx512 if x86::has_avx512() => unsafe { x86::by_avx512(work) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: just detected.
            Self::Avx512Bf16 | Self::Avx512 | Self::Avx2 if x86::has_avx2() => unsafe { x86::by_avx2(work) },
            // SAFETY: it needs no instructions.
            _ => unsafe { work.run::<Plain>() },
        }
    }
}

/// For any processor.
pub(crate) struct Plain;

impl Lanes for Plain {
    type Floats = [f32; WIDTH];
    type Ints = [i32; WIDTH];
    const ROWS: usize = 2;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::Floats {
        [value; WIDTH]
    }

    #[inline(always)]
    unsafe fn load(from: &[f32; WIDTH]) -> Self::Floats {
        *from
    }

    #[inline(always)]
    unsafe fn store(to: &mut [f32; WIDTH], values: Self::Floats) {
        *to = values;
    }

    #[inline(always)]
    unsafe fn add(a: Self::Floats, b: Self::Floats) -> Self::Floats {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    unsafe fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    unsafe fn mul_add(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        // Elsewhere it may be a call of a slow function.
        if cfg!(target_arch = "aarch64") {
            std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
        } else {
            std::array::from_fn(|i| a[i] * b[i] + c[i])
        }
    }

    #[inline(always)]
    unsafe fn sum(values: Self::Floats) -> f32 {
        let mut values = values;
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                values[i] += values[i + half];
            }
        }
        values[0]
    }

    #[inline(always)]
    unsafe fn load_brief(from: &[u16; WIDTH]) -> Self::Floats {
        from.map(|bits| f32::from_bits(u32::from(bits) << 16))
    }

    #[inline(always)]
    unsafe fn load_bytes(from: &[i8; WIDTH]) -> Self::Floats {
        from.map(f32::from)
    }

    #[inline(always)]
    unsafe fn dot_pairs(sums: Self::Floats, weights: &Line, activations: [u16; 2]) -> Self::Floats {
        let pairs: [[u16; 2]; WIDTH] = bytemuck::cast(weights.0);
        let value = |bits: u16| f32::from_bits(u32::from(bits) << 16);
        [1, 0].into_iter().fold(sums, |sums, part| {
            let weights = pairs.map(|pair| value(pair[part]));
            // SAFETY: it needs no instructions.
            unsafe { Self::mul_add(weights, [value(activations[part]); WIDTH], sums) }
        })
    }

    #[inline(always)]
    unsafe fn dot_start(_total: i32) -> Self::Ints {
        [0; WIDTH]
    }

    #[inline(always)]
    unsafe fn dot(mut sums: Self::Ints, weights: &Line, activations: [i8; 4]) -> Self::Ints {
        for (sum, weights) in sums.iter_mut().zip(weights.0.as_chunks::<4>().0) {
            for i in 0..4 {
                *sum += (i32::from(weights[i]) - 128) * i32::from(activations[i]);
            }
        }
        sums
    }

    #[inline(always)]
    unsafe fn to_floats(values: Self::Ints) -> Self::Floats {
        values.map(|value| value as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;

    /// What each operation gives, as bits.
    struct All;

    impl Work for All {
        type Output = Vec<u32>;
        const HAS_PAIRS: bool = true;

        #[inline(always)]
        unsafe fn run<L: Lanes>(self) -> Vec<u32> {
            let mut out = Vec::new();
            for round in 0..50 {
                let bits: Vec<u64> = (0..64).map(|i| rng::bits64(1, round, i)).collect();
                // Small whole numbers, whose products and sums are exact: plain code may round twice.
                let floats: [f32; WIDTH] = std::array::from_fn(|i| (bits[i] % 512) as f32 - 256.0);
                let brief: [u16; WIDTH] = std::array::from_fn(|i| (floats[i].to_bits() >> 16) as u16);
                let bytes: [i8; WIDTH] = std::array::from_fn(|i| bits[i] as i8);
                let line = Line(std::array::from_fn(|i| 1 + (bits[i] % 255) as u8));
                let pairs = Line(bytemuck::cast::<[u16; 32], _>(std::array::from_fn(|i| brief[i % 16])));
                let activations = [brief[3], brief[5]];
                let four: [i8; 4] = std::array::from_fn(|i| (bits[i] % 255) as i8 / 2);
                let total = four.iter().map(|&x| i32::from(x)).sum();
                // SAFETY: the caller's.
                unsafe {
                    let (a, b) = (L::load(&floats), L::splat(floats[3]));
                    let paired = L::dot_pairs(a, &pairs, activations);
                    let dots = L::to_floats(L::dot(L::dot_start(total), &line, four));
                    let kinds = [L::load_brief(&brief), L::load_bytes(&bytes), paired, dots];
                    for values in [L::add(a, b), L::mul(a, b), L::mul_add(a, b, a)].into_iter().chain(kinds) {
                        let mut stored = [0.0; WIDTH];
                        L::store(&mut stored, values);
                        out.extend(stored.map(f32::to_bits));
                        out.push(L::sum(values).to_bits());
                    }
                }
            }
            out
        }
    }

    #[test]
    fn every_level_gives_what_plain_code_gives() {
        let plain = Level::Plain.run(All);
        for level in Level::available() {
            assert_eq!(level.run(All), plain, "{level:?}");
        }
        assert_eq!(Level::available().last(), Some(&Level::Plain));
    }

    #[test]
    fn pairs_are_multiplied_with_the_same_roundings_at_every_vector_level() {
        struct Pairs;
        impl Work for Pairs {
            type Output = Vec<u32>;
            const HAS_PAIRS: bool = true;

            #[inline(always)]
            unsafe fn run<L: Lanes>(self) -> Vec<u32> {
                let mut out = Vec::new();
                for round in 0..2000 {
                    let value = |i| rng::uniform(2, round, i) as f32 - 0.5;
                    let bits = |i| (value(i).to_bits() >> 16) as u16;
                    let weights =
                        Line(bytemuck::cast::<[u16; 32], _>(std::array::from_fn(|i| bits(i as u64))));
                    let start: [f32; WIDTH] = std::array::from_fn(|i| value(64 + i as u64));
                    let mut sums = [0.0; WIDTH];
                    // SAFETY: the caller's.
                    unsafe {
                        L::store(&mut sums, L::dot_pairs(L::load(&start), &weights, [bits(40), bits(41)]));
                    }
                    out.extend(sums.map(f32::to_bits));
                }
                out
            }
        }
        let vector_levels: Vec<Level> =
            Level::available().into_iter().filter(|&level| level != Level::Plain).collect();
        for pair in vector_levels.windows(2) {
            assert_eq!(pair[0].run(Pairs), pair[1].run(Pairs), "{pair:?}");
        }
    }

    #[test]
    fn extreme_integers_do_not_saturate() {
        struct Extreme;
        impl Work for Extreme {
            type Output = f32;

            #[inline(always)]
            unsafe fn run<L: Lanes>(self) -> f32 {
                // SAFETY: the caller's.
                unsafe { L::sum(L::to_floats(L::dot(L::dot_start(-4 * 127), &Line([255; 64]), [-127; 4]))) }
            }
        }
        for level in Level::available() {
            assert!((level.run(Extreme) - -(64.0 * 127.0 * 127.0)).abs() < 0.5, "{level:?}");
        }
    }
}
