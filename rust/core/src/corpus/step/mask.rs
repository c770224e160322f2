//! Personal data.

use std::collections::BTreeMap;

use super::{Current, Findings, Outcome, Step, StepWorker};
use crate::pii::{Kind, Span, mask};

/// Replaces personal data by placeholders.
#[derive(Debug, Clone)]
pub struct Mask {
    /// What is replaced.
    pub kinds: Vec<Kind>,
}

struct Masker<'a> {
    kinds: &'a [Kind],
    found: Vec<Span>,
    counts: BTreeMap<&'static str, u64>,
}

impl Step for Mask {
    fn name(&self) -> &'static str {
        "mask"
    }

    fn worker(&self) -> Box<dyn StepWorker + '_> {
        Box::new(Masker { kinds: &self.kinds, found: Vec::new(), counts: BTreeMap::new() })
    }
}

impl StepWorker for Masker<'_> {
    fn apply(&mut self, document: &Current<'_>) -> Outcome {
        let mut masked = String::new();
        if !mask(document.text, self.kinds, &mut self.found, &mut masked) {
            return Outcome::Keep;
        }
        for span in &self.found {
            *self.counts.entry(span.kind.name()).or_default() += 1;
        }
        Outcome::Rewrite(masked)
    }

    fn findings(self: Box<Self>) -> Findings {
        Findings { replaced: self.counts, ..Findings::default() }
    }
}
