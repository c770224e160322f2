//! Segmented reverse scans over ragged arrays.

use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;
use tempa_core::scan;

use crate::border::Offload;

type Floats<'py> = Bound<'py, PyArray1<f32>>;

/// `reward_to_go(rewards, offsets, gamma) -> float32 array`.
#[pyfunction]
pub(crate) fn reward_to_go<'py>(
    py: Python<'py>,
    rewards: PyReadonlyArray1<'py, f32>,
    offsets: PyReadonlyArray1<'py, i64>,
    gamma: f64,
) -> PyResult<Floats<'py>> {
    let (rewards, offsets) = (rewards.as_slice()?, offsets.as_slice()?);
    Ok(py.offload(|| scan::reward_to_go(rewards, offsets, gamma))?.into_pyarray(py))
}

/// `gae(rewards, values, offsets, gamma, lam, last_values) -> (advantages, returns)`, float32 arrays.
#[pyfunction]
pub(crate) fn gae<'py>(
    py: Python<'py>,
    rewards: PyReadonlyArray1<'py, f32>,
    values: PyReadonlyArray1<'py, f32>,
    offsets: PyReadonlyArray1<'py, i64>,
    gamma: f64,
    lam: f64,
    last_values: PyReadonlyArray1<'py, f32>,
) -> PyResult<(Floats<'py>, Floats<'py>)> {
    let (rewards, values) = (rewards.as_slice()?, values.as_slice()?);
    let (offsets, last_values) = (offsets.as_slice()?, last_values.as_slice()?);
    let (advantages, returns) =
        py.offload(|| scan::gae(rewards, values, offsets, gamma, lam, last_values))?;
    Ok((advantages.into_pyarray(py), returns.into_pyarray(py)))
}
