//! Paged attention on the CPU.

use numpy::{
    IntoPyArray, PyArray2, PyArray3, PyReadonlyArray1, PyReadonlyArray2, PyReadonlyArray3, PyReadonlyArrayDyn,
};
use numpy::{PyArray1, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use tempa_core::Error;
use tempa_core::attend::{self, Blocks, Brief, Kept, PlanOptions, Rules, Sequences, Shape, attend};
use tempa_core::lanes::Level;

use crate::border::Offload;
use crate::error::to_python;

/// Blocks of float32, of bfloat16 as uint16, or of int8 with the scales inside.
#[derive(FromPyObject)]
pub(crate) enum Stored<'py> {
    Floats(PyReadonlyArrayDyn<'py, f32>),
    Briefs(PyReadonlyArrayDyn<'py, u16>),
    Bytes(PyReadonlyArrayDyn<'py, i8>),
}

/// paged_attention(queries, keys, values, tables, lengths, starts, *, block_size, num_kv_heads, window, sinks,
/// softcap, slopes) -> (tokens, heads, head_dim) float32.
#[pyfunction]
#[pyo3(signature = (queries, keys, values, tables, lengths, starts, *, block_size, num_kv_heads,
    window=None, sinks=0, softcap=None, slopes=None))]
#[allow(clippy::too_many_arguments)]
pub(crate) fn paged_attention<'py>(
    py: Python<'py>,
    queries: PyReadonlyArray3<'py, f32>,
    keys: Stored<'py>,
    values: Stored<'py>,
    tables: PyReadonlyArray2<'py, i32>,
    lengths: PyReadonlyArray1<'py, i64>,
    starts: PyReadonlyArray1<'py, i64>,
    block_size: usize,
    num_kv_heads: usize,
    window: Option<usize>,
    sinks: usize,
    softcap: Option<f32>,
    slopes: Option<PyReadonlyArray1<'py, f32>>,
) -> PyResult<Bound<'py, PyArray3<f32>>> {
    let dims = [queries.shape()[0], queries.shape()[1], queries.shape()[2]];
    let sequences =
        Sequences { tables: tables.as_slice()?, lengths: lengths.as_slice()?, starts: starts.as_slice()? };
    let slopes = slopes.as_ref().map(PyReadonlyArray1::as_slice).transpose()?;
    let call = Call {
        queries: queries.as_slice()?,
        dims,
        shape: Shape { block_size, num_heads: num_kv_heads, head_dim: dims[2] },
        sequences,
        rules: Rules { window, sinks, softcap, slopes },
    };
    let out = match (&keys, &values) {
        (Stored::Floats(keys), Stored::Floats(values)) => call.run(py, keys.as_slice()?, values.as_slice()?),
        (Stored::Briefs(keys), Stored::Briefs(values)) => {
            call.run(py, Brief::of(keys.as_slice()?), Brief::of(values.as_slice()?))
        }
        (Stored::Bytes(keys), Stored::Bytes(values)) => call.run(py, keys.as_slice()?, values.as_slice()?),
        _ => Err(PyTypeError::new_err("keys and values must have the same dtype")),
    }?;
    let out: Bound<'py, PyArray1<f32>> = out.into_pyarray(py);
    out.reshape(dims)
}

/// Items, and (row_warps, items, parts) of each launch.
type Planned<'py> = (Bound<'py, PyArray2<i32>>, Vec<(i64, usize, i64)>);

/// plan_splits(lengths, starts, group, num_kv_heads, resident, max_row_warps, window, sinks) -> items and launches.
#[pyfunction]
#[pyo3(signature = (lengths, starts, group, num_kv_heads, resident, max_row_warps, window, sinks))]
#[allow(clippy::too_many_arguments)]
pub(crate) fn plan_splits<'py>(
    py: Python<'py>,
    lengths: PyReadonlyArray1<'py, i64>,
    starts: PyReadonlyArray1<'py, i64>,
    group: i64,
    num_kv_heads: i64,
    resident: i64,
    max_row_warps: i64,
    window: Option<i64>,
    sinks: i64,
) -> PyResult<Planned<'py>> {
    let options = PlanOptions { group, num_kv_heads, resident, max_row_warps, window, sinks };
    let made = attend::plan(lengths.as_slice()?, starts.as_slice()?, options).map_err(to_python)?;
    let items = made.items.into_flattened().into_pyarray(py);
    let num_items = items.len() / 5;
    Ok((items.reshape([num_items, 5])?, made.launches))
}

/// What does not depend on how keys and values are kept.
struct Call<'a> {
    queries: &'a [f32],
    dims: [usize; 3],
    shape: Shape,
    sequences: Sequences<'a>,
    rules: Rules<'a>,
}

impl Call<'_> {
    fn run<T: Kept>(&self, py: Python<'_>, keys: &[T], values: &[T]) -> PyResult<Vec<f32>> {
        let blocks = Blocks { keys, values, shape: self.shape };
        py.offload(|| {
            if self.dims[0] != self.sequences.num_tokens() {
                return Err(Error::value(format!(
                    "queries of shape {:?} do not fit {} new tokens",
                    self.dims,
                    self.sequences.num_tokens()
                )));
            }
            attend(self.queries, blocks, self.sequences, self.rules, Level::best())
        })
    }
}
