//! Which source each row of a mixture comes from, and which of the source's rows it is.
//!
//! Rows come in periods of 4,096. In each, points equally far apart are laid over the sources, which lie side by
//! side and are as wide as their weights (systematic sampling), and taken in random order: a source gets its share
//! of every period, rounded down or up. The first point moves from period to period through the van der Corput
//! sequence, whose terms below a bound can be counted without a loop over the periods. So any place can be asked
//! for alone, shares are exact to one in 2^32, and no row of a source is left out or repeated.

use std::ops::Range;

use super::order::permute;
use crate::{Error, Result};

/// Random stream of the order within a period; the period from place `p` on uses stream `PERIODS + p`.
const PERIODS: u64 = u64::from_be_bytes(*b"mixtures");
/// All sources together are `1 << WIDTH_BITS` wide.
const WIDTH_BITS: u32 = 32;
const WIDTH: u64 = 1 << WIDTH_BITS;
/// A full period has `1 << PERIOD_BITS` rows.
const PERIOD_BITS: u32 = 12;
const PERIOD: u64 = 1 << PERIOD_BITS;
/// The number of different first points, and the distance between the points of a full period.
const START_BITS: u32 = WIDTH_BITS - PERIOD_BITS;
const STARTS: u64 = 1 << START_BITS;
/// So that each source with a weight can have a width.
const MAX_SOURCES: usize = 1 << 16;

/// A row of one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drawn {
    /// The number of the source.
    pub source: usize,
    /// The number of the row among all that this source gives.
    pub row: u64,
}

/// An endless sequence of rows from several sources, as a function of `(seed, place)`.
#[derive(Debug, Clone)]
pub struct Mixture {
    stages: Vec<Stage>,
    seed: u64,
}

/// The places from `first` on, up to the next stage.
#[derive(Debug, Clone)]
struct Stage {
    first: u64,
    num_rows: u64,
    /// Rows that each source gave before.
    before: Vec<u64>,
    /// Where sources begin and end: source `s` is `bounds[s]..bounds[s + 1]` of `0..WIDTH`.
    bounds: Vec<u64>,
}

impl Mixture {
    /// Stage `i` begins at place `first_rows[i]` and draws with its part of `weights`, one for each source.
    ///
    /// # Errors
    /// [`Error::Value`] if the places do not rise from 0, or a stage has other than one weight for each source, a
    /// weight that is negative or not finite, or none above 0.
    pub fn new(num_sources: usize, first_rows: &[u64], weights: &[f64], seed: u64) -> Result<Self> {
        if !(1..=MAX_SOURCES).contains(&num_sources) {
            return Err(Error::value(format!("a mixture has 1 to {MAX_SOURCES} sources, got {num_sources}")));
        }
        if first_rows.first() != Some(&0) || first_rows.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(Error::value(format!("the first rows of stages rise from 0, got {first_rows:?}")));
        }
        if first_rows.len().checked_mul(num_sources) != Some(weights.len()) {
            let expected = format!("{} stages of {num_sources} sources", first_rows.len());
            return Err(Error::value(format!("{expected} cannot have {} weights", weights.len())));
        }
        let mut before = vec![0; num_sources];
        let mut stages = Vec::with_capacity(first_rows.len());
        let ends = first_rows[1..].iter().copied().chain([u64::MAX]);
        for ((&first, end), weights) in first_rows.iter().zip(ends).zip(weights.chunks(num_sources)) {
            let stage = Stage { first, num_rows: end - first, before, bounds: bounds(weights)? };
            before = stage.counts(stage.num_rows);
            stages.push(stage);
        }
        Ok(Self { stages, seed })
    }

    /// The row at one place; where a stage has one source, its rows come in order.
    pub fn row(&self, place: u64) -> Drawn {
        let stage = self.stage(place);
        let (only, width) = stage.source_at(0);
        if width.end - width.start == WIDTH {
            return Drawn { source: only, row: stage.before[only] + place - stage.first };
        }
        let (period, at) = ((place - stage.first) >> PERIOD_BITS, (place - stage.first) & (PERIOD - 1));
        let points = stage.points(period);
        let point = permute(at, points.len, self.seed, PERIODS.wrapping_add(place - at));
        let (source, width) = stage.source_at(points.position(point));
        let before = points_below(period, width.end) - points_below(period, width.start);
        Drawn { source, row: stage.before[source] + before + point - points.below(width.start) }
    }

    /// How many of the rows before `place` come from each source.
    pub fn counts(&self, place: u64) -> Vec<u64> {
        let stage = self.stage(place);
        let (period, rest) = ((place - stage.first) >> PERIOD_BITS, (place - stage.first) & (PERIOD - 1));
        let mut counts = stage.counts(period << PERIOD_BITS);
        (place - rest..place).for_each(|place| counts[self.row(place).source] += 1);
        counts
    }

    fn stage(&self, place: u64) -> &Stage {
        &self.stages[self.stages.partition_point(|stage| stage.first <= place) - 1]
    }
}

impl Stage {
    /// The source at one of `0..WIDTH`, and from where to where it is.
    fn source_at(&self, position: u64) -> (usize, Range<u64>) {
        let source = self.bounds.partition_point(|&bound| bound <= position) - 1;
        (source, self.bounds[source]..self.bounds[source + 1])
    }

    /// The points of one period; the last of the stage may be shorter than the others.
    fn points(&self, period: u64) -> Points {
        let len = (self.num_rows - (period << PERIOD_BITS)).min(PERIOD);
        Points { first: van_der_corput(period) << PERIOD_BITS, len }
    }

    /// Rows of each source before the stage and in its first `num_rows`, which are whole periods or all.
    fn counts(&self, num_rows: u64) -> Vec<u64> {
        let period = num_rows >> PERIOD_BITS;
        let below = |bound| {
            let rest = if num_rows & (PERIOD - 1) == 0 { 0 } else { self.points(period).below(bound) };
            points_below(period, bound) + rest
        };
        let ends = self.bounds.windows(2).map(|pair| below(pair[1]) - below(pair[0]));
        self.before.iter().zip(ends).map(|(before, count)| before + count).collect()
    }
}

/// `len` points in `0..WIDTH`, equally far apart: point `k` is at `(k * WIDTH + first) / len`.
#[derive(Clone, Copy)]
struct Points {
    first: u64,
    len: u64,
}

impl Points {
    fn position(self, point: u64) -> u64 {
        ((point << WIDTH_BITS) + self.first) / self.len
    }

    /// The number of points below `bound`.
    fn below(self, bound: u64) -> u64 {
        (bound * self.len + (WIDTH - 1) - self.first) >> WIDTH_BITS
    }
}

/// The number of points below `bound` in the first `num_periods` full periods.
fn points_below(num_periods: u64, bound: u64) -> u64 {
    let (steps, rest) = (bound >> START_BITS, bound & (STARTS - 1));
    num_periods * steps + starts_below(num_periods, rest)
}

/// The bits of `index` in reverse: the first points of consecutive periods are spread evenly.
fn van_der_corput(index: u64) -> u64 {
    (index & (STARTS - 1)).reverse_bits() >> (u64::BITS - START_BITS)
}

/// How many of the first `num_terms` terms of the van der Corput sequence are below `bound`.
fn starts_below(num_terms: u64, bound: u64) -> u64 {
    let mut count = (num_terms >> START_BITS) * bound;
    let (mut index, mut rest) = (0, num_terms & (STARTS - 1));
    while rest != 0 {
        // A block of 2^bit terms whose higher bits are those of `index`: each `step` from its smallest on.
        let bit = rest.ilog2();
        let (smallest, step) = (van_der_corput(index), STARTS >> bit);
        count += bound.saturating_sub(smallest).div_ceil(step);
        index |= 1 << bit;
        rest ^= 1 << bit;
    }
    count
}

/// Weights as whole numbers that sum to `WIDTH`, by largest remainder and at least 1 each, added up from 0.
fn bounds(weights: &[f64]) -> Result<Vec<u64>> {
    let total: f64 = weights.iter().sum();
    if weights.iter().any(|&weight| weight < 0.0) || !total.is_finite() || total <= 0.0 {
        let message = "weights must be finite and not negative, and one of a stage above 0";
        return Err(Error::value(format!("{message}, got {weights:?}")));
    }
    let exact = |source: usize| weights[source] / total * WIDTH as f64;
    let mut widths: Vec<u64> = (0..weights.len()).map(|source| exact(source) as u64).collect();
    let mut order: Vec<usize> = (0..weights.len()).filter(|&source| weights[source] > 0.0).collect();
    order.sort_by(|&a, &b| exact(b).fract().total_cmp(&exact(a).fract())); // stable: ties in order of the sources
    let left = WIDTH.saturating_sub(widths.iter().sum()) as usize;
    for (place, &source) in order.iter().enumerate() {
        widths[source] = (widths[source] + u64::from(place < left)).max(1);
    }
    // What the smallest got too much, the widest has to spare: 65,536 of 2^32 are not much.
    if let Some(widest) = (0..widths.len()).max_by_key(|&source| (widths[source], std::cmp::Reverse(source)))
    {
        let others: u64 = widths.iter().sum::<u64>() - widths[widest];
        widths[widest] = WIDTH - others;
    }
    let mut end = 0;
    let ends = widths.into_iter().map(|width| {
        end += width;
        end
    });
    Ok(std::iter::once(0).chain(ends).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn weights() -> impl Strategy<Value = Vec<f64>> {
        let weight = prop_oneof![Just(0.0), 1e-12..1.0f64, 0.01..1.0f64, 1.0..100.0f64];
        prop::collection::vec(weight, 1..8).prop_filter("none above 0", |all| all.iter().any(|&w| w > 0.0))
    }

    proptest! {
        #[test]
        fn terms_below_a_bound_are_those_one_counts(num_terms in 0u64..3000, cycles in 0u64..3, bound in 0..=STARTS) {
            let counted = (0..num_terms).filter(|&index| van_der_corput(index) < bound).count() as u64;
            prop_assert_eq!(starts_below(num_terms + (cycles << START_BITS), bound), counted + cycles * bound);
        }

        #[test]
        fn no_row_of_a_source_is_left_out_or_repeated(
            first in weights(), second in weights(), lengths in prop::array::uniform2(1u64..10_000), seed: u64,
        ) {
            let num_sources = first.len().max(second.len());
            let mut all = [first, second].map(|mut weights| { weights.resize(num_sources, 0.0); weights });
            all[1].rotate_left(seed as usize % num_sources);
            let stages = [0, lengths[0], lengths[0] + lengths[1]];
            let all = [&all[0][..], &all[1], &all[0]].concat();
            let mixture = Mixture::new(num_sources, &stages, &all, seed).unwrap();
            let mut counts = vec![0u64; num_sources];
            let mut waiting = vec![std::collections::BTreeSet::new(); num_sources];
            for place in 0..stages[2] + PERIOD {
                let stage = stages.partition_point(|&first| first <= place) - 1;
                if (place - stages[stage]) % PERIOD == 0 {
                    // Within a period the rows of a source come in any order, before it they are complete.
                    prop_assert!(waiting.iter().all(std::collections::BTreeSet::is_empty));
                    prop_assert_eq!(&mixture.counts(place), &counts);
                }
                let Drawn { source, row } = mixture.row(place);
                prop_assert!(row >= counts[source] && waiting[source].insert(row));
                while waiting[source].remove(&counts[source]) {
                    counts[source] += 1;
                }
            }
        }

        #[test]
        fn every_period_has_each_share_rounded_down_or_up(all in weights(), seed: u64, period in 0u64..1 << 40) {
            let mixture = Mixture::new(all.len(), &[0], &all, seed).unwrap();
            let first = period << PERIOD_BITS;
            let total: f64 = all.iter().sum();
            let [before, after] = [first, first + PERIOD].map(|place| mixture.counts(place));
            for (source, weight) in all.iter().enumerate() {
                let share = PERIOD as f64 * weight / total;
                let count = after[source] - before[source];
                prop_assert!((count as f64 - share).abs() < 1.001, "{count} of {share}");
                // Over all periods the error stays as small, up to the rounding of weights to 2^-32.
                let (whole, error) = (period as f64 * share, period as f64 * PERIOD as f64 * 8.0 / WIDTH as f64);
                prop_assert!((before[source] as f64 - whole).abs() < 12.0 + error);
            }
        }

        #[test]
        fn widths_are_weights_and_sum_to_all(all in weights()) {
            let bounds = bounds(&all).unwrap();
            prop_assert_eq!((bounds[0], bounds[all.len()]), (0, WIDTH));
            let total: f64 = all.iter().sum();
            for (pair, weight) in bounds.windows(2).zip(&all) {
                let width = (pair[1] - pair[0]) as f64;
                prop_assert_eq!(width > 0.0, *weight > 0.0);
                prop_assert!((width - weight / total * WIDTH as f64).abs() < 1.0 + all.len() as f64);
            }
        }
    }

    #[test]
    fn one_source_gives_its_rows_in_order() {
        for (num_sources, weights) in [(1, &[3.0][..]), (3, &[0.0, 2.0, 0.0])] {
            let mixture = Mixture::new(num_sources, &[0], weights, 1).unwrap();
            for place in [0, 1, 4095, 4096, u64::MAX - 1] {
                assert_eq!(mixture.row(place), Drawn { source: num_sources / 2, row: place });
            }
        }
    }

    #[test]
    fn bad_arguments_are_refused() {
        for (num_sources, first_rows, weights) in [
            (0, &[0][..], &[][..]),
            (2, &[0], &[1.0]),
            (1, &[], &[]),
            (1, &[1], &[1.0]),
            (1, &[0, 0], &[1.0, 1.0]),
            (2, &[0], &[0.0, 0.0]),
            (2, &[0], &[1.0, -1.0]),
            (2, &[0], &[1.0, f64::NAN]),
            (2, &[0], &[f64::MAX, f64::MAX]),
        ] {
            assert!(Mixture::new(num_sources, first_rows, weights, 0).is_err(), "{weights:?}");
        }
    }
}
