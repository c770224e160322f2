//! One spelling, and quality rules.

use std::borrow::Cow;

use super::{Current, Outcome, Step, StepWorker};
use crate::quality::{Judge, RULES, Thresholds};

/// Normalises and applies the quality rules.
#[derive(Debug, Clone, Copy)]
pub struct Clean {
    /// Of each rule.
    pub thresholds: Thresholds,
}

struct Cleaner<'a> {
    thresholds: &'a Thresholds,
    judge: Judge,
}

impl Step for Clean {
    fn name(&self) -> &'static str {
        "clean"
    }

    fn worker(&self) -> Box<dyn StepWorker + '_> {
        Box::new(Cleaner { thresholds: &self.thresholds, judge: Judge::default() })
    }
}

impl StepWorker for Cleaner<'_> {
    fn apply(&mut self, document: &Current<'_>) -> Outcome {
        let verdict = self.judge.judge(document.text, self.thresholds);
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
}
