//! The kernel: queries of one sequence that share a key head, against the tokens of its blocks, a tile at a time.
//!
//! Tiles lie at fixed places of the sequence and every sum has its order from there, so what a query gets depends
//! neither on the other queries nor on whether it came alone or in a chunk.

use super::{Blocks, Kept, Rules};
use crate::exp;
use crate::lanes::{Lanes, WIDTH, Work};
use crate::pages::prefetch_line;

/// Tokens that are weighed at once.
const TILE: usize = 32;
/// Queries that read a key at once.
const ROWS: usize = 4;

/// Queries to work on: tokens `first..last` of the new ones of a sequence, the heads of one group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unit<'a> {
    /// Blocks of the sequence.
    pub(crate) table: &'a [i32],
    /// Place of the first query in its sequence.
    pub(crate) position: usize,
    /// Query tokens.
    pub(crate) num_tokens: usize,
    /// The key head.
    pub(crate) head: usize,
    /// Query heads that read it.
    pub(crate) group: usize,
}

/// Memory that a thread keeps between units.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Scaled queries, padded to whole vectors.
    queries: Vec<f32>,
    /// Sums of weighted values, padded likewise.
    sums: Vec<f32>,
    /// The largest score and the total weight of each row so far.
    states: Vec<[f32; 2]>,
}

/// Attention of one unit. Query `t` of head `h` of the group is at `t * stride + h * head_dim`, and so is its result.
pub(crate) struct Attend<'a, T> {
    pub(crate) unit: Unit<'a>,
    pub(crate) blocks: Blocks<'a, T>,
    pub(crate) rules: Rules<'a>,
    pub(crate) queries: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) scratch: &'a mut Scratch,
    /// Is given each token and its results, `group * head_dim` of them.
    pub(crate) out: &'a mut dyn FnMut(usize, &[f32]),
}

impl<T: Kept> Work for Attend<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let (unit, shape, rules) = (self.unit, self.blocks.shape, self.rules);
        let dim = shape.head_dim;
        let padded = dim.next_multiple_of(WIDTH);
        let num_rows = unit.num_tokens * unit.group;
        let Scratch { queries, sums, states } = self.scratch;
        queries.clear();
        queries.resize(num_rows * padded, 0.0);
        sums.clear();
        sums.resize(num_rows * padded, 0.0);
        states.clear();
        states.resize(num_rows, [f32::NEG_INFINITY, 0.0]);
        let scale = 1.0 / (dim as f32).sqrt();
        for (row, query) in queries.chunks_exact_mut(padded).enumerate() {
            let from = &self.queries[row / unit.group * self.stride + row % unit.group * dim..][..dim];
            for (query, &from) in query.iter_mut().zip(from) {
                *query = from * scale;
            }
        }
        let stop = unit.position + unit.num_tokens;
        let first = rules.start(unit.position);
        let tile_at = |token: usize| Tile::new(token, stop, unit, self.blocks, rules);
        let mut next = Some(tile_at(0));
        while let Some(tile) = next {
            // The next is looked up while this one is worked on: its memory is on the way then.
            let mut token = tile.start + TILE;
            if token >= rules.sinks && token + TILE <= first {
                // No query sees what lies between the sinks and the first window.
                token = first / TILE * TILE;
            }
            next = (token < stop).then(|| tile_at(token));
            for row in (0..num_rows).step_by(ROWS) {
                let rows = row..num_rows.min(row + ROWS);
                let padded_rows = rows.start * padded..rows.end * padded;
                let (queries, sums) = (&queries[padded_rows.clone()], &mut sums[padded_rows]);
                let states = &mut states[rows.clone()];
                // SAFETY: the caller's.
                unsafe {
                    match rows.len() {
                        1 => tile.attend::<L, 1>(row, queries, sums, states),
                        2 => tile.attend::<L, 2>(row, queries, sums, states),
                        3 => tile.attend::<L, 3>(row, queries, sums, states),
                        _ => tile.attend::<L, ROWS>(row, queries, sums, states),
                    }
                }
            }
        }
        let mut result = vec![0.0; unit.group * dim];
        for token in 0..unit.num_tokens {
            for (head, result) in result.chunks_exact_mut(dim).enumerate() {
                let row = token * unit.group + head;
                let total = states[row][1];
                for (result, &sum) in result.iter_mut().zip(&sums[row * padded..]) {
                    *result = sum / total;
                }
            }
            (self.out)(token, &result);
        }
    }
}

/// Some tokens of a sequence, and where they are.
struct Tile<'a, T> {
    start: usize,
    end: usize,
    unit: Unit<'a>,
    blocks: Blocks<'a, T>,
    rules: Rules<'a>,
    /// Of each token: its first element among the keys and among the values.
    elements: [usize; TILE],
    key_scales: [f32; TILE],
    value_scales: [f32; TILE],
}

impl<'a, T: Kept> Tile<'a, T> {
    /// The tile at `start` of a unit that ends at `stop`.
    #[inline(always)]
    fn new(start: usize, stop: usize, unit: Unit<'a>, blocks: Blocks<'a, T>, rules: Rules<'a>) -> Self {
        let end = stop.min(start + TILE);
        let (mut elements, mut key_scales, mut value_scales) = ([0; TILE], [1.0; TILE], [1.0; TILE]);
        let (shape, len) = (blocks.shape, T::block_len(blocks.shape));
        let seen_from = rules.start(unit.position);
        let (mut place, mut within) = (start / shape.block_size, start % shape.block_size);
        for token in start..end {
            // What no query sees is not touched: it may not be there.
            if token < rules.sinks || token >= seen_from {
                let block = unit.table[place] as usize * len;
                let (keys, values) = (&blocks.keys[block..][..len], &blocks.values[block..][..len]);
                let row = within * shape.num_heads + unit.head;
                let i = token - start;
                elements[i] = block + row * shape.head_dim;
                key_scales[i] = T::scale(keys, shape, row);
                value_scales[i] = T::scale(values, shape, row);
                let first = row * shape.head_dim;
                for line in (first..first + shape.head_dim).step_by(64 / size_of::<T>()) {
                    prefetch_line((&raw const keys[line]).cast());
                    prefetch_line((&raw const values[line]).cast());
                }
            }
            within += 1;
            if within == shape.block_size {
                (place, within) = (place + 1, 0);
            }
        }
        Self { start, end, unit, blocks, rules, elements, key_scales, value_scales }
    }

    /// Adds what rows from `first_row` on see in here to their sums.
    #[inline(always)]
    unsafe fn attend<L: Lanes, const R: usize>(
        &self,
        first_row: usize,
        queries: &[f32],
        sums: &mut [f32],
        states: &mut [[f32; 2]],
    ) {
        let group = self.unit.group;
        let position = |row: usize| self.unit.position + (first_row + row) / group;
        // What no row sees is not read: it may not be there.
        let end = self.end.min(position(R - 1) + 1);
        let seen_from = self.rules.start(position(0));
        let start = if self.start < self.rules.sinks { self.start } else { self.start.max(seen_from) };
        if start >= end {
            return;
        }
        let (places, dim) = (start - self.start..end - self.start, self.blocks.shape.head_dim);
        let is_read = |i: usize| self.start + i < self.rules.sinks || self.start + i >= seen_from;
        let mut scores = [[f32::NEG_INFINITY; TILE]; R];
        for i in places.clone().filter(|&i| is_read(i)) {
            // SAFETY: the caller's.
            let dots = unsafe { dots::<T, L, R>(queries, &self.blocks.keys[self.elements[i]..][..dim]) };
            for (scores, dot) in scores.iter_mut().zip(dots) {
                scores[i] = dot * self.key_scales[i];
            }
        }
        let mut kept = [0.0; R];
        for (row, (scores, state)) in scores.iter_mut().zip(states.iter_mut()).enumerate() {
            let head = self.unit.head * group + (first_row + row) % group;
            kept[row] = self.weigh(scores, state, position(row), head);
        }
        for (sums, kept) in sums.chunks_exact_mut(sums.len() / R).zip(kept) {
            for sum in sums {
                *sum *= kept;
            }
        }
        let width = sums.len() / R;
        let (full, rest) = (dim / WIDTH, dim % WIDTH);
        for chunk in 0..full + usize::from(rest > 0) {
            let at = chunk * WIDTH;
            // SAFETY: the caller's, and the slices have a vector at each place.
            unsafe {
                let mut totals = [L::splat(0.0); R];
                for r in 0..R {
                    totals[r] = L::load(vector(&sums[r * width + at..]));
                }
                for i in places.clone() {
                    if !is_read(i) {
                        continue;
                    }
                    let values = &self.blocks.values[self.elements[i]..][at..dim];
                    let values = if chunk < full {
                        T::load::<L>(vector(values))
                    } else {
                        T::load::<L>(&padded(values))
                    };
                    for r in 0..R {
                        let weight = L::splat(scores[r][i] * self.value_scales[i]);
                        totals[r] = L::mul_add(weight, values, totals[r]);
                    }
                }
                for r in 0..R {
                    L::store(vector_mut(&mut sums[r * width + at..]), totals[r]);
                }
            }
        }
    }

    /// Makes weights of scores and updates a row's state. Gives what its sums so far are to be multiplied by.
    #[inline(always)]
    fn weigh(&self, scores: &mut [f32; TILE], state: &mut [f32; 2], position: usize, head: usize) -> f32 {
        if let Some(cap) = self.rules.softcap {
            for score in scores.iter_mut() {
                *score = cap * exp::tanh(*score / cap);
            }
        }
        if let Some(slopes) = self.rules.slopes {
            for (i, score) in scores.iter_mut().enumerate() {
                *score -= slopes[head] * (position as f32 - (self.start + i) as f32);
            }
        }
        let seen_from = self.rules.start(position);
        for (i, score) in scores.iter_mut().enumerate() {
            let token = self.start + i;
            let is_seen =
                token <= position && token < self.end && (token < self.rules.sinks || token >= seen_from);
            *score = if is_seen { *score } else { f32::NEG_INFINITY };
        }
        let [largest, total] = state;
        let mut new = *largest;
        for &score in scores.iter() {
            new = if score > new || score.is_nan() { score } else { new };
        }
        if new == f32::NEG_INFINITY {
            scores.fill(0.0);
            return 1.0;
        }
        let kept = exp::exp(*largest - new);
        let mut lanes = [0.0; WIDTH];
        for part in scores.as_chunks_mut::<WIDTH>().0 {
            for (lane, score) in lanes.iter_mut().zip(part) {
                *score = exp::exp(*score - new);
                *lane += *score;
            }
        }
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                lanes[i] += lanes[i + half];
            }
        }
        *largest = new;
        *total = *total * kept + lanes[0];
        kept
    }
}

/// Products of `R` padded queries with a key.
#[inline(always)]
unsafe fn dots<T: Kept, L: Lanes, const R: usize>(queries: &[f32], key: &[T]) -> [f32; R] {
    let width = queries.len() / R;
    let (full, rest) = key.as_chunks::<WIDTH>();
    // SAFETY: the caller's, and each query has a vector for each of the key.
    unsafe {
        let mut sums = [L::splat(0.0); R];
        for (i, key) in full.iter().enumerate() {
            let key = T::load::<L>(key);
            for r in 0..R {
                sums[r] = L::mul_add(key, L::load(vector(&queries[r * width + i * WIDTH..])), sums[r]);
            }
        }
        if !rest.is_empty() {
            let key = T::load::<L>(&padded(rest));
            for r in 0..R {
                sums[r] =
                    L::mul_add(key, L::load(vector(&queries[r * width + full.len() * WIDTH..])), sums[r]);
            }
        }
        let mut dots = [0.0; R];
        for r in 0..R {
            dots[r] = L::sum(sums[r]);
        }
        dots
    }
}

/// The first vector of a slice that has one.
#[inline(always)]
fn vector<T>(values: &[T]) -> &[T; WIDTH] {
    &values.as_chunks().0[0]
}

#[inline(always)]
fn vector_mut<T>(values: &mut [T]) -> &mut [T; WIDTH] {
    &mut values.as_chunks_mut().0[0]
}

/// Fewer elements than a vector has, then zeros.
#[inline(always)]
fn padded<T: Kept>(values: &[T]) -> [T; WIDTH] {
    let mut vector = [T::zeroed(); WIDTH];
    vector[..values.len()].copy_from_slice(values);
    vector
}
