//! Exact and near duplicates, first come, first kept.
//!
//! Both functions return, for each text, the place of the text that stands for it: its own if it is kept. The
//! result is a function of the texts in their order, for any number of threads.

mod exact;
mod minhash;
mod near;
mod shingle;
mod union_find;

pub use exact::{content_hash, exact_duplicates};
pub use minhash::{MinHash, agreement};
pub use near::{NearOptions, collision_probability, near_duplicates};
pub use shingle::{jaccard, shingle_set, shingles};
pub use union_find::UnionFind;
