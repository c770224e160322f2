//! A single-precision exponential, and functions made of it, that compilers vectorise and every machine rounds alike.

/// `e^x` for `x <= 0`, relative error below 2e-7; 0 below -87, so no result is denormal.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to a whole number
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x > -87.0 { x } else { -87.0 };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    // Minimax polynomial of (e^r - 1 - r) / r^2 on |r| <= ln(2) / 2 (Cephes expf).
    let mut p = 1.987_569_2e-4;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5] {
        p = p * r + c;
    }
    let mantissa = p * r * r + r + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    if x > -87.0 { mantissa * power } else { 0.0 }
}

/// The hyperbolic tangent, absolute error below 2e-7.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let e = exp(-2.0 * x.abs());
    let large = (1.0 - e) / (1.0 + e);
    // Near zero the difference above has lost its digits: the beginning of the series has them.
    let square = x * x;
    let small = x.abs() * (1.0 - square * (1.0 / 3.0 - square * (2.0 / 15.0 - square * (17.0 / 315.0))));
    let size = if x.abs() < 0.1 { small } else { large };
    if x.is_nan() { x } else { size.copysign(x) }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    let e = exp(-x.abs());
    let size = if x < 0.0 { e } else { 1.0 };
    if x.is_nan() { x } else { size / (1.0 + e) }
}

/// The error function, absolute error below 5e-7 (Abramowitz and Stegun, 7.1.26).
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.327_591_1 * x.abs());
    let mut p = 1.061_405_4f32;
    for c in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        p = p * t + c;
    }
    let size = 1.0 - p * t * exp(-x * x);
    if x.is_nan() { x } else { size.copysign(x) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The integral by Simpson's rule, from 0 to x.
    fn exact_erf(x: f64) -> f64 {
        let n = 2000;
        let f = |i: usize| (-(x * i as f64 / n as f64).powi(2)).exp();
        let inner: f64 = (1..n).map(|i| f(i) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
        (f(0) + inner + f(n)) * x / n as f64 / 3.0 * std::f64::consts::FRAC_2_SQRT_PI
    }

    #[test]
    fn functions_made_of_it_are_close_and_keep_what_is_not_a_number() {
        for i in -4000..4000 {
            let x = i as f32 * 0.0025;
            let wide = f64::from(x);
            let close = |ours: f32, exact: f64, error: f64| {
                assert!((f64::from(ours) - exact).abs() < error, "{ours} is not {exact} at {x}");
            };
            close(tanh(x), wide.tanh(), 2e-7);
            close(sigmoid(x), 1.0 / (1.0 + (-wide).exp()), 2e-7);
            close(erf(x), exact_erf(wide), 5e-7);
        }
        for f in [tanh, sigmoid, erf] {
            assert!(f(f32::NAN).is_nan());
            assert!((f(f32::INFINITY) - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn exp_is_within_two_units_of_the_exact_value() {
        for i in 0..870_000 {
            let x = -i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2e-7 || x <= -87.0, "exp({x}) is off by {error}");
        }
        assert_eq!(exp(0.0).to_bits(), 1.0f32.to_bits());
        assert_eq!(exp(f32::NEG_INFINITY).to_bits(), 0);
    }
}
