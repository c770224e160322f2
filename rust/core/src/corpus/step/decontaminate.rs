//! Evaluation sets.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;

use super::{Current, Findings, Outcome, Step, StepWorker};
use crate::dedup::{EvalItems, without};

/// Keeps the items of evaluation sets out.
#[derive(Debug)]
pub struct Decontaminate {
    /// What is looked for.
    pub items: EvalItems,
    /// The task of each item, and its name in reports.
    pub names: Vec<(String, String)>,
    /// Cut the items out instead of dropping the document.
    pub is_cut: bool,
    /// Words that are cut on both sides too.
    pub margin: usize,
}

/// Documents shown for each item.
const MAX_EXAMPLES: usize = 3;
const EXAMPLE_CHARS: usize = 160;

#[derive(Debug, Default, Serialize)]
struct TaskHits<'a> {
    /// Those that have an item of the task or more.
    documents: u64,
    hits: BTreeMap<&'a str, ItemHits>,
}

#[derive(Debug, Default, Serialize)]
struct ItemHits {
    documents: u64,
    span_words: usize,
    share: f64,
    examples: Vec<BTreeMap<&'static str, String>>,
}

struct Decontaminator<'a> {
    step: &'a Decontaminate,
    hashes: Vec<u64>,
    tasks: BTreeMap<&'a str, TaskHits<'a>>,
}

impl Step for Decontaminate {
    fn name(&self) -> &'static str {
        "decontaminate"
    }

    fn worker(&self) -> Box<dyn StepWorker + '_> {
        Box::new(Decontaminator { step: self, hashes: Vec::new(), tasks: BTreeMap::new() })
    }
}

impl StepWorker for Decontaminator<'_> {
    fn apply(&mut self, document: &Current<'_>) -> Outcome {
        let step = self.step;
        let verdict = step.items.judge(document.text, step.margin, &mut self.hashes);
        // The longest span decides which item the document is dropped for, the first of several.
        let Some(longest) = verdict.items.iter().rev().max_by_key(|found| found.span_words) else {
            return Outcome::Keep;
        };
        let name = |item: usize| step.names.get(item).map_or(("", ""), |(task, name)| (task, name));
        let mut tasks: Vec<&str> = verdict.items.iter().map(|found| name(found.item).0).collect();
        tasks.dedup();
        for task in tasks {
            self.tasks.entry(task).or_default().documents += 1;
        }
        for found in &verdict.items {
            let (task, name) = name(found.item);
            let hits = self.tasks.entry(task).or_default().hits.entry(name).or_default();
            hits.documents += 1;
            hits.span_words = hits.span_words.max(found.span_words);
            hits.share = hits.share.max(found.share);
            if hits.examples.len() < MAX_EXAMPLES {
                let shared = document.text[found.span.clone()].chars().take(EXAMPLE_CHARS).collect();
                let reason =
                    format!("{} words, {:.0}% of the n-grams", found.span_words, found.share * 100.0);
                hits.examples
                    .push([("source", document.source()), ("reason", reason), ("text", shared)].into());
            }
        }
        if step.is_cut {
            let rest = without(document.text, &verdict.cuts);
            if !rest.trim().is_empty() {
                return Outcome::Rewrite(rest);
            }
        }
        let (task, name) = name(longest.item);
        Outcome::Drop {
            rule: Cow::Owned(task.to_owned()),
            reason: format!("{} words of {name}", longest.span_words),
        }
    }

    fn findings(self: Box<Self>) -> Findings {
        let plain = |(task, hits)| (String::from(task), serde_json::to_value(hits).unwrap_or_default());
        Findings { tasks: self.tasks.into_iter().map(plain).collect(), ..Findings::default() }
    }
}
