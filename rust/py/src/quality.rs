//! Quality rules.

use std::borrow::Cow;

use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use rayon::prelude::*;
use tempa_core::Error;
use tempa_core::quality::{Bound as Side, EDITS, Edits, Judge, RULES, Thresholds, Verdict};

use crate::border::Offload;

/// quality_rules() -> (name, "min" or "max", usual threshold) of each rule, in the order of their trial.
#[pyfunction]
pub(crate) fn quality_rules() -> Vec<(&'static str, &'static str, f64)> {
    let side = |bound| if bound == Side::AtLeast { "min" } else { "max" };
    RULES.iter().map(|rule| (rule.name, side(rule.bound), rule.default)).collect()
}

/// line_edits() -> the name of each kind of line that can be taken out, in the order of their trial.
#[pyfunction]
pub(crate) fn line_edits() -> Vec<&'static str> {
    EDITS.iter().map(|edit| edit.name).collect()
}

/// measure_text(text) -> what each rule measures on a text, in the order of quality_rules().
#[pyfunction]
pub(crate) fn measure_text(py: Python<'_>, text: PyBackedStr) -> PyResult<Vec<f64>> {
    py.offload(|| Ok(Judge::default().measure(&text).to_vec()))
}

type Cleaned<'py> =
    (Vec<Option<String>>, Bound<'py, PyArray1<i32>>, Bound<'py, PyArray1<f64>>, Bound<'py, PyArray2<i64>>);

/// clean_texts(texts, thresholds, edits) -> (what is left of each text or None where that is the text, rule that rejects
/// or -1, its measure, bytes that each edit took out)
#[pyfunction]
pub(crate) fn clean_texts(
    py: Python<'_>,
    texts: Vec<PyBackedStr>,
    thresholds: Vec<f64>,
    edits: Vec<bool>,
) -> PyResult<Cleaned<'_>> {
    let num_texts = texts.len();
    let ((cleaned, removed), (rules, values)): ((Vec<_>, Vec<_>), (Vec<_>, Vec<_>)) = py.offload(|| {
        let thresholds: Thresholds = thresholds.try_into().map_err(|given: Vec<_>| {
            Error::value(format!("{} thresholds for {} rules", given.len(), RULES.len()))
        })?;
        let edits: Edits = edits.try_into().map_err(|given: Vec<_>| {
            Error::value(format!("{} switches for {} edits", given.len(), EDITS.len()))
        })?;
        let clean = |judge: &mut Judge, text: &PyBackedStr| clean(judge, text, &thresholds);
        Ok(texts.par_iter().map_init(|| Judge::with_edits(edits), clean).unzip())
    })?;
    let removed = removed.concat().into_pyarray(py).reshape([num_texts, EDITS.len()])?;
    Ok((cleaned, rules.into_pyarray(py), values.into_pyarray(py), removed))
}

type Left = (Option<String>, [i64; EDITS.len()]);

fn clean(judge: &mut Judge, text: &str, thresholds: &Thresholds) -> (Left, (i32, f64)) {
    let Verdict { text: left, rejection, removed } = judge.judge(text, thresholds);
    let verdict = rejection.map_or((-1, 0.0), |rejection| (rejection.rule as i32, rejection.value));
    // A part of a text that is as long is all of it.
    let is_same = matches!(left, Cow::Borrowed(left) if left.len() == text.len());
    (((!is_same).then(|| left.into_owned()), removed.map(|bytes| bytes as i64)), verdict)
}
