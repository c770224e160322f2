//! The n-gram language model of texts.

use std::path::PathBuf;

use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use tempa_core::perplexity::{self, Score, Training};

use crate::border::Offload;
use crate::texts::Text;

type Perplexities<'py> = Bound<'py, PyArray1<f64>>;

/// NgramModel(path): a model that was trained before, checked.
#[pyclass(frozen, module = "tempa._core")]
pub(crate) struct NgramModel(perplexity::NgramModel);

#[pymethods]
impl NgramModel {
    #[new]
    fn new(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        py.offload(|| perplexity::NgramModel::open(&path)).map(Self)
    }

    /// train(texts, order, min_word_count, min_ngram_count, progress=None): progress gets bytes, once for each length of
    /// n-grams and once more.
    #[staticmethod]
    #[pyo3(signature = (texts, order, min_word_count, min_ngram_count, progress=None))]
    fn train(
        py: Python<'_>,
        texts: Vec<Text>,
        order: usize,
        min_word_count: u32,
        min_ngram_count: u32,
        progress: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let settings = Training { order, min_word_count, min_ngram_count };
        py.offload_long(progress, |monitor| perplexity::train(&texts, &settings, monitor)).map(Self)
    }

    /// encode() -> the bytes of its file.
    fn encode<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &py.offload(|| Ok(self.0.encode()))?))
    }

    #[getter]
    fn order(&self) -> usize {
        self.0.order()
    }

    #[getter]
    fn num_ngrams(&self) -> usize {
        self.0.num_ngrams()
    }

    /// perplexities(texts, progress=None) -> float64 array, infinite for a text without words; progress gets bytes.
    #[pyo3(signature = (texts, progress=None))]
    fn perplexities<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<Text>,
        progress: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Perplexities<'py>> {
        let scores = py.offload_long(progress, |monitor| self.0.scores(&texts, monitor))?;
        Ok(scores.into_iter().map(Score::perplexity).collect::<Vec<_>>().into_pyarray(py))
    }
}
