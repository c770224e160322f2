//! What happened to the documents of a partition, step by step: the numbers of the funnel report.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

/// Examples for each rule.
const MAX_EXAMPLES: usize = 3;
/// Problems that are described; all are counted.
const MAX_PROBLEMS: usize = 100;
/// Characters of a text that an example shows.
const EXAMPLE_CHARS: usize = 160;
/// Hosts that are listed, those of most documents.
const MAX_HOSTS: usize = 1000;

/// Documents and the bytes of their text.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Count {
    documents: u64,
    bytes: u64,
}

impl Count {
    fn add(&mut self, num_bytes: u64) {
        self.documents += 1;
        self.bytes += num_bytes;
    }
}

#[derive(Debug, Serialize)]
struct Example {
    source: String,
    reason: String,
    text: String,
}

#[derive(Debug, Default, Serialize)]
struct Dropped {
    #[serde(flatten)]
    count: Count,
    examples: Vec<Example>,
}

/// One step: what came in equals what was dropped and what went on.
#[derive(Debug, Default, Serialize)]
pub(super) struct Stage {
    name: String,
    input: Count,
    dropped: BTreeMap<String, Dropped>,
    /// Bytes by which documents became shorter, apart from edits.
    rewritten_bytes: i64,
    /// Bytes of lines that were taken out, by edit.
    edited_bytes: BTreeMap<&'static str, u64>,
    output: Count,
    /// Places where something was replaced, by kind.
    replaced: BTreeMap<&'static str, u64>,
    #[serde(skip)]
    pub(super) spent: Duration,
}

impl Stage {
    fn named(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// A document of `num_bytes` goes on with `left` bytes.
    pub(super) fn keep(&mut self, num_bytes: usize, left: usize) {
        self.input.add(num_bytes as u64);
        self.output.add(left as u64);
        self.rewritten_bytes += num_bytes as i64 - left as i64;
    }

    /// Adds what a step found besides.
    pub(super) fn note(
        &mut self,
        edited_bytes: BTreeMap<&'static str, u64>,
        replaced: BTreeMap<&'static str, u64>,
    ) {
        self.rewritten_bytes -= edited_bytes.values().sum::<u64>() as i64;
        (self.edited_bytes, self.replaced) = (edited_bytes, replaced);
    }

    /// A document is dropped.
    pub(super) fn drop(
        &mut self,
        rule: &str,
        num_bytes: u64,
        text: &str,
        source: impl FnOnce() -> String,
        reason: impl FnOnce() -> String,
    ) {
        self.input.add(num_bytes);
        if !self.dropped.contains_key(rule) {
            self.dropped.insert(rule.to_owned(), Dropped::default());
        }
        let Some(dropped) = self.dropped.get_mut(rule) else { return };
        dropped.count.add(num_bytes);
        if dropped.examples.len() < MAX_EXAMPLES {
            let text = text.chars().take(EXAMPLE_CHARS).collect();
            dropped.examples.push(Example { source: source(), reason: reason(), text });
        }
    }
}

/// How many documents there are of each size: the number `i` counts those of `2^i` bytes to below `2^(i + 1)`.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(super) struct Sizes(Vec<u64>);

impl Sizes {
    pub(super) fn add(&mut self, num_bytes: usize) {
        let bin = num_bytes.checked_ilog2().unwrap_or(0) as usize;
        if self.0.len() <= bin {
            self.0.resize(bin + 1, 0);
        }
        self.0[bin] += 1;
    }
}

/// A document that could not be read.
#[derive(Debug, Serialize)]
struct Problem {
    file: String,
    offset: u64,
    reason: String,
}

/// All about one partition.
#[derive(Debug, Default, Serialize)]
pub(super) struct Tally {
    pub(super) stages: Vec<Stage>,
    pub(super) input_sizes: Sizes,
    pub(super) output_sizes: Sizes,
    hosts: BTreeMap<String, Count>,
    num_problems: u64,
    problems: Vec<Problem>,
    /// Items of evaluation sets that were found, by task.
    pub(super) tasks: BTreeMap<String, Value>,
    /// Time of each step.
    seconds: BTreeMap<String, f64>,
}

impl Tally {
    pub(super) fn of_stages<'n>(names: impl Iterator<Item = &'n str>) -> Self {
        Self { stages: names.map(Stage::named).collect(), ..Self::default() }
    }

    pub(super) fn problem(&mut self, file: &str, offset: u64, reason: &str) {
        self.num_problems += 1;
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem { file: file.to_owned(), offset, reason: reason.to_owned() });
        }
    }

    /// Counts a document that goes on under the host of its URL.
    pub(super) fn host(&mut self, name: &str, num_bytes: usize) {
        let Some((_, rest)) = name.split_once("://") else { return };
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = host.rsplit('@').next().unwrap_or_default();
        if let Some(count) = self.hosts.get_mut(host) {
            count.add(num_bytes as u64);
        } else if !host.is_empty() {
            self.hosts.insert(host.to_owned(), Count { documents: 1, bytes: num_bytes as u64 });
        }
    }

    pub(super) fn spent(&mut self, what: &str, time: Duration) {
        *self.seconds.entry(what.to_owned()).or_default() += time.as_secs_f64();
    }

    /// The tally as JSON.
    pub(super) fn into_json(mut self) -> serde_json::Result<Vec<u8>> {
        for stage in std::mem::take(&mut self.stages) {
            self.spent(&stage.name.clone(), stage.spent);
            self.stages.push(stage);
        }
        if self.hosts.len() > MAX_HOSTS {
            let mut hosts: Vec<_> = std::mem::take(&mut self.hosts).into_iter().collect();
            hosts.sort_by(|a, b| b.1.documents.cmp(&a.1.documents).then_with(|| a.0.cmp(&b.0)));
            hosts.truncate(MAX_HOSTS);
            self.hosts = hosts.into_iter().collect();
        }
        serde_json::to_vec(&self)
    }
}
