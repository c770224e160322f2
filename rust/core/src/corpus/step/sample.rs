//! A share of the documents.

use std::borrow::Cow;

use xxhash_rust::xxh3::xxh3_64;

use super::{Current, Outcome, Step, StepWorker};

/// Takes a share of the documents, chosen by the hash of their text.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Between 0 and 1.
    pub share: f64,
}

impl Step for Sample {
    fn name(&self) -> &'static str {
        "sample"
    }

    fn worker(&self) -> Box<dyn StepWorker + '_> {
        Box::new(*self)
    }
}

impl StepWorker for Sample {
    fn apply(&mut self, document: &Current<'_>) -> Outcome {
        if (xxh3_64(document.text.as_bytes()) as f64) < self.share * 2f64.powi(64) {
            return Outcome::Keep;
        }
        Outcome::Drop { rule: Cow::Borrowed("sample"), reason: format!("not in the share of {}", self.share) }
    }
}
