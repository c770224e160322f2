//! Quality rules.

use std::borrow::Cow;

use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use rayon::prelude::*;
use tempa_core::Error;
use tempa_core::quality::{Bound as Side, Judge, RULES, Thresholds, Verdict};

use crate::border::Offload;

/// quality_rules() -> (name, "min" or "max", usual threshold) of each rule, in the order of their trial.
#[pyfunction]
pub(crate) fn quality_rules() -> Vec<(&'static str, &'static str, f64)> {
    let side = |bound| if bound == Side::AtLeast { "min" } else { "max" };
    RULES.iter().map(|rule| (rule.name, side(rule.bound), rule.default)).collect()
}

/// measure_text(text) -> what each rule measures on a text, in the order of quality_rules().
#[pyfunction]
pub(crate) fn measure_text(py: Python<'_>, text: PyBackedStr) -> PyResult<Vec<f64>> {
    py.offload(|| Ok(Judge::default().measure(&text).to_vec()))
}

type Cleaned<'py> = (Vec<Option<String>>, Bound<'py, PyArray1<i32>>, Bound<'py, PyArray1<f64>>);

/// clean_texts(texts, thresholds) -> (normal form or None where it is the text, rule that rejects or -1, its measure)
#[pyfunction]
pub(crate) fn clean_texts(
    py: Python<'_>,
    texts: Vec<PyBackedStr>,
    thresholds: Vec<f64>,
) -> PyResult<Cleaned<'_>> {
    let (cleaned, (rules, values)): (Vec<_>, (Vec<_>, Vec<_>)) = py.offload(|| {
        let thresholds: Thresholds = thresholds.try_into().map_err(|given: Vec<_>| {
            Error::value(format!("{} thresholds for {} rules", given.len(), RULES.len()))
        })?;
        Ok(texts.par_iter().map_init(Judge::default, |judge, text| clean(judge, text, &thresholds)).unzip())
    })?;
    Ok((cleaned, rules.into_pyarray(py), values.into_pyarray(py)))
}

fn clean(judge: &mut Judge, text: &str, thresholds: &Thresholds) -> (Option<String>, (i32, f64)) {
    let Verdict { text: normal, rejection } = judge.judge(text, thresholds);
    let verdict = rejection.map_or((-1, 0.0), |rejection| (rejection.rule as i32, rejection.value));
    // A part of a text that is as long is all of it.
    let is_same = matches!(normal, Cow::Borrowed(normal) if normal.len() == text.len());
    ((!is_same).then(|| normal.into_owned()), verdict)
}
