//! Byte-level BPE: pretokenization, training, encoding, decoding, vocabulary formats.
//!
//! A [`Tokenizer`] is immutable and shared freely between threads. Text is cut into pieces by a [`Pattern`],
//! and each piece is merged by rank on its own. Ids equal those of `tokenizers` and `tiktoken` with the same
//! vocabulary, and do not depend on the number of threads or on what was encoded before.

mod batch;
mod cache;
mod chars;
mod cut;
mod decode;
mod encode;
mod fallback;
mod gpt2;
mod hash;
mod join;
mod json;
mod log;
mod long;
mod merges;
mod normalize;
mod offsets;
mod parallel;
mod pending;
mod pipeline;
mod pretokenize;
#[cfg(test)]
mod reference;
mod regex;
mod request;
mod sentencepiece;
mod short;
mod special;
mod stream;
#[cfg(test)]
mod tests;
mod tiktoken;
mod tokenizer;
mod train;
mod unicode;
mod vocab;
mod write;

pub use decode::StreamDecoder;
pub use encode::Encoder;
pub use merges::Merge;
pub use offsets::{Placed, Unit};
pub use parallel::num_processors;
pub use pretokenize::{Pattern, Pieces};
pub use request::{Disallowed, Input, Request};
pub use special::Allowed;
pub use stream::StreamEncoder;
pub use tokenizer::{Parts, Tokenizer};
pub use train::{CountOptions, PieceCounts, TrainOptions, train};
pub use write::write_whole;
