//! The kernel: queries of one sequence that share a key head, against the tokens of its blocks, a tile at a time.
//!
//! Tiles lie at fixed places of the sequence and every sum has its order from there, so what a query gets depends
//! neither on the other queries nor on whether it came alone or in a chunk.

use std::ops::Range;

use super::unit::{Span, Unit};
use super::{Blocks, Kept, Rules};
use crate::exp;
use crate::lanes::{Lanes, Line, WIDTH, Work};
use crate::pages::prefetch_line;

/// Tokens that are weighed at once.
pub(super) const TILE: usize = 32;
/// Queries that read a key at once.
const ROWS: usize = 4;
/// Tokens ahead of the one that is worked on whose memory is asked for.
const AHEAD: usize = 8;

/// Memory that a thread keeps between units.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Scaled queries, padded to whole vectors: by key head, then token, then query head.
    queries: Vec<f32>,
    /// Sums of weighted values, padded likewise.
    sums: Vec<f32>,
    /// The largest score and the total weight of each row so far.
    states: Vec<[f32; 2]>,
    /// Of a token.
    results: Vec<f32>,
}

/// Attention of some units. Head `h` of token `t` of the batch is at `t * stride + h * head_dim`.
pub(crate) struct Attend<'a, T> {
    pub(crate) units: &'a [Unit<'a>],
    pub(crate) blocks: Blocks<'a, T>,
    pub(crate) rules: Rules<'a>,
    pub(crate) queries: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) scratch: &'a mut Scratch,
    /// Is given a token of the batch, a query head, and the results of a group from there on.
    pub(crate) out: &'a mut dyn FnMut(usize, usize, &[f32]),
}

impl<T: Kept> Work for Attend<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(mut self) {
        let mut units = self.units.iter().copied().peekable();
        let mut next = units.peek().map(|&unit| self.tile(unit, unit.first_span(), 0));
        while let Some(unit) = units.next() {
            self.begin(unit);
            while let Some(tile) = next {
                let following = tile.following();
                next = match following {
                    Some((span, token)) => Some(self.tile(unit, span, token)),
                    None => units.peek().map(|&unit| self.tile(unit, unit.first_span(), 0)),
                };
                // Heads in turn: what they read lies one behind the other.
                for head in unit.head..unit.head + unit.num_heads {
                    let mut at = tile.elements(head);
                    let ahead = match &next {
                        _ if head + 1 < unit.head + unit.num_heads => tile.elements(head + 1),
                        Some(next) => next.elements(next.unit.head),
                        None => at,
                    };
                    at[TILE..].copy_from_slice(&ahead[..AHEAD]);
                    // SAFETY: the caller's.
                    unsafe {
                        match self.blocks.shape.head_dim {
                            64 => self.add::<L, 4>(&tile, head, &at),
                            128 => self.add::<L, 8>(&tile, head, &at),
                            _ => self.add::<L, 0>(&tile, head, &at),
                        }
                    }
                }
                if following.is_none() {
                    break;
                }
            }
            self.end(unit);
        }
    }
}

impl<'a, T: Kept> Attend<'a, T> {
    fn padded_dim(&self) -> usize {
        self.blocks.shape.head_dim.next_multiple_of(WIDTH)
    }

    #[inline(always)]
    fn tile(&self, unit: Unit<'a>, span: Span<'a>, token: usize) -> Tile<'a, T> {
        Tile::new(token, unit, span, self.blocks, self.rules)
    }

    /// Scales the queries of a unit and clears its sums.
    #[inline(always)]
    fn begin(&mut self, unit: Unit<'_>) {
        let (dim, padded) = (self.blocks.shape.head_dim, self.padded_dim());
        let num_rows = unit.num_heads * unit.rows();
        let Scratch { queries, sums, states, .. } = &mut *self.scratch;
        queries.clear();
        queries.resize(num_rows * padded, 0.0);
        sums.clear();
        sums.resize(num_rows * padded, 0.0);
        states.clear();
        states.resize(num_rows, [f32::NEG_INFINITY, 0.0]);
        let scale = 1.0 / (dim as f32).sqrt();
        let mut queries = queries.chunks_exact_mut(padded);
        for head in unit.head..unit.head + unit.num_heads {
            for token in unit.first..unit.first + unit.num_tokens {
                let from = &self.queries[token * self.stride + head * unit.group * dim..];
                for (from, query) in from.chunks_exact(dim).take(unit.group).zip(queries.by_ref()) {
                    for (query, &from) in query.iter_mut().zip(from) {
                        *query = from * scale;
                    }
                }
            }
        }
    }

    /// Adds what a head has in a tile to the sums of its queries. `V` are the vectors of a head, where loops are to be
    /// compiled for that many.
    #[inline(always)]
    unsafe fn add<L: Lanes, const V: usize>(
        &mut self,
        tile: &Tile<'_, T>,
        head: usize,
        at: &[usize; TILE + AHEAD],
    ) {
        let (padded, unit, span) = (self.padded_dim(), tile.unit, tile.span);
        let first = (head - unit.head) * unit.rows();
        let num_rows = span.last * unit.group;
        let Scratch { queries, sums, states, .. } = &mut *self.scratch;
        for row in (span.first * unit.group..num_rows).step_by(ROWS) {
            let rows = first + row..first + num_rows.min(row + ROWS);
            let padded_rows = rows.start * padded..rows.end * padded;
            let rows = Rows {
                head,
                at,
                first: row,
                queries: &queries[padded_rows.clone()],
                sums: &mut sums[padded_rows],
                states: &mut states[rows],
            };
            // SAFETY: the caller's.
            unsafe {
                match rows.states.len() {
                    1 => tile.attend::<L, 1, V>(rows),
                    2 => tile.attend::<L, 2, V>(rows),
                    3 => tile.attend::<L, 3, V>(rows),
                    _ => tile.attend::<L, ROWS, V>(rows),
                }
            }
        }
    }

    /// Gives the results of a unit away.
    #[inline(always)]
    fn end(&mut self, unit: Unit<'_>) {
        let (dim, padded) = (self.blocks.shape.head_dim, self.padded_dim());
        let Scratch { sums, states, results, .. } = &mut *self.scratch;
        let mut rows = sums.chunks_exact(padded).zip(states.iter());
        for head in unit.head..unit.head + unit.num_heads {
            for token in unit.first..unit.first + unit.num_tokens {
                results.clear();
                for (sums, &[_, total]) in rows.by_ref().take(unit.group) {
                    results.extend(sums[..dim].iter().map(|sum| sum / total));
                }
                (self.out)(token, head * unit.group, results);
            }
        }
    }
}

/// Some queries of a key head.
struct Rows<'a> {
    head: usize,
    /// Where what the head keeps of each token of the tile starts, and of some that are read next.
    at: &'a [usize; TILE + AHEAD],
    /// The first one, by token and query head.
    first: usize,
    queries: &'a [f32],
    sums: &'a mut [f32],
    states: &'a mut [[f32; 2]],
}

/// Some tokens of a sequence, and where they are.
struct Tile<'a, T> {
    start: usize,
    end: usize,
    unit: Unit<'a>,
    span: Span<'a>,
    blocks: Blocks<'a, T>,
    rules: Rules<'a>,
    /// Of each token: its block, and its place there.
    places: [(usize, usize); TILE],
}

impl<'a, T: Kept> Tile<'a, T> {
    /// The tile of a span at `start`.
    #[inline(always)]
    fn new(start: usize, unit: Unit<'a>, span: Span<'a>, blocks: Blocks<'a, T>, rules: Rules<'a>) -> Self {
        let end = span.end.min(start + TILE);
        let size = blocks.shape.block_size;
        let mut places = [(0, 0); TILE];
        let seen_from = rules.start(unit.position(span.first));
        let (mut block, mut place) = (start / size, start % size);
        for token in start..end {
            // What no query sees is not touched: it may not be there.
            if token < rules.sinks || token >= seen_from {
                places[token - start] = (span.table[block] as usize, place);
            }
            place += 1;
            if place == size {
                (block, place) = (block + 1, 0);
            }
        }
        Self { start, end, unit, span, blocks, rules, places }
    }

    /// The tile after this one, if its unit has one.
    fn following(&self) -> Option<(Span<'a>, usize)> {
        let (span, unit) = (self.span, self.unit);
        let (mut token, first) = (self.start + TILE, self.rules.start(unit.position(span.first)));
        if token >= self.rules.sinks && token + TILE <= first {
            // No query sees what lies between the sinks and the first window.
            token = first / TILE * TILE;
        }
        if token < span.end { Some((span, token)) } else { unit.span_after(span) }
    }

    /// Where what a head keeps of each token starts.
    #[inline(always)]
    fn elements(&self, head: usize) -> [usize; TILE + AHEAD] {
        let (shape, len) = (self.blocks.shape, T::block_len(self.blocks.shape));
        let mut at = [0; TILE + AHEAD];
        for (at, &(block, place)) in at.iter_mut().zip(&self.places) {
            *at = block * len + shape.row(head, place) * shape.head_dim;
        }
        at
    }

    /// The scale of what a head keeps of token `i`.
    #[inline(always)]
    fn scale(&self, all: &[T], head: usize, i: usize) -> f32 {
        let (shape, (block, place)) = (self.blocks.shape, self.places[i]);
        T::scale(all, block, shape, shape.row(head, place))
    }

    /// Adds what some queries see in here to their sums.
    #[inline(always)]
    unsafe fn attend<L: Lanes, const R: usize, const V: usize>(&self, rows: Rows<'_>) {
        let Rows { head, at, first, queries, sums, states } = rows;
        let group = self.unit.group;
        let position = |row: usize| self.unit.position((first + row) / group);
        // What no row sees is not read: it may not be there.
        let end = self.end.min(position(R - 1) + 1);
        let seen_from = self.rules.start(position(0));
        let sinks = self.start..end.min(self.rules.sinks.min(seen_from)).max(self.start);
        let others = seen_from.max(self.start).min(end)..end;
        if sinks.is_empty() && others.is_empty() {
            return;
        }
        // Plain loops from here on: a closure that is not inlined, which has none of the instructions, costs each token
        // all registers.
        let parts = [
            sinks.start - self.start..sinks.end - self.start,
            others.start - self.start..others.end - self.start,
        ];
        let (keys, values) = (self.blocks.keys, self.blocks.values);
        let dim = if V > 0 { V * WIDTH } else { self.blocks.shape.head_dim };
        let mut weights = [[f32::NEG_INFINITY; TILE]; R];
        for part in &parts {
            for i in part.start..part.end {
                // SAFETY: the caller's.
                let dots = unsafe { dots::<T, L, R, V>(queries, &keys[at[i]..at[i] + dim]) };
                let scale = self.scale(keys, head, i);
                ask(keys, at[i + AHEAD], dim);
                for r in 0..R {
                    weights[r][i] = dots[r] * scale;
                }
            }
        }
        let width = dim.next_multiple_of(WIDTH);
        for (row, (scores, state)) in weights.iter_mut().zip(states).enumerate() {
            let kept = self.weigh(scores, state, position(row), head * group + (first + row) % group);
            for sum in &mut sums[row * width..(row + 1) * width] {
                *sum *= kept;
            }
        }
        for part in &parts {
            for i in part.start..part.end {
                let scale = self.scale(values, head, i);
                for weights in &mut weights {
                    weights[i] *= scale;
                }
            }
        }
        let mut column = 0;
        while column < width {
            // SAFETY: the caller's.
            column += unsafe {
                if dim - column >= 4 * WIDTH && (R == 1 || L::ROWS >= 8) {
                    self.add_values::<L, R, V, 4>(at, column, &parts, &weights, sums)
                } else {
                    self.add_values::<L, R, V, 1>(at, column, &parts, &weights, sums)
                }
            };
        }
    }

    /// Adds `C` vectors of the weighted values of tokens, from `column` on, to sums. Gives the number of columns.
    #[inline(always)]
    unsafe fn add_values<L: Lanes, const R: usize, const V: usize, const C: usize>(
        &self,
        at: &[usize; TILE + AHEAD],
        column: usize,
        parts: &[Range<usize>; 2],
        weights: &[[f32; TILE]; R],
        sums: &mut [f32],
    ) -> usize {
        let dim = if V > 0 { V * WIDTH } else { self.blocks.shape.head_dim };
        let width = dim.next_multiple_of(WIDTH);
        // SAFETY: the caller's, and the slices have a vector at each place.
        unsafe {
            let mut totals = [[L::splat(0.0); C]; R];
            for r in 0..R {
                for c in 0..C {
                    totals[r][c] = L::load(vector(&sums[r * width + column + c * WIDTH..]));
                }
            }
            for part in parts {
                for i in part.start..part.end {
                    let values = &self.blocks.values[at[i] + column..at[i] + dim];
                    if column == 0 {
                        ask(self.blocks.values, at[i + AHEAD], dim);
                    }
                    let mut vectors = [L::splat(0.0); C];
                    if let Some(full) = values.as_chunks::<WIDTH>().0.first_chunk::<C>() {
                        for c in 0..C {
                            vectors[c] = T::load::<L>(&full[c]);
                        }
                    } else {
                        vectors[0] = T::load::<L>(&padded(values));
                    }
                    for r in 0..R {
                        let weight = L::splat(weights[r][i]);
                        for c in 0..C {
                            totals[r][c] = L::mul_add(weight, vectors[c], totals[r][c]);
                        }
                    }
                }
            }
            for r in 0..R {
                for c in 0..C {
                    L::store(vector_mut(&mut sums[r * width + column + c * WIDTH..]), totals[r][c]);
                }
            }
        }
        C * WIDTH
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
        let within = |token: usize| token.saturating_sub(self.start).min(TILE) as i32;
        let (end, sinks) = (within(self.end.min(position + 1)), within(self.rules.sinks));
        let seen_from = within(self.rules.start(position));
        for (i, score) in (0..).zip(scores.iter_mut()) {
            let is_seen = i < end && (i < sinks || i >= seen_from);
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

/// Products of `R` padded queries with a key, of `V` vectors if that is not 0.
#[inline(always)]
unsafe fn dots<T: Kept, L: Lanes, const R: usize, const V: usize>(queries: &[f32], key: &[T]) -> [f32; R] {
    let width = if V > 0 { V * WIDTH } else { queries.len() / R };
    let (full, rest) = key.as_chunks::<WIDTH>();
    let num_full = if V > 0 { V } else { full.len() };
    // SAFETY: the caller's, and each query has a vector for each of the key.
    unsafe {
        let mut sums = [L::splat(0.0); R];
        for i in 0..num_full {
            let key = T::load::<L>(&full[i]);
            for r in 0..R {
                sums[r] = L::mul_add(key, L::load(vector(&queries[r * width + i * WIDTH..])), sums[r]);
            }
        }
        if V == 0 && !rest.is_empty() {
            let key = T::load::<L>(&padded(rest));
            for r in 0..R {
                sums[r] = L::mul_add(key, L::load(vector(&queries[r * width + num_full * WIDTH..])), sums[r]);
            }
        }
        let mut dots = [0.0; R];
        for r in 0..R {
            dots[r] = L::sum(sums[r]);
        }
        dots
    }
}

/// Asks for the memory of `len` elements.
#[inline(always)]
fn ask<T>(all: &[T], first: usize, len: usize) {
    for byte in (0..len * size_of::<T>()).step_by(size_of::<Line>()) {
        prefetch_line(all.as_ptr().wrapping_add(first).wrapping_byte_add(byte).cast());
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
    for (to, &value) in vector.iter_mut().zip(values) {
        *to = value;
    }
    vector
}
