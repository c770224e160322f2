//! What may be done to each document: steps, one after the other.

mod classify;
mod clean;
mod decontaminate;
mod mask;
mod perplexity;
mod repair;
mod sample;
mod unwanted;

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value;

pub use classify::Classify;
pub use clean::Clean;
pub use decontaminate::Decontaminate;
pub use mask::Mask;
pub use perplexity::Perplexity;
pub use repair::Repair;
pub use sample::Sample;
pub use unwanted::{DropPhrases, DropUrls, MaskPhrases};

/// A document on its way through the steps.
#[derive(Debug, Clone, Copy)]
pub struct Current<'a> {
    /// Its text as the steps before left it.
    pub text: &'a str,
    /// Its URL or id, empty if it has none.
    pub name: &'a str,
    /// The file that it is in.
    pub file: &'a str,
    /// Where it starts in the file.
    pub offset: u64,
}

impl Current<'_> {
    /// Where it comes from, for reports: its name, or the place in the file.
    pub fn source(&self) -> String {
        if self.name.is_empty() { format!("{}@{}", self.file, self.offset) } else { self.name.to_owned() }
    }
}

/// What a step makes of a document.
#[derive(Debug)]
pub enum Outcome {
    /// It goes on as it is.
    Keep,
    /// It goes on with this text.
    Rewrite(String),
    /// A rule rejects it.
    Drop {
        /// The name of the rule.
        rule: Cow<'static, str>,
        /// What it measured, for those who look at examples.
        reason: String,
    },
}

/// A step of the funnel, shared by all threads.
pub trait Step: Send + Sync {
    /// Its name in the report.
    fn name(&self) -> &str;

    /// What one thread uses for the documents of one partition.
    fn worker(&self) -> Box<dyn StepWorker + '_>;
}

/// A step at work on one partition. What it makes of a document depends on the document alone.
pub trait StepWorker: Send {
    /// Judges or rewrites a document.
    fn apply(&mut self, document: &Current<'_>) -> Outcome;

    /// What it found besides.
    fn findings(self: Box<Self>) -> Findings {
        Findings::default()
    }
}

/// What steps found besides, for the report.
#[derive(Debug, Default)]
pub struct Findings {
    /// Items of evaluation sets, by task.
    pub tasks: BTreeMap<String, Value>,
    /// Bytes of lines that were taken out of documents that went on, by edit.
    pub edited_bytes: BTreeMap<&'static str, u64>,
    /// Places where something was replaced, by kind.
    pub replaced: BTreeMap<&'static str, u64>,
}
