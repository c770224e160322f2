//! Batches of a shard set as a pure function of `(seed, index)`.

use std::sync::Arc;

use super::best_fit::{Span, plan_rows};
use super::order::permute;
use crate::shard::ShardSet;
use crate::{Error, Ragged, Result, rng};

/// Random stream of the row order; epoch `e` uses stream `ROW_ORDER + e`.
const ROW_ORDER: u64 = u64::from_be_bytes(*b"roworder");
/// Random stream of the window starts.
const WINDOWS: u64 = u64::from_be_bytes(*b"windows_");

/// How rows are cut from the stream of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Rows are filled with documents, which stay separate sequences.
    Packed,
    /// A row is one sequence from a random place of the stream; documents run on into each other.
    Windows,
}

/// Sequences for next-token training, without padding.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Inputs of all sequences, one after the other.
    pub ids: Vec<i64>,
    /// The token after each input.
    pub targets: Vec<i64>,
    /// Where sequences begin and end: `cu_seqlens[0]` is 0.
    pub cu_seqlens: Vec<i64>,
}

/// Cuts a shard set into rows and rows into batches.
#[derive(Debug)]
pub struct Loader {
    shards: Arc<ShardSet>,
    plan: Plan,
    row_len: usize,
    batch_rows: usize,
    seed: u64,
}

#[derive(Debug)]
enum Plan {
    Packed(Ragged<Span>),
    Windows { num_rows: u64 },
}

impl Loader {
    /// Plans the rows of `row_len` positions.
    ///
    /// # Errors
    /// [`Error::Value`] if a size is not positive or the shards have too few tokens for one row.
    pub fn new(
        shards: Arc<ShardSet>,
        row_len: usize,
        batch_rows: usize,
        seed: u64,
        mode: Mode,
    ) -> Result<Self> {
        if batch_rows == 0 {
            return Err(Error::value("a batch needs at least 1 row, got 0"));
        }
        let too_short = |need: &str| {
            let (tokens, directory) = (shards.num_tokens(), shards.directory().display());
            Err(Error::value(format!("{directory}: {tokens} tokens are too few, {need}")))
        };
        let plan = match mode {
            Mode::Packed => {
                let rows = plan_rows(&shards.offsets(), row_len)?;
                if rows.is_empty() {
                    return too_short("no document has two");
                }
                Plan::Packed(rows)
            }
            Mode::Windows => {
                if row_len == 0 {
                    return Err(Error::value("rows need at least 1 position, got 0"));
                }
                if shards.num_tokens() <= row_len as u64 {
                    return too_short(&format!("windows of {row_len} need {} or more", row_len + 1));
                }
                Plan::Windows { num_rows: (shards.num_tokens() - 1).div_ceil(row_len as u64) }
            }
        };
        Ok(Self { shards, plan, row_len, batch_rows, seed })
    }

    /// Rows of one epoch.
    pub fn num_rows(&self) -> u64 {
        match &self.plan {
            Plan::Packed(rows) => rows.len() as u64,
            Plan::Windows { num_rows } => *num_rows,
        }
    }

    /// Positions of one epoch.
    pub fn num_positions(&self) -> u64 {
        match &self.plan {
            Plan::Packed(rows) => rows.values.iter().map(|span| span.positions() as u64).sum(),
            Plan::Windows { .. } => self.shards.num_tokens() - 1,
        }
    }

    /// Batch `index` of the endless sequence: always the full number of rows.
    ///
    /// Row `p` of the sequence, counted over all batches, is row `p % num_rows` of epoch `p / num_rows` in
    /// packed mode, where each epoch has its own order; in windows mode each row starts anywhere.
    ///
    /// # Errors
    /// [`Error::Value`] if the index is beyond 2^64 rows.
    pub fn batch(&self, index: u64) -> Result<Batch> {
        let rows = self.batch_rows as u64;
        let first = index
            .checked_mul(rows)
            .filter(|first| first.checked_add(rows).is_some())
            .ok_or_else(|| Error::value(format!("batch {index} is beyond 2^64 rows")))?;
        let mut batch = Builder::new(self);
        for place in first..first + rows {
            match &self.plan {
                Plan::Packed(plan) => {
                    let (epoch, index) = (place / self.num_rows(), place % self.num_rows());
                    let row = permute(index, self.num_rows(), self.seed, ROW_ORDER.wrapping_add(epoch));
                    batch.extend(plan.row(row as usize))?;
                }
                Plan::Windows { .. } => {
                    let starts = self.shards.num_tokens() - self.row_len as u64;
                    let start = rng::below(starts, self.seed, WINDOWS, place) as i64;
                    batch.extend(&[Span { start, stop: start + self.row_len as i64 }])?;
                }
            }
        }
        Ok(batch.done)
    }

    /// Batch `index` of one pass in corpus order, for evaluation: every position once, the last batch smaller.
    ///
    /// # Errors
    /// [`Error::Value`] if the pass has no such batch.
    pub fn sequential_batch(&self, index: u64) -> Result<Batch> {
        let count = self.num_rows().div_ceil(self.batch_rows as u64);
        if index >= count {
            return Err(Error::value(format!("batch {index} of {count} in one pass")));
        }
        let first = index * self.batch_rows as u64;
        let mut batch = Builder::new(self);
        for row in first..self.num_rows().min(first + self.batch_rows as u64) {
            match &self.plan {
                Plan::Packed(plan) => batch.extend(plan.row(row as usize))?,
                Plan::Windows { .. } => {
                    let start = row as i64 * self.row_len as i64;
                    let stop = (start + self.row_len as i64).min(self.shards.num_tokens() as i64 - 1);
                    batch.extend(&[Span { start, stop }])?;
                }
            }
        }
        Ok(batch.done)
    }
}

/// A batch under construction.
struct Builder<'a> {
    shards: &'a ShardSet,
    done: Batch,
}

impl<'a> Builder<'a> {
    fn new(loader: &'a Loader) -> Self {
        let capacity = loader.row_len.saturating_mul(loader.batch_rows).min(1 << 24);
        let (ids, targets) = (Vec::with_capacity(capacity), Vec::with_capacity(capacity));
        Self { shards: &loader.shards, done: Batch { ids, targets, cu_seqlens: vec![0] } }
    }

    fn extend(&mut self, spans: &[Span]) -> Result<()> {
        for span in spans {
            let (start, stop) = (span.start as u64, span.stop as u64);
            self.shards.tokens(start, stop)?.for_each(|ids| ids.append_to(&mut self.done.ids));
            self.shards.tokens(start + 1, stop + 1)?.for_each(|ids| ids.append_to(&mut self.done.targets));
            self.done.cu_seqlens.push(self.done.ids.len() as i64);
        }
        Ok(())
    }
}
