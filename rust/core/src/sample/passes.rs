//! The passes over a row, 64 tokens at a time, compiled for several instruction sets.
//!
//! What they compute is defined by [`super::mass`] and by comparisons, so every version gives the same bits.

use super::Row;
use super::mass::{NUM_BINS, Scale};

/// Tokens of a block: as many as a word of the mask of those that are looked for.
pub(super) const BLOCK: usize = 64;
const LANES: usize = 16;

/// Histograms that are filled side by side: neighbours in a row often fall into one bin, and an addition to memory
/// waits for the one before.
const COPIES: usize = 4;

/// Bins with room for every index of 10 bits, which then needs no check.
const ROOM: usize = 1024;
const _: () = assert!(NUM_BINS <= ROOM);

/// Which of the versions runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Any,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// The widest that this processor has.
    pub(super) fn widest() -> Self {
        *Self::all().last().unwrap_or(&Self::Any)
    }

    /// Those that this processor has, the narrowest first.
    pub(super) fn all() -> &'static [Self] {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
            {
                return &[Self::Any, Self::Avx2, Self::Avx512];
            }
            if is_x86_feature_detected!("avx2") {
                return &[Self::Any, Self::Avx2];
            }
        }
        &[Self::Any]
    }
}

/// Compiles a body, inlined, once for each level.
macro_rules! versions {
    ($(#[$doc:meta])* $name:ident = $body:path, ($($arg:ident: $type:ty),*) $(-> $out:ty)?) => {
        $(#[$doc])*
        pub(super) fn $name(level: Level, $($arg: $type),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn avx2($($arg: $type),*) $(-> $out)? {
                $body($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
            fn avx512($($arg: $type),*) $(-> $out)? {
                $body($($arg),*)
            }
            match level {
                Level::Any => $body($($arg),*),
                // SAFETY: `Level::all` names only what the processor has.
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => unsafe { avx512($($arg),*) },
            }
        }
    };
}

versions! {
    /// Copies a row as float32, -inf where the bit of its token is 0 in the mask; false if any logit is NaN or +inf.
    load = load_body, (row: Row<'_>, mask: Option<&[i32]>, out: &mut Vec<f32>) -> bool
}

versions! {
    /// Fills in the largest logit of each block; false if any is NaN or +inf.
    block_maxima = block_maxima_body, (row: &[f32], maxima: &mut Vec<f32>) -> bool
}

versions! {
    /// Fills in the mass of each block without what is below the limit, and returns the sum.
    block_masses = block_masses_body,
    (row: &[f32], maxima: &[f32], scale: Scale, limit: Limit, masses: &mut Vec<u64>) -> u64
}

versions! {
    /// The logit `n` standard deviations of the finite logits below the largest.
    sigma_limit = sigma_limit_body, (row: &[f32], max: f32, n: f64) -> f32
}

versions! {
    /// Adds the mass of each token to its bin and returns the sum.
    mass_histogram = histogram_body::<true>,
    (row: &[f32], maxima: &[f32], scale: Scale, bins: &mut Histogram) -> u64
}

versions! {
    /// Counts the tokens of each bin that are above -inf, and all of them.
    count_histogram = histogram_body::<false>,
    (row: &[f32], maxima: &[f32], scale: Scale, bins: &mut Histogram) -> u64
}

/// The last token, in the order of (logit descending, id ascending), that may be drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Limit {
    pub(super) logit: f32,
    pub(super) id: usize,
}

impl Limit {
    /// Nothing is cut.
    pub(super) const NONE: Self = Self::logit(f32::NEG_INFINITY);

    /// All tokens from this logit on.
    pub(super) const fn logit(logit: f32) -> Self {
        Self { logit, id: usize::MAX }
    }

    /// The one that leaves fewer.
    pub(super) fn tighter(self, other: Self) -> Self {
        if other.keeps(self.logit, self.id) { self } else { other }
    }

    #[inline(always)]
    pub(super) fn keeps(self, logit: f32, id: usize) -> bool {
        logit > self.logit || (logit >= self.logit && id <= self.id)
    }
}

/// Weight by bin, the best tokens first.
#[derive(Debug)]
pub(super) struct Histogram {
    copies: Vec<[u64; COPIES]>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { copies: vec![[0; COPIES]; ROOM] }
    }
}

impl Histogram {
    /// The bin in which the weights, added from the best on, reach `target`, and their sum before it.
    pub(super) fn reach(&self, target: u64) -> (u32, u64) {
        let mut before = 0;
        for (bin, copies) in self.copies[..NUM_BINS].iter().enumerate() {
            let after = before + copies.iter().sum::<u64>();
            if after >= target {
                return (bin as u32, before);
            }
            before = after;
        }
        (NUM_BINS as u32 - 1, before)
    }
}

#[inline(always)]
fn load_body(row: Row<'_>, mask: Option<&[i32]>, out: &mut Vec<f32>) -> bool {
    match row {
        Row::F32(row) => copy(row, |x| x, mask, out),
        Row::Bf16(row) => copy(row, |bits| f32::from_bits(u32::from(bits) << 16), mask, out),
    }
}

#[inline(always)]
fn copy<T: Copy>(row: &[T], widen: impl Fn(T) -> f32, mask: Option<&[i32]>, out: &mut Vec<f32>) -> bool {
    const WORD: usize = 32;
    out.resize(row.len(), 0.0);
    let word = |i: usize| mask.and_then(|mask| mask.get(i)).map_or(u32::MAX, |&word| word as u32);
    let mut wrong = [0; WORD];
    let (from, from_rest) = row.as_chunks::<WORD>();
    let (to, to_rest) = out.as_chunks_mut::<WORD>();
    for (i, (from, to)) in from.iter().zip(to).enumerate() {
        let word = word(i);
        for j in 0..WORD {
            let x = widen(from[j]);
            wrong[j] |= is_wrong(x);
            to[j] = if word >> j & 1 == 1 { x } else { f32::NEG_INFINITY };
        }
    }
    let word = word(from.len());
    for (j, (&from, to)) in from_rest.iter().zip(to_rest).enumerate() {
        let x = widen(from);
        wrong[j] |= is_wrong(x);
        *to = if word >> j & 1 == 1 { x } else { f32::NEG_INFINITY };
    }
    wrong == [0; WORD]
}

/// 1 for NaN and +inf.
#[inline(always)]
fn is_wrong(x: f32) -> u32 {
    let is_right = x <= f32::MAX;
    u32::from(!is_right)
}

#[inline(always)]
fn block_maxima_body(row: &[f32], maxima: &mut Vec<f32>) -> bool {
    let (blocks, rest) = row.as_chunks::<BLOCK>();
    let mut wrong = [0; LANES];
    maxima.clear();
    for block in blocks {
        maxima.push(largest(block, &mut wrong));
    }
    if !rest.is_empty() {
        maxima.push(largest(&padded(rest), &mut wrong));
    }
    wrong == [0; LANES]
}

#[inline(always)]
fn largest(block: &[f32; BLOCK], wrong: &mut [u32; LANES]) -> f32 {
    let mut best = [f32::NEG_INFINITY; LANES];
    for lanes in block.as_chunks::<LANES>().0 {
        for i in 0..LANES {
            wrong[i] |= is_wrong(lanes[i]);
            best[i] = if lanes[i] > best[i] { lanes[i] } else { best[i] };
        }
    }
    // Halves of fixed size: compilers keep them in registers.
    larger::<1>(&larger::<2>(&larger::<4>(&larger::<8>(&best))))[0]
}

/// The larger ones of two halves of `2 * N` values.
#[inline(always)]
fn larger<const N: usize>(values: &[f32]) -> [f32; N] {
    let mut out = [f32::NEG_INFINITY; N];
    for (i, out) in out.iter_mut().enumerate() {
        *out = if values[i + N] > values[i] { values[i + N] } else { values[i] };
    }
    out
}

/// The tokens of the last block, if it is not whole.
fn padded(rest: &[f32]) -> [f32; BLOCK] {
    let mut block = [f32::NEG_INFINITY; BLOCK];
    block[..rest.len()].copy_from_slice(rest);
    block
}

// Loops, not closures: code that is not inlined would not have the instructions of its caller.

#[inline(always)]
fn block_masses_body(row: &[f32], maxima: &[f32], scale: Scale, limit: Limit, masses: &mut Vec<u64>) -> u64 {
    let (blocks, rest) = row.as_chunks::<BLOCK>();
    let last = padded(rest);
    let mut total = 0;
    masses.clear();
    for (at, &max) in maxima.iter().enumerate() {
        let (block, start) = (blocks.get(at).unwrap_or(&last), at * BLOCK);
        let mut sum = 0;
        if max < limit.logit || scale.is_below_all(max) {
            // No token of the block has mass.
        } else if start + BLOCK <= limit.id.saturating_add(1) || start > limit.id {
            // On either side of the limit's own block, ties with it are all in or all out.
            let lowest = if start > limit.id { limit.logit.next_up() } else { limit.logit };
            for &x in block {
                sum += if x >= lowest { scale.mass(x) } else { 0 };
            }
        } else {
            for (i, &x) in block.iter().enumerate() {
                sum += if limit.keeps(x, start + i) { scale.mass(x) } else { 0 };
            }
        }
        masses.push(sum);
        total += sum;
    }
    total
}

#[inline(always)]
fn histogram_body<const BY_MASS: bool>(
    row: &[f32],
    maxima: &[f32],
    scale: Scale,
    histogram: &mut Histogram,
) -> u64 {
    let (blocks, rest) = row.as_chunks::<BLOCK>();
    let last = padded(rest);
    let Ok(copies) = <&mut [[u64; COPIES]; ROOM]>::try_from(&mut histogram.copies[..]) else { return 0 };
    copies.fill([0; COPIES]);
    for (at, &max) in maxima.iter().enumerate() {
        if if BY_MASS { scale.is_below_all(max) } else { max == f32::NEG_INFINITY } {
            continue;
        }
        let block = blocks.get(at).unwrap_or(&last);
        let (mut bins, mut weights) = ([0; BLOCK], [0; BLOCK]);
        for i in 0..BLOCK {
            bins[i] = scale.bin(block[i]);
            weights[i] = if BY_MASS { scale.mass(block[i]) } else { u64::from(block[i] > f32::NEG_INFINITY) };
        }
        for i in 0..BLOCK {
            copies[bins[i] as usize % ROOM][i % COPIES] += weights[i];
        }
    }
    copies.iter().flatten().sum()
}

/// Distances to the largest logit in 2^20 units of their range: sums of whole numbers have no order.
#[inline(always)]
fn sigma_limit_body(row: &[f32], max: f32, n: f64) -> f32 {
    const UNITS: f32 = 1_048_576.0;
    let mut lowest = [max; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    let is_lower = |x: f32, lowest: f32| x > f32::NEG_INFINITY && x < lowest;
    for chunk in chunks {
        for i in 0..LANES {
            lowest[i] = if is_lower(chunk[i], lowest[i]) { chunk[i] } else { lowest[i] };
        }
    }
    let lowest = lowest.iter().chain(rest).fold(max, |low, &x| if is_lower(x, low) { x } else { low });
    let range = (max - lowest).min(f32::MAX);
    if range == 0.0 {
        return max;
    }
    let unit = (UNITS / range).min(f32::MAX);
    let (mut count, mut sum, mut squares) = (0u64, 0u64, 0u64);
    for &x in row {
        let is_finite = x > f32::NEG_INFINITY;
        let distance = if is_finite { max - x } else { 0.0 };
        let distance = if distance < range { distance } else { range } * unit;
        // SAFETY: from 0 to 2^20, give or take the rounding.
        let whole = u64::from(unsafe { distance.to_int_unchecked::<i32>() as u32 });
        count += u64::from(is_finite);
        sum += whole;
        squares += whole * whole;
    }
    let (count, unit) = (count as f64, f64::from(unit));
    let mean = sum as f64 / count;
    let variance = squares as f64 / count - mean * mean;
    let sigma = variance.max(0.0).sqrt() / unit;
    ((f64::from(max) - n * sigma) as f32).min(max)
}

/// Calls `visit(logit, id)` for the tokens of `low <= logit < high`, in the order of ids.
pub(super) fn each_between(
    level: Level,
    row: &[f32],
    maxima: &[f32],
    low: f32,
    high: f32,
    mut visit: impl FnMut(f32, usize),
) {
    let (blocks, rest) = row.as_chunks::<BLOCK>();
    let last = padded(rest);
    for (at, _) in maxima.iter().enumerate().filter(|(_, max)| **max >= low) {
        let block = blocks.get(at).unwrap_or(&last);
        let mut hits = between(level, block, low, high);
        while hits != 0 {
            let i = hits.trailing_zeros() as usize;
            hits &= hits - 1;
            if at * BLOCK + i < row.len() {
                visit(block[i], at * BLOCK + i);
            }
        }
    }
}

/// A bit for each token of `low <= logit < high`.
fn between(level: Level, block: &[f32; BLOCK], low: f32, high: f32) -> u64 {
    match level {
        Level::Any => block.iter().rev().fold(0, |bits, &x| bits << 1 | u64::from(x >= low && x < high)),
        // SAFETY: `Level::all` names only what the processor has.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::between_avx2(block, low, high) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { x86::between_avx512(block, low, high) },
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{BLOCK, LANES};

    #[target_feature(enable = "avx2")]
    pub(super) fn between_avx2(block: &[f32; BLOCK], low: f32, high: f32) -> u64 {
        let (low, high) = (_mm256_set1_ps(low), _mm256_set1_ps(high));
        let mut bits = 0;
        for (i, lanes) in block.as_chunks::<8>().0.iter().enumerate() {
            // SAFETY: eight floats.
            let x = unsafe { _mm256_loadu_ps(lanes.as_ptr()) };
            let inside =
                _mm256_and_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(x, low), _mm256_cmp_ps::<_CMP_LT_OQ>(x, high));
            bits |= u64::from(_mm256_movemask_ps(inside) as u8) << (8 * i);
        }
        bits
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn between_avx512(block: &[f32; BLOCK], low: f32, high: f32) -> u64 {
        let (low, high) = (_mm512_set1_ps(low), _mm512_set1_ps(high));
        let mut bits = 0;
        for (i, lanes) in block.as_chunks::<LANES>().0.iter().enumerate() {
            // SAFETY: sixteen floats.
            let x = unsafe { _mm512_loadu_ps(lanes.as_ptr()) };
            let above = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(x, low);
            bits |= u64::from(_mm512_mask_cmp_ps_mask::<_CMP_LT_OQ>(above, x, high)) << (LANES * i);
        }
        bits
    }
}
