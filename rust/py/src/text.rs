//! Normalisation.

use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use tempa_core::text;

use crate::border::Offload;

/// normalize_text(text) -> the text in its one spelling.
#[pyfunction]
pub(crate) fn normalize_text(py: Python<'_>, text: PyBackedStr) -> PyResult<String> {
    py.offload(|| Ok(text::normalize(&text).into_owned()))
}
