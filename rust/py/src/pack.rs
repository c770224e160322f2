//! Rows, their order, and batches.

use std::sync::Arc;

use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;
use tempa_core::pack::{self, Batch, Mode};
use tempa_core::{Error, Result};

use crate::border::Offload;
use crate::shard::Shards;

type Array<'py> = Bound<'py, PyArray1<i64>>;

/// pack_rows(offsets, row_len) -> (starts, stops, row_offsets): best-fit rows of token positions.
#[pyfunction]
pub(crate) fn pack_rows<'py>(
    py: Python<'py>,
    offsets: PyReadonlyArray1<'py, i64>,
    row_len: usize,
) -> PyResult<(Array<'py>, Array<'py>, Array<'py>)> {
    let offsets = offsets.as_slice()?;
    let (starts, stops, rows) = py.offload(|| {
        let rows = pack::plan_rows(offsets, row_len)?;
        let starts: Vec<i64> = rows.values.iter().map(|span| span.start).collect();
        let stops: Vec<i64> = rows.values.iter().map(|span| span.stop).collect();
        Ok((starts, stops, rows.offsets))
    })?;
    Ok((starts.into_pyarray(py), stops.into_pyarray(py), rows.into_pyarray(py)))
}

/// permutation(n, seed, stream) -> int64 array: all places of the keyed permutation of 0..n.
#[pyfunction]
pub(crate) fn permutation(py: Python<'_>, n: u64, seed: u64, stream: u64) -> PyResult<Array<'_>> {
    let elements =
        py.offload(|| Ok((0..n).map(|i| pack::permute(i, n, seed, stream) as i64).collect::<Vec<_>>()))?;
    Ok(elements.into_pyarray(py))
}

/// Rows(shards, row_len, mode): the rows of one shard directory.
#[pyclass(frozen, module = "tempa._core")]
pub(crate) struct Rows(Arc<pack::Rows>);

#[pymethods]
impl Rows {
    #[new]
    fn new(py: Python<'_>, shards: &Bound<'_, Shards>, row_len: usize, mode: &str) -> PyResult<Self> {
        let shards = shards.get().0.clone();
        py.offload(|| pack::Rows::new(shards, row_len, parse_mode(mode)?)).map(|rows| Self(Arc::new(rows)))
    }

    #[getter]
    fn num_rows(&self) -> u64 {
        self.0.num_rows()
    }

    #[getter]
    fn num_positions(&self) -> u64 {
        self.0.num_positions()
    }
}

/// Loader(sources, first_rows, weights, batch_rows, seed): stage i begins at row first_rows[i] and draws with
/// weights[i * len(sources):].
#[pyclass(frozen, module = "tempa._core")]
pub(crate) struct Loader(pack::Loader);

#[pymethods]
impl Loader {
    #[new]
    fn new(
        py: Python<'_>,
        sources: Vec<Bound<'_, Rows>>,
        first_rows: Vec<u64>,
        weights: Vec<f64>,
        batch_rows: usize,
        seed: u64,
    ) -> PyResult<Self> {
        let sources = sources.iter().map(|rows| rows.get().0.clone()).collect();
        py.offload(|| pack::Loader::new(sources, &first_rows, &weights, batch_rows, seed)).map(Self)
    }

    /// batch(index) -> (ids, targets, cu_seqlens) of the endless shuffled sequence.
    fn batch<'py>(&self, py: Python<'py>, index: u64) -> PyResult<(Array<'py>, Array<'py>, Array<'py>)> {
        py.offload(|| self.0.batch(index)).map(|batch| arrays(py, batch))
    }

    /// sequential_batch(source, index) -> (ids, targets, cu_seqlens) of one pass over a source in corpus order.
    fn sequential_batch<'py>(
        &self,
        py: Python<'py>,
        source: usize,
        index: u64,
    ) -> PyResult<(Array<'py>, Array<'py>, Array<'py>)> {
        py.offload(|| self.0.sequential_batch(source, index)).map(|batch| arrays(py, batch))
    }

    /// drawn(start, stop) -> (sources, rows): where the rows of the endless sequence come from.
    fn drawn<'py>(&self, py: Python<'py>, start: u64, stop: u64) -> PyResult<(Array<'py>, Array<'py>)> {
        let (sources, rows): (Vec<_>, Vec<_>) = py.offload(|| {
            let drawn = (start..stop).map(|place| self.0.mixture().row(place));
            Ok(drawn.map(|drawn| (drawn.source as i64, drawn.row as i64)).unzip())
        })?;
        Ok((sources.into_pyarray(py), rows.into_pyarray(py)))
    }

    /// counts(num_rows) -> int64 array: how many of the first rows come from each source.
    fn counts<'py>(&self, py: Python<'py>, num_rows: u64) -> PyResult<Array<'py>> {
        let counts = py.offload(|| Ok(self.0.mixture().counts(num_rows)))?;
        Ok(counts.into_iter().map(|count| count as i64).collect::<Vec<_>>().into_pyarray(py))
    }
}

fn parse_mode(mode: &str) -> Result<Mode> {
    match mode {
        "packed" => Ok(Mode::Packed),
        "windows" => Ok(Mode::Windows),
        _ => Err(Error::value(format!("mode must be 'packed' or 'windows', got {mode:?}"))),
    }
}

fn arrays(py: Python<'_>, batch: Batch) -> (Array<'_>, Array<'_>, Array<'_>) {
    (batch.ids.into_pyarray(py), batch.targets.into_pyarray(py), batch.cu_seqlens.into_pyarray(py))
}
