//! Exact and near duplicates.

use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use rayon::prelude::*;
use tempa_core::dedup::{self, NearOptions};

use crate::border::Offload;

/// content_hashes(texts) -> uint64 array: half of the hash by which exact duplicates are found.
#[pyfunction]
pub(crate) fn content_hashes(py: Python<'_>, texts: Vec<PyBackedStr>) -> PyResult<Bound<'_, PyArray1<u64>>> {
    let hashes: Vec<u64> =
        py.offload(|| Ok(texts.par_iter().map(|text| dedup::content_hash(text) as u64).collect()))?;
    Ok(hashes.into_pyarray(py))
}

/// exact_duplicates(texts, progress=None) -> int64 array: the place of the first equal text; progress gets bytes.
#[pyfunction]
#[pyo3(signature = (texts, progress=None))]
pub(crate) fn exact_duplicates<'py>(
    py: Python<'py>,
    texts: Vec<PyBackedStr>,
    progress: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyArray1<i64>>> {
    let first = py.offload_long(progress, |monitor| dedup::exact_duplicates(&texts, monitor))?;
    Ok(places(first).into_pyarray(py))
}

/// near_duplicates(texts, (threshold, ngram, bands, rows, seed), progress=None) -> int64 array: the place of the
/// kept text that each one duplicates, or its own; progress gets bytes.
#[pyfunction]
#[pyo3(signature = (texts, options, progress=None))]
pub(crate) fn near_duplicates<'py>(
    py: Python<'py>,
    texts: Vec<PyBackedStr>,
    options: (f64, usize, usize, usize, u64),
    progress: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyArray1<i64>>> {
    let (threshold, ngram, bands, rows, seed) = options;
    let options = NearOptions { threshold, ngram, bands, rows, seed };
    let first = py.offload_long(progress, |monitor| dedup::near_duplicates(&texts, &options, monitor))?;
    Ok(places(first).into_pyarray(py))
}

/// shingle_set(text, ngram) -> uint64 array: the distinct shingles in increasing order.
#[pyfunction]
pub(crate) fn shingle_set(
    py: Python<'_>,
    text: PyBackedStr,
    ngram: usize,
) -> PyResult<Bound<'_, PyArray1<u64>>> {
    Ok(py.offload(|| Ok(dedup::shingle_set(&text, ngram)))?.into_pyarray(py))
}

/// collision_probability(similarity, bands, rows) -> probability that two texts become candidates.
#[pyfunction]
pub(crate) fn collision_probability(similarity: f64, bands: usize, rows: usize) -> f64 {
    dedup::collision_probability(similarity, bands, rows)
}

fn places(places: Vec<usize>) -> Vec<i64> {
    places.into_iter().map(|place| place as i64).collect()
}
