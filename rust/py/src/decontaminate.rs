//! Items of evaluation sets in training texts.

use numpy::ndarray::Array2;
use numpy::{IntoPyArray, PyArray1, PyArray2};
use pyo3::prelude::*;
use rayon::prelude::*;
use tempa_core::Error;
use tempa_core::dedup::{self, Overlap};

use crate::border::Offload;
use crate::texts::Text;

type Hits<'py> = (Bound<'py, PyArray2<i64>>, Bound<'py, PyArray1<f64>>, Vec<Option<String>>);

/// EvalItems(items, ngram, min_words, min_span, min_share): the items of evaluation sets, ready to be looked for.
#[pyclass(frozen, module = "tempa._core")]
pub(crate) struct EvalItems(dedup::EvalItems);

#[pymethods]
impl EvalItems {
    #[new]
    fn new(
        py: Python<'_>,
        items: Vec<Text>,
        ngram: usize,
        min_words: usize,
        min_span: usize,
        min_share: f64,
    ) -> PyResult<Self> {
        let overlap = Overlap { ngram, min_words, min_span, min_share };
        py.offload(|| dedup::EvalItems::new(&items, overlap)).map(Self)
    }

    /// is_sought(item) -> whether it has enough words to be looked for.
    fn is_sought(&self, item: usize) -> bool {
        self.0.is_sought(item)
    }

    /// find(texts, margin, progress=None) -> (hits, shares, rests): text, item, words of the longest span and its first and
    /// last byte; the share of the item's n-grams; each text without shared spans and `margin` words around them, or None if
    /// it has none. Progress gets bytes.
    #[pyo3(signature = (texts, margin, progress=None))]
    fn find<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<Text>,
        margin: usize,
        progress: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Hits<'py>> {
        let (hits, shares, rests) = py.offload_long(progress, |monitor| {
            let verdicts = self.0.find(&texts, margin, monitor)?;
            let (mut hits, mut shares) = (Vec::new(), Vec::new());
            for (number, verdict) in verdicts.iter().enumerate() {
                for found in &verdict.items {
                    let row = [number, found.item, found.span_words, found.span.start, found.span.end];
                    hits.extend(row.map(|value| value as i64));
                    shares.push(found.share);
                }
            }
            let hits = Array2::from_shape_vec((shares.len(), 5), hits)
                .map_err(|error| Error::value(error.to_string()))?;
            let rest = texts.par_iter().zip(verdicts).map(|(text, verdict)| {
                (!verdict.cuts.is_empty()).then(|| dedup::without(text, &verdict.cuts))
            });
            Ok((hits, shares, rest.collect()))
        })?;
        Ok((hits.into_pyarray(py), shares.into_pyarray(py), rests))
    }
}
