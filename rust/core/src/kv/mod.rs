//! Bookkeeping of the blocks of a paged key-value cache.
