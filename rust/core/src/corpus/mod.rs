//! A corpus in one pass: files in, shards of token ids out.
//!
//! 1. [`Stager`]: each partition (some files, or a stretch of one) is read, and every step that looks at one document at
//!    a time is done while its text is near; what is left goes to a [`Staged`] file with hashes and signatures.
//! 2. [`settle`]: all staged files together say which documents are duplicates.
//! 3. [`emit`]: each partition's documents that are kept are tokenised into shards.
//!
//! Partitions of 1 and 3 are independent of one another, so they may run on any number of threads or machines, and one that
//! was interrupted is done again. The result is a function of the files, the partitions and the settings.

mod emit;
mod http;
mod input;
mod json;
mod lines;
mod read;
mod settle;
mod stage;
mod staged;
mod step;
mod tally;
#[cfg(test)]
mod tests;
mod warc;

pub use emit::{EmitOptions, Emitted, Split, emit};
pub use json::Fields;
pub use read::{Extract, Format, Item, ReadOptions, Sink, read};
pub use settle::{REASONS, SettleOptions, Settled, StagedSet, settle};
pub use stage::{Partition, Stager};
pub use staged::Staged;
pub use step::{
    Classify, Clean, Current, Decontaminate, DropPhrases, DropUrls, Findings, Mask, MaskPhrases, Outcome,
    Perplexity, Repair, Sample, Step, StepWorker,
};
