//! Which pairs are looked at: those whose signatures agree in all rows of at least one band.

use crate::{Error, Result};

/// How a signature is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bands {
    /// Bands of a signature; more find more pairs.
    pub bands: usize,
    /// Entries in a band; more look at fewer dissimilar pairs.
    pub rows: usize,
}

/// How much more a similar pair that is missed counts than a dissimilar one that is looked at: the second is
/// compared exactly and costs time alone.
const MISS_WEIGHT: f64 = 19.0;
/// Steps of the integration of the S-curve.
const STEPS: usize = 500;

impl Bands {
    /// The layout of at most `num_hashes` entries with the smallest error: the area over the S-curve above the threshold,
    /// which is missed, times 19, and the area below it under the threshold, which is looked at in vain.
    ///
    /// # Errors
    /// [`Error::Value`] if the threshold is not in (0, 1].
    pub fn for_threshold(threshold: f64, num_hashes: usize) -> Result<Self> {
        if !(threshold > 0.0 && threshold <= 1.0) {
            return Err(Error::value(format!("threshold must be in (0, 1], got {threshold}")));
        }
        let layouts = (1..=num_hashes).map(|rows| Self { bands: num_hashes / rows, rows });
        let error = |layout: &Self| layout.error(threshold);
        let best = layouts.min_by(|a, b| error(a).total_cmp(&error(b)));
        best.ok_or_else(|| Error::value("num_hashes must be at least 1, got 0"))
    }

    /// Probability that a pair of a given similarity is looked at, the S-curve: `1 - (1 - s^rows)^bands`.
    pub fn probability(self, similarity: f64) -> f64 {
        1.0 - (1.0 - similarity.powi(self.rows as i32)).powi(self.bands as i32)
    }

    /// Entries of a signature that bands use.
    pub fn num_hashes(self) -> usize {
        self.bands * self.rows
    }

    fn error(self, threshold: f64) -> f64 {
        // Midpoints on both sides of the threshold.
        let area = |from: f64, to: f64, height: &dyn Fn(f64) -> f64| {
            let width = (to - from) / STEPS as f64;
            (0..STEPS).map(|i| height(from + (i as f64 + 0.5) * width)).sum::<f64>() * width
        };
        let looked_at = area(0.0, threshold, &|s| self.probability(s));
        let missed = area(threshold, 1.0, &|s| 1.0 - self.probability(s));
        looked_at + MISS_WEIGHT * missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dedup::Sketcher;
    use crate::rng;

    #[test]
    fn layouts_find_most_pairs_at_the_threshold() {
        assert_eq!(Bands::for_threshold(0.8, 128).unwrap(), Bands { bands: 16, rows: 8 });
        for threshold in [0.5, 0.7, 0.8, 0.9] {
            for num_hashes in [64, 128, 256, 512] {
                let bands = Bands::for_threshold(threshold, num_hashes).unwrap();
                assert!(bands.num_hashes() <= num_hashes);
                assert!(bands.probability(threshold) > 0.85, "{bands:?} at {threshold}");
            }
        }
    }

    #[test]
    fn pairs_are_found_as_often_as_the_s_curve_says() {
        let bands = Bands { bands: 16, rows: 8 };
        for (shared, own) in [(80, 10), (60, 10), (50, 25), (800, 100)] {
            let trials = 600;
            let found = (0..trials)
                .filter(|&trial| {
                    let sketcher = Sketcher::new(bands.num_hashes(), trial);
                    let draw = |from: u64, to: u64| (from..to).map(move |i| rng::bits64(trial, 9, i));
                    let sign = |shingles: Vec<u64>| {
                        let mut signature = vec![0; bands.num_hashes()];
                        sketcher.sign(&shingles, &mut Vec::new(), &mut signature);
                        signature
                    };
                    let a = sign(draw(0, shared + own).collect());
                    let b = sign(draw(0, shared).chain(draw(5000, 5000 + own)).collect());
                    a.chunks(bands.rows).zip(b.chunks(bands.rows)).any(|(a, b)| a == b)
                })
                .count() as f64;
            let expected = bands.probability(shared as f64 / (shared + 2 * own) as f64);
            let error = 4.0 * (expected * (1.0 - expected) / trials as f64).sqrt() + 1e-9;
            assert!(
                (found / trials as f64 - expected).abs() < error,
                "{} for {expected}",
                found / trials as f64
            );
        }
    }

    #[test]
    fn the_layout_has_the_smallest_error_of_all() {
        let best = Bands::for_threshold(0.7, 60).unwrap();
        for bands in 1..=60 {
            for rows in 1..=60 / bands {
                assert!(Bands { bands, rows }.error(0.7) >= best.error(0.7) - 1e-12);
            }
        }
    }

    #[test]
    fn thresholds_out_of_range_are_refused() {
        for (threshold, num_hashes) in [(0.0, 128), (f64::NAN, 128), (1.1, 128), (0.8, 0)] {
            assert!(Bands::for_threshold(threshold, num_hashes).is_err());
        }
    }
}
