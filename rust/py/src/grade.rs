//! Answer extraction, equality and arithmetic.

use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use tempa_core::grade::{self, Extract};

use crate::border::Offload;
use crate::error::to_python;

/// `extract_answer(text, how) -> str | None`; `how` is marker, boxed, number or any.
#[pyfunction]
pub(crate) fn extract_answer<'a>(text: &'a str, how: &str) -> PyResult<Option<&'a str>> {
    Ok(grade::extract_answer(text, how.parse::<Extract>().map_err(to_python)?))
}

/// `answers_equal(a, b) -> bool`: equal as exact numbers, or as words if neither is a number.
#[pyfunction]
pub(crate) fn answers_equal(a: &str, b: &str) -> bool {
    grade::answers_equal(a, b)
}

/// `grade(texts, answers, how) -> float32 array`: 1 where the extracted answer is right, else 0.
#[pyfunction]
#[pyo3(name = "grade")]
pub(crate) fn grade_texts<'py>(
    py: Python<'py>,
    texts: Vec<PyBackedStr>,
    answers: Vec<PyBackedStr>,
    how: &str,
) -> PyResult<Bound<'py, PyArray1<f32>>> {
    let how = how.parse::<Extract>().map_err(to_python)?;
    Ok(py.offload(|| grade::grade(&texts, &answers, how))?.into_pyarray(py))
}

/// `evaluate_arithmetic(expression) -> (numerator, denominator)`, exact and in lowest terms.
#[pyfunction]
pub(crate) fn evaluate_arithmetic(expression: &str) -> PyResult<(i128, i128)> {
    let value = grade::evaluate(expression).map_err(to_python)?;
    Ok((value.numerator(), value.denominator()))
}
