//! Kinds of documents that a trained classifier tells apart.

use std::borrow::Cow;

use super::{Current, Outcome, Step, StepWorker};
use crate::classify::{Classifier, Scratch};

/// Drops documents that are not of the kinds that are wanted.
#[derive(Debug)]
pub struct Classify {
    /// Judges them.
    pub classifier: Classifier,
    /// Whether each label is wanted.
    pub is_wanted: Vec<bool>,
    /// Least probability that a document is of a wanted label, whichever it is.
    pub min_probability: f64,
}

struct Judge<'a> {
    step: &'a Classify,
    scratch: Scratch,
}

impl Step for Classify {
    fn name(&self) -> &'static str {
        "classify"
    }

    fn worker(&self) -> Box<dyn StepWorker + '_> {
        Box::new(Judge { step: self, scratch: Scratch::default() })
    }
}

impl StepWorker for Judge<'_> {
    fn apply(&mut self, document: &Current<'_>) -> Outcome {
        let Classify { classifier, is_wanted, min_probability } = self.step;
        let each = classifier.judge(document.text, &mut self.scratch);
        let wanted: f64 =
            each.iter().zip(is_wanted).filter(|&(_, &is_wanted)| is_wanted).map(|(value, _)| value).sum();
        // A sum of all is 1 but for rounding.
        if wanted >= *min_probability || is_wanted.iter().all(|&is_wanted| is_wanted) {
            return Outcome::Keep;
        }
        let best = each.iter().zip(classifier.labels()).max_by(|a, b| a.0.total_cmp(b.0));
        let best = best.map(|(value, label)| format!("; {label} has {value:.4}")).unwrap_or_default();
        let reason = format!("{wanted:.4}, the threshold is {min_probability}{best}");
        Outcome::Drop { rule: Cow::Borrowed("min_probability"), reason }
    }
}
