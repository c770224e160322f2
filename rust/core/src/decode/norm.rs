//! What is done to a row of activations between products.

use crate::lanes::WIDTH;

/// How rows are normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norm {
    /// By the root of the mean square.
    Rms,
    /// By mean and variance.
    Layer,
}

/// The sum of `f` over a row, in an order that compilers can make vectors of.
#[inline(always)]
fn sum(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; WIDTH];
    let (chunks, rest) = row.as_chunks::<WIDTH>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += f(x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += f(x);
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}

impl Norm {
    /// `out = (row - mean) / sqrt(variance + eps) * weight + bias`; by [`Norm::Rms`] the mean is left where it is.
    #[inline(always)]
    pub(crate) fn run(
        self,
        row: &[f32],
        weight: Option<&[f32]>,
        bias: Option<&[f32]>,
        eps: f32,
        out: &mut [f32],
    ) {
        let (shift, scale) = self.measure(row, eps);
        for (out, &x) in out.iter_mut().zip(row) {
            *out = (x - shift) * scale;
        }
        if let Some(weight) = weight {
            for (out, weight) in out.iter_mut().zip(weight) {
                *out *= weight;
            }
        }
        if let Some(bias) = bias {
            for (out, bias) in out.iter_mut().zip(bias) {
                *out += bias;
            }
        }
    }

    /// What is taken from each value, and what the rest is multiplied by.
    #[inline(always)]
    fn measure(self, row: &[f32], eps: f32) -> (f32, f32) {
        let count = row.len() as f32;
        let mean = if self == Self::Layer { sum(row, |x| x) / count } else { 0.0 };
        let variance = sum(row, |x| (x - mean) * (x - mean)) / count;
        (mean, 1.0 / (variance + eps).sqrt())
    }

    /// [`Norm::run`] without weight and bias.
    #[inline(always)]
    pub(crate) fn run_in_place(self, row: &mut [f32], eps: f32) {
        let (shift, scale) = self.measure(row, eps);
        for x in row {
            *x = (*x - shift) * scale;
        }
    }
}

/// Turns neighbours of a head, `(x[0], x[1])` and so on, by the angles whose cosines and sines are in `turns`.
#[inline(always)]
pub(crate) fn rotate(head: &mut [f32], turns: &[f32]) {
    for (pair, turn) in head.as_chunks_mut::<2>().0.iter_mut().zip(turns.as_chunks::<2>().0) {
        let ([x, y], [cos, sin]) = (*pair, *turn);
        *pair = [x * cos - y * sin, x * sin + y * cos];
    }
}
