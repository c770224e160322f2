use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::dedup::without;
use crate::text::spell_words;

/// The definition, by comparing all windows of strings: (item, words of the longest span, share, words covered).
fn reference(text: &str, items: &[String], overlap: Overlap) -> Vec<(usize, usize, f64, BTreeSet<usize>)> {
    let words = spell_words(text);
    let mut hits = Vec::new();
    for (number, item) in items.iter().enumerate() {
        let item = spell_words(item);
        if item.len() < overlap.min_words {
            continue;
        }
        let ngram = overlap.ngram.min(item.len());
        let (mut found, mut covered) = (BTreeSet::new(), BTreeSet::new());
        for (i, window) in words.windows(ngram).enumerate() {
            for (j, wanted) in item.windows(ngram).enumerate() {
                if window == wanted {
                    found.insert(j);
                    covered.extend(i..i + ngram);
                }
            }
        }
        let is_shared = |len: &usize| words.windows(*len).any(|a| item.windows(*len).any(|b| a == b));
        let longest = (1..=item.len()).rev().find(is_shared).unwrap_or(0);
        let share = found.len() as f64 / (item.len() - ngram + 1) as f64;
        if !found.is_empty() && longest >= overlap.min_span && share >= overlap.min_share {
            hits.push((number, longest, share, covered));
        }
    }
    hits
}

fn find(text: &str, items: &[String], overlap: Overlap) -> Verdict {
    EvalItems::new(items, overlap).unwrap().find(&[text], 0, &Monitor::default()).unwrap().remove(0)
}

fn sentences() -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop::sample::select(vec!["a ", "B ", "c, ", "café ", "CAFE\u{301} ", "漢", "字。", "\n", "d "]),
        0..40,
    )
    .prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn spans_are_those_of_all_windows(
        text in sentences(),
        items in prop::collection::vec(sentences(), 0..5),
        planted in any::<prop::sample::Index>(),
        ngram in 1..12usize,
        min_words in 1..12usize,
        min_span in 0..8usize,
        min_share in prop::sample::select(vec![0.0, 0.3, 1.0]),
    ) {
        let overlap = Overlap { ngram, min_words: min_words.min(ngram), min_span, min_share };
        let text = if items.is_empty() { text } else { format!("{text} {}", items[planted.index(items.len())]) };
        let verdict = find(&text, &items, overlap);
        let expected = reference(&text, &items, overlap);
        let places: Vec<Range<usize>> = word_ranges(&text).collect();
        prop_assert_eq!(verdict.items.len(), expected.len());
        let mut all = BTreeSet::new();
        for (found, (item, longest, share, covered)) in verdict.items.iter().zip(&expected) {
            prop_assert_eq!((found.item, found.span_words, found.share), (*item, *longest, *share));
            prop_assert_eq!(spell_words(&text[found.span.clone()]).len(), *longest);
            prop_assert_eq!(&found.words.iter().cloned().flatten().collect::<BTreeSet<_>>(), covered);
            all.extend(covered.iter().copied());
        }
        let kept: Vec<String> = (0..places.len())
            .filter(|place| !all.contains(place))
            .map(|place| spell_word(&text[places[place].clone()]).collect())
            .collect();
        // The words that a cut parts never grow together.
        let mut rest = String::new();
        let mut start = 0;
        for cut in &verdict.cuts {
            rest += &text[start..cut.start];
            rest.push(' ');
            start = cut.end;
        }
        rest += &text[start..];
        prop_assert_eq!(spell_words(&rest), kept);
    }
}

fn numbered(words: Range<usize>) -> String {
    words.map(|i| format!("w{i}")).collect::<Vec<_>>().join(" ")
}

#[test]
fn equal_hashes_of_other_words_are_no_hit() {
    let item = numbered(0..20);
    let mut items = EvalItems::new(&[&item], Overlap::default()).unwrap();
    let is_hit = |items: &EvalItems, text: &str| {
        !items.find(&[text], 0, &Monitor::default()).unwrap()[0].items.is_empty()
    };
    assert!(is_hit(&items, &item));
    // As if two words in the middle had the hashes of others: neither side of them has 13 words.
    items.items[0].words[9] = "another".into();
    items.items[0].words[10] = "one".into();
    assert!(!is_hit(&items, &item));
}

#[test]
fn thirteen_words_are_a_hit_and_twelve_are_not() {
    let items = [numbered(0..40), numbered(100..108), numbered(200..207)];
    for (text, expected) in [
        (numbered(5..18), vec![0]),
        (numbered(5..17), vec![]),
        (format!("x {} y", numbered(100..108).to_uppercase()), vec![1]),
        (numbered(100..107), vec![]),
        (numbered(200..207), vec![]),
        (format!("{} and {}", numbered(100..108), numbered(20..40)), vec![0, 1]),
    ] {
        let found = find(&text, &items, Overlap::default());
        assert_eq!(found.items.iter().map(|hit| hit.item).collect::<Vec<_>>(), expected, "{text}");
    }
}

#[test]
fn a_margin_takes_words_around_the_span() {
    let items = EvalItems::new(&[numbered(0..13)], Overlap::default()).unwrap();
    let text = format!("one two three. {} four, five six", numbered(0..13));
    let cut = |margin: usize| {
        let verdict = items.find(&[&text], margin, &Monitor::default()).unwrap().remove(0);
        without(&text, &verdict.cuts)
    };
    assert_eq!(cut(0), "one two three.  four, five six");
    assert_eq!(cut(2), "one  six");
    assert_eq!(cut(100), "");
}

#[test]
fn a_long_item_in_full_takes_linear_time() {
    let item = numbered(0..200_000);
    let found = find(&item, std::slice::from_ref(&item), Overlap::default());
    assert_eq!((found.items[0].span_words, found.items[0].share), (200_000, 1.0));
}

#[test]
fn settings_out_of_range_are_refused() {
    let base = Overlap::default();
    for overlap in [
        Overlap { ngram: 0, ..base },
        Overlap { ngram: 1025, ..base },
        Overlap { min_words: 0, ..base },
        Overlap { min_words: 14, ..base },
        Overlap { min_share: f64::NAN, ..base },
    ] {
        assert!(EvalItems::new(&["a"], overlap).is_err(), "{overlap:?}");
    }
}
