//! Counter-based random numbers as arrays.

use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use tempa_core::rng;

/// random_bits(seed, stream, start, count) -> uint64 array: 64 bits for each index from `start`.
#[pyfunction]
pub(crate) fn random_bits(
    py: Python<'_>,
    seed: u64,
    stream: u64,
    start: u64,
    count: usize,
) -> Bound<'_, PyArray1<u64>> {
    let values: Vec<u64> = (start..start + count as u64).map(|i| rng::bits64(seed, stream, i)).collect();
    values.into_pyarray(py)
}

/// random_uniform(seed, stream, start, count) -> float64 array in [0, 1).
#[pyfunction]
pub(crate) fn random_uniform(
    py: Python<'_>,
    seed: u64,
    stream: u64,
    start: u64,
    count: usize,
) -> Bound<'_, PyArray1<f64>> {
    let values: Vec<f64> = (start..start + count as u64).map(|i| rng::uniform(seed, stream, i)).collect();
    values.into_pyarray(py)
}
