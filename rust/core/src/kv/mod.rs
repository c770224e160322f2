//! Bookkeeping of the blocks of a paged key-value cache, with prefixes shared across requests.
//!
//! A sequence is a list of fixed-size blocks in every layer group. Full blocks that are written and verified are
//! stored in a trie by their tokens; a new sequence begins with the blocks of its longest stored prefix. A hash finds
//! a block and its tokens decide, so no collision serves the text of another request. Tensor data is never touched:
//! one [`KvManager::step`] says, for the whole batch, which blocks to copy, where new tokens go and which blocks each
//! sequence reads.
//!
//! Invariants ([`KvManager::check`] verifies them):
//! - a block's count is the number of sequences that list it; a block is free or cached exactly when it is 0;
//! - a block in two sequences is the same place of both;
//! - who lists the block of a node lists the blocks of its ancestors, so in a group without a window a cached block is
//!   always evicted before the prefix that leads to it.

mod admit;
mod check;
mod events;
mod manager;
mod pool;
mod sequence;
mod step;
mod store;
mod trie;

pub use admit::{Admission, Requests};
pub use events::Events;
pub use manager::{KvManager, Stats};
pub use pool::MAX_PRIORITY;
pub use step::Arrays;
pub use store::Group;

/// Data to copy from one block to another of the same group, before anything else is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockCopy {
    /// Index of the group.
    pub group: u32,
    /// Block to read.
    pub source: u32,
    /// Block to write.
    pub target: u32,
    /// How many of the first tokens of the block are needed.
    pub num_tokens: u32,
}

/// No block, no node, no row.
const NONE: u32 = u32::MAX;

#[cfg(test)]
mod tests;
