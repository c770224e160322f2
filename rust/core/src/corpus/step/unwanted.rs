//! Lists of the user: phrases in texts, domains and URLs of pages.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::{Current, Findings, Outcome, Step, StepWorker};
use crate::unwanted::{Phrases, Scratch, Urls};

/// Drops documents whose name is a page of a list.
#[derive(Debug, Clone)]
pub struct DropUrls {
    /// The list.
    pub urls: Urls,
}

impl Step for DropUrls {
    fn name(&self) -> &'static str {
        "unwanted urls"
    }

    fn worker(&self) -> Box<dyn StepWorker + '_> {
        Box::new(UrlDropper(&self.urls))
    }
}

struct UrlDropper<'a>(&'a Urls);

impl StepWorker for UrlDropper<'_> {
    fn apply(&mut self, document: &Current<'_>) -> Outcome {
        match self.0.find(document.name) {
            None => Outcome::Keep,
            Some(entry) => {
                Outcome::Drop { rule: Cow::Borrowed("unwanted_url"), reason: format!("below {entry}") }
            }
        }
    }
}

/// Drops documents that have phrases of a list.
#[derive(Debug)]
pub struct DropPhrases {
    /// The list.
    pub phrases: Phrases,
    /// Most of them in a document that stays.
    pub max_phrases: f64,
    /// Largest share of its words that are in phrases.
    pub max_share: f64,
}

struct PhraseDropper<'a> {
    step: &'a DropPhrases,
    scratch: Scratch,
}

impl Step for DropPhrases {
    fn name(&self) -> &'static str {
        "unwanted"
    }

    fn worker(&self) -> Box<dyn StepWorker + '_> {
        Box::new(PhraseDropper { step: self, scratch: Scratch::default() })
    }
}

impl StepWorker for PhraseDropper<'_> {
    fn apply(&mut self, document: &Current<'_>) -> Outcome {
        let (count, share) = self.step.phrases.measure(document.text, &mut self.scratch);
        let DropPhrases { max_phrases, max_share, .. } = *self.step;
        let (rule, reason) = if count as f64 > max_phrases {
            ("max_phrases", format!("{count}, the threshold is {max_phrases}"))
        } else if share > max_share {
            ("max_share", format!("{share:.4}, the threshold is {max_share}"))
        } else {
            return Outcome::Keep;
        };
        Outcome::Drop { rule: Cow::Borrowed(rule), reason }
    }
}

/// Replaces phrases of a list.
#[derive(Debug)]
pub struct MaskPhrases {
    /// The list.
    pub phrases: Phrases,
    /// What stands in their place.
    pub replacement: String,
}

struct PhraseMasker<'a> {
    step: &'a MaskPhrases,
    scratch: Scratch,
    count: u64,
}

impl Step for MaskPhrases {
    fn name(&self) -> &'static str {
        "unwanted"
    }

    fn worker(&self) -> Box<dyn StepWorker + '_> {
        Box::new(PhraseMasker { step: self, scratch: Scratch::default(), count: 0 })
    }
}

impl StepWorker for PhraseMasker<'_> {
    fn apply(&mut self, document: &Current<'_>) -> Outcome {
        match self.step.phrases.mask(document.text, &self.step.replacement, &mut self.scratch) {
            None => Outcome::Keep,
            Some((masked, count)) => {
                self.count += count as u64;
                Outcome::Rewrite(masked.to_owned())
            }
        }
    }

    fn findings(self: Box<Self>) -> Findings {
        Findings { replaced: BTreeMap::from([("phrase", self.count)]), ..Findings::default() }
    }
}
