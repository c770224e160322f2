//! Which texts are worth training on: rules, each a name, a measure and a threshold.
//!
//! The measures are taken on texts in the normal form of [`crate::text::normalize`], whose only white space is the
//! space, the tab and the line feed.

mod counts;
mod edits;
mod judge;
mod letters;
mod lines;
mod ngrams;
mod page;
mod rules;
mod runs;
mod stop_words;

pub use edits::{EDITS, Edit, Edits};
pub use judge::{Judge, Verdict};
pub use rules::{Bound, RULES, Rejection, Rule, Thresholds};

/// A part of a whole, in 0..=1.
fn share(part: u64, whole: u64) -> f64 {
    // Instances of one n-gram may overlap, so the count of their characters may exceed the text.
    if whole == 0 { 0.0 } else { (part as f64 / whole as f64).min(1.0) }
}
