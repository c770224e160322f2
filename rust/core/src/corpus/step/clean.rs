//! One spelling, and quality rules.

use std::borrow::Cow;

use super::{Current, Findings, Outcome, Step, StepWorker};
use crate::quality::{EDITS, Edits, Judge, RULES, Thresholds};

/// Normalises, takes out lines and applies the quality rules.
#[derive(Debug, Clone, Copy)]
pub struct Clean {
    /// Which lines are taken out.
    pub edits: Edits,
    /// Of each rule.
    pub thresholds: Thresholds,
}

struct Cleaner<'a> {
    thresholds: &'a Thresholds,
    judge: Judge,
    /// Bytes that each edit took out.
    removed: [u64; EDITS.len()],
}

impl Step for Clean {
    fn name(&self) -> &'static str {
        "clean"
    }

    fn worker(&self) -> Box<dyn StepWorker + '_> {
        Box::new(Cleaner {
            thresholds: &self.thresholds,
            judge: Judge::with_edits(self.edits),
            removed: [0; EDITS.len()],
        })
    }
}

impl StepWorker for Cleaner<'_> {
    fn apply(&mut self, document: &Current<'_>) -> Outcome {
        let verdict = self.judge.judge(document.text, self.thresholds);
        if verdict.rejection.is_none() {
            for (sum, removed) in self.removed.iter_mut().zip(verdict.removed) {
                *sum += removed;
            }
        }
        match (verdict.rejection, verdict.text) {
            (Some(rejection), _) => Outcome::Drop {
                rule: Cow::Borrowed(RULES[rejection.rule].name),
                reason: format!(
                    "{:.4}, the threshold is {}",
                    rejection.value, self.thresholds[rejection.rule]
                ),
            },
            (None, Cow::Owned(text)) => Outcome::Rewrite(text),
            (None, Cow::Borrowed(text)) if text.len() < document.text.len() => {
                Outcome::Rewrite(text.to_owned())
            }
            (None, Cow::Borrowed(_)) => Outcome::Keep,
        }
    }

    fn findings(self: Box<Self>) -> Findings {
        let removed = EDITS.iter().map(|edit| edit.name).zip(self.removed);
        let edited_bytes = removed.filter(|&(_, removed)| removed > 0).collect();
        Findings { edited_bytes, ..Findings::default() }
    }
}
