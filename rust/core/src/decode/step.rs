//! The stages of a forward.

use std::ops::Range;

use super::finish::{Finish, Kind, Out};
use super::matrix::{Matrix, PANEL, Precision, Product, ROWS_AT_ONCE};
use super::norm::rotate;
use super::rows::{Rows, SharedRows};
use super::team::Member;
use super::{Config, Decoder, Gain, Layer, Linear, Mlp, Norm};
use crate::attend::{Attend, Blocks, Kept, Rules, Scratch, Sequences, Shape, Unit, at_once};
use crate::lanes::{Level, Line, Plainly};
use crate::split::Split;
use crate::{Error, Result};

/// The share of a matrix that is divided among threads before a product.
const OWN_SHARE: (usize, usize) = (3, 4);
/// Lines of weights that are fetched during a stage before a product: a part of the second cache.
const ASKED_LINES: usize = (128 << 10) / 64;

/// Rows that every thread prepares for itself: it takes less time than to wait for another thread.
const FEW_ROWS: usize = 4;

/// What the stream starts from.
#[derive(Debug, Clone, Copy)]
pub enum Embeddings<'a> {
    /// Rows of a table, `(vocab_size, width)`, and the ids of the tokens.
    Table {
        /// The embedding.
        table: &'a [f32],
        /// The tokens.
        ids: &'a [i64],
    },
    /// `(tokens, width)`.
    Rows(&'a [f32]),
}

/// New tokens of some sequences.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// Of each token.
    pub embeddings: Embeddings<'a>,
    /// Added for each place in a sequence, `(max_positions, width)`.
    pub positions: Option<&'a [f32]>,
    /// Whose tokens they are.
    pub sequences: Sequences<'a>,
    /// The tokens whose logits are asked for.
    pub wanted: &'a [i64],
}

impl Decoder {
    /// The logits of the wanted tokens, `(wanted, vocab_size)`; keys and values of all go to the cache.
    ///
    /// `cache` is `(depth, 2, blocks)` blocks of `block_size` tokens.
    ///
    /// # Errors
    /// [`Error::Value`] if shapes disagree, an id or a block does not exist, a sequence is too long, or two sequences
    /// write to the same block.
    pub fn forward<T: Kept>(
        &mut self,
        input: Input<'_>,
        cache: &mut [T],
        block_size: usize,
    ) -> Result<Vec<f32>> {
        let shape = Shape { block_size, num_heads: self.config.num_kv_heads, head_dim: self.config.head_dim };
        let (positions, written) =
            check::<T>(&self.config, self.turns.is_empty(), input, cache.len(), shape)?;
        let num_tokens = positions.len();
        let (config, precision) = (&self.config, self.precision);
        let space = &mut self.space;
        let qkv_width = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim;
        space.stream.resize(num_tokens * config.width, 0.0);
        space.qkv.resize(num_tokens * qkv_width, 0.0);
        space.normed.resize(num_tokens, config.width, precision);
        space.attended.resize(num_tokens, config.num_heads * config.head_dim, precision);
        space.inner.resize(num_tokens, config.mlp_width, precision);
        space.last.resize(input.wanted.len(), config.width, precision);
        let mut logits = vec![0.0; input.wanted.len() * config.vocab_size];
        let rules = Rules { window: config.window, ..Rules::default() };
        let group = config.num_heads / config.num_kv_heads;
        let step = Step {
            config,
            precision,
            level: self.level,
            lines: &self.lines,
            turns: &self.turns,
            input,
            positions: &positions,
            written: &written,
            rules,
            units: input.sequences.units(shape, group, rules, self.team.size()),
            shape,
            num_threads: self.team.size(),
            stream: Split::new(&mut space.stream),
            qkv: Split::new(&mut space.qkv),
            qkv_width,
            normed: space.normed.share(),
            attended: space.attended.share(),
            inner: space.inner.share(),
            last: space.last.share(),
            cache: Split::new(cache),
            logits: Split::new(&mut logits),
        };
        let (layers, final_norm, head) = (&self.layers, &self.final_norm, &self.head);
        self.team.run(|member| {
            let mut own = Own::default();
            step.embed(member);
            for (i, layer) in layers.iter().enumerate() {
                step.layer(member, &mut own, i, layer);
            }
            step.finish(member, &mut own, final_norm, head);
        });
        Ok(logits)
    }
}

/// The new tokens of a batch that go to one block.
struct Written {
    block: usize,
    tokens: Range<usize>,
}

/// Checks what the caller gave. Gives the position of each token, and where tokens go.
fn check<T: Kept>(
    config: &Config,
    has_no_turns: bool,
    input: Input<'_>,
    cache_len: usize,
    shape: Shape,
) -> Result<(Vec<usize>, Vec<Written>)> {
    let (sequences, width) = (input.sequences, config.width);
    let block_len = T::block_len(shape);
    let all = 2 * config.depth * block_len;
    if all == 0 || !cache_len.is_multiple_of(all) {
        return Err(Error::value(format!("a cache of {cache_len} elements is not in blocks of {all}")));
    }
    let num_blocks = cache_len / all;
    let rules = Rules { window: config.window, ..Rules::default() };
    sequences.check(num_blocks, shape.block_size, rules)?;
    let num_tokens = sequences.num_tokens();
    let count = match input.embeddings {
        Embeddings::Table { table, ids } => {
            if table.len() != config.vocab_size * width {
                return Err(Error::value(format!(
                    "an embedding of {} values is not {} rows of {width}",
                    table.len(),
                    config.vocab_size
                )));
            }
            if let Some(id) = ids.iter().find(|&&id| id < 0 || id as usize >= config.vocab_size) {
                return Err(Error::value(format!(
                    "id {id} is outside the vocabulary of {} tokens",
                    config.vocab_size
                )));
            }
            ids.len()
        }
        Embeddings::Rows(rows) if rows.len().is_multiple_of(width) => rows.len() / width,
        Embeddings::Rows(rows) => {
            return Err(Error::value(format!("{} values are not rows of {width}", rows.len())));
        }
    };
    if count != num_tokens {
        return Err(Error::value(format!(
            "{count} tokens are given and {num_tokens} are new in the sequences"
        )));
    }
    if input.positions.is_some_and(|table| table.len() != config.max_positions * width) {
        return Err(Error::value("the embedding of positions has another shape than the model"));
    }
    if input.positions.is_none() && has_no_turns {
        return Err(Error::value("a model without rotary positions needs an embedding of positions"));
    }
    if let Some(token) = input.wanted.iter().find(|&&token| token < 0 || token as usize >= num_tokens) {
        return Err(Error::value(format!("logits of token {token} are wanted, there are {num_tokens}")));
    }
    let mut positions = Vec::with_capacity(num_tokens);
    let mut written = Vec::new();
    for i in 0..sequences.count() {
        let (tokens, first) = sequences.new_tokens(i);
        let end = first + tokens.len();
        if end > config.max_positions {
            return Err(Error::value(format!(
                "a sequence of {end} tokens exceeds max_positions {}",
                config.max_positions
            )));
        }
        positions.extend(first..end);
        let table = sequences.table(i);
        let mut place = first;
        while place < end {
            let block = table[place / shape.block_size];
            if block < 0 || block as usize >= num_blocks {
                return Err(Error::value(format!(
                    "sequence {i} lists block {block}, the cache has {num_blocks}"
                )));
            }
            let next = end.min((place / shape.block_size + 1) * shape.block_size);
            let tokens = tokens.start + place - first..tokens.start + next - first;
            written.push(Written { block: block as usize, tokens });
            place = next;
        }
    }
    // By block, so that one which is written twice has itself beside it.
    written.sort_unstable_by_key(|written| written.block);
    if let Some(pair) = written.windows(2).find(|pair| pair[0].block == pair[1].block) {
        let (first, second) = (&pair[0].tokens, &pair[1].tokens);
        return Err(Error::value(format!(
            "tokens {} and {} of the batch, of different sequences, both go to block {}",
            first.start, second.start, pair[0].block
        )));
    }
    Ok((positions, written))
}

/// What all threads share.
struct Step<'a, T> {
    config: &'a Config,
    precision: Precision,
    level: Level,
    lines: &'a [Line],
    turns: &'a [f32],
    input: Input<'a>,
    positions: &'a [usize],
    written: &'a [Written],
    rules: Rules<'a>,
    units: Vec<Unit<'a>>,
    shape: Shape,
    num_threads: usize,
    /// The residual stream.
    stream: Split<'a, f32>,
    qkv: Split<'a, f32>,
    qkv_width: usize,
    normed: SharedRows<'a>,
    attended: SharedRows<'a>,
    inner: SharedRows<'a>,
    last: SharedRows<'a>,
    cache: Split<'a, T>,
    logits: Split<'a, f32>,
}

/// What each thread has for itself.
#[derive(Default)]
struct Own {
    scratch: Scratch,
    totals: Vec<[f32; PANEL]>,
    /// Copies of the rows of the step, where these are few.
    normed: Rows,
    attended: Rows,
    inner: Rows,
}

impl<T: Kept> Step<'_, T> {
    fn embed(&self, member: &Member<'_>) {
        let (config, width) = (self.config, self.config.width);
        member.share(self.positions.len(), |token| {
            // SAFETY: one thread has the token.
            let row = unsafe { self.stream.part(token * width..(token + 1) * width) };
            let from = match self.input.embeddings {
                Embeddings::Table { table, ids } => &table[ids[token] as usize * width..][..width],
                Embeddings::Rows(rows) => &rows[token * width..][..width],
            };
            row.copy_from_slice(from);
            if let Some(table) = self.input.positions {
                for (x, &place) in row.iter_mut().zip(&table[self.positions[token] * width..]) {
                    *x += place;
                }
            }
            if config.embedding_norm {
                self.level.run(Plainly(|| Norm::Rms.run_in_place(row, config.norm_eps)));
            }
        });
    }

    fn layer(&self, member: &Member<'_>, own: &mut Own, i: usize, layer: &Layer) {
        let num_tokens = self.positions.len();
        let (normed, attended, inner) =
            ((&self.normed, num_tokens), (&self.attended, num_tokens), (&self.inner, num_tokens));
        let to_stream =
            Finish { kind: Kind::Add, bias: None, out: Out::Floats(&self.stream, self.config.width) };
        let to_qkv = Finish { kind: Kind::Store, bias: None, out: Out::Floats(&self.qkv, self.qkv_width) };
        let kind = match self.config.mlp {
            Mlp::Relu2 => Kind::Relu2,
            Mlp::Swiglu => Kind::Swiglu,
            Mlp::Gelu => Kind::Gelu,
        };
        let to_inner = Finish { kind, bias: None, out: Out::Rows(&self.inner) };
        self.normed_product(member, own, (&layer.attention_norm, &layer.qkv), normed, |row| row, to_qkv);
        self.ask(member, &layer.out);
        member.share(self.written.len(), |block| self.place(i, &self.written[block]));
        let at_once = at_once(self.units.len(), self.num_threads);
        member.share(self.units.len().div_ceil(at_once), |part| {
            let end = self.units.len().min((part + 1) * at_once);
            self.attend(i, &self.units[part * at_once..end], &mut own.scratch);
        });
        self.converted_product(member, own, |own| &mut own.attended, &layer.out, attended, to_stream);
        self.normed_product(member, own, (&layer.mlp_norm, &layer.up), normed, |row| row, to_inner);
        self.ask(member, &layer.down);
        self.converted_product(member, own, |own| &mut own.inner, &layer.down, inner, to_stream);
    }

    fn finish(&self, member: &Member<'_>, own: &mut Own, final_norm: &Gain, head: &Linear) {
        let wanted = self.input.wanted;
        let last = (&self.last, wanted.len());
        let kind = self.config.softcap.map_or(Kind::Store, Kind::Cap);
        let to_logits = Finish { kind, bias: None, out: Out::Floats(&self.logits, self.config.vocab_size) };
        let of = |row: usize| wanted[row] as usize;
        self.normed_product(member, own, (final_norm, head), last, of, to_logits);
    }

    /// The product of normalised rows of the stream; `token_of` says which.
    fn normed_product(
        &self,
        member: &Member<'_>,
        own: &mut Own,
        (gain, linear): (&Gain, &Linear),
        (to, num_rows): (&SharedRows<'_>, usize),
        token_of: impl Fn(usize) -> usize,
        finish: Finish<'_>,
    ) {
        self.ask(member, linear);
        if num_rows > FEW_ROWS {
            member.share(num_rows, |row| self.norm(gain, token_of(row), to, row));
            return self.product(member, own, linear, (to, num_rows), finish);
        }
        let mut copies = std::mem::take(&mut own.normed);
        copies.resize(num_rows, self.config.width, self.precision);
        let to = copies.share();
        for row in 0..num_rows {
            self.norm(gain, token_of(row), &to, row);
        }
        self.product(member, own, linear, (&to, num_rows), finish);
        own.normed = copies;
    }

    /// The product of rows that others have written, of which bytes are made first if the weights are bytes.
    fn converted_product(
        &self,
        member: &Member<'_>,
        own: &mut Own,
        copies_of: impl Fn(&mut Own) -> &mut Rows,
        linear: &Linear,
        (rows, num_rows): (&SharedRows<'_>, usize),
        finish: Finish<'_>,
    ) {
        // SAFETY: one thread has the row.
        let convert = |to: &SharedRows<'_>, row| self.level.run(Plainly(|| unsafe { to.convert(row) }));
        if !rows.has_bytes() {
            return self.product(member, own, linear, (rows, num_rows), finish);
        }
        if num_rows > FEW_ROWS {
            member.share(num_rows, |row| convert(rows, row));
            return self.product(member, own, linear, (rows, num_rows), finish);
        }
        let mut copies = std::mem::take(copies_of(own));
        copies.resize(num_rows, linear.matrix.num_columns, self.precision);
        let to = copies.share();
        for row in 0..num_rows {
            // SAFETY: nobody writes to the rows in this stage, and the copies are this thread's.
            unsafe { to.row(row).copy_from_slice(rows.floats(row)) };
            convert(&to, row);
        }
        self.product(member, own, linear, (&to, num_rows), finish);
        *copies_of(own) = copies;
    }

    /// Normalises a token of the stream.
    fn norm(&self, gain: &Gain, token: usize, to: &SharedRows<'_>, row: usize) {
        let width = self.config.width;
        // SAFETY: nothing writes to the stream in this stage, and one thread has the row.
        let (from, out) = unsafe { (self.stream.read(token * width..(token + 1) * width), to.row(row)) };
        self.level.run(Plainly(|| {
            let (weight, bias) = (Some(gain.weight.as_slice()), gain.bias.as_deref());
            self.config.norm.run(from, weight, bias, self.config.norm_eps, out);
            // SAFETY: as above.
            unsafe { to.convert(row) };
        }));
    }

    fn product(
        &self,
        member: &Member<'_>,
        own: &mut Own,
        linear: &Linear,
        (input, num_rows): (&SharedRows<'_>, usize),
        finish: Finish<'_>,
    ) {
        let matrix = &linear.matrix;
        let finish = Finish { bias: linear.bias.as_deref(), ..finish };
        let mut run = |panels: Range<usize>, row: usize| {
            let rows = row..num_rows.min(row + ROWS_AT_ONCE);
            self.level.run(Product {
                lines: self.lines,
                matrix,
                panels,
                input,
                rows,
                totals: &mut own.totals,
                finish,
            });
        };
        let stretch = self.stretch(member, matrix);
        for row in (0..num_rows).step_by(ROWS_AT_ONCE) {
            run(stretch.clone(), row);
        }
        // The rest is for whoever comes first: a thread that is held up leaves it to the others.
        let first = stretch.len() * self.num_threads;
        let num_left = matrix.num_panels - first;
        member.share(num_left * num_rows.div_ceil(ROWS_AT_ONCE), |piece| {
            let panel = first + piece % num_left;
            run(panel..panel + 1, piece / num_left * ROWS_AT_ONCE);
        });
    }

    /// Panels that a thread has for itself: memory is read best from end to end.
    fn stretch(&self, member: &Member<'_>, matrix: &Matrix) -> Range<usize> {
        let len = matrix.num_panels * OWN_SHARE.0 / OWN_SHARE.1 / self.num_threads;
        member.index * len..(member.index + 1) * len
    }

    /// Has the first weights of the next product fetched during the stage before.
    fn ask(&self, member: &Member<'_>, linear: &Linear) {
        let lines = linear.matrix.lines(self.lines, &self.stretch(member, &linear.matrix));
        member.ask(&lines[..lines.len().min(ASKED_LINES)]);
    }

    /// Normalises and turns queries and keys, and writes keys and values to their block.
    fn place(&self, layer: usize, written: &Written) {
        let (config, dim) = (self.config, self.config.head_dim);
        let (heads, kv_heads) = (config.num_heads, config.num_kv_heads);
        // SAFETY: one thread has the block.
        let (keys, values) = unsafe {
            (
                self.cache.part(self.block(layer, 0, written.block)),
                self.cache.part(self.block(layer, 1, written.block)),
            )
        };
        for token in written.tokens.clone() {
            // SAFETY: one thread has the token.
            let row = unsafe { self.qkv.part(token * self.qkv_width..(token + 1) * self.qkv_width) };
            let position = self.positions[token];
            self.level.run(Plainly(|| {
                let (to_turn, new_values) = row.split_at_mut((heads + kv_heads) * dim);
                for head in to_turn.chunks_exact_mut(dim) {
                    if config.qk_norm {
                        Norm::Rms.run_in_place(head, config.norm_eps);
                    }
                    if let Some(turns) = self.turns.get(position * dim..(position + 1) * dim) {
                        rotate(head, turns);
                    }
                }
                for head in 0..kv_heads {
                    let row = self.shape.row(head, position % self.shape.block_size);
                    T::write(keys, self.shape, row, &to_turn[(heads + head) * dim..][..dim]);
                    T::write(values, self.shape, row, &new_values[head * dim..][..dim]);
                }
            }));
        }
    }

    /// Where keys (0) or values (1) of a block are in the cache.
    fn block(&self, layer: usize, side: usize, block: usize) -> Range<usize> {
        let side = self.side(layer, side);
        let len = T::block_len(self.shape);
        side.start + block * len..side.start + (block + 1) * len
    }

    /// Where all keys (0) or values (1) of a layer are in the cache.
    fn side(&self, layer: usize, side: usize) -> Range<usize> {
        let len = self.cache.len() / (2 * self.config.depth);
        (2 * layer + side) * len..(2 * layer + side + 1) * len
    }

    fn attend(&self, layer: usize, units: &[Unit<'_>], scratch: &mut Scratch) {
        // SAFETY: nothing writes to the cache or to queries in this stage.
        let (keys, values, queries) = unsafe {
            (
                self.cache.read(self.side(layer, 0)),
                self.cache.read(self.side(layer, 1)),
                self.qkv.read(0..self.qkv.len()),
            )
        };
        let mut write = |token: usize, head: usize, results: &[f32]| {
            // SAFETY: no other unit has this token and head.
            unsafe { self.attended.write(token, head * self.config.head_dim, results) };
        };
        self.level.run(Attend {
            units,
            blocks: Blocks { keys, values, shape: self.shape },
            rules: self.rules,
            queries,
            stride: self.qkv_width,
            scratch,
            out: &mut write,
        });
    }
}
