//! How surprising documents may be to a language model.

use std::borrow::Cow;

use super::{Current, Outcome, Step, StepWorker};
use crate::perplexity::{NgramModel, Scratch};

/// Drops documents whose perplexity is out of range.
#[derive(Debug)]
pub struct Perplexity {
    /// Predicts them.
    pub model: NgramModel,
    /// Documents below repeat what everyone writes.
    pub min: f64,
    /// Documents above are not written like those that the model was trained on.
    pub max: f64,
}

struct Judge<'a> {
    step: &'a Perplexity,
    scratch: Scratch,
}

impl Step for Perplexity {
    fn name(&self) -> &'static str {
        "perplexity"
    }

    fn worker(&self) -> Box<dyn StepWorker + '_> {
        Box::new(Judge { step: self, scratch: Scratch::default() })
    }
}

impl StepWorker for Judge<'_> {
    fn apply(&mut self, document: &Current<'_>) -> Outcome {
        let Perplexity { model, min, max } = self.step;
        let perplexity = model.score(document.text, &mut self.scratch).perplexity();
        let (rule, threshold) = match perplexity {
            low if low < *min => ("min_perplexity", min),
            high if high > *max => ("max_perplexity", max),
            _ => return Outcome::Keep,
        };
        let reason = format!("{perplexity:.1}, the threshold is {threshold}");
        Outcome::Drop { rule: Cow::Borrowed(rule), reason }
    }
}
