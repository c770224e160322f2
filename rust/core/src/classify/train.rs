//! Logistic regression by AdaGrad, one text at a time, in an order drawn anew for each epoch.

use rayon::prelude::*;

use super::calibrate::{Quality, fit_line, fit_slope, quality};
use super::{Classifier, Features, Scratch, logistic, num_scores, softmax};
use crate::dedup::content_hash;
use crate::pack::permute;
use crate::{Error, Monitor, Result};

/// Keeps the first step of a weight finite.
const EPSILON: f32 = 1e-8;

/// How a classifier is trained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Training {
    /// What it looks at.
    pub features: Features,
    /// Times each text is seen.
    pub epochs: usize,
    /// Size of the first step of each weight.
    pub learning_rate: f32,
    /// Share of the texts that are not trained on, chosen by their hash: half calibrate, half measure.
    pub held_out: f64,
    /// Draws the order of the texts.
    pub seed: u64,
}

impl Default for Training {
    fn default() -> Self {
        Self { features: Features::default(), epochs: 5, learning_rate: 0.1, held_out: 0.2, seed: 0 }
    }
}

/// Trains a classifier of texts, calibrates it and measures it, each on texts of its own. The label of a text is its
/// place in `names`. The monitor counts bytes, once for each epoch.
///
/// # Errors
/// [`Error::Value`] if a setting is out of range, a name is no line of text or occurs twice, or a part of the texts
/// lacks a label; [`Error::Interrupted`] if the monitor is cancelled.
pub fn train<T: AsRef<str> + Sync, N: AsRef<str>>(
    texts: &[T],
    labels: &[usize],
    names: &[N],
    settings: &Training,
    monitor: &Monitor,
) -> Result<(Classifier, Quality)> {
    settings.features.check()?;
    if !(settings.held_out > 0.0 && settings.held_out < 1.0) {
        return Err(Error::value(format!("held_out must be between 0 and 1, got {}", settings.held_out)));
    }
    if !(settings.learning_rate > 0.0 && settings.learning_rate.is_finite()) {
        return Err(Error::value(format!("learning_rate must be positive, got {}", settings.learning_rate)));
    }
    if texts.len() != labels.len() {
        return Err(Error::value(format!("{} labels for {} texts", labels.len(), texts.len())));
    }
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    check_labels(&names, labels)?;
    // Equal texts are on one side.
    let side = |text: &T| content_hash(text.as_ref()) as u64 as f64 / 2f64.powi(64) / settings.held_out;
    let sides: Vec<f64> = texts.par_iter().map(side).collect();
    let part =
        |is_in: fn(f64) -> bool| -> Vec<usize> { (0..texts.len()).filter(|&i| is_in(sides[i])).collect() };
    let parts = [part(|side| side >= 1.0), part(|side| side < 0.5), part(|side| (0.5..1.0).contains(&side))];
    for (part, work) in parts.iter().zip(["train on", "calibrate with", "measure with"]) {
        let mut counts = vec![0usize; names.len()];
        for &i in part {
            counts[labels[i]] += 1;
        }
        if let Some(none) = counts.iter().position(|&count| count == 0) {
            let (name, all) = (names[none], part.len());
            return Err(Error::value(format!(
                "no text of label {name:?} among {all} to {work}; give more of them"
            )));
        }
    }
    let mut classifier = fit(texts, labels, &names, &parts[0], settings, monitor)?;
    let scores = |part: &[usize]| -> Vec<f64> {
        let score = |scratch: &mut Scratch, &i: &usize| classifier.score(texts[i].as_ref(), scratch).to_vec();
        let each: Vec<Vec<f64>> = part.par_iter().map_init(Scratch::default, score).collect();
        each.concat()
    };
    let labels_of = |part: &[usize]| -> Vec<usize> { part.iter().map(|&i| labels[i]).collect() };
    let (calibrating, measuring) = (scores(&parts[1]), scores(&parts[2]));
    let own = labels_of(&parts[1]);
    classifier.line = if names.len() == 2 {
        fit_line(&calibrating, &own.iter().map(|&label| label == 0).collect::<Vec<_>>())
    } else {
        [fit_slope(&calibrating, &own, names.len()), 0.0]
    };
    let calibrated = measuring.chunks_exact(num_scores(names.len())).flat_map(|scores| {
        let mut values = scores.to_vec();
        classifier.calibrate(&mut values);
        values
    });
    let quality = quality(&calibrated.collect::<Vec<_>>(), &labels_of(&parts[2]), names.len());
    Ok((classifier, quality))
}

fn check_labels(names: &[&str], labels: &[usize]) -> Result<()> {
    if names.len() < 2 {
        return Err(Error::value(format!("a classifier needs two labels or more, got {names:?}")));
    }
    for (i, &name) in names.iter().enumerate() {
        if name.is_empty() || name.contains(['\n', '\r']) || names[..i].contains(&name) {
            return Err(Error::value(format!("labels must be different lines of text, got {name:?}")));
        }
    }
    match labels.iter().find(|&&label| label >= names.len()) {
        Some(label) => Err(Error::value(format!("label {label} where there are {} names", names.len()))),
        None => Ok(()),
    }
}

/// The weights, before calibration.
fn fit<T: AsRef<str> + Sync>(
    texts: &[T],
    labels: &[usize],
    names: &[&str],
    part: &[usize],
    settings: &Training,
    monitor: &Monitor,
) -> Result<Classifier> {
    let rows: Vec<Vec<(u32, f32)>> =
        part.par_iter().map(|&i| settings.features.of(texts[i].as_ref())).collect::<Result<_>>()?;
    let count = num_scores(names.len());
    // The weights of a bucket beside the sums of their squared gradients: of two labels, one cache line has both.
    let mut state = vec![0f32; 2 * count * settings.features.num_buckets()];
    let mut bias = vec![0f32; 2 * count];
    let rate = settings.learning_rate;
    let step = |state: &mut [f32], errors: &[f32], value: f32| {
        let (weights, squares) = state.split_at_mut(count);
        for ((weight, square), error) in weights.iter_mut().zip(squares).zip(errors) {
            let gradient = error * value;
            *square += gradient * gradient;
            *weight -= rate * gradient / (square.sqrt() + EPSILON);
        }
    };
    let (mut errors, mut p) = (vec![0f32; count], Vec::with_capacity(count));
    for epoch in 0..settings.epochs {
        for at in 0..part.len() {
            let at = permute(at as u64, part.len() as u64, settings.seed, epoch as u64) as usize;
            let row = &rows[at];
            errors.copy_from_slice(&bias[..count]);
            for &(bucket, value) in row {
                let weights = &state[2 * count * bucket as usize..][..count];
                errors.iter_mut().zip(weights).for_each(|(score, weight)| *score += weight * value);
            }
            p.clear();
            p.extend(errors.iter().copied().map(f64::from));
            match &mut p[..] {
                [score] => *score = logistic(*score),
                scores => softmax(scores, 1.0),
            }
            for (i, (error, &p)) in errors.iter_mut().zip(&p).enumerate() {
                *error = p as f32 - f32::from(u8::from(i == labels[part[at]]));
            }
            for &(bucket, value) in row {
                step(&mut state[2 * count * bucket as usize..][..2 * count], &errors, value);
            }
            step(&mut bias, &errors, 1.0);
            monitor.advance(texts[part[at]].as_ref().len() as u64)?;
        }
    }
    bias.truncate(count);
    let names = names.iter().map(|&name| name.to_owned()).collect();
    let weights = state.chunks_exact(2 * count).flat_map(|both| &both[..count]).copied();
    Ok(Classifier::new(settings.features, names, [1.0, 0.0], bias, weights))
}
