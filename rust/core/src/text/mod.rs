//! Text normalisation, words and quality rules.

mod fold;
mod kinds;
mod measure;
mod normalize;
mod repeats;
mod rules;
mod words;

pub use fold::fold;
pub use normalize::normalize;
pub(crate) use repeats::drop_unique;
pub use rules::{Bound, RULES, Rejection, Rule, Thresholds, verdict};
pub(crate) use words::mix;
pub use words::{Word, for_each_run, for_each_word, is_unspaced, spell_word, spell_words, word_ranges};
