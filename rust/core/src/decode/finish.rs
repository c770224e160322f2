//! What happens to the sums of a product before they are written.

use super::matrix::{Matrix, PANEL};
use super::rows::SharedRows;
use crate::exp;
use crate::lanes::WIDTH;
use crate::split::Split;

/// What becomes of a sum.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// It is written.
    Store,
    /// It is added to what is there.
    Add,
    /// `silu(gate) * up`, of two sums.
    Swiglu,
    /// `max(x, 0)^2`.
    Relu2,
    /// `x / 2 * (1 + erf(x / sqrt(2)))`.
    Gelu,
    /// `cap * tanh(x / cap)`.
    Cap(f32),
}

/// Where sums go.
#[derive(Clone, Copy)]
pub(crate) enum Out<'a> {
    /// To floats, and how far apart rows are.
    Floats(&'a Split<'a, f32>, usize),
    /// To what another product multiplies.
    Rows(&'a SharedRows<'a>),
}

/// How sums are finished.
#[derive(Clone, Copy)]
pub(crate) struct Finish<'a> {
    pub(crate) kind: Kind,
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) out: Out<'a>,
}

impl Finish<'_> {
    /// Finishes the sums of a row with a panel.
    ///
    /// # Safety
    /// No other thread uses what they are written to.
    #[inline(always)]
    pub(crate) unsafe fn run(&self, matrix: &Matrix, panel: usize, row: usize, sums: &mut [f32; PANEL]) {
        let is_gated = matches!(self.kind, Kind::Swiglu);
        let width = if is_gated { WIDTH } else { PANEL };
        let num_rows = if is_gated { matrix.num_rows / 2 } else { matrix.num_rows };
        let first = panel * width;
        let count = width.min(num_rows - first);
        if let Some(bias) = self.bias {
            for (sum, bias) in sums.iter_mut().zip(&bias[first..first + count]) {
                *sum += bias;
            }
            if is_gated {
                for (sum, bias) in sums[WIDTH..].iter_mut().zip(&bias[num_rows + first..][..count]) {
                    *sum += bias;
                }
            }
        }
        match self.kind {
            Kind::Store | Kind::Add => {}
            Kind::Swiglu => {
                let [gates, ups] = sums.as_chunks_mut::<WIDTH>().0 else {
                    unreachable!("a panel is two vectors")
                };
                for (gate, up) in gates.iter_mut().zip(ups) {
                    *gate = *gate * exp::sigmoid(*gate) * *up;
                }
            }
            Kind::Relu2 => {
                for sum in sums.iter_mut() {
                    let rectified = if *sum < 0.0 { 0.0 } else { *sum };
                    *sum = rectified * rectified;
                }
            }
            Kind::Gelu => {
                for sum in sums.iter_mut() {
                    *sum = 0.5 * *sum * (1.0 + exp::erf(*sum * std::f32::consts::FRAC_1_SQRT_2));
                }
            }
            Kind::Cap(cap) => {
                for sum in sums.iter_mut() {
                    *sum = cap * exp::tanh(*sum / cap);
                }
            }
        }
        let (out, stride) = match self.out {
            Out::Floats(out, stride) => (out, stride),
            // SAFETY: the caller's.
            Out::Rows(rows) => return unsafe { rows.write(row, first, &sums[..count]) },
        };
        let at = row * stride + first;
        // SAFETY: the caller's.
        let out = unsafe { out.part(at..at + count) };
        if matches!(self.kind, Kind::Add) {
            for (out, sum) in out.iter_mut().zip(sums) {
                *out += *sum;
            }
        } else {
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = *sum;
            }
        }
    }
}
