//! The rows of one shard set: which there are in an epoch, and which is drawn at a place.

use std::sync::Arc;

use super::best_fit::{Span, plan_rows};
use super::order::permute;
use crate::shard::ShardSet;
use crate::{Error, Ragged, Result, rng};

/// Random stream of the row order; epoch `e` uses stream `ROW_ORDER + e`.
const ROW_ORDER: u64 = u64::from_be_bytes(*b"roworder");
/// Random stream of the window starts.
const WINDOWS: u64 = u64::from_be_bytes(*b"windows_");
/// Source `s` of a mixture adds `s << SOURCE_SHIFT` to its streams, so that sources of equal size differ in order.
const SOURCE_SHIFT: u32 = 40;

/// How rows are cut from the stream of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Rows are filled with documents, which stay separate sequences.
    Packed,
    /// A row is one sequence from a random place of the stream; documents run on into each other.
    Windows,
}

/// A shard set cut into rows.
#[derive(Debug)]
pub struct Rows {
    pub(super) shards: Arc<ShardSet>,
    pub(super) row_len: usize,
    plan: Plan,
}

#[derive(Debug)]
enum Plan {
    Packed(Ragged<Span>),
    Windows { num_rows: u64 },
}

impl Rows {
    /// Plans the rows of `row_len` positions.
    ///
    /// # Errors
    /// [`Error::Value`] if the length is not positive or the shards have too few tokens for one row.
    pub fn new(shards: Arc<ShardSet>, row_len: usize, mode: Mode) -> Result<Self> {
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
        Ok(Self { shards, row_len, plan })
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

    /// Row `place` of the endless shuffled sequence, as source number `source`.
    ///
    /// It is row `place % num_rows` of epoch `place / num_rows` in packed mode, where each epoch has its own order;
    /// in windows mode each row starts anywhere.
    pub(super) fn drawn(&self, place: u64, seed: u64, source: usize) -> RowSpans<'_> {
        let of_source = |stream: u64| stream.wrapping_add((source as u64) << SOURCE_SHIFT);
        match &self.plan {
            Plan::Packed(rows) => {
                let (epoch, index) = (place / self.num_rows(), place % self.num_rows());
                let stream = of_source(ROW_ORDER).wrapping_add(epoch);
                RowSpans::Packed(rows.row(permute(index, self.num_rows(), seed, stream) as usize))
            }
            Plan::Windows { .. } => {
                let starts = self.shards.num_tokens() - self.row_len as u64;
                let start = rng::below(starts, seed, of_source(WINDOWS), place) as i64;
                RowSpans::Window([Span { start, stop: start + self.row_len as i64 }])
            }
        }
    }

    /// Row `row` in corpus order; in windows mode the last is shorter.
    pub(super) fn in_order(&self, row: u64) -> RowSpans<'_> {
        match &self.plan {
            Plan::Packed(rows) => RowSpans::Packed(rows.row(row as usize)),
            Plan::Windows { .. } => {
                let start = row as i64 * self.row_len as i64;
                let stop = (start + self.row_len as i64).min(self.shards.num_tokens() as i64 - 1);
                RowSpans::Window([Span { start, stop }])
            }
        }
    }
}

/// What a row is made of: some of the plan, or one sequence.
pub(super) enum RowSpans<'a> {
    Packed(&'a [Span]),
    Window([Span; 1]),
}

impl AsRef<[Span]> for RowSpans<'_> {
    fn as_ref(&self) -> &[Span] {
        match self {
            Self::Packed(spans) => spans,
            Self::Window(span) => span,
        }
    }
}
