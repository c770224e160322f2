//! Paged attention on the CPU.

use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1, PyReadonlyArray2, PyReadonlyArray3, PyReadonlyArray4};
use numpy::{PyArray3, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;
use tempa_core::Error;
use tempa_core::attend::{Batch, Pool, decode};

use crate::border::Offload;

/// paged_decode(queries, keys, values, tables, lengths, window) -> (n, heads, head_dim) float32.
#[pyfunction]
pub(crate) fn paged_decode<'py>(
    py: Python<'py>,
    queries: PyReadonlyArray3<'py, f32>,
    keys: PyReadonlyArray4<'py, f32>,
    values: PyReadonlyArray4<'py, f32>,
    tables: PyReadonlyArray2<'py, i32>,
    lengths: PyReadonlyArray1<'py, i64>,
    window: Option<usize>,
) -> PyResult<Bound<'py, PyArray3<f32>>> {
    let &[_, block_size, num_heads, head_dim] = keys.shape() else { unreachable!("the type says 4") };
    let pool = Pool { keys: keys.as_slice()?, values: values.as_slice()?, block_size, num_heads, head_dim };
    let batch = Batch { tables: tables.as_slice()?, lengths: lengths.as_slice()?, window };
    let shape = [queries.shape()[0], queries.shape()[1], queries.shape()[2]];
    let flat = queries.as_slice()?;
    let out = py.offload(|| {
        if shape[0] != batch.lengths.len() || shape[2] != head_dim {
            return Err(Error::value(format!(
                "queries of shape {shape:?} do not fit {} rows",
                batch.lengths.len()
            )));
        }
        decode(flat, pool, batch)
    })?;
    let out: Bound<'py, PyArray1<f32>> = out.into_pyarray(py);
    out.reshape(shape)
}
