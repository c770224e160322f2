//! The block bookkeeping of the paged cache.

use std::sync::{Mutex, MutexGuard, PoisonError};

use numpy::ndarray::Array2;
use numpy::{IntoPyArray, PyArray1, PyArray2, PyReadonlyArray1};
use pyo3::prelude::*;
use tempa_core::kv;

use crate::error::to_python;

/// BlockPool(num_blocks, block_size): blocks of tokens, shared by sequences.
///
/// The lock is held for one call, which never waits for anything else.
#[pyclass(frozen, module = "tempa._core")]
pub(crate) struct BlockPool(Mutex<kv::BlockPool>);

/// (tables, lengths, slots, sources, targets) of one step.
type Step<'py> = (
    Bound<'py, PyArray2<i32>>,
    Bound<'py, PyArray1<i64>>,
    Bound<'py, PyArray1<i64>>,
    Bound<'py, PyArray1<i64>>,
    Bound<'py, PyArray1<i64>>,
);

#[pymethods]
impl BlockPool {
    #[new]
    fn new(num_blocks: usize, block_size: usize) -> PyResult<Self> {
        Ok(Self(Mutex::new(kv::BlockPool::new(num_blocks, block_size).map_err(to_python)?)))
    }

    /// alloc(n) -> handles of n sequences without tokens.
    fn alloc<'py>(&self, py: Python<'py>, n: usize) -> Bound<'py, PyArray1<i64>> {
        self.lock().alloc(n).into_pyarray(py)
    }

    /// fork(handle, n) -> handles of n sequences that share its tokens.
    fn fork<'py>(&self, py: Python<'py>, handle: i64, n: usize) -> PyResult<Bound<'py, PyArray1<i64>>> {
        Ok(self.lock().fork(handle, n).map_err(to_python)?.into_pyarray(py))
    }

    /// free(handles): end sequences.
    fn free(&self, handles: PyReadonlyArray1<'_, i64>) -> PyResult<()> {
        self.lock().free(handles.as_slice()?).map_err(to_python)
    }

    /// append(handles, counts) -> (tables, lengths, slots, sources, targets).
    fn append<'py>(
        &self,
        py: Python<'py>,
        handles: PyReadonlyArray1<'_, i64>,
        counts: PyReadonlyArray1<'_, i64>,
    ) -> PyResult<Step<'py>> {
        let step = self.lock().append(handles.as_slice()?, counts.as_slice()?).map_err(to_python)?;
        let tables = Array2::from_shape_vec((step.lengths.len(), step.width), step.tables)
            .map_err(|error| tempa_core::Error::value(error.to_string()))
            .map_err(to_python)?;
        Ok((
            tables.into_pyarray(py),
            step.lengths.into_pyarray(py),
            step.slots.into_pyarray(py),
            step.sources.into_pyarray(py),
            step.targets.into_pyarray(py),
        ))
    }

    #[getter]
    fn num_blocks(&self) -> usize {
        self.lock().num_blocks()
    }

    #[getter]
    fn num_free(&self) -> usize {
        self.lock().num_free()
    }

    #[getter]
    fn block_size(&self) -> usize {
        self.lock().block_size()
    }
}

impl BlockPool {
    fn lock(&self) -> MutexGuard<'_, kv::BlockPool> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
