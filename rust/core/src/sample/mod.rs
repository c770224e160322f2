//! Next-token sampling from rows of logits.
//!
//! A row is scaled by its temperature, cut to its `top_k` most likely tokens, then to the fewest of those that hold
//! `top_p` of their probability; ties go to the lower id. One uniform number, a pure function of (seed, position),
//! picks a token by the inverse of the cumulative distribution in the order of ids, so a draw never depends on the
//! rest of the batch. No pass sorts more than one bin of a histogram.

mod cut;
mod passes;

use rayon::prelude::*;

use crate::{Error, Result, rng};
use cut::Cut;

/// Logits below which one thread is faster.
const SERIAL_BELOW: usize = 1 << 17;

/// The stream of random numbers that sampling uses.
const STREAM: u64 = 0x73_61_6d_70_6c_65;

/// What one row asks for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Request {
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f32,
    /// How many of the most likely tokens may be drawn; 0 for all.
    pub top_k: u32,
    /// Share of the probability that may be drawn, in (0, 1].
    pub top_p: f32,
    /// Key of the random number.
    pub seed: u64,
    /// Its counter: the place of the new token in its sequence.
    pub position: u64,
}

/// One token per row, and its log-probability under the temperature, before `top_k` and `top_p`.
///
/// At temperature 0 the log-probability is that of temperature 1.
///
/// # Errors
/// [`Error::Value`] if the logits are not `requests.len()` rows, a row has NaN, +inf or nothing finite, or a request
/// is out of range; the message names the row.
pub fn sample(logits: &[f32], requests: &[Request]) -> Result<(Vec<i64>, Vec<f32>)> {
    if requests.is_empty() || logits.is_empty() || !logits.len().is_multiple_of(requests.len()) {
        let (len, rows) = (logits.len(), requests.len());
        return if len == 0 && rows == 0 {
            Ok((Vec::new(), Vec::new()))
        } else {
            Err(Error::value(format!("{len} logits are not {rows} rows")))
        };
    }
    let vocab = logits.len() / requests.len();
    let draw = |scratch: &mut Scratch, (i, (row, request)): (usize, (&[f32], &Request))| {
        draw_row(row, request, scratch).map_err(|reason| Error::value(format!("row {i}: {reason}")))
    };
    let draws: Vec<(i64, f32)> = if logits.len() < SERIAL_BELOW {
        let mut scratch = Scratch::default();
        logits
            .chunks_exact(vocab)
            .zip(requests)
            .enumerate()
            .map(|row| draw(&mut scratch, row))
            .collect::<Result<_>>()?
    } else {
        logits
            .par_chunks_exact(vocab)
            .zip(requests)
            .enumerate()
            .map_init(Scratch::default, draw)
            .collect::<Result<_>>()?
    };
    Ok(draws.into_iter().unzip())
}

/// Memory that rows reuse.
#[derive(Debug, Default)]
struct Scratch {
    /// `exp((logit - max) / temperature)` of each token.
    mass: Vec<f32>,
    cut: Cut,
}

fn draw_row(
    row: &[f32],
    request: &Request,
    scratch: &mut Scratch,
) -> std::result::Result<(i64, f32), String> {
    let Request { temperature, top_k, top_p, seed, position } = *request;
    if !(0.0..=f32::MAX).contains(&temperature) {
        return Err(format!("temperature must be 0 or a positive number, got {temperature}"));
    }
    if !(top_p > 0.0 && top_p <= 1.0) {
        return Err(format!("top_p must be above 0 and at most 1, got {top_p}"));
    }
    let max = passes::finite_max(row).ok_or_else(|| {
        match row.iter().position(|x| x.is_nan() || *x == f32::INFINITY) {
            Some(id) => format!("the logit of token {id} is {}", row[id]),
            None => "no logit is finite".to_owned(),
        }
    })?;
    let scale = if temperature == 0.0 { 1.0 } else { temperature };
    let total = passes::exponentials(row, max, scale, &mut scratch.mass);
    let token = if temperature == 0.0 {
        row.iter().position(|&x| x >= max).unwrap_or(0)
    } else {
        let u = rng::uniform(seed, STREAM, position);
        let mass = &mut scratch.mass;
        let kept = if (top_k > 0 && (top_k as usize) < row.len()) || top_p < 1.0 {
            scratch.cut.apply(row, mass, top_k as usize, f64::from(top_p))
        } else {
            total
        };
        passes::find(mass, u * kept)
    };
    Ok((token as i64, (row[token] / scale - max / scale) - total.ln() as f32))
}

#[cfg(test)]
mod tests;
