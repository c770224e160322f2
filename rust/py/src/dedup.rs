//! Exact and near duplicates.

use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use rayon::prelude::*;
use tempa_core::Error;
use tempa_core::dedup::{self, Bands, Keep, NearOptions, Shingler, Unit};

use crate::border::Offload;
use crate::error::to_python;

type Places<'py> = Bound<'py, PyArray1<i64>>;

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
) -> PyResult<Places<'py>> {
    let first = py.offload_long(progress, |monitor| dedup::exact_duplicates(&texts, monitor))?;
    Ok(places(py, first))
}

/// (threshold, unit, ngram, bands, rows, seed, is_exact)
type Options = (f64, String, usize, usize, usize, u64, bool);

fn near_options((threshold, unit, ngram, bands, rows, seed, is_exact): Options) -> PyResult<NearOptions> {
    let unit = Unit::from_name(&unit).map_err(to_python)?;
    let shingler = Shingler { unit, ngram, seed };
    Ok(NearOptions { threshold, shingler, bands: Bands { bands, rows }, is_exact })
}

/// near_duplicates(texts, options, keep, scores=None, progress=None) -> (kept, cluster), int64 arrays: the place
/// of the kept text that each one duplicates or its own, and the first place of its cluster.
///
/// Options are (threshold, unit, ngram, bands, rows, seed, is_exact), keep is "first" or "longest" or goes by
/// the scores; progress gets bytes.
#[pyfunction]
#[pyo3(signature = (texts, options, keep="first", scores=None, progress=None))]
pub(crate) fn near_duplicates<'py>(
    py: Python<'py>,
    texts: Vec<PyBackedStr>,
    options: Options,
    keep: &str,
    scores: Option<PyReadonlyArray1<'py, f64>>,
    progress: Option<&Bound<'py, PyAny>>,
) -> PyResult<(Places<'py>, Places<'py>)> {
    let options = near_options(options)?;
    let keep = match (&scores, keep) {
        (Some(scores), _) => Keep::Best(scores.as_slice()?),
        (None, "first") => Keep::First,
        (None, "longest") => Keep::Longest,
        (None, other) => {
            let message = format!("keep must be \"first\" or \"longest\", got {other:?}");
            return Err(to_python(Error::value(message)));
        }
    };
    let found =
        py.offload_long(progress, |monitor| dedup::near_duplicates(&texts, &options, keep, monitor))?;
    Ok((places(py, found.kept), places(py, found.cluster)))
}

/// shingle_set(text, unit, ngram) -> uint64 array: the distinct shingles in increasing order.
#[pyfunction]
pub(crate) fn shingle_set<'py>(
    py: Python<'py>,
    text: PyBackedStr,
    unit: &str,
    ngram: usize,
) -> PyResult<Bound<'py, PyArray1<u64>>> {
    let unit = Unit::from_name(unit).map_err(to_python)?;
    let shingler = Shingler { unit, ngram, seed: 0 };
    Ok(py.offload(|| Ok(dedup::shingle_set(&text, shingler)))?.into_pyarray(py))
}

/// collision_probability(similarity, bands, rows) -> probability that two texts become candidates.
#[pyfunction]
pub(crate) fn collision_probability(similarity: f64, bands: usize, rows: usize) -> f64 {
    Bands { bands, rows }.probability(similarity)
}

/// choose_bands(threshold, num_hashes) -> (bands, rows) of the smallest error.
#[pyfunction]
pub(crate) fn choose_bands(threshold: f64, num_hashes: usize) -> PyResult<(usize, usize)> {
    let Bands { bands, rows } = Bands::for_threshold(threshold, num_hashes).map_err(to_python)?;
    Ok((bands, rows))
}

fn places(py: Python<'_>, places: Vec<usize>) -> Places<'_> {
    places.into_iter().map(|place| place as i64).collect::<Vec<_>>().into_pyarray(py)
}
