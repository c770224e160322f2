//! Exact and near duplicates.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use numpy::ndarray::Array2;
use numpy::{IntoPyArray, PyArray1, PyArray2, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rayon::prelude::*;
use tempa_core::dedup::{
    self, Bands, Bloom, Equality, Index, Keep, KeySet, NearOptions, Piece, Seen, Shingler, Unit,
};
use tempa_core::{Error, Monitor};

use crate::border::Offload;
use crate::error::to_python;
use crate::texts::Text;

type Places<'py> = Bound<'py, PyArray1<i64>>;

/// content_hashes(texts) -> uint64 array: half of the hash by which exact duplicates are found.
#[pyfunction]
pub(crate) fn content_hashes(py: Python<'_>, texts: Vec<Text>) -> PyResult<Bound<'_, PyArray1<u64>>> {
    let hashes: Vec<u64> =
        py.offload(|| Ok(texts.par_iter().map(|text| dedup::content_hash(text) as u64).collect()))?;
    Ok(hashes.into_pyarray(py))
}

/// exact_duplicates(texts, equality="folded", progress=None) -> int64 array: the place of the first equal text, as
/// "bytes" or "folded"; progress gets bytes.
#[pyfunction]
#[pyo3(signature = (texts, equality="folded", progress=None))]
pub(crate) fn exact_duplicates<'py>(
    py: Python<'py>,
    texts: Vec<Text>,
    equality: &str,
    progress: Option<&Bound<'py, PyAny>>,
) -> PyResult<Places<'py>> {
    let equality = Equality::from_name(equality).map_err(to_python)?;
    let first = py.offload_long(progress, |monitor| dedup::exact_duplicates(&texts, equality, monitor))?;
    Ok(places(py, first))
}

/// canonical_urls(urls) -> one spelling for the URLs of a page.
#[pyfunction]
pub(crate) fn canonical_urls(py: Python<'_>, urls: Vec<Text>) -> PyResult<Vec<String>> {
    py.offload(|| Ok(urls.iter().map(|url| dedup::canonical_url(url)).collect()))
}

/// SeenPieces(piece, min_bytes, capacity=0, false_positives=0.0): the "line"s or "paragraph"s of all texts so far,
/// exactly or, with a capacity, in a Bloom filter.
///
/// The lock is held for one call, so that texts are taken in the order of the calls.
#[pyclass(frozen, module = "tempa._core")]
pub(crate) struct SeenPieces {
    piece: Piece,
    min_bytes: usize,
    seen: Mutex<Seen>,
}

#[pymethods]
impl SeenPieces {
    #[new]
    #[pyo3(signature = (piece, min_bytes, capacity=0, false_positives=0.0))]
    fn new(piece: &str, min_bytes: usize, capacity: usize, false_positives: f64) -> PyResult<Self> {
        let piece = Piece::from_name(piece).map_err(to_python)?;
        let seen = if capacity == 0 {
            Seen::Exact(KeySet::default())
        } else {
            Seen::Bloom(Bloom::new(capacity, false_positives).map_err(to_python)?)
        };
        Ok(Self { piece, min_bytes, seen: Mutex::new(seen) })
    }

    /// count(texts) -> int64 array: how many pieces of each text have occurred before; adds them all.
    fn count<'py>(&self, py: Python<'py>, texts: Vec<Text>) -> PyResult<Places<'py>> {
        let counts = py.offload_long(None, |monitor| {
            let repeated = self.find(&texts, monitor)?;
            Ok(repeated.iter().map(|ranges| ranges.len() as i64).collect::<Vec<_>>())
        })?;
        Ok(counts.into_pyarray(py))
    }

    /// drop(texts) -> (each text without pieces that have occurred before, or None if it has none; how many it had).
    fn drop<'py>(&self, py: Python<'py>, texts: Vec<Text>) -> PyResult<(Vec<Option<String>>, Places<'py>)> {
        let (kept, counts): (Vec<_>, Vec<_>) = py.offload_long(None, |monitor| {
            let repeated = self.find(&texts, monitor)?;
            let rest = texts.par_iter().zip(repeated).map(|(text, ranges)| {
                let kept = (!ranges.is_empty()).then(|| dedup::without(text, &ranges));
                (kept, ranges.len() as i64)
            });
            Ok(rest.unzip())
        })?;
        Ok((kept, counts.into_pyarray(py)))
    }

    /// Bytes of memory.
    #[getter]
    fn num_bytes(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).num_bytes()
    }
}

impl SeenPieces {
    fn find(&self, texts: &[Text], monitor: &Monitor) -> tempa_core::Result<Vec<Vec<Range<usize>>>> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        dedup::repeated_pieces(texts, self.piece, self.min_bytes, &mut seen, monitor)
    }
}

/// repeated_stretches(texts, length, progress=None) -> (ranges, offsets), int64 arrays: start and end in bytes of what
/// occurs before, and where the ranges of each text start; progress gets bytes.
#[pyfunction]
#[pyo3(signature = (texts, length, progress=None))]
pub(crate) fn repeated_stretches<'py>(
    py: Python<'py>,
    texts: Vec<Text>,
    length: usize,
    progress: Option<&Bound<'py, PyAny>>,
) -> PyResult<(Bound<'py, PyArray2<i64>>, Places<'py>)> {
    let (ranges, offsets) = py.offload_long(progress, |monitor| {
        let found = dedup::repeated_stretches(&texts, length, monitor)?;
        let mut offsets = vec![0];
        let mut ranges = Vec::new();
        for own in found {
            ranges.extend(own.iter().flat_map(|range| [range.start as i64, range.end as i64]));
            offsets.push(ranges.len() as i64 / 2);
        }
        let shape = (ranges.len() / 2, 2);
        let ranges =
            Array2::from_shape_vec(shape, ranges).map_err(|error| Error::value(error.to_string()))?;
        Ok((ranges, offsets))
    })?;
    Ok((ranges.into_pyarray(py), offsets.into_pyarray(py)))
}

/// drop_stretches(texts, length, progress=None) -> each text without what occurs before, or None if it has none.
#[pyfunction]
#[pyo3(signature = (texts, length, progress=None))]
pub(crate) fn drop_stretches(
    py: Python<'_>,
    texts: Vec<Text>,
    length: usize,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<Vec<Option<String>>> {
    py.offload_long(progress, |monitor| {
        let found = dedup::repeated_stretches(&texts, length, monitor)?;
        let kept = texts.par_iter().zip(found);
        Ok(kept.map(|(text, ranges)| (!ranges.is_empty()).then(|| dedup::without(text, &ranges))).collect())
    })
}

/// (threshold, unit, ngram, bands, rows, seed, is_exact)
pub(crate) type Options = (f64, String, usize, usize, usize, u64, bool);

pub(crate) fn near_options(
    (threshold, unit, ngram, bands, rows, seed, is_exact): Options,
) -> PyResult<NearOptions> {
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
    texts: Vec<Text>,
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

/// encode_index(texts, names, options, progress=None) -> bytes of an index; progress gets bytes of text.
#[pyfunction]
#[pyo3(signature = (texts, names, options, progress=None))]
pub(crate) fn encode_index<'py>(
    py: Python<'py>,
    texts: Vec<Text>,
    names: Vec<Text>,
    options: Options,
    progress: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyBytes>> {
    let options = near_options(options)?;
    let bytes =
        py.offload_long(progress, |monitor| dedup::encode_index(&texts, &names, &options, monitor))?;
    Ok(PyBytes::new(py, &bytes))
}

/// SignatureIndex(path): the signatures of published texts, checked and mapped into memory.
#[pyclass(frozen, module = "tempa._core")]
pub(crate) struct SignatureIndex(pub(crate) Index);

#[pymethods]
impl SignatureIndex {
    #[new]
    fn new(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        py.offload(|| Index::open(&path)).map(Self)
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    /// name(place) -> the name of a published text.
    fn name(&self, place: usize) -> PyResult<&str> {
        self.0.name(place).map_err(to_python)
    }

    /// find(texts, threshold, progress=None) -> int64 array: the place of the published text that each one is most
    /// like, or -1; progress gets bytes.
    #[pyo3(signature = (texts, threshold, progress=None))]
    fn find<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<Text>,
        threshold: f64,
        progress: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Places<'py>> {
        let found = py.offload_long(progress, |monitor| self.0.find(&texts, threshold, monitor))?;
        let place = |place: Option<usize>| place.map_or(-1, |place| place as i64);
        Ok(found.into_iter().map(place).collect::<Vec<_>>().into_pyarray(py))
    }
}

/// shingle_set(text, unit, ngram) -> uint64 array: the distinct shingles in increasing order.
#[pyfunction]
pub(crate) fn shingle_set<'py>(
    py: Python<'py>,
    text: Text,
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
