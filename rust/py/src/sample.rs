//! Sampling from rows of logits.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use numpy::ndarray::{Array2, ArrayView2, Axis};
use numpy::{Element, IntoPyArray, PyArray1, PyArray2, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use tempa_core::sample::{self, Draft, Draws, Logps, OnBad, Row, Wanted};
use tempa_core::{Error, Ragged};

use crate::border::Offload;
use crate::error::to_python;

/// (ids, logps, kept_logps, top_ids, top_logps) of each row.
type Columns<'py> = (
    Bound<'py, PyArray1<i64>>,
    Bound<'py, PyArray1<f32>>,
    Bound<'py, PyArray1<f32>>,
    Bound<'py, PyArray2<i64>>,
    Bound<'py, PyArray2<f32>>,
);

/// Tokens, offsets and probabilities.
#[derive(FromPyObject)]
pub(crate) struct Drafts<'py>(
    PyReadonlyArray1<'py, i64>,
    PyReadonlyArray1<'py, i64>,
    Option<PyReadonlyArray2<'py, f32>>,
);

/// Kind of log-probabilities, number of the likeliest tokens, what happens to bad rows.
#[derive(FromPyObject)]
pub(crate) struct Modes(String, usize, String);

/// (num_accepted, next) of each request, and the columns of a step.
type Outcome<'py> = (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<i64>>, Columns<'py>);

/// The fields of `tempa.sample.Settings`.
#[derive(FromPyObject)]
pub(crate) struct Settings {
    temperature: f64,
    top_k: i64,
    top_p: f64,
    min_p: f64,
    top_n_sigma: f64,
    typical_p: f64,
    repetition_penalty: f32,
    presence_penalty: f32,
    frequency_penalty: f32,
    bias: HashMap<i64, f32>,
    allowed_ids: Option<Vec<i64>>,
    bad_ids: Vec<i64>,
    min_new_tokens: i64,
    stop_ids: Vec<i64>,
    stop_ramp: f32,
}

impl Modes {
    fn parse(&self) -> tempa_core::Result<(Wanted, OnBad)> {
        let Self(logps, top_n, on_bad) = self;
        let logps = match logps.as_str() {
            "none" => Logps::None,
            "processed" => Logps::Processed,
            "raw" => Logps::Raw,
            other => {
                let choices = "'processed', 'raw' or 'none'";
                return Err(Error::value(format!("logps must be {choices}, got {other:?}")));
            }
        };
        let on_bad = match on_bad.as_str() {
            "raise" => OnBad::Raise,
            "sentinel" => OnBad::Sentinel,
            other => {
                return Err(Error::value(format!("on_bad must be 'raise' or 'sentinel', got {other:?}")));
            }
        };
        if *top_n > 0 && logps == Logps::None {
            return Err(Error::value("top_n needs logps='processed' or logps='raw'"));
        }
        Ok((Wanted { logps, top_n: *top_n }, on_bad))
    }
}

impl Settings {
    fn into_core(self) -> tempa_core::Result<sample::Settings> {
        let mut bias = Vec::with_capacity(self.bias.len());
        for (id, value) in self.bias {
            bias.push((ids("bias", &[id])?[0], value));
        }
        let top_k = u32::try_from(self.top_k).map_err(|_| {
            Error::value(format!("top_k must be 0 (all tokens) or positive, got {}", self.top_k))
        })?;
        let min_new_tokens = u64::try_from(self.min_new_tokens).map_err(|_| {
            Error::value(format!("min_new_tokens must not be negative, got {}", self.min_new_tokens))
        })?;
        let settings = sample::Settings {
            temperature: self.temperature,
            top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            top_n_sigma: self.top_n_sigma,
            typical_p: self.typical_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            bias,
            allowed_ids: self.allowed_ids.map(|allowed| ids("allowed_ids", &allowed)).transpose()?,
            bad_ids: ids("bad_ids", &self.bad_ids)?,
            min_new_tokens,
            stop_ids: ids("stop_ids", &self.stop_ids)?,
            stop_ramp: self.stop_ramp,
        };
        settings.check()?;
        Ok(settings)
    }
}

/// check_sampling(settings): a `ValueError` names the first field that is out of range.
#[pyfunction]
pub(crate) fn check_sampling(settings: Settings) -> PyResult<()> {
    settings.into_core().map(|_| ()).map_err(to_python)
}

/// Sampler(vocab_size): requests, and draws for batches of them.
///
/// The lock is held for one call, which never waits for the interpreter.
#[pyclass(frozen, module = "tempa._core")]
pub(crate) struct Sampler(Mutex<sample::Sampler>);

#[pymethods]
impl Sampler {
    #[new]
    fn new(vocab_size: usize) -> PyResult<Self> {
        Ok(Self(Mutex::new(sample::Sampler::new(vocab_size).map_err(to_python)?)))
    }

    /// add(settings, seed, prompt) -> handle.
    fn add(&self, settings: Settings, seed: u64, prompt: PyReadonlyArray1<'_, i64>) -> PyResult<i64> {
        let settings = settings.into_core().map_err(to_python)?;
        let prompt = ids("the prompt", prompt.as_slice()?).map_err(to_python)?;
        self.lock().add(settings, seed, &prompt).map_err(to_python)
    }

    /// fork(handle, seeds) -> handles.
    fn fork<'py>(
        &self,
        py: Python<'py>,
        handle: i64,
        seeds: PyReadonlyArray1<'py, u64>,
    ) -> PyResult<Bound<'py, PyArray1<i64>>> {
        Ok(self.lock().fork(handle, seeds.as_slice()?).map_err(to_python)?.into_pyarray(py))
    }

    /// remove(handles).
    fn remove(&self, handles: PyReadonlyArray1<'_, i64>) -> PyResult<()> {
        self.lock().remove(handles.as_slice()?).map_err(to_python)
    }

    /// append(handle, ids): forced tokens.
    fn append(&self, handle: i64, ids: PyReadonlyArray1<'_, i64>) -> PyResult<()> {
        let ids = self::ids("the output", ids.as_slice()?).map_err(to_python)?;
        self.lock().append(handle, &ids).map_err(to_python)
    }

    /// rollback(handle, num_tokens).
    fn rollback(&self, handle: i64, num_tokens: usize) -> PyResult<()> {
        self.lock().rollback(handle, num_tokens).map_err(to_python)
    }

    /// output(handle) -> ids.
    fn output<'py>(&self, py: Python<'py>, handle: i64) -> PyResult<Bound<'py, PyArray1<i64>>> {
        let output: Vec<i64> =
            self.lock().output(handle).map_err(to_python)?.iter().map(|&id| i64::from(id)).collect();
        Ok(output.into_pyarray(py))
    }

    /// step(handles, logits, rows, mask, modes) -> (ids, logps, kept_logps, top_ids, top_logps).
    fn step<'py>(
        &self,
        py: Python<'py>,
        handles: PyReadonlyArray1<'py, i64>,
        logits: Logits<'py>,
        rows: Option<PyReadonlyArray1<'py, i64>>,
        mask: Option<PyReadonlyArray2<'py, i32>>,
        modes: Modes,
    ) -> PyResult<Columns<'py>> {
        let (wanted, on_bad) = modes.parse().map_err(to_python)?;
        let (handles, views) = (handles.as_slice()?, logits.views());
        let rows =
            views.rows(rows.as_ref().map(PyReadonlyArray1::as_slice).transpose()?, self.lock().vocab());
        let masks = mask.as_ref().map(PyReadonlyArray2::as_array);
        let masks = masks.as_ref().map(slices).transpose();
        let draws = py.offload(|| {
            let masks = masks?;
            self.lock().step(handles, &rows?, masks.as_deref(), wanted, on_bad)
        })?;
        columns(py, draws, wanted.top_n)
    }

    /// verify(handles, drafts, logits, mask, modes) -> (num_accepted, next, columns of a step).
    fn verify<'py>(
        &self,
        py: Python<'py>,
        handles: PyReadonlyArray1<'py, i64>,
        drafts: Drafts<'py>,
        logits: Logits<'py>,
        mask: Option<PyReadonlyArray2<'py, i32>>,
        modes: Modes,
    ) -> PyResult<Outcome<'py>> {
        let (wanted, on_bad) = modes.parse().map_err(to_python)?;
        let Drafts(tokens, offsets, probs) = &drafts;
        let (handles, offsets, views) = (handles.as_slice()?, offsets.as_slice()?, logits.views());
        let tokens =
            ids("the draft", tokens.as_slice()?).and_then(|tokens| Ragged::new(tokens, offsets.to_vec()));
        let rows = views.rows(None, self.lock().vocab());
        let masks = mask.as_ref().map(PyReadonlyArray2::as_array);
        let masks = masks.as_ref().map(slices).transpose();
        let probs = probs.as_ref().map(PyReadonlyArray2::as_slice).transpose()?;
        let verified = py.offload(|| {
            let (tokens, masks) = (tokens?, masks?);
            let draft = Draft { tokens: &tokens, probs };
            self.lock().verify(handles, draft, &rows?, masks.as_deref(), wanted, on_bad)
        })?;
        let (accepted, next) = (verified.num_accepted.into_pyarray(py), verified.next.into_pyarray(py));
        Ok((accepted, next, columns(py, verified.draws, wanted.top_n)?))
    }

    /// distribution(handles, logits, mask) -> probabilities.
    fn distribution<'py>(
        &self,
        py: Python<'py>,
        handles: PyReadonlyArray1<'py, i64>,
        logits: Logits<'py>,
        mask: Option<PyReadonlyArray2<'py, i32>>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let (handles, views) = (handles.as_slice()?, logits.views());
        let vocab = self.lock().vocab();
        let rows = views.rows(None, vocab);
        let masks = mask.as_ref().map(PyReadonlyArray2::as_array);
        let masks = masks.as_ref().map(slices).transpose();
        let out = py.offload(|| {
            let masks = masks?;
            self.lock().distribution(handles, &rows?, masks.as_deref())
        })?;
        table(py, out, handles.len(), vocab)
    }

    #[getter]
    fn vocab_size(&self) -> usize {
        self.lock().vocab()
    }

    fn __len__(&self) -> usize {
        self.lock().len()
    }
}

impl Sampler {
    fn lock(&self) -> MutexGuard<'_, sample::Sampler> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rows of logits: float32, or bfloat16 as uint16. Columns past the vocabulary are not read.
pub(crate) enum Logits<'py> {
    F32(PyReadonlyArray2<'py, f32>),
    Bf16(PyReadonlyArray2<'py, u16>),
}

impl<'py> FromPyObject<'_, 'py> for Logits<'py> {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(array) = object.extract() {
            return Ok(Self::F32(array));
        }
        object.extract().map(Self::Bf16).map_err(|_| {
            let kind = object
                .getattr("dtype")
                .map_or_else(|_| object.get_type().to_string(), |dtype| dtype.to_string());
            PyTypeError::new_err(format!(
                "logits must be rows of float32, or of bfloat16 as uint16, got {kind}"
            ))
        })
    }
}

impl Logits<'_> {
    fn views(&self) -> Views<'_> {
        match self {
            Self::F32(array) => Views::F32(array.as_array()),
            Self::Bf16(array) => Views::Bf16(array.as_array()),
        }
    }
}

enum Views<'a> {
    F32(ArrayView2<'a, f32>),
    Bf16(ArrayView2<'a, u16>),
}

impl Views<'_> {
    /// The chosen rows, all without a choice, cut to the vocabulary.
    fn rows(&self, chosen: Option<&[i64]>, vocab: usize) -> tempa_core::Result<Vec<Row<'_>>> {
        match self {
            Self::F32(view) => pick(view, chosen, vocab, Row::F32),
            Self::Bf16(view) => pick(view, chosen, vocab, Row::Bf16),
        }
    }
}

fn pick<'a, T: Element>(
    view: &'a ArrayView2<'a, T>,
    chosen: Option<&[i64]>,
    vocab: usize,
    wrap: impl Fn(&'a [T]) -> Row<'a>,
) -> tempa_core::Result<Vec<Row<'a>>> {
    let all = slices(view)?;
    if view.ncols() < vocab {
        let columns = view.ncols();
        return Err(Error::value(format!(
            "logits have {columns} columns, but the vocabulary has {vocab} tokens"
        )));
    }
    let Some(chosen) = chosen else { return Ok(all.into_iter().map(|row| wrap(&row[..vocab])).collect()) };
    let row = |&at: &i64| {
        let row = usize::try_from(at).ok().and_then(|at| all.get(at));
        row.map(|row| wrap(&row[..vocab]))
            .ok_or_else(|| Error::value(format!("row {at} is not one of the {} rows of logits", all.len())))
    };
    chosen.iter().map(row).collect()
}

fn slices<'a, T: Element>(view: &'a ArrayView2<'a, T>) -> tempa_core::Result<Vec<&'a [T]>> {
    let row = |at| view.index_axis(Axis(0), at).to_slice();
    let rows: Option<Vec<_>> = (0..view.nrows()).map(row).collect();
    rows.ok_or_else(|| Error::value("the numbers of a row must lie side by side: make the array contiguous"))
}

fn ids(name: &str, ids: &[i64]) -> tempa_core::Result<Vec<u32>> {
    let id = |&id: &i64| {
        u32::try_from(id).map_err(|_| Error::value(format!("{name} has token {id}, which is not an id")))
    };
    ids.iter().map(id).collect()
}

fn columns(py: Python<'_>, draws: Draws, top_n: usize) -> PyResult<Columns<'_>> {
    let rows = draws.ids.len();
    Ok((
        draws.ids.into_pyarray(py),
        draws.logps.into_pyarray(py),
        draws.kept_logps.into_pyarray(py),
        table(py, draws.top_ids, rows, top_n)?,
        table(py, draws.top_logps, rows, top_n)?,
    ))
}

fn table<T: Element>(
    py: Python<'_>,
    values: Vec<T>,
    rows: usize,
    columns: usize,
) -> PyResult<Bound<'_, PyArray2<T>>> {
    let array = Array2::from_shape_vec((rows, columns), values);
    Ok(array.map_err(|error| to_python(Error::value(error.to_string())))?.into_pyarray(py))
}
