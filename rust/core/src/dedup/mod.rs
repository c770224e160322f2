//! Exact and near duplicates.
//!
//! All functions return, for each text, the place of the text that stands for it: its own if it is kept. The result
//! is a function of the texts in their order, for any number of threads.

mod anchors;
mod bands;
mod compare;
mod decontaminate;
mod exact;
mod index;
mod near;
mod pieces;
mod seen;
mod shingle;
mod signatures;
mod sketch;
mod substring;
mod union_find;
mod url;

pub use bands::Bands;
pub use decontaminate::{Contamination, EvalItems, Overlap, Verdict};
pub use exact::{Equality, content_hash, exact_duplicates};
pub use index::{Index, encode_index};
pub use near::{
    Decision, Duplicates, Keep, NearOptions, decide, distinct_texts, near_duplicates, near_duplicates_among,
};
pub use pieces::{Piece, repeated_pieces, without};
pub use seen::{Bloom, KeySet, Seen};
pub use shingle::{Shingler, Shingles, Unit, jaccard, shingle_set};
pub use signatures::{Groups, Signatures, sum_of};
pub use sketch::{Sketcher, agreement};
pub use substring::repeated_stretches;
pub use union_find::UnionFind;
pub use url::canonical_url;
