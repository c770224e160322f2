//! The passes over a row that every draw needs, written so that the compiler vectorises them.
//!
//! No fused multiply-add and a fixed order of sums: the results are the same on every machine.

use crate::exp::exp;

/// Tokens per partial sum; also the run that is searched token by token.
const CHUNK: usize = 256;
const LANES: usize = 8;

/// The largest logit, or None if one is NaN or +inf, or none is above -inf.
pub(super) fn finite_max(row: &[f32]) -> Option<f32> {
    let mut best = [f32::NEG_INFINITY; LANES];
    let mut valid = [true; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    let mut tail = [f32::NEG_INFINITY; LANES];
    tail[..rest.len()].copy_from_slice(rest);
    for chunk in chunks.iter().chain(std::iter::once(&tail)) {
        for i in 0..LANES {
            valid[i] &= chunk[i] <= f32::MAX; // false for NaN and +inf
            best[i] = if chunk[i] > best[i] { chunk[i] } else { best[i] };
        }
    }
    let max = best.into_iter().fold(f32::NEG_INFINITY, f32::max);
    (valid == [true; LANES] && max > f32::NEG_INFINITY).then_some(max)
}

/// Fills `mass` with `exp(x / scale - max / scale)` and returns its sum.
pub(super) fn exponentials(row: &[f32], max: f32, scale: f32, mass: &mut Vec<f32>) -> f64 {
    let top = max / scale;
    mass.clear();
    if scale.to_bits() == 1.0f32.to_bits() {
        mass.extend(row.iter().map(|&x| exp(x - top)));
    } else {
        mass.extend(row.iter().map(|&x| exp(x / scale - top)));
    }
    mass.chunks(CHUNK).map(sum).sum()
}

/// The first token whose cumulative mass exceeds `target`, which is below the total.
pub(super) fn find(mass: &[f32], target: f64) -> usize {
    let mut below = 0.0;
    let mut last = 0;
    for (i, chunk) in mass.chunks(CHUNK).enumerate() {
        let here = sum(chunk);
        if here == 0.0 {
            continue;
        }
        if below + here > target {
            let mut upto = below;
            for (j, &m) in chunk.iter().enumerate() {
                upto += f64::from(m);
                if upto > target {
                    return i * CHUNK + j;
                }
            }
        }
        // Rounding may leave the target a hair above the last sum: then the last token of any mass is the one.
        last = i * CHUNK + chunk.iter().rposition(|&m| m > 0.0).unwrap_or(0);
        below += here;
    }
    last
}

/// Sum in double precision over fixed lanes.
pub(super) fn sum(values: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += f64::from(chunk[i]);
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|&x| f64::from(x)).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn find_inverts_the_cumulative_sum() {
        let mut mass = vec![0.0f32; 1000];
        (mass[3], mass[700]) = (1.0, 3.0);
        assert_eq!([0.0, 0.99, 1.0, 3.99].map(|target| find(&mass, target)), [3, 3, 700, 700]);
        assert_eq!(find(&mass, 4.0), 700, "a target that rounding put at the end");
    }

    #[test]
    fn finite_max_refuses_what_cannot_be_drawn_from() {
        let mut row = vec![-1.0; 19];
        row[18] = 5.0;
        assert_eq!(finite_max(&row), Some(5.0));
        for bad in [f32::NAN, f32::INFINITY] {
            row[17] = bad;
            assert_eq!(finite_max(&row), None);
        }
        assert_eq!(finite_max(&[f32::NEG_INFINITY; 3]), None);
    }
}
