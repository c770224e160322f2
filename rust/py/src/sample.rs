//! Sampling from rows of logits.

use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::prelude::*;
use tempa_core::Error;
use tempa_core::sample::{Request, sample as draw};

use crate::border::Offload;

/// One token and one log-probability per row.
type Draws<'py> = (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<f32>>);

/// sample(logits, temperature, top_k, top_p, seeds, positions) -> (ids, logps): one token per row.
#[pyfunction]
pub(crate) fn sample<'py>(
    py: Python<'py>,
    logits: PyReadonlyArray2<'py, f32>,
    temperature: PyReadonlyArray1<'py, f32>,
    top_k: PyReadonlyArray1<'py, u32>,
    top_p: PyReadonlyArray1<'py, f32>,
    seeds: PyReadonlyArray1<'py, u64>,
    positions: PyReadonlyArray1<'py, i64>,
) -> PyResult<Draws<'py>> {
    let rows = logits.shape()[0];
    let (values, temperature, top_k) = (logits.as_slice()?, temperature.as_slice()?, top_k.as_slice()?);
    let (top_p, seeds, positions) = (top_p.as_slice()?, seeds.as_slice()?, positions.as_slice()?);
    let (ids, logps) = py.offload(|| {
        let lengths = [temperature.len(), top_k.len(), top_p.len(), seeds.len(), positions.len()];
        if lengths != [rows; 5] {
            return Err(Error::value(format!("{rows} rows of logits, but settings for {lengths:?} rows")));
        }
        let requests: Vec<Request> = (0..rows)
            .map(|i| Request {
                temperature: temperature[i],
                top_k: top_k[i],
                top_p: top_p[i],
                seed: seeds[i],
                position: positions[i] as u64,
            })
            .collect();
        draw(values, &requests)
    })?;
    Ok((ids.into_pyarray(py), logps.into_pyarray(py)))
}
