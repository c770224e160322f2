//! From scores to probabilities, and how good they are.

use super::{logistic, softmax};

/// Steps of Newton's method: the loss is convex in two numbers, so a few are enough.
const STEPS: usize = 50;
/// Intervals of probability in which calibration is measured.
const INTERVALS: usize = 10;

/// Slope and intercept that make scores log-odds with the smallest loss (Platt, "Probabilistic outputs for support vector
/// machines", 1999, with his targets a little within 0 and 1).
pub(super) fn fit_line(scores: &[f64], labels: &[bool]) -> [f64; 2] {
    let positives = labels.iter().filter(|&&label| label).count() as f64;
    let negatives = labels.len() as f64 - positives;
    let target =
        |label: bool| if label { (positives + 1.0) / (positives + 2.0) } else { 1.0 / (negatives + 2.0) };
    let loss = |[slope, intercept]: [f64; 2]| -> f64 {
        let each = scores.iter().zip(labels).map(|(&score, &label)| {
            let log_odds = slope * score + intercept;
            log_odds.max(0.0) - log_odds * target(label) + (-log_odds.abs()).exp().ln_1p()
        });
        each.sum()
    };
    let mut line = [0.0, ((positives + 1.0) / (negatives + 1.0)).ln()];
    let mut best = loss(line);
    for _ in 0..STEPS {
        // A small ridge keeps the step finite if all scores are equal.
        let (mut g, mut h) = ([0.0; 2], [1e-9, 0.0, 1e-9]);
        for (&score, &label) in scores.iter().zip(labels) {
            let p = logistic(line[0] * score + line[1]);
            let (error, curve) = (p - target(label), p * (1.0 - p));
            g = [g[0] + error * score, g[1] + error];
            h = [h[0] + curve * score * score, h[1] + curve * score, h[2] + curve];
        }
        let det = h[0] * h[2] - h[1] * h[1];
        let step = [(h[2] * g[0] - h[1] * g[1]) / det, (h[0] * g[1] - h[1] * g[0]) / det];
        let Some((next, lower)) = descend(line, step, best, loss) else { break };
        (line, best) = (next, lower);
    }
    line
}

/// The slope with which the softmax of scores has the smallest loss (Guo et al., "On calibration of modern neural networks",
/// 2017: its inverse is their temperature). Scores are `num_labels` for each text.
pub(super) fn fit_slope(scores: &[f64], labels: &[usize], num_labels: usize) -> f64 {
    let texts = || scores.chunks_exact(num_labels).zip(labels);
    let loss = |[slope]: [f64; 1]| -> f64 {
        let each = texts().map(|(scores, &label)| {
            let most = scores.iter().fold(f64::NEG_INFINITY, |most, &score| most.max(slope * score));
            let total: f64 = scores.iter().map(|&score| (slope * score - most).exp()).sum();
            total.ln() + most - slope * scores[label]
        });
        each.sum()
    };
    let mut slope = [1.0];
    let mut best = loss(slope);
    for _ in 0..STEPS {
        let (mut g, mut h) = (0.0, 1e-9);
        for (scores, &label) in texts() {
            let mut p = scores.to_vec();
            softmax(&mut p, slope[0]);
            let mean = |of: fn(f64) -> f64| -> f64 { scores.iter().zip(&p).map(|(&s, p)| of(s) * p).sum() };
            let expected = mean(|score| score);
            g += expected - scores[label];
            h += mean(|score| score * score) - expected * expected;
        }
        let Some((next, lower)) = descend(slope, [g / h], best, loss) else { break };
        (slope, best) = (next, lower);
    }
    slope[0]
}

/// The first of the step, its half, its quarter and so on that lowers the loss below `best`, with that loss; none that does
/// means that this is the least.
fn descend<const N: usize>(
    from: [f64; N],
    step: [f64; N],
    best: f64,
    loss: impl Fn([f64; N]) -> f64,
) -> Option<([f64; N], f64)> {
    (0..30).map(|halves| 0.5f64.powi(halves)).find_map(|size| {
        let next = std::array::from_fn(|i| from[i] - size * step[i]);
        let loss = loss(next);
        (loss < best).then_some((next, loss))
    })
}

/// How good probabilities are on texts that neither training nor calibration saw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quality {
    /// Texts that it was measured on.
    pub num_texts: usize,
    /// Share of the texts whose label is the most probable one.
    pub accuracy: f64,
    /// Probability that a text with a label has a higher probability of it than one without; half of what ties counts.
    /// The mean over the labels.
    pub auc: f64,
    /// Mean distance between probability and share of texts with a label, in ten intervals of probability. The mean over
    /// the labels.
    pub calibration_error: f64,
    /// Mean of minus the logarithm of the probability of the true label.
    pub log_loss: f64,
}

/// Measures probabilities, `num_labels` for each text, against labels.
pub fn quality(probabilities: &[f64], labels: &[usize], num_labels: usize) -> Quality {
    let count = labels.len() as f64;
    let texts = || probabilities.chunks_exact(num_labels).zip(labels);
    let (mut auc, mut calibration_error) = (0.0, 0.0);
    for own in 0..num_labels {
        let mut pairs: Vec<(f64, bool)> = texts().map(|(p, &label)| (p[own], label == own)).collect();
        pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
        auc += area(&pairs);
        calibration_error += distance(&pairs) / count;
    }
    let is_right = |(p, label): &(&[f64], &usize)| (0..num_labels).all(|i| i == **label || p[i] < p[**label]);
    let loss = |(p, &label): (&[f64], &usize)| -p[label].max(f64::MIN_POSITIVE).ln();
    Quality {
        num_texts: labels.len(),
        accuracy: texts().filter(is_right).count() as f64 / count,
        auc: auc / num_labels as f64,
        calibration_error: calibration_error / num_labels as f64,
        log_loss: texts().map(loss).sum::<f64>() / count,
    }
}

/// The area under the ROC curve of pairs in increasing order.
fn area(pairs: &[(f64, bool)]) -> f64 {
    let (mut below, mut wins, mut positives) = (0.0, 0.0, 0.0);
    for tied in pairs.chunk_by(|a, b| a.0.total_cmp(&b.0).is_eq()) {
        let own = tied.iter().filter(|pair| pair.1).count() as f64;
        let others = tied.len() as f64 - own;
        wins += own * (below + others / 2.0);
        below += others;
        positives += own;
    }
    wins / (positives * below)
}

/// The sum over intervals of the distance between the sum of probabilities and the number of positives.
fn distance(pairs: &[(f64, bool)]) -> f64 {
    let mut intervals = [[0.0; 2]; INTERVALS];
    for &(p, label) in pairs {
        let interval = &mut intervals[((p * INTERVALS as f64) as usize).min(INTERVALS - 1)];
        *interval = [interval[0] + p, interval[1] + f64::from(u8::from(label))];
    }
    intervals.iter().map(|[sum, share]| (sum - share).abs()).sum()
}
