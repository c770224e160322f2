//! A model's forward on the CPU.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2};
use numpy::{PyReadonlyArrayDyn, PyReadwriteArrayDyn};
use pyo3::prelude::*;
use tempa_core::Error;
use tempa_core::attend::{Brief, Kept, Sequences};
use tempa_core::decode::{Config, Decoder as Core, Embeddings, Input, Mlp, Norm, Precision, Stream};
use tempa_core::lanes::Level;

use crate::border::Offload;
use crate::error::to_python;

/// The attributes of a `tempa.ModelConfig`.
#[derive(FromPyObject)]
struct Shape {
    vocab_size: usize,
    depth: usize,
    width: usize,
    num_heads: usize,
    num_kv_heads: usize,
    head_dim: usize,
    mlp: String,
    mlp_width: usize,
    norm: String,
    norm_eps: f32,
    max_positions: usize,
    window: Option<usize>,
    qk_norm: bool,
    embedding_norm: bool,
    softcap: Option<f32>,
}

impl Shape {
    fn config(self) -> Result<Config, Error> {
        let unknown = |name: &str, value: &str| Error::value(format!("unknown {name} {value:?}"));
        Ok(Config {
            mlp: match self.mlp.as_str() {
                "relu2" => Mlp::Relu2,
                "swiglu" => Mlp::Swiglu,
                "gelu" => Mlp::Gelu,
                other => return Err(unknown("mlp", other)),
            },
            norm: match self.norm.as_str() {
                "rms" => Norm::Rms,
                "layer" => Norm::Layer,
                other => return Err(unknown("norm", other)),
            },
            vocab_size: self.vocab_size,
            depth: self.depth,
            width: self.width,
            num_heads: self.num_heads,
            num_kv_heads: self.num_kv_heads,
            head_dim: self.head_dim,
            mlp_width: self.mlp_width,
            norm_eps: self.norm_eps,
            max_positions: self.max_positions,
            window: self.window,
            qk_norm: self.qk_norm,
            embedding_norm: self.embedding_norm,
            softcap: self.softcap,
        })
    }
}

/// Blocks of float32, of bfloat16 as uint16, or of int8 with the scales inside.
#[derive(FromPyObject)]
enum Cache<'py> {
    Floats(PyReadwriteArrayDyn<'py, f32>),
    Briefs(PyReadwriteArrayDyn<'py, u16>),
    Bytes(PyReadwriteArrayDyn<'py, i8>),
}

/// Decoder(config, turns, weights, num_threads): a model's weights in the order in which they are read, and the
/// threads that read them.
///
/// The lock is held for one call; a second thread that calls waits for the first.
#[pyclass(frozen, module = "tempa._core")]
pub(crate) struct Decoder(Mutex<Core>);

#[pymethods]
impl Decoder {
    #[new]
    fn new(
        config: &Bound<'_, PyAny>,
        turns: PyReadonlyArrayDyn<'_, f32>,
        weights: &str,
        num_threads: usize,
    ) -> PyResult<Self> {
        let precision = match weights {
            "float32" => Ok(Precision::Float32),
            "bfloat16" => Ok(Precision::Bfloat16),
            "int8" => Ok(Precision::Int8),
            _ => Err(Error::value(format!("weights must be float32, bfloat16 or int8, got {weights:?}"))),
        };
        let config = config.extract::<Shape>()?.config().map_err(to_python)?;
        let turns = turns.as_slice()?.to_vec();
        let core =
            precision.and_then(|precision| Core::new(config, turns, precision, num_threads, Level::best()));
        Ok(Self(Mutex::new(core.map_err(to_python)?)))
    }

    /// pack(tensors): take the weights, by their names in the model.
    fn pack(&self, py: Python<'_>, tensors: HashMap<String, PyReadonlyArrayDyn<'_, f32>>) -> PyResult<()> {
        let mut slices = HashMap::new();
        for (name, tensor) in &tensors {
            slices.insert(name.clone(), tensor.as_slice()?);
        }
        py.offload(|| self.0.lock().unwrap_or_else(PoisonError::into_inner).pack(&slices))
    }

    /// Bytes of weights that a step reads.
    #[getter]
    fn num_bytes(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).num_bytes()
    }

    /// forward(ids, embedding, positions, cache, tables, lengths, starts, wanted, block_size) -> (wanted, vocab_size)
    /// float32. Without ids, the embedding has a row for each token.
    #[allow(clippy::too_many_arguments)]
    fn forward<'py>(
        &self,
        py: Python<'py>,
        ids: Option<PyReadonlyArray1<'py, i64>>,
        embedding: PyReadonlyArray2<'py, f32>,
        positions: Option<PyReadonlyArray2<'py, f32>>,
        cache: Cache<'py>,
        tables: PyReadonlyArray2<'py, i32>,
        lengths: PyReadonlyArray1<'py, i64>,
        starts: PyReadonlyArray1<'py, i64>,
        wanted: PyReadonlyArray1<'py, i64>,
        block_size: usize,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let table = embedding.as_slice()?;
        let ids = ids.as_ref().map(PyReadonlyArray1::as_slice).transpose()?;
        let input = Input {
            embeddings: ids.map_or(Embeddings::Rows(table), |ids| Embeddings::Table { table, ids }),
            positions: positions.as_ref().map(PyReadonlyArray2::as_slice).transpose()?,
            sequences: Sequences {
                tables: tables.as_slice()?,
                lengths: lengths.as_slice()?,
                starts: starts.as_slice()?,
            },
            wanted: wanted.as_slice()?,
        };
        let (logits, vocab_size) = match cache {
            Cache::Floats(mut cache) => self.run(py, input, cache.as_slice_mut()?, block_size),
            Cache::Briefs(mut cache) => self.run(py, input, Brief::of_mut(cache.as_slice_mut()?), block_size),
            Cache::Bytes(mut cache) => self.run(py, input, cache.as_slice_mut()?, block_size),
        }?;
        let logits: Bound<'py, PyArray1<f32>> = logits.into_pyarray(py);
        logits.reshape([input.wanted.len(), vocab_size])
    }
}

impl Decoder {
    /// The logits and the width of their rows.
    fn run<T: Kept>(
        &self,
        py: Python<'_>,
        input: Input<'_>,
        cache: &mut [T],
        block_size: usize,
    ) -> PyResult<(Vec<f32>, usize)> {
        py.offload(|| {
            let mut core = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Ok((core.forward(input, cache, block_size)?, core.config().vocab_size))
        })
    }
}

/// MemoryReader(num_bytes, num_threads): what reading memory costs the threads of a decoder, and so the least that a
/// step can cost.
///
/// The lock is held for one call.
#[pyclass(frozen, module = "tempa._core")]
pub(crate) struct MemoryReader(Mutex<Stream>);

#[pymethods]
impl MemoryReader {
    #[new]
    fn new(num_bytes: usize, num_threads: usize) -> Self {
        Self(Mutex::new(Stream::new(num_bytes, num_threads)))
    }

    /// read() -> how many bytes were read.
    fn read(&self, py: Python<'_>) -> PyResult<usize> {
        py.offload(|| {
            let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            std::hint::black_box(stream.read());
            Ok(stream.num_bytes())
        })
    }
}
