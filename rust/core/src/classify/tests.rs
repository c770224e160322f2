use proptest::prelude::*;
use rustc_hash::FxHashMap;

use super::*;
use crate::text::spell_words;

const NAMES: [&str; 4] = ["good", "bad", "ugly", "late"];

/// Texts of some kinds that share words: each kind has some of its own.
fn examples(num_labels: usize) -> (Vec<String>, Vec<usize>) {
    let word = |i: u64, j: u64, label: usize| {
        let own = crate::rng::below(4, 1, i, j) == 0;
        let name = crate::rng::below(200, 2, i, j);
        if own { format!("{label}{name}") } else { format!("word{name}") }
    };
    let labels: Vec<usize> =
        (0..600).map(|i| crate::rng::below(num_labels as u64, 3, i, 0) as usize).collect();
    let text = |(i, &label): (usize, &usize)| {
        (0..20).map(|j| word(i as u64, j, label)).collect::<Vec<_>>().join(" ")
    };
    (labels.iter().enumerate().map(text).collect(), labels)
}

fn trained(num_labels: usize, settings: &Training) -> (Classifier, Quality) {
    let (texts, labels) = examples(num_labels);
    train(&texts, &labels, &NAMES[..num_labels], settings, &Monitor::default()).unwrap()
}

proptest! {
    #[test]
    fn features_count_the_ngrams_of_spelled_words(text in "([ab]{1,2}[ ,.]){0,30}", word_ngram in 1..4usize) {
        let words = spell_words(&text);
        let ngrams: Vec<&[String]> =
            (1..=word_ngram).flat_map(|n| words.windows(n)).collect();
        let mut counts: FxHashMap<&[String], usize> = FxHashMap::default();
        for ngram in &ngrams {
            *counts.entry(ngram).or_default() += 1;
        }
        let mut expected: Vec<f32> =
            counts.values().map(|&count| count as f32 / (ngrams.len() as f32).sqrt()).collect();
        // So many buckets that n-grams hardly share one.
        let features = Features { bits: 28, word_ngram, char_ngram: 0, max_bytes: 0 };
        let mut values: Vec<f32> = features.of(&text).unwrap().into_iter().map(|(_, value)| value).collect();
        expected.sort_by(f32::total_cmp);
        values.sort_by(f32::total_cmp);
        prop_assert_eq!(values.len(), expected.len());
        prop_assert!(values.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-6));
    }

    #[test]
    fn auc_is_the_share_of_pairs_in_order(pairs in prop::collection::vec((0..6u8, any::<bool>()), 2..40)) {
        let probabilities: Vec<f64> = pairs.iter().map(|pair| f64::from(pair.0) / 5.0).collect();
        let labels: Vec<bool> = pairs.iter().map(|pair| pair.1).collect();
        let of = |kind: bool| pairs.iter().filter(move |pair| pair.1 == kind).map(|pair| pair.0);
        let won = |(a, b): (u8, u8)| f64::from(u8::from(a > b)) + 0.5 * f64::from(u8::from(a == b));
        let all: Vec<f64> = of(true).flat_map(|a| of(false).map(move |b| won((a, b)))).collect();
        let expected = all.iter().sum::<f64>() / all.len() as f64;
        let both: Vec<f64> = probabilities.iter().flat_map(|&p| [p, 1.0 - p]).collect();
        let truth: Vec<usize> = labels.iter().map(|&label| usize::from(!label)).collect();
        let auc = quality(&both, &truth, 2).auc;
        prop_assert!(auc.is_nan() == all.is_empty() && (all.is_empty() || (auc - expected).abs() < 1e-12));
    }
}

#[test]
fn kinds_of_text_are_told_apart_with_true_probabilities() {
    for num_labels in 2..=4 {
        let (classifier, quality) = trained(num_labels, &Training { held_out: 0.5, ..Training::default() });
        assert!(quality.auc > 0.9 && quality.accuracy > 0.7, "{quality:?}");
        assert!(quality.calibration_error < 0.12, "{quality:?}");
        let (texts, _) = examples(num_labels);
        let probabilities = classifier.probabilities(&texts, &Monitor::default()).unwrap();
        for (text, flat) in texts.iter().zip(probabilities.chunks_exact(num_labels)) {
            assert_eq!(classifier.judge(text, &mut Scratch::default()), flat);
            assert!((flat.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{flat:?}");
        }
    }
}

#[test]
fn the_middle_of_a_text_decides() {
    let of = |text: &str, max_bytes| Features { max_bytes, ..Features::default() }.of(text).unwrap();
    assert_eq!(of("aaaa two three bbbb", 9), of("two three", 0));
    assert_eq!(of("\u{6f22}a\u{6f22}", 3), of("a", 0));
    assert_eq!(of("one two", 7), of("one two", 0));
}

#[test]
fn a_slope_is_the_one_of_least_loss() {
    let scores = [2.0, 1.0, 0.5, 0.1, 0.9, -1.0, 3.0, 2.0, 2.5, 0.0, 1.0, 4.0];
    let labels = [0, 1, 2, 2];
    let loss = |slope: f64| -> f64 {
        let each = scores.chunks_exact(3).zip(labels).map(|(scores, label)| {
            let mut p = scores.to_vec();
            softmax(&mut p, slope);
            -p[label].ln()
        });
        each.sum()
    };
    let slope = calibrate::fit_slope(&scores, &labels, 3);
    assert!(loss(slope) < loss(slope - 1e-3) && loss(slope) < loss(slope + 1e-3), "{slope}");
}

#[test]
fn training_does_not_depend_on_the_number_of_threads() {
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| trained(3, &Training::default()))
    };
    assert_eq!(with(1), with(3));
}

#[test]
fn files_come_back_and_any_altered_byte_is_noticed() {
    let features = Features { bits: 6, word_ngram: 1, char_ngram: 3, max_bytes: 50 };
    for num_labels in [2, 3] {
        let (classifier, _) = trained(num_labels, &Training { features, ..Training::default() });
        let path = tempfile::tempdir().unwrap().keep().join("model");
        let bytes = classifier.encode();
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(Classifier::open(&path).unwrap(), classifier);
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            std::fs::write(&path, &altered).unwrap();
            assert!(Classifier::open(&path).is_err(), "byte {at}");
        }
        std::fs::write(&path, &bytes[..bytes.len() - 4]).unwrap();
        assert!(Classifier::open(&path).is_err());
    }
}

#[test]
fn settings_and_texts_that_cannot_serve_are_refused() {
    let (texts, labels) = examples(2);
    let base = Training::default();
    let refuses = |labels: &[usize], names: &[&str], settings: &Training| {
        train(&texts, labels, names, settings, &Monitor::default()).is_err()
    };
    for settings in [
        Training { features: Features { bits: 0, ..base.features }, ..base },
        Training { features: Features { word_ngram: 0, ..base.features }, ..base },
        Training { held_out: 0.0, ..base },
        Training { learning_rate: f32::NAN, ..base },
    ] {
        assert!(refuses(&labels, &NAMES[..2], &settings), "{settings:?}");
    }
    for (labels, names) in [
        (&[0; 600][..], &NAMES[..2]),
        (&labels[..5], &NAMES[..2]),
        (&labels, &NAMES[..3]),
        (&[0; 600], &NAMES[..1]),
        (&[2; 600], &NAMES[..2]),
        (&labels, &["a", "a"]),
        (&labels, &["a", "b\n"]),
        (&labels, &["a", ""]),
    ] {
        assert!(refuses(labels, names, &base), "{names:?}");
    }
}
