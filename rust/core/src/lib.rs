//! The algorithms of tempa, usable from any Rust program; nothing here knows Python.
//!
//! Three rules hold everywhere. Variable-length data is a flat vector of values plus offsets
//! ([`ragged`]). Randomness is a pure function of `(seed, stream, index)` ([`rng`]). The result of a
//! parallel function does not depend on the number of threads.

pub mod attend;
pub mod bpe;
pub mod chat;
pub mod checksum;
pub mod classify;
pub mod corpus;
pub mod cuda;
pub mod decode;
pub mod dedup;
pub mod error;
mod exp;
pub mod grade;
pub mod kv;
pub mod lanes;
mod masks;
pub mod monitor;
pub mod pack;
pub mod pages;
pub mod perplexity;
pub mod pii;
mod prefetch;
pub mod quality;
pub mod ragged;
pub mod repair;
pub mod rng;
pub mod sample;
pub mod scan;
mod sealed;
pub mod shard;
mod split;
pub mod text;
mod unique;
pub mod unwanted;

pub use error::{Error, Kind, Result};
pub use monitor::Monitor;
pub use ragged::Ragged;
