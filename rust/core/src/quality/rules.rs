//! Quality rules: a name, what is measured, and the value beyond which a text is rejected.
//!
//! The thresholds are those of Gopher (Rae et al. 2021), C4 (Raffel et al. 2020), `RefinedWeb` (Penedo et al. 2023) and
//! `FineWeb` (Penedo et al. 2024) where a rule is theirs. Rules are tried in the order of [`RULES`], cheap ones first; the first that
//! rejects is the verdict.

use super::page::Page;

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
    pub(super) measure: fn(&mut Page<'_>) -> f64,
    /// A value that is sooner known, and rejected if the measure is.
    pub(super) bound_of_measure: Option<fn(&mut Page<'_>) -> f64>,
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
    // Off, as in FineWeb: it leaves out nearly all code.
    at_most("max_braces", f64::INFINITY, |page| page.counts().braces as f64),
    at_most("max_top_letter", 0.4, |page| ratio(page.top_letter(), page.counts().letters))
        .bounded(|page| ratio(page.counts().top_letter_bound, page.counts().letters)),
    at_most("max_repeated_chars", 0.2, |page| ratio(page.counts().repeated, page.counts().visible)),
    at_most("max_bullet_lines", 0.9, |page| ratio(page.lines().bullet, page.lines().total)),
    at_most("max_ellipsis_lines", 0.3, |page| ratio(page.lines().ellipsis, page.lines().total)),
    at_least("min_ended_lines", 0.12, |page| ratio(page.lines().ended, page.lines().total)),
    at_most("max_short_lines", 0.67, |page| ratio(page.lines().short, page.lines().total)),
    at_most("max_noise_words", 0.05, |page| ratio(page.lines().noise_words, page.counts().words)),
    at_most("max_lorem_ipsum", 0.0, |page| page.counts().lorem_ipsum as f64),
    at_most("max_duplicate_lines", 0.3, |page| page.lines().line_repeats.pieces),
    at_most("max_duplicate_line_chars", 0.1, |page| page.lines().line_repeats.chars),
    at_most("max_duplicate_paragraphs", 0.3, |page| page.lines().paragraph_repeats.pieces),
    at_most("max_duplicate_paragraph_chars", 0.2, |page| page.lines().paragraph_repeats.chars),
    at_most("max_top_2gram", 0.2, |page| page.top()[0]).bounded(|page| page.bounds().top[0]),
    at_most("max_top_3gram", 0.18, |page| page.top()[1]).bounded(|page| page.bounds().top[1]),
    at_most("max_top_4gram", 0.16, |page| page.top()[2]).bounded(|page| page.bounds().top[2]),
    at_most("max_duplicate_5gram", 0.15, |page| page.duplicate()[0])
        .bounded(|page| page.bounds().duplicate[0]),
    at_most("max_duplicate_6gram", 0.14, |page| page.duplicate()[1])
        .bounded(|page| page.bounds().duplicate[1]),
    at_most("max_duplicate_7gram", 0.13, |page| page.duplicate()[2])
        .bounded(|page| page.bounds().duplicate[2]),
    at_most("max_duplicate_8gram", 0.12, |page| page.duplicate()[3])
        .bounded(|page| page.bounds().duplicate[3]),
    at_most("max_duplicate_9gram", 0.11, |page| page.duplicate()[4])
        .bounded(|page| page.bounds().duplicate[4]),
    at_most("max_duplicate_10gram", 0.10, |page| page.duplicate()[5])
        .bounded(|page| page.bounds().duplicate[5]),
];

/// The threshold of each rule, in the order of [`RULES`]. Measures are 0 or more, so a least value of 0 or a
/// greatest of infinity switches a rule off.
pub type Thresholds = [f64; RULES.len()];

/// Place in [`RULES`] of the rule on stop words.
pub(super) const STOP_WORDS: usize = 7;
/// Place of the rule on words in lines that are not prose.
pub(super) const NOISE_WORDS: usize = 16;

/// Why a text was rejected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rejection {
    /// Place of the rule in [`RULES`].
    pub rule: usize,
    /// What it measured.
    pub value: f64,
}

impl Rule {
    const fn bounded(self, bound: fn(&mut Page<'_>) -> f64) -> Self {
        Self { bound_of_measure: Some(bound), ..self }
    }

    /// The threshold that accepts everything.
    pub fn off(&self) -> f64 {
        match self.bound {
            Bound::AtLeast => 0.0,
            Bound::AtMost => f64::INFINITY,
        }
    }

    pub(super) fn is_off(&self, threshold: f64) -> bool {
        match self.bound {
            Bound::AtLeast => threshold <= 0.0,
            Bound::AtMost => threshold.is_infinite(),
        }
    }

    pub(super) fn accepts(&self, value: f64, threshold: f64) -> bool {
        match self.bound {
            Bound::AtLeast => value >= threshold,
            Bound::AtMost => value <= threshold,
        }
    }
}

const fn at_least(name: &'static str, default: f64, measure: fn(&mut Page<'_>) -> f64) -> Rule {
    Rule { name, bound: Bound::AtLeast, default, measure, bound_of_measure: None }
}

const fn at_most(name: &'static str, default: f64, measure: fn(&mut Page<'_>) -> f64) -> Rule {
    Rule { name, bound: Bound::AtMost, default, measure, bound_of_measure: None }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn mean_word_length(page: &mut Page<'_>) -> Option<f64> {
    let counts = page.counts();
    let is_spaced = counts.spaced_words > 0 && counts.spaced_words * 2 >= counts.words;
    is_spaced.then(|| ratio(counts.spaced_chars, counts.spaced_words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_have_their_places() {
        assert_eq!(RULES[STOP_WORDS].name, "min_stop_words");
        assert_eq!(RULES[NOISE_WORDS].name, "max_noise_words");
    }
}
