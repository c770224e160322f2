use super::*;
use crate::rng;

fn texts(num: u64, words: u64) -> Vec<String> {
    let text = |i| (0..40).map(move |j| format!("w{}", rng::below(words, 1, i, j) * rng::below(3, 2, i, j)));
    (0..num).map(|i| text(i).collect::<Vec<_>>().join(" ")).collect()
}

fn trained(texts: &[String], settings: Training) -> NgramModel {
    train(texts, &settings, &Monitor::default()).unwrap()
}

fn score(model: &NgramModel, text: &str) -> Score {
    model.score(text, &mut Scratch::default())
}

fn nats(model: &NgramModel, text: &str) -> f64 {
    score(model, text).nats
}

#[test]
fn probabilities_of_all_next_words_add_up_to_one() {
    let texts = texts(60, 400);
    let count = |word: &str| texts.iter().flat_map(|text| text.split(' ')).filter(|&w| w == word).count();
    let counted = (0..1200).map(|i| format!("w{i}")).map(|word| (count(&word), word));
    let (known, rare): (Vec<_>, Vec<_>) =
        counted.filter(|(count, _)| *count > 0).partition(|word| word.0 > 1);
    let (known, num_rare): (Vec<String>, usize) =
        (known.into_iter().map(|word| word.1).collect(), rare.len());
    assert!(num_rare > 10);
    for order in 1..=MAX_ORDER {
        for min_ngram_count in [1, 2, 3] {
            let model = trained(&texts, Training { order, min_word_count: 2, min_ngram_count });
            for context in ["", "w3", "w3 w8", "w2 w0 w4 w6 w10 w0", "nothing", "w0 nothing w0"] {
                let after =
                    |word: &str| (nats(&model, context) - nats(&model, &format!("{context} {word}"))).exp();
                let total: f64 = known.iter().map(|word| after(word)).sum::<f64>()
                    + (num_rare + 1) as f64 * after("unheard");
                assert!((total - 1.0).abs() < 4e-3, "order {order}, after {context:?}: {total}");
            }
        }
    }
}

#[test]
fn words_that_training_did_not_keep_are_one_word() {
    let model = trained(&texts(30, 20), Training::default());
    assert_eq!(score(&model, "w2 neither w4"), score(&model, "w2 nor w4"));
    assert_ne!(score(&model, "w2 neither w4"), score(&model, "w2 w2 w4"));
}

#[test]
fn a_text_like_those_of_training_surprises_less() {
    let sentence =
        |i: u64| format!("the {} river has {} bridges over it in a{i}", rng::below(9, 1, i, 0), i % 5);
    let texts: Vec<String> = (0..200).map(sentence).collect();
    let model = trained(&texts, Training::default());
    let perplexity = |text: &str| score(&model, text).perplexity();
    let (like, shuffled) = ("the 3 river has 2 bridges over it", "it over bridges 2 has river 3 the");
    assert!(3.0 * perplexity(like) < perplexity(shuffled));
    assert!(3.0 * perplexity(shuffled) < perplexity("zxq vvb 9-x jjw"));
    assert_eq!(score(&model, "THE 3 river, has 2 bridges over it!"), score(&model, like));
    assert!(perplexity(" -- ").is_infinite());
}

#[test]
fn a_model_does_not_depend_on_threads_and_comes_back_from_its_file() {
    let texts = texts(300, 200);
    let settings = Training { order: 4, ..Training::default() };
    let model = trained(&texts, settings);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert_eq!(pool.install(|| trained(&texts, settings)), model);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model");
    let bytes = model.encode();
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(NgramModel::open(&path).unwrap(), model);
    let refused = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        NgramModel::open(&path).unwrap_err().to_string()
    };
    assert!(refused(&bytes[..bytes.len() - 8]).contains("truncated or altered"));
    assert!(
        refused(&[&bytes[..bytes.len() - 1], &[bytes[bytes.len() - 1] ^ 1]].concat()).contains("altered")
    );
    assert!(refused(b"tempacls").contains("not an n-gram model"));
}

#[test]
fn settings_and_texts_that_cannot_be_used_are_refused() {
    let refused = |texts: &[&str], settings: Training| {
        train(texts, &settings, &Monitor::default()).unwrap_err().to_string()
    };
    let settings = Training::default();
    assert_eq!(refused(&["a b"], Training { order: 7, ..settings }), "order must be 1 to 6, got 7");
    assert_eq!(refused(&["a b"], Training { order: 0, ..settings }), "order must be 1 to 6, got 0");
    let zero = Training { min_word_count: 0, ..settings };
    assert_eq!(refused(&["a b"], zero), "min_word_count must be at least 1, got 0");
    assert_eq!(refused(&["--", ""], settings), "the 2 texts to train on have no words");
    assert_eq!(refused(&[], settings), "the 0 texts to train on have no words");
}

#[test]
fn a_cancelled_training_stops() {
    let monitor = Monitor::default();
    monitor.cancel();
    assert!(matches!(train(&["a b c"], &Training::default(), &monitor), Err(crate::Error::Interrupted)));
}
