//! How likely a token is, as a whole number: the arithmetic that every processor repeats bit for bit.
//!
//! With `max` the largest logit and `scale = log2(e) / temperature` in single precision,
//!
//! - `level(x) = (x - max) * scale`, two rounded operations, so 0 for the best token and never positive;
//! - `mass(level) = 2^level` in units of `2^-40`, rounded down; the best token has [`ONE`].
//!
//! `2^level` is `2^n * 2^r` with `n` the nearest whole number. `2^r` is a polynomial of degree 6 with every product
//! and sum rounded to single precision, none fused; its 25 significant bits are shifted to their place.
//! A token less than `2^-40` as likely as the best has no mass. Sums are of whole numbers, so their order, the width
//! of a register and the number of threads are free; [`MAX_VOCAB`] tokens cannot overflow 64 bits.

/// The mass of the best token.
pub(super) const ONE: u64 = 1 << 40;

/// Most tokens of a vocabulary: their masses sum to at most `2^63`.
pub const MAX_VOCAB: usize = 1 << 23;

/// Below this level nothing has mass.
pub(super) const FLOOR: f32 = -41.0;

/// Bins of the histogram for each halving of the mass.
const BINS_PER_LEVEL: f32 = 16.0;

/// The bins; the last is for everything that has no mass.
pub(super) const NUM_BINS: usize = (-FLOOR * BINS_PER_LEVEL) as usize + 1;

/// What turns the logits of a row into levels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    /// The largest logit, finite.
    pub(super) max: f32,
    factor: f32,
}

impl Scale {
    /// Temperature 0 counts as 1: greedy rows report that distribution.
    pub(super) fn new(max: f32, temperature: f64) -> Self {
        let temperature = if temperature == 0.0 { 1.0 } else { temperature };
        // Finite, because 0 times it must be 0.
        let factor = (std::f64::consts::LOG2_E / temperature).min(f64::from(f32::MAX)) as f32;
        Self { max, factor }
    }

    /// Binary logarithm of the mass of a token over that of the best.
    #[inline(always)]
    pub(super) fn level(self, logit: f32) -> f32 {
        (logit - self.max) * self.factor
    }

    #[inline(always)]
    pub(super) fn mass(self, logit: f32) -> u64 {
        mass(self.level(logit))
    }

    /// Whether tokens whose largest logit is this have no mass.
    pub(super) fn is_below_all(self, logit: f32) -> bool {
        let has_mass = self.level(logit) >= FLOOR;
        !has_mass
    }

    /// The bin of a token; better tokens have lower bins.
    #[inline(always)]
    pub(super) fn bin(self, logit: f32) -> u32 {
        let level = self.level(logit);
        let depth = -(if level > FLOOR { level } else { FLOOR }) * BINS_PER_LEVEL;
        // SAFETY: between 0 and 41 * 16. A checked conversion keeps compilers from using vectors.
        unsafe { depth.to_int_unchecked::<i32>() as u32 }
    }

    /// Natural logarithm of the probability of a token among tokens of `total` mass.
    pub(super) fn logp(self, logit: f32, total: u64) -> f32 {
        let nats =
            (f64::from(logit) - f64::from(self.max)) * (f64::from(self.factor) * std::f64::consts::LN_2);
        (nats - (total as f64 / ONE as f64).ln()) as f32
    }

    /// The smallest logit for which `is_enough` holds, as it then does for all above it.
    pub(super) fn lowest(self, is_enough: impl Fn(f32) -> bool) -> f32 {
        let (mut low, mut high) = (ordered(f32::NEG_INFINITY), ordered(self.max));
        while low < high {
            let middle = low + (high - low) / 2;
            if is_enough(from_ordered(middle)) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        from_ordered(high)
    }

    /// All tokens below this logit have no mass.
    pub(super) fn lowest_with_mass(self) -> f32 {
        self.lowest(|x| self.level(x) > FLOOR)
    }
}

/// `2^level` in units of `2^-40`, rounded down.
#[inline(always)]
pub(super) fn mass(level: f32) -> u64 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to a whole number
    // From the highest power down; relative error 2e-9 before rounding, 1e-7 with it.
    const POWERS: [f32; 6] =
        [1.535_330_8e-4, 1.339_894e-3, 9.618_438e-3, 5.550_332_4e-2, 0.240_226_48, std::f32::consts::LN_2];
    let level = if level > -63.0 { level } else { -63.0 };
    let shifted = level + ROUND;
    let r = level - (shifted - ROUND);
    let mut p = POWERS[0];
    for power in &POWERS[1..] {
        p = p * r + power;
    }
    p = p * r + 1.0;
    // SAFETY: p is from 0.7 to 1.42, so the product is exact and fits.
    let digits = unsafe { (p * 16_777_216.0).to_int_unchecked::<i32>() as u32 };
    let shift = ROUND.to_bits().wrapping_sub(shifted.to_bits()); // from 0 to 63
    (u64::from(digits) << 16) >> (shift & 63)
}

/// The fewest units that hold the share `p` of `total`, at least one.
pub(super) fn share(p: f64, total: u64) -> u64 {
    ((p * total as f64).ceil() as u64).clamp(1, total.max(1))
}

/// `total` times a uniform number from 0 to 1, from 64 random bits: always below `total`.
pub(super) fn point(bits: u64, total: u64) -> u64 {
    ((u128::from(bits) * u128::from(total)) >> 64) as u64
}

/// Bits that order like the logit: negative numbers reversed below positive ones, -0 as 0.
#[inline(always)]
pub(super) fn ordered(logit: f32) -> u32 {
    let bits = (logit + 0.0).to_bits();
    bits ^ if bits >> 31 == 1 { u32::MAX } else { 1 << 31 }
}

fn from_ordered(bits: u32) -> f32 {
    f32::from_bits(if bits >> 31 == 1 { bits ^ 1 << 31 } else { !bits })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masses_are_powers_of_two_rounded_down() {
        for i in 0..430_000 {
            let level = -i as f32 * 1e-4;
            let exact = f64::from(level).exp2() * ONE as f64;
            let error = (mass(level) as f64 - exact).abs();
            assert!(error <= 1.0 + 1.2e-7 * exact, "2^{level} is off by {error} of {exact}");
        }
        assert_eq!((mass(0.0), mass(-40.0), mass(-41.5), mass(f32::NEG_INFINITY)), (ONE, 1, 0, 0));
        assert_eq!((mass(FLOOR), mass(-1e-9)), (0, ONE));
    }

    #[test]
    fn logits_and_ordered_bits_correspond() {
        let rising = [f32::NEG_INFINITY, -f32::MAX, -2.0, -1e-45, 0.0, 1e-45, 2.0, f32::MAX];
        assert!(rising.windows(2).all(|pair| ordered(pair[0]) < ordered(pair[1])));
        assert!(rising.iter().all(|&x| from_ordered(ordered(x)).to_bits() == x.to_bits()));
        assert_eq!(ordered(-0.0), ordered(0.0));
    }

    #[test]
    fn any_temperature_gives_the_best_token_the_whole_unit() {
        for temperature in [0.0, f64::MIN_POSITIVE, 1e-6, 1.0, f64::MAX] {
            for max in [-f32::MAX, -0.0, 1e-40, 7.0, f32::MAX] {
                let scale = Scale::new(max, temperature);
                assert_eq!((scale.mass(max), scale.bin(max)), (ONE, 0));
                assert!(scale.mass(f32::NEG_INFINITY) == 0 && scale.logp(max, ONE) == 0.0);
            }
        }
    }

    #[test]
    fn points_and_shares_stay_inside() {
        assert_eq!((point(u64::MAX, 1), point(u64::MAX, 1 << 63), point(0, 5)), (0, (1 << 63) - 1, 0));
        assert_eq!((share(1e-300, 7), share(1.0, 7), share(0.5, 7), share(0.9999, 0)), (1, 7, 4, 1));
        assert!(share(1.0 - f64::EPSILON, u64::MAX >> 1) <= u64::MAX >> 1);
    }

    #[test]
    fn the_lowest_logit_of_a_bin_is_found() {
        let scale = Scale::new(3.0, 0.7);
        for bin in [0, 1, 17, 655] {
            let x = scale.lowest(|x| scale.bin(x) <= bin);
            assert!(scale.bin(x) <= bin && scale.bin(x.next_down()) > bin);
        }
    }
}
