//! Quality rules: a name, what is measured, and the value beyond which a text is rejected.
//!
//! The thresholds are those of Gopher (Rae et al. 2021), C4 (Raffel et al. 2020), `RefinedWeb` (Penedo et al. 2023) and
//! `FineWeb` (Penedo et al. 2024) where a rule is theirs. Rules are tried in the order of [`RULES`], cheap ones first; the first that
//! rejects is the verdict.

use std::cell::OnceCell;

use super::counts::Counts;
use super::lines::Lines;
use super::ngrams::{NgramRepeats, ngram_repeats};

/// A text and what has been measured on it so far: each group of measures when it is first asked for.
struct Page<'a> {
    text: &'a str,
    counts: OnceCell<Counts>,
    lines: OnceCell<Lines>,
    ngrams: OnceCell<NgramRepeats>,
}

impl<'a> Page<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, counts: OnceCell::new(), lines: OnceCell::new(), ngrams: OnceCell::new() }
    }

    fn counts(&self) -> &Counts {
        self.counts.get_or_init(|| Counts::of(self.text))
    }

    fn lines(&self) -> &Lines {
        self.lines.get_or_init(|| Lines::of(self.text))
    }

    fn ngrams(&self) -> &NgramRepeats {
        self.ngrams.get_or_init(|| ngram_repeats(self.text))
    }
}

/// On which side of its threshold a measure is accepted; the threshold itself is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// Smaller values are rejected.
    AtLeast,
    /// Larger values are rejected.
    AtMost,
}

/// One rule.
#[derive(Clone, Copy)]
pub struct Rule {
    /// Its name in reports and settings.
    pub name: &'static str,
    /// Which values it accepts.
    pub bound: Bound,
    /// The usual threshold.
    pub default: f64,
    measure: fn(&Page<'_>) -> f64,
}

/// The rules in the order in which they are tried.
pub const RULES: [Rule; 31] = [
    at_least("min_chars", 100.0, |page| page.counts().chars as f64),
    at_least("min_words", 50.0, |page| page.counts().words as f64),
    at_most("max_words", 100_000.0, |page| page.counts().words as f64),
    // Both are about scripts with spaces and pass a text that has few such words.
    at_least("min_mean_word_length", 3.0, |page| mean_word_length(page).unwrap_or(f64::INFINITY)),
    at_most("max_mean_word_length", 10.0, |page| mean_word_length(page).unwrap_or(0.0)),
    at_most("max_symbol_ratio", 0.1, |page| ratio(page.counts().symbols, page.counts().words)),
    at_least("min_alphabetic_words", 0.8, |page| ratio(page.counts().alphabetic_words, page.counts().words)),
    at_least("min_stop_words", 2.0, |page| f64::from(page.counts().stop_words())),
    at_least("min_sentences", 3.0, |page| page.counts().sentences as f64),
    at_most("max_braces", 0.0, |page| page.counts().braces as f64),
    at_most("max_top_letter", 0.4, |page| ratio(page.counts().top_letter, page.counts().letters)),
    at_most("max_repeated_chars", 0.2, |page| ratio(page.counts().repeated, page.counts().visible)),
    at_most("max_bullet_lines", 0.9, |page| ratio(page.lines().bullet, page.lines().total)),
    at_most("max_ellipsis_lines", 0.3, |page| ratio(page.lines().ellipsis, page.lines().total)),
    at_least("min_ended_lines", 0.12, |page| ratio(page.lines().ended, page.lines().total)),
    at_most("max_short_lines", 0.67, |page| ratio(page.lines().short, page.lines().total)),
    at_most("max_noise_words", 0.05, |page| ratio(page.lines().noise_words, page.counts().words)),
    at_most("max_lorem_ipsum", 0.0, |page| lorem_ipsum(page.text)),
    at_most("max_duplicate_lines", 0.3, |page| page.lines().line_repeats.pieces),
    at_most("max_duplicate_line_chars", 0.1, |page| page.lines().line_repeats.chars),
    at_most("max_duplicate_paragraphs", 0.3, |page| page.lines().paragraph_repeats.pieces),
    at_most("max_duplicate_paragraph_chars", 0.2, |page| page.lines().paragraph_repeats.chars),
    at_most("max_top_2gram", 0.2, |page| page.ngrams().top[0]),
    at_most("max_top_3gram", 0.18, |page| page.ngrams().top[1]),
    at_most("max_top_4gram", 0.16, |page| page.ngrams().top[2]),
    at_most("max_duplicate_5gram", 0.15, |page| page.ngrams().duplicate[0]),
    at_most("max_duplicate_6gram", 0.14, |page| page.ngrams().duplicate[1]),
    at_most("max_duplicate_7gram", 0.13, |page| page.ngrams().duplicate[2]),
    at_most("max_duplicate_8gram", 0.12, |page| page.ngrams().duplicate[3]),
    at_most("max_duplicate_9gram", 0.11, |page| page.ngrams().duplicate[4]),
    at_most("max_duplicate_10gram", 0.10, |page| page.ngrams().duplicate[5]),
];

/// The threshold of each rule, in the order of [`RULES`]. Measures are 0 or more, so a least value of 0 or a
/// greatest of infinity switches a rule off.
pub type Thresholds = [f64; RULES.len()];

/// Why a text was rejected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rejection {
    /// Place of the rule in [`RULES`].
    pub rule: usize,
    /// What it measured.
    pub value: f64,
}

impl Rule {
    /// The threshold that accepts everything.
    pub fn off(&self) -> f64 {
        match self.bound {
            Bound::AtLeast => 0.0,
            Bound::AtMost => f64::INFINITY,
        }
    }

    fn is_off(&self, threshold: f64) -> bool {
        match self.bound {
            Bound::AtLeast => threshold <= 0.0,
            Bound::AtMost => threshold.is_infinite(),
        }
    }

    fn accepts(&self, value: f64, threshold: f64) -> bool {
        match self.bound {
            Bound::AtLeast => value >= threshold,
            Bound::AtMost => value <= threshold,
        }
    }
}

/// What each rule measures on a text in its normal form.
pub fn measure(text: &str) -> Thresholds {
    let page = Page::new(text);
    RULES.map(|rule| (rule.measure)(&page))
}

/// The first rule that rejects a text, which should be normalised before.
pub fn verdict(text: &str, thresholds: &Thresholds) -> Option<Rejection> {
    let page = Page::new(text);
    RULES.iter().zip(thresholds).enumerate().find_map(|(rule, (definition, &threshold))| {
        if definition.is_off(threshold) {
            return None;
        }
        let value = (definition.measure)(&page);
        (!definition.accepts(value, threshold)).then_some(Rejection { rule, value })
    })
}

const fn at_least(name: &'static str, default: f64, measure: fn(&Page<'_>) -> f64) -> Rule {
    Rule { name, bound: Bound::AtLeast, default, measure }
}

const fn at_most(name: &'static str, default: f64, measure: fn(&Page<'_>) -> f64) -> Rule {
    Rule { name, bound: Bound::AtMost, default, measure }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn mean_word_length(page: &Page<'_>) -> Option<f64> {
    let counts = page.counts();
    let is_spaced = counts.spaced_words > 0 && counts.spaced_words * 2 >= counts.words;
    is_spaced.then(|| ratio(counts.spaced_chars, counts.spaced_words))
}

/// Instances of the filler text that stands where a page has no content yet (C4).
fn lorem_ipsum(text: &str) -> f64 {
    let (bytes, needle) = (text.as_bytes(), b"lorem ipsum");
    let starts = (0..bytes.len()).filter(|&at| bytes[at] | 0x20 == needle[0]);
    let is_here =
        |at: &usize| bytes.get(*at..at + needle.len()).is_some_and(|part| part.eq_ignore_ascii_case(needle));
    starts.filter(is_here).count() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usual() -> Thresholds {
        RULES.map(|rule| rule.default)
    }

    fn off() -> Thresholds {
        RULES.map(|rule| rule.off())
    }

    fn rejected_by(text: &str, thresholds: &Thresholds) -> Option<&'static str> {
        verdict(text, thresholds).map(|rejection| RULES[rejection.rule].name)
    }

    #[test]
    fn ordinary_prose_passes_every_rule() {
        let prose = "The river begins in the hills above the town and runs to the sea through fields of barley. \
            In spring it floods the lower meadows, which is why no house stands there. Farmers have kept the banks \
            with willows since the days of their grandparents, and children learn to swim below the old mill.\n\n\
            Two bridges cross it. The older one was built of grey stone by a mason whose name nobody remembers; \
            the newer carries the railway. Trains stop at the station only twice a day.";
        assert_eq!(rejected_by(prose, &usual()), None);
    }

    /// Lecture L4: posts of thousands of letters M in mixed case, which made the loss of OLMo spike.
    #[test]
    fn a_page_of_thousands_of_m_is_rejected_by_the_rules_on_characters_alone() {
        let words = (0..800).map(|i| ["mMmM", "MMMMMM", "Mm", "mmmmM"][i % 4]);
        let page = words.collect::<Vec<_>>().join(" ");
        for name in ["max_top_letter", "max_repeated_chars"] {
            let only = RULES.map(|rule| if rule.name == name { rule.default } else { rule.off() });
            assert_eq!(rejected_by(&page, &only), Some(name));
        }
    }

    #[test]
    fn the_first_rule_in_the_table_gives_the_verdict_and_the_threshold_itself_is_accepted() {
        let mut thresholds = off();
        assert_eq!(verdict("", &thresholds), None);
        thresholds[1] = 2.0;
        assert_eq!(verdict("two words", &thresholds), None);
        assert_eq!(verdict("one", &thresholds), Some(Rejection { rule: 1, value: 1.0 }));
        thresholds[0] = 10.0;
        assert_eq!(verdict("one", &thresholds), Some(Rejection { rule: 0, value: 3.0 }));
    }
}
