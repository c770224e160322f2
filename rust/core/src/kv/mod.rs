//! Bookkeeping of the blocks of a paged key-value cache.
//!
//! A sequence is a list of fixed-size blocks. Forks share blocks by reference count; the first to write into a
//! shared, partly filled block gets a copy. Tensor data is never touched: one [`BlockPool::append`] per step says,
//! for the whole batch, which blocks to copy, where new tokens go, and which blocks each sequence reads.

mod pool;

pub use pool::{BlockPool, Step};
