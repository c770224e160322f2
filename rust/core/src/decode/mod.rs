//! A Transformer's forward on the CPU, for new tokens of sequences whose earlier ones are in a paged cache.
//!
//! One call walks a team of threads through all layers; they meet between stages. What a token gets depends neither
//! on the number of threads, nor on the batch, nor on how its sequence was cut into calls: sums have a fixed order.

mod finish;
mod matrix;
mod norm;
mod rows;
mod step;
mod stream;
mod team;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

pub use matrix::Precision;
pub use norm::Norm;
pub use step::{Embeddings, Input};
pub use stream::Stream;

use crate::lanes::{Level, Line};
use crate::pages::Pages;
use crate::{Error, Result};
use matrix::Matrix;
use rows::Rows;
use team::Team;

/// Values that a thread hashes at once.
const HASHED_AT_ONCE: usize = 1 << 16;

/// The non-linearity of the feed-forward layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mlp {
    /// `max(x, 0)^2`.
    Relu2,
    /// `silu(gate) * up`; the gates are the first half of the rows.
    Swiglu,
    /// Exact GELU.
    Gelu,
}

/// The shape of a model, as `tempa.ModelConfig` has it.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Config {
    pub vocab_size: usize,
    pub depth: usize,
    pub width: usize,
    pub num_heads: usize,
    pub num_kv_heads: usize,
    pub head_dim: usize,
    pub mlp: Mlp,
    pub mlp_width: usize,
    pub norm: Norm,
    pub norm_eps: f32,
    pub max_positions: usize,
    pub window: Option<usize>,
    pub qk_norm: bool,
    pub embedding_norm: bool,
    pub softcap: Option<f32>,
}

impl Config {
    fn check(&self) -> Result<()> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("depth", self.depth),
            ("width", self.width),
            ("num_heads", self.num_heads),
            ("num_kv_heads", self.num_kv_heads),
            ("head_dim", self.head_dim),
            ("mlp_width", self.mlp_width),
            ("max_positions", self.max_positions),
            ("window", self.window.unwrap_or(1)),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(Error::value(format!("{name} must be at least 1, got 0")));
        }
        if !self.num_heads.is_multiple_of(self.num_kv_heads) {
            let (heads, kv) = (self.num_heads, self.num_kv_heads);
            return Err(Error::value(format!("num_heads {heads} is not a multiple of num_kv_heads {kv}")));
        }
        Ok(())
    }
}

/// A linear layer.
#[derive(Debug)]
struct Linear {
    name: String,
    matrix: Matrix,
    /// Of the weights that were taken last.
    fingerprint: Option<u64>,
    bias: Option<Vec<f32>>,
}

/// Weight and bias of a norm.
#[derive(Debug)]
struct Gain {
    name: String,
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
}

#[derive(Debug)]
struct Layer {
    attention_norm: Gain,
    qkv: Linear,
    out: Linear,
    mlp_norm: Gain,
    up: Linear,
    down: Linear,
}

/// Weights by their names in the model.
pub type Tensors<'a> = HashMap<String, &'a [f32]>;

/// The weights of a model in the order in which they are read, and the threads that read them.
pub struct Decoder {
    config: Config,
    precision: Precision,
    level: Level,
    /// Weights of all matrices.
    lines: Pages<Line>,
    layers: Vec<Layer>,
    final_norm: Gain,
    head: Linear,
    /// Cosine and sine for each position and pair of a head, or nothing.
    turns: Vec<f32>,
    team: Team,
    space: Space,
}

/// Activations, kept between calls: new memory costs its first touch.
#[derive(Default)]
struct Space {
    stream: Vec<f32>,
    normed: Rows,
    qkv: Vec<f32>,
    attended: Rows,
    inner: Rows,
    last: Rows,
}

impl Decoder {
    /// A decoder without weights; [`Decoder::pack`] gives it some.
    ///
    /// `turns` are `(max_positions, head_dim)`: cosine and sine of each pair, for rotary positions, or empty.
    ///
    /// # Errors
    /// [`Error::Value`] if a size is 0, or the heads or the turns do not fit.
    pub fn new(
        config: Config,
        turns: Vec<f32>,
        precision: Precision,
        num_threads: usize,
        level: Level,
    ) -> Result<Self> {
        config.check()?;
        if !turns.is_empty()
            && (turns.len() != config.max_positions * config.head_dim || config.head_dim % 2 == 1)
        {
            let (rows, dim) = (config.max_positions, config.head_dim);
            return Err(Error::value(format!("{} turns do not fit {rows} positions of {dim}", turns.len())));
        }
        let (width, inner) = (config.width, config.num_heads * config.head_dim);
        let mut num_lines = 0;
        let mut linear = |name: String, rows, columns, is_gated| {
            let matrix = Matrix::new(num_lines, rows, columns, precision, is_gated);
            num_lines = matrix.place.end;
            Linear { name, matrix, fingerprint: None, bias: None }
        };
        let gain = |name: String| Gain { name, weight: Vec::new(), bias: None };
        let is_gated = config.mlp == Mlp::Swiglu;
        let mut layer = |i: usize| {
            let name = |part: &str| format!("blocks.{i}.{part}");
            let qkv = inner + 2 * config.num_kv_heads * config.head_dim;
            Layer {
                attention_norm: gain(name("attention_norm")),
                qkv: linear(name("attention.qkv"), qkv, width, false),
                out: linear(name("attention.out"), width, inner, false),
                mlp_norm: gain(name("mlp_norm")),
                up: linear(name("mlp.up"), config.mlp_width * (1 + usize::from(is_gated)), width, is_gated),
                down: linear(name("mlp.down"), width, config.mlp_width, false),
            }
        };
        let layers = (0..config.depth).map(&mut layer).collect();
        let head = linear("head".to_owned(), config.vocab_size, width, false);
        Ok(Self {
            lines: Pages::zeroed(num_lines),
            layers,
            final_norm: gain("final_norm".to_owned()),
            head,
            turns,
            team: Team::new(num_threads),
            space: Space::default(),
            config,
            precision,
            level,
        })
    }

    /// The shape of the model.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Bytes of weights that a step reads, whatever the batch.
    pub fn num_bytes(&self) -> usize {
        self.lines.len() * size_of::<Line>()
    }

    /// Takes the weights, under the names of `tempa.Transformer`; `head.weight` may be absent, and is then
    /// `embedding.weight`. Matrices that are what they were are told by their fingerprints and left alone.
    ///
    /// # Errors
    /// [`Error::Key`] if one is missing, [`Error::Value`] if one has another size.
    pub fn pack(&mut self, tensors: &Tensors<'_>) -> Result<()> {
        let (width, level) = (self.config.width, self.level);
        for layer in &mut self.layers {
            layer.attention_norm.take(tensors, width)?;
            layer.mlp_norm.take(tensors, width)?;
            for linear in [&mut layer.qkv, &mut layer.out, &mut layer.up, &mut layer.down] {
                linear.take(tensors, &mut self.lines, level)?;
            }
        }
        self.final_norm.take(tensors, width)?;
        let head = if tensors.contains_key("head.weight") { "head" } else { "embedding" };
        head.clone_into(&mut self.head.name);
        self.head.take(tensors, &mut self.lines, level)
    }
}

impl Linear {
    fn take(&mut self, tensors: &Tensors<'_>, lines: &mut [Line], level: Level) -> Result<()> {
        let (rows, columns) = (self.matrix.num_rows, self.matrix.num_columns);
        let weights = find(tensors, &format!("{}.weight", self.name), rows * columns)?;
        let fingerprint = Some(fingerprint(weights));
        if self.fingerprint != fingerprint {
            self.matrix.pack(lines, weights, level);
            self.fingerprint = fingerprint;
        }
        self.bias = find_bias(tensors, &self.name, rows)?;
        Ok(())
    }
}

impl Gain {
    fn take(&mut self, tensors: &Tensors<'_>, width: usize) -> Result<()> {
        self.weight = find(tensors, &format!("{}.weight", self.name), width)?.to_vec();
        self.bias = find_bias(tensors, &self.name, width)?;
        Ok(())
    }
}

/// A hash of all values.
fn fingerprint(values: &[f32]) -> u64 {
    let hash = |chunk: &[f32]| xxh3_64(bytemuck::cast_slice(chunk));
    let hashes: Vec<u64> = values.par_chunks(HASHED_AT_ONCE).map(hash).collect();
    xxh3_64(bytemuck::cast_slice(&hashes))
}

fn find_bias(tensors: &Tensors<'_>, name: &str, size: usize) -> Result<Option<Vec<f32>>> {
    let name = format!("{name}.bias");
    if !tensors.contains_key(&name) {
        return Ok(None);
    }
    Ok(Some(find(tensors, &name, size)?.to_vec()))
}

fn find<'a>(tensors: &Tensors<'a>, name: &str, size: usize) -> Result<&'a [f32]> {
    let values = tensors.get(name).ok_or_else(|| Error::Key(format!("the weights have no {name}")))?;
    if values.len() != size {
        return Err(Error::value(format!("{name} must have {size} values, got {}", values.len())));
    }
    Ok(values)
}
