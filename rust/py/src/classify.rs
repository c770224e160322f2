//! The trained classifier of texts.

use std::path::PathBuf;

use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::PyBytes;
use tempa_core::classify::{self, Features, Quality, Training};

use crate::border::Offload;
use crate::texts::Text;

/// (bits, word_ngram, char_ngram, max_bytes)
type Shape = (u32, usize, usize, usize);
/// (number of texts, accuracy, AUC, calibration error, log loss)
type Measures = (usize, f64, f64, f64, f64);
type Buckets<'py> = (Bound<'py, PyArray1<u32>>, Bound<'py, PyArray1<f32>>);

fn features((bits, word_ngram, char_ngram, max_bytes): Shape) -> Features {
    Features { bits, word_ngram, char_ngram, max_bytes }
}

/// Classifier(path): a model that was trained before, checked.
#[pyclass(frozen, module = "tempa._core")]
pub(crate) struct Classifier(classify::Classifier);

#[pymethods]
impl Classifier {
    #[new]
    fn new(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        py.offload(|| classify::Classifier::open(&path)).map(Self)
    }

    /// train(texts, labels, names, shape, epochs, learning_rate, held_out, seed, progress=None) -> (classifier, (texts,
    /// accuracy, AUC, calibration error, log loss) on texts that it never saw); labels are places in names, shape is
    /// (bits, word_ngram, char_ngram, max_bytes), progress gets bytes.
    #[staticmethod]
    #[pyo3(signature = (texts, labels, names, shape, epochs, learning_rate, held_out, seed, progress=None))]
    #[expect(clippy::too_many_arguments, reason = "the settings, one by one")]
    fn train(
        py: Python<'_>,
        texts: Vec<Text>,
        labels: Vec<usize>,
        names: Vec<PyBackedStr>,
        shape: Shape,
        epochs: usize,
        learning_rate: f32,
        held_out: f64,
        seed: u64,
        progress: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<(Self, Measures)> {
        let settings = Training { features: features(shape), epochs, learning_rate, held_out, seed };
        let (classifier, quality) = py
            .offload_long(progress, |monitor| classify::train(&texts, &labels, &names, &settings, monitor))?;
        let Quality { num_texts, accuracy, auc, calibration_error, log_loss } = quality;
        Ok((Self(classifier), (num_texts, accuracy, auc, calibration_error, log_loss)))
    }

    /// encode() -> the bytes of its file.
    fn encode<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &py.offload(|| Ok(self.0.encode()))?))
    }

    /// labels() -> the names that it was trained with.
    fn labels(&self) -> Vec<String> {
        self.0.labels().to_vec()
    }

    /// probabilities(texts, progress=None) -> float64 array, those of all labels for one text after the other; progress
    /// gets bytes.
    #[pyo3(signature = (texts, progress=None))]
    fn probabilities<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<Text>,
        progress: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyArray1<f64>>> {
        let probabilities = py.offload_long(progress, |monitor| self.0.probabilities(&texts, monitor))?;
        Ok(probabilities.into_pyarray(py))
    }
}

/// text_features(text, shape) -> (buckets, values), uint32 and float32 arrays: what a classifier of that shape sees.
#[pyfunction]
pub(crate) fn text_features(py: Python<'_>, text: Text, shape: Shape) -> PyResult<Buckets<'_>> {
    let (buckets, values): (Vec<u32>, Vec<f32>) =
        py.offload(|| Ok(features(shape).of(&text)?.into_iter().unzip()))?;
    Ok((buckets.into_pyarray(py), values.into_pyarray(py)))
}
