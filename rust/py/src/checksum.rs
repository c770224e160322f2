//! One number for what arrays hold.

use numpy::PyReadonlyArray1;
use pyo3::prelude::*;
use tempa_core::checksum as core;

use crate::border::Offload;

/// checksum(arrays) -> a hash of the bytes, lengths and order of flat uint8 arrays.
#[pyfunction]
pub(crate) fn checksum(py: Python<'_>, arrays: Vec<PyReadonlyArray1<'_, u8>>) -> PyResult<u128> {
    let parts: Vec<&[u8]> = arrays.iter().map(|array| array.as_slice()).collect::<Result<_, _>>()?;
    py.offload(|| Ok(core::checksum(&parts)))
}
