//! Attention to keys and values in a paged cache on the CPU: new tokens of many sequences, one each or chunks.
//!
//! Blocks are read where they are, once for all heads that share a key. What a token gets depends neither on the
//! batch nor on the number of threads, nor on how a sequence was cut into chunks.

mod kept;
mod plan;
#[cfg(test)]
mod tests;
mod tile;
mod unit;

use std::ops::Range;

use rayon::prelude::*;

pub use kept::{Brief, Kept, Shape};
pub(crate) use kept::{largest_scale, to_bytes, to_bytes_by};
pub use plan::{Plan, PlanOptions, plan};
use tile::TILE;
pub(crate) use tile::{Attend, Scratch};
use unit::Lengths;
pub(crate) use unit::Unit;

use crate::lanes::Level;
use crate::split::Split;
use crate::{Error, Result};

/// Products below which one thread is faster.
const SERIAL_BELOW: usize = 1 << 18;
/// Query tokens of a unit of work.
const CHUNK: usize = 32;
/// Sequences whose common beginning is read once.
const MOST_TOGETHER: usize = 16;
/// Tiles that are worth it.
const SHARED_TILES: usize = 2;
/// Query tokens that are few.
const FEW: usize = 4;

/// Keys and values of one layer: whole blocks, contiguous.
#[derive(Debug, Clone, Copy)]
pub struct Blocks<'a, T> {
    /// Keys.
    pub keys: &'a [T],
    /// Values.
    pub values: &'a [T],
    /// The shape of a block of either.
    pub shape: Shape,
}

/// The sequences of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Sequences<'a> {
    /// Block of each sequence at each place: `(n, width)`.
    pub tables: &'a [i32],
    /// Tokens of each sequence, the new ones included.
    pub lengths: &'a [i64],
    /// Where the new tokens of each sequence start among those of the batch, and where the last ones end: `n + 1`.
    pub starts: &'a [i64],
}

/// Which tokens a query sees, and what happens to its scores.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rules<'a> {
    /// How many tokens back a query sees, itself included.
    pub window: Option<usize>,
    /// How many of the first tokens every query sees, whatever the window.
    pub sinks: usize,
    /// Bound on the scores `s`, which become `cap * tanh(s / cap)`.
    pub softcap: Option<f32>,
    /// Of each query head: what a score loses for each token of distance (ALiBi), after the bound.
    pub slopes: Option<&'a [f32]>,
}

impl Rules<'_> {
    /// The first token, but for the sinks, that a query at `position` sees.
    #[inline(always)]
    fn start(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }
}

impl<'a> Sequences<'a> {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.lengths.len()
    }

    /// New tokens of all.
    pub fn num_tokens(&self) -> usize {
        self.starts.last().map_or(0, |&last| last as usize)
    }

    /// The first and the last but one new token of sequence `i`, and the place of the first in the sequence.
    pub(crate) fn new_tokens(&self, i: usize) -> (std::ops::Range<usize>, usize) {
        let range = self.starts[i] as usize..self.starts[i + 1] as usize;
        (range.clone(), self.lengths[i] as usize - range.len())
    }

    /// The blocks of sequence `i`.
    pub(crate) fn table(&self, i: usize) -> &'a [i32] {
        let width = self.tables.len() / self.count();
        &self.tables[i * width..][..width]
    }

    /// Checks that the batch has an order, and blocks that exist wherever a token is read or written.
    pub(crate) fn check(&self, num_blocks: usize, block_size: usize, rules: Rules<'_>) -> Result<()> {
        let n = self.count();
        if self.starts.len() != n + 1 || self.starts[0] != 0 || n > 0 && !self.tables.len().is_multiple_of(n)
        {
            let (t, s) = (self.tables.len(), self.starts.len());
            return Err(Error::value(format!("{t} table entries and {s} starts do not fit {n} sequences")));
        }
        for (i, &length) in self.lengths.iter().enumerate() {
            let num_new = self.starts[i + 1].saturating_sub(self.starts[i]);
            let most = self.tables.len() / n * block_size;
            if num_new < 1 || length < num_new || length as usize > most {
                return Err(Error::value(format!(
                    "sequence {i} has {length} tokens, its table {num_new} to {most}, and {num_new} of them are new"
                )));
            }
            let first = rules.start((length - num_new) as usize) / block_size;
            let used = &self.table(i)[..(length as usize).div_ceil(block_size)];
            let sinks = &used[..rules.sinks.div_ceil(block_size).min(used.len())];
            let mut read = sinks.iter().chain(&used[first..]);
            if let Some(block) = read.find(|&&block| block < 0 || block as usize >= num_blocks) {
                return Err(Error::value(format!(
                    "sequence {i} lists block {block}, the cache has {num_blocks}"
                )));
            }
        }
        Ok(())
    }

    /// The work, cut for threads.
    pub(crate) fn units(
        &self,
        shape: Shape,
        group: usize,
        rules: Rules<'_>,
        num_threads: usize,
    ) -> Vec<Unit<'a>> {
        let runs = self.runs(shape.block_size, rules);
        // With enough sequences, all heads of one together read its blocks from end to end; long chunks, whose keys are
        // read often, keep to one head.
        let has_many = runs.len() >= 4 * num_threads;
        let mut units = Vec::new();
        let mut push = |unit: Unit<'a>| {
            let is_one_each = matches!(unit.lengths, Lengths::Each(..));
            let num_heads =
                if has_many && (is_one_each || unit.num_tokens <= FEW) { shape.num_heads } else { 1 };
            units.extend((0..shape.num_heads).step_by(num_heads).map(|head| Unit {
                head,
                num_heads,
                ..unit
            }));
        };
        let width = self.tables.len() / self.count().max(1);
        for (run, shared) in runs {
            let (tokens, place) = self.new_tokens(run.start);
            let tables = &self.tables[run.start * width..run.end * width];
            let unit = Unit {
                tables,
                lengths: Lengths::One(0),
                first: tokens.start,
                num_tokens: 0,
                head: 0,
                num_heads: 0,
                group,
            };
            if run.len() > 1 {
                push(Unit {
                    lengths: Lengths::Each(&self.lengths[run.clone()], shared),
                    num_tokens: run.len(),
                    ..unit
                });
                continue;
            }
            for first in tokens.clone().step_by(CHUNK) {
                let num_tokens = CHUNK.min(tokens.end - first);
                let length = place + first - tokens.start + num_tokens;
                push(Unit { lengths: Lengths::One(length), first, num_tokens, ..unit });
            }
        }
        units
    }

    /// Neighbours that have one new token each and begin with the same blocks, as samples of one prompt do, and how many
    /// tokens they share; a run of one is any other sequence.
    fn runs(&self, block_size: usize, rules: Rules<'_>) -> Vec<(Range<usize>, usize)> {
        let has_one = |i: usize| self.new_tokens(i).0.len() == 1;
        let mut runs: Vec<(Range<usize>, usize)> = Vec::new();
        for i in 0..self.count() {
            if let Some((run, shared)) = runs.last_mut() {
                let can_join =
                    rules.window.is_none() && run.len() < MOST_TOGETHER && has_one(i) && has_one(run.start);
                let limit = if run.len() == 1 { self.lengths[run.start] as usize - 1 } else { *shared };
                let limit = limit.min(self.lengths[i] as usize - 1) / block_size;
                let (theirs, own) = (self.table(run.start), self.table(i));
                let equal = if can_join {
                    (0..limit).take_while(|&block| theirs[block] == own[block]).count() * block_size
                } else {
                    0
                };
                let equal = equal / TILE * TILE;
                // A shorter beginning for all is worth less than what it costs.
                if equal >= SHARED_TILES * TILE && (run.len() == 1 || 2 * equal >= *shared) {
                    *shared = equal;
                    run.end = i + 1;
                    continue;
                }
            }
            runs.push((i..i + 1, 0));
        }
        runs
    }
}

/// Units that a thread takes at once: it can ask for the memory of the next while it works on one.
pub(crate) fn at_once(num_units: usize, num_threads: usize) -> usize {
    (num_units / (8 * num_threads)).clamp(1, 8)
}

/// `softmax(q k^T / sqrt(head_dim)) v` for the last tokens of each sequence, whose own keys are in the cache already.
///
/// `queries` are `(tokens, query_heads, head_dim)`, and so is the result; query head `h` reads key head
/// `h / (query_heads / num_heads)`.
///
/// # Errors
/// [`Error::Value`] if the shapes disagree, a sequence has no new token, or a table names a block outside the cache.
pub fn attend<T: Kept>(
    queries: &[f32],
    blocks: Blocks<'_, T>,
    sequences: Sequences<'_>,
    rules: Rules<'_>,
    level: Level,
) -> Result<Vec<f32>> {
    let Shape { block_size, num_heads, head_dim } = blocks.shape;
    let block_len = T::block_len(blocks.shape);
    let sizes = (blocks.keys.len(), blocks.values.len());
    if block_len == 0 || sizes.0 != sizes.1 || !sizes.0.is_multiple_of(block_len) {
        return Err(Error::value("keys and values are not whole blocks of the same shape"));
    }
    sequences.check(sizes.0 / block_len, block_size, rules)?;
    let (num_tokens, heads) = (sequences.num_tokens(), num_heads * head_dim);
    if num_tokens == 0 && queries.is_empty() {
        return Ok(Vec::new());
    }
    if queries.is_empty() || !queries.len().is_multiple_of(num_tokens.max(1) * heads) {
        let len = queries.len();
        return Err(Error::value(format!("{len} query values do not fit {num_tokens} rows of {heads}")));
    }
    let stride = queries.len() / num_tokens;
    let group = stride / heads;
    if rules.slopes.is_some_and(|slopes| slopes.len() != group * num_heads) {
        return Err(Error::value(format!("there must be one slope for each of {} heads", group * num_heads)));
    }
    let mut out = vec![0.0; queries.len()];
    let parts = Split::new(&mut out);
    let units = sequences.units(blocks.shape, group, rules, rayon::current_num_threads());
    let run = |scratch: &mut Scratch, units: &[Unit<'_>]| {
        let mut write = |token: usize, head: usize, results: &[f32]| {
            let at = token * stride + head * head_dim;
            // SAFETY: no other unit has this token and head.
            unsafe { parts.part(at..at + results.len()) }.copy_from_slice(results);
        };
        level.run(Attend { units, blocks, rules, queries, stride, scratch, out: &mut write });
    };
    let work = sequences.lengths.iter().sum::<i64>() as usize * stride;
    if work < SERIAL_BELOW {
        run(&mut Scratch::default(), &units);
    } else {
        units
            .par_chunks(at_once(units.len(), rayon::current_num_threads()))
            .for_each_init(Scratch::default, run);
    }
    Ok(out)
}
