//! Near duplicates against brute force, in any order, by any number of threads.

use super::*;
use crate::dedup::{jaccard, shingle_set};
use crate::rng;

fn found<T: AsRef<str> + Sync>(texts: &[T], options: &NearOptions) -> Vec<usize> {
    near_duplicates(texts, options, Keep::First, &Monitor::default()).unwrap().kept
}

/// Texts of random words, each followed by copies with more and more words replaced.
fn corpus(num_texts: u64, copies: u64) -> Vec<String> {
    let word = |stream: u64, i: u64| format!("w{}", rng::below(5000, 1, stream, i));
    let mut texts = Vec::new();
    for text in 0..num_texts {
        let len = 40 + rng::below(200, 2, 0, text);
        for copy in 0..=copies {
            let changed = |i: u64| rng::uniform(3, text * 100 + copy, i) < 0.02 * copy as f64;
            let words: Vec<_> = (0..len)
                .map(|i| if changed(i) { word(1 << 40 | text << 8 | copy, i) } else { word(text, i) })
                .collect();
            texts.push(words.join(" "));
        }
    }
    texts
}

/// The definition of the result with every pair compared exactly.
fn brute_force(texts: &[String], options: &NearOptions) -> Vec<usize> {
    let sets: Vec<Vec<u64>> = texts.iter().map(|text| shingle_set(text, options.shingler)).collect();
    let mut first: Vec<usize> = Vec::new();
    for (i, set) in sets.iter().enumerate() {
        let original = (0..i).find(|&j| first[j] == j && jaccard(set, &sets[j]) >= options.threshold);
        first.push(original.unwrap_or(i));
    }
    first
}

#[test]
fn enough_bands_give_the_brute_force_result() {
    let (texts, options) =
        (corpus(60, 4), NearOptions { bands: Bands { bands: 64, rows: 3 }, ..NearOptions::default() });
    let expected = brute_force(&texts, &options);
    assert_eq!(found(&texts, &options), expected);
    assert!(expected.iter().enumerate().filter(|&(i, &first)| i != first).count() > 50);
}

#[test]
fn one_and_four_threads_agree() {
    let (texts, options) = (corpus(100, 5), NearOptions::default());
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| near_duplicates(&texts, &options, Keep::Longest, &Monitor::default()).unwrap())
    };
    assert_eq!(run(1), run(4));
}

#[test]
fn the_kept_texts_do_not_depend_on_their_order() {
    let (mut texts, options) = (corpus(60, 4), NearOptions::default());
    texts.extend_from_within(10..20);
    let run = |texts: &[String], keep: Keep<'_>| {
        let found = near_duplicates(texts, &options, keep, &Monitor::default()).unwrap();
        let mut kept: Vec<String> = (0..texts.len()).map(|i| texts[found.kept[i]].clone()).collect();
        kept.sort_unstable();
        let mut clusters: Vec<Vec<&str>> = vec![Vec::new(); texts.len()];
        (0..texts.len()).for_each(|i| clusters[found.cluster[i]].push(&texts[i]));
        for cluster in &mut clusters {
            cluster.sort_unstable();
        }
        clusters.sort_unstable();
        (kept, clusters.concat().join("|"))
    };
    let scores = |texts: &[String]| texts.iter().map(|text| (text.len() % 7) as f64).collect::<Vec<_>>();
    let first = [run(&texts, Keep::Longest), run(&texts, Keep::Best(&scores(&texts)))];
    texts.reverse();
    texts.rotate_left(33);
    assert_eq!([run(&texts, Keep::Longest), run(&texts, Keep::Best(&scores(&texts)))], first);
}

#[test]
fn clusters_are_what_links_connect() {
    let (texts, options) =
        (corpus(40, 6), NearOptions { bands: Bands { bands: 64, rows: 3 }, ..NearOptions::default() });
    let sets: Vec<_> = texts.iter().map(|text| shingle_set(text, options.shingler)).collect();
    let mut clusters = UnionFind::new(texts.len() as u32);
    for i in 0..texts.len() {
        (0..i)
            .filter(|&j| jaccard(&sets[i], &sets[j]) >= options.threshold)
            .for_each(|j| clusters.join(i as u32, j as u32));
    }
    let found = near_duplicates(&texts, &options, Keep::Longest, &Monitor::default()).unwrap();
    let expected: Vec<usize> = (0..texts.len() as u32).map(|text| clusters.find(text) as usize).collect();
    assert_eq!(found.cluster, expected);
}

#[test]
fn many_copies_of_one_page_take_linear_time() {
    let page = corpus(1, 0).remove(0);
    let texts: Vec<String> = (0..20_000).map(|i| format!("{page} {page} {page} {i}")).collect();
    let found = found(&texts, &NearOptions::default());
    assert!(found.iter().all(|&kept| kept == 0));
}

#[test]
fn a_chain_keeps_the_texts_that_are_unlike_the_first() {
    let words: Vec<String> = (0..60).map(|i| format!("w{i}")).collect();
    let texts: Vec<String> = (0..6).map(|step| words[step * 4..40 + step * 4 - step].join(" ")).collect();
    let options =
        NearOptions { threshold: 0.7, bands: Bands { bands: 64, rows: 2 }, ..NearOptions::default() };
    let found = found(&texts, &options);
    assert_eq!(found, brute_force(&texts, &options));
    assert!(found.iter().enumerate().filter(|&(i, &first)| i == first).count() > 1);
}

#[test]
fn texts_without_words_are_all_kept() {
    let found = found(&["--", "--", "", "!"], &NearOptions::default());
    assert_eq!(found, [0, 1, 2, 3]);
}

#[test]
fn options_out_of_range_are_refused() {
    let good = NearOptions::default();
    for options in [
        NearOptions { threshold: 0.0, ..good },
        NearOptions { threshold: f64::NAN, ..good },
        NearOptions { shingler: Shingler { ngram: 0, ..good.shingler }, ..good },
        NearOptions { bands: Bands { bands: 0, rows: 8 }, ..good },
        NearOptions { bands: Bands { bands: 100, rows: 100 }, ..good },
    ] {
        assert!(near_duplicates(&[""], &options, Keep::First, &Monitor::default()).is_err());
    }
    for scores in [&[][..], &[f64::NAN]] {
        assert!(near_duplicates(&[""], &good, Keep::Best(scores), &Monitor::default()).is_err());
    }
}
