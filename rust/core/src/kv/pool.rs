//! The pool, its sequences, and the one call per step.

use crate::{Error, Result};

/// What a batch needs to run one step.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Block of each sequence at each place, row by row, `width` wide; 0 after the last.
    pub tables: Vec<i32>,
    /// Blocks of the longest sequence.
    pub width: usize,
    /// Tokens of each sequence, the new ones included.
    pub lengths: Vec<i64>,
    /// `block * block_size + offset` of every new token, sequence by sequence.
    pub slots: Vec<i64>,
    /// Blocks to copy before writing.
    pub sources: Vec<i64>,
    /// Where the copies go.
    pub targets: Vec<i64>,
}

#[derive(Debug, Default)]
struct Sequence {
    blocks: Vec<u32>,
    len: usize,
    /// Changes when the place is given to another sequence, so an old handle is noticed.
    generation: u32,
    alive: bool,
    /// The call that named this sequence last, to find it named twice.
    call: u64,
}

/// Fixed-size blocks, shared by sequences.
///
/// Invariants: a block's count is the number of sequences that list it; a block is free exactly when its count is 0;
/// a sequence of `len` tokens lists `ceil(len / block_size)` blocks.
#[derive(Debug)]
pub struct BlockPool {
    block_size: usize,
    counts: Vec<u32>,
    free: Vec<u32>,
    sequences: Vec<Sequence>,
    vacant: Vec<u32>,
    calls: u64,
}

impl BlockPool {
    /// A pool of free blocks.
    ///
    /// # Errors
    /// [`Error::Value`] if there is no block, a block has no token, or a slot would not fit 63 bits.
    pub fn new(num_blocks: usize, block_size: usize) -> Result<Self> {
        if num_blocks == 0 || num_blocks > i32::MAX as usize || block_size == 0 || block_size > 1 << 20 {
            return Err(Error::value(format!(
                "{num_blocks} blocks of {block_size} tokens: expected 1 to 2^31 - 1 blocks of 1 to 2^20 tokens"
            )));
        }
        Ok(Self {
            block_size,
            counts: vec![0; num_blocks],
            free: (0..num_blocks as u32).rev().collect(),
            sequences: Vec::new(),
            vacant: Vec::new(),
            calls: 0,
        })
    }

    /// Tokens per block.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Blocks in the pool.
    pub fn num_blocks(&self) -> usize {
        self.counts.len()
    }

    /// Blocks that no sequence lists.
    pub fn num_free(&self) -> usize {
        self.free.len()
    }

    /// Starts `n` sequences without tokens and returns their handles.
    pub fn alloc(&mut self, n: usize) -> Vec<i64> {
        (0..n).map(|_| self.open(Vec::new(), 0)).collect()
    }

    /// Starts `n` sequences with the tokens of another one; its blocks are shared, not copied.
    ///
    /// # Errors
    /// [`Error::Key`] if the handle is unknown.
    pub fn fork(&mut self, handle: i64, n: usize) -> Result<Vec<i64>> {
        let row = self.rows(&[handle])?[0];
        let (blocks, len) = (self.sequences[row].blocks.clone(), self.sequences[row].len);
        for &block in &blocks {
            self.counts[block as usize] += n as u32;
        }
        Ok((0..n).map(|_| self.open(blocks.clone(), len)).collect())
    }

    /// Ends sequences; blocks that nobody else lists become free.
    ///
    /// # Errors
    /// [`Error::Key`] if a handle is unknown, [`Error::Value`] if one comes twice; nothing is freed then.
    pub fn free(&mut self, handles: &[i64]) -> Result<()> {
        for row in self.rows(handles)? {
            let sequence = &mut self.sequences[row];
            sequence.alive = false;
            sequence.generation = sequence.generation.wrapping_add(1) & (i32::MAX as u32);
            let blocks = std::mem::take(&mut sequence.blocks);
            // Last block first: the head of a sequence is the part that others are likely to want again.
            for block in blocks.into_iter().rev() {
                self.release(block);
            }
            self.vacant.push(row as u32);
        }
        Ok(())
    }

    /// Makes room for `counts[i]` more tokens in sequence `handles[i]`.
    ///
    /// # Errors
    /// [`Error::Key`] for an unknown handle; [`Error::Value`] for one that comes twice, a negative count, or too few
    /// free blocks. The pool is unchanged then.
    pub fn append(&mut self, handles: &[i64], counts: &[i64]) -> Result<Step> {
        if handles.len() != counts.len() {
            return Err(Error::value(format!("{} handles but {} counts", handles.len(), counts.len())));
        }
        if let Some(count) = counts.iter().find(|&&count| !(0..=i64::from(u32::MAX)).contains(&count)) {
            return Err(Error::value(format!("cannot append {count} tokens to a sequence")));
        }
        let rows = self.rows(handles)?;
        let shared_tails = self.plan(&rows, counts)?;
        let mut step = Step {
            width: rows.iter().zip(counts).map(|(&row, &n)| self.num_blocks_after(row, n)).max().unwrap_or(0),
            slots: Vec::with_capacity(counts.iter().sum::<i64>() as usize),
            ..Step::default()
        };
        step.tables.resize(rows.len() * step.width, 0);
        let size = self.block_size;
        for (i, (&row, &count)) in rows.iter().zip(counts).enumerate() {
            let num_blocks = self.num_blocks_after(row, count);
            let sequence = &mut self.sequences[row];
            if shared_tails[i]
                && let (Some(tail), Some(fresh)) = (sequence.blocks.last_mut(), self.free.pop())
            {
                // `plan` has already taken this sequence off the shared block's count.
                step.sources.push(i64::from(*tail));
                step.targets.push(i64::from(fresh));
                self.counts[fresh as usize] = 1;
                *tail = fresh;
            }
            let missing = num_blocks - sequence.blocks.len();
            for block in self.free.drain(self.free.len() - missing..).rev() {
                self.counts[block as usize] = 1;
                sequence.blocks.push(block);
            }
            for place in sequence.len..sequence.len + count as usize {
                step.slots
                    .push(i64::from(sequence.blocks[place / size]) * size as i64 + (place % size) as i64);
            }
            sequence.len += count as usize;
            step.lengths.push(sequence.len as i64);
            for (cell, &block) in step.tables[i * step.width..].iter_mut().zip(&sequence.blocks) {
                *cell = block as i32;
            }
        }
        Ok(step)
    }

    /// Which sequences must copy their last block because others share it, with the shared counts already lowered.
    /// The last sequence of those that share a block keeps it.
    fn plan(&mut self, rows: &[usize], counts: &[i64]) -> Result<Vec<bool>> {
        let mut needed = 0;
        let mut shared = vec![false; rows.len()];
        for (i, (&row, &count)) in rows.iter().zip(counts).enumerate() {
            let sequence = &self.sequences[row];
            needed += self.num_blocks_after(row, count) - sequence.blocks.len();
            if let Some(&tail) = sequence.blocks.last()
                && count > 0
                && !sequence.len.is_multiple_of(self.block_size)
                && self.counts[tail as usize] > 1
            {
                self.counts[tail as usize] -= 1;
                shared[i] = true;
                needed += 1;
            }
        }
        if needed > self.free.len() {
            for (&row, _) in rows.iter().zip(&shared).filter(|(_, shared)| **shared) {
                if let Some(&tail) = self.sequences[row].blocks.last() {
                    self.counts[tail as usize] += 1;
                }
            }
            let (free, all) = (self.num_free(), self.num_blocks());
            return Err(Error::value(format!("{needed} cache blocks needed, {free} of {all} are free")));
        }
        Ok(shared)
    }

    fn num_blocks_after(&self, row: usize, count: i64) -> usize {
        (self.sequences[row].len + count as usize).div_ceil(self.block_size)
    }

    fn open(&mut self, blocks: Vec<u32>, len: usize) -> i64 {
        let row = self.vacant.pop().unwrap_or_else(|| {
            self.sequences.push(Sequence::default());
            self.sequences.len() as u32 - 1
        });
        let sequence = &mut self.sequences[row as usize];
        (sequence.blocks, sequence.len, sequence.alive) = (blocks, len, true);
        i64::from(sequence.generation) << 32 | i64::from(row)
    }

    fn release(&mut self, block: u32) {
        let count = &mut self.counts[block as usize];
        debug_assert!(*count > 0, "block {block} freed twice");
        *count -= 1;
        if *count == 0 {
            self.free.push(block);
        }
    }

    /// The places of distinct live sequences.
    fn rows(&mut self, handles: &[i64]) -> Result<Vec<usize>> {
        self.calls += 1;
        let mut rows = Vec::with_capacity(handles.len());
        for &handle in handles {
            let row = (handle & i64::from(u32::MAX)) as usize;
            let sequence = self
                .sequences
                .get_mut(row)
                .filter(|s| s.alive && i64::from(s.generation) == handle >> 32)
                .ok_or_else(|| Error::Key(format!("no sequence has the handle {handle}; was it freed?")))?;
            if sequence.call == self.calls {
                return Err(Error::value(format!("handle {handle} comes twice in one call")));
            }
            sequence.call = self.calls;
            rows.push(row);
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests;
