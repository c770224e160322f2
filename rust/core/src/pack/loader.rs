//! Batches of one or several shard sets as a pure function of `(seed, index)`.

use std::sync::Arc;

use super::mixture::Mixture;
use super::rows::{RowSpans, Rows};
use crate::shard::ShardSet;
use crate::{Error, Result};

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

/// Mixes the rows of shard sets, and cuts them into batches.
#[derive(Debug)]
pub struct Loader {
    sources: Vec<Arc<Rows>>,
    mixture: Mixture,
    batch_rows: usize,
    seed: u64,
}

impl Loader {
    /// Draws from `sources` with the weights of [`Mixture::new`], which count rows.
    ///
    /// # Errors
    /// [`Error::Value`] if the batch is to have no row, or the weights are not those of a mixture.
    pub fn new(
        sources: Vec<Arc<Rows>>,
        first_rows: &[u64],
        weights: &[f64],
        batch_rows: usize,
        seed: u64,
    ) -> Result<Self> {
        if batch_rows == 0 {
            return Err(Error::value("a batch needs at least 1 row, got 0"));
        }
        let mixture = Mixture::new(sources.len(), first_rows, weights, seed)?;
        Ok(Self { sources, mixture, batch_rows, seed })
    }

    /// Which source each row comes from.
    pub fn mixture(&self) -> &Mixture {
        &self.mixture
    }

    /// Batch `index` of the endless sequence: always the full number of rows.
    ///
    /// # Errors
    /// [`Error::Value`] if the index is beyond 2^64 rows.
    pub fn batch(&self, index: u64) -> Result<Batch> {
        let rows = self.batch_rows as u64;
        let first = index
            .checked_mul(rows)
            .filter(|first| first.checked_add(rows).is_some())
            .ok_or_else(|| Error::value(format!("batch {index} is beyond 2^64 rows")))?;
        let mut batch = self.empty_batch();
        for place in first..first + rows {
            let drawn = self.mixture.row(place);
            let source = &self.sources[drawn.source];
            batch.extend(&source.shards, &source.drawn(drawn.row, self.seed, drawn.source))?;
        }
        Ok(batch)
    }

    /// Batch `index` of one pass over a source in corpus order, for evaluation: every position once, the last
    /// batch smaller.
    ///
    /// # Errors
    /// [`Error::Value`] if there is no such source or the pass has no such batch.
    pub fn sequential_batch(&self, source: usize, index: u64) -> Result<Batch> {
        let Some(rows) = self.sources.get(source) else {
            return Err(Error::value(format!("source {source} of {}", self.sources.len())));
        };
        let count = rows.num_rows().div_ceil(self.batch_rows as u64);
        if index >= count {
            return Err(Error::value(format!("batch {index} of {count} in one pass")));
        }
        let first = index * self.batch_rows as u64;
        let mut batch = self.empty_batch();
        for row in first..rows.num_rows().min(first + self.batch_rows as u64) {
            batch.extend(&rows.shards, &rows.in_order(row))?;
        }
        Ok(batch)
    }

    fn empty_batch(&self) -> Batch {
        let row_len = self.sources.iter().map(|source| source.row_len).max().unwrap_or(0);
        let capacity = row_len.saturating_mul(self.batch_rows).min(1 << 24);
        let (ids, targets) = (Vec::with_capacity(capacity), Vec::with_capacity(capacity));
        Batch { ids, targets, cu_seqlens: vec![0] }
    }
}

impl Batch {
    fn extend(&mut self, shards: &ShardSet, spans: &RowSpans) -> Result<()> {
        for span in spans.as_ref() {
            let (start, stop) = (span.start as u64, span.stop as u64);
            shards.tokens(start, stop)?.for_each(|ids| ids.append_to(&mut self.ids));
            shards.tokens(start + 1, stop + 1)?.for_each(|ids| ids.append_to(&mut self.targets));
            self.cu_seqlens.push(self.ids.len() as i64);
        }
        Ok(())
    }
}
