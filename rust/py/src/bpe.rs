//! Tokenizer and its streaming decoder.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use numpy::{IntoPyArray, PyArray1, PyArrayMethods};
use pyo3::exceptions::{PyUnicodeEncodeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyBytes, PyList};
use tempa_core::bpe::{self, Allowed};
use tempa_core::{Monitor, Ragged};

use crate::border::Offload;
use crate::error::to_python;

/// Flat values and offsets as arrays.
pub(crate) type Flat<'py> = (Bound<'py, PyArray1<u32>>, Bound<'py, PyArray1<i64>>);

pub(crate) fn flat(py: Python<'_>, rows: Ragged<u32>) -> Flat<'_> {
    (rows.values.into_pyarray(py), rows.offsets.into_pyarray(py))
}

/// A `str` as UTF-8. A lone surrogate, which has no UTF-8, is a `ValueError` that says where it is.
pub(crate) struct Text(PyBackedStr);

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl<'a, 'py> FromPyObject<'a, 'py> for Text {
    type Error = PyErr;

    fn extract(value: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        value.extract().map(Self).map_err(|error: PyErr| {
            let py = value.py();
            if !error.is_instance_of::<PyUnicodeEncodeError>(py) {
                return error;
            }
            let position = error.value(py).getattr("start").and_then(|start| start.extract::<usize>());
            PyValueError::new_err(match position {
                Ok(at) => {
                    format!("text has a lone surrogate at character {at}: half of a UTF-16 pair is not text")
                }
                Err(_) => "text has a lone surrogate: half of a UTF-16 pair is not text".to_owned(),
            })
        })
    }
}

/// Token ids from an integer array or any sequence of ints.
pub(crate) struct Ids(Vec<u32>);

impl<'a, 'py> FromPyObject<'a, 'py> for Ids {
    type Error = PyErr;

    fn extract(value: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(array) = value.cast::<PyArray1<u32>>() {
            return Ok(Self(array.to_owned_array().into_iter().collect()));
        }
        if let Ok(array) = value.cast::<PyArray1<i64>>() {
            return array.to_owned_array().into_iter().map(id).collect::<PyResult<_>>().map(Self);
        }
        let ids: Vec<Bound<'py, PyAny>> = value.extract()?;
        ids.iter().map(one_id).collect::<PyResult<_>>().map(Self)
    }
}

fn id(value: i64) -> PyResult<u32> {
    u32::try_from(value)
        .map_err(|_| PyValueError::new_err(format!("no token {value}: ids are 0 or more and below 2**32")))
}

/// An id of any integer type; one too large for a machine word is named like any other.
fn one_id(value: &Bound<'_, PyAny>) -> PyResult<u32> {
    match value.extract::<i64>() {
        Err(error) if error.is_instance_of::<pyo3::exceptions::PyOverflowError>(value.py()) => {
            Err(PyValueError::new_err(format!("no token {value}: ids are 0 or more and below 2**32")))
        }
        other => id(other?),
    }
}

/// A byte-level BPE or character tokenizer.
#[pyclass(frozen, module = "tempa._core")]
pub(crate) struct Tokenizer {
    pub(crate) inner: bpe::Tokenizer,
}

impl Tokenizer {
    fn allowed(&self, names: Option<Vec<Text>>) -> PyResult<Allowed> {
        let names = names.unwrap_or_default();
        Allowed::new(&self.inner, names.iter().map(AsRef::as_ref)).map_err(to_python)
    }
}

#[pymethods]
impl Tokenizer {
    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        py.offload(|| bpe::Tokenizer::load(&path)).map(|inner| Self { inner })
    }

    #[staticmethod]
    fn from_json(py: Python<'_>, text: &str) -> PyResult<Self> {
        py.offload(|| bpe::Tokenizer::from_json(text)).map(|inner| Self { inner })
    }

    #[staticmethod]
    fn from_gpt2(py: Python<'_>, vocab_bpe: PathBuf, encoder_json: PathBuf) -> PyResult<Self> {
        py.offload(|| bpe::Tokenizer::from_gpt2(&vocab_bpe, &encoder_json)).map(|inner| Self { inner })
    }

    #[staticmethod]
    fn from_characters(py: Python<'_>, text: Text, special_tokens: Vec<String>) -> PyResult<Self> {
        py.offload(|| bpe::Tokenizer::from_characters(text.as_ref(), &special_tokens))
            .map(|inner| Self { inner })
    }

    fn with_special_tokens(&self, py: Python<'_>, names: Vec<String>) -> PyResult<Self> {
        py.offload(|| self.inner.with_specials(&names)).map(|inner| Self { inner })
    }

    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        py.offload(|| self.inner.save(&path))
    }

    fn to_json(&self) -> String {
        self.inner.to_json()
    }

    #[pyo3(signature = (text, allowed_special=None))]
    fn encode<'py>(
        &self,
        py: Python<'py>,
        text: Text,
        allowed_special: Option<Vec<Text>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let allowed = self.allowed(allowed_special)?;
        let ids = py.offload(|| self.inner.encode(text.as_ref(), &allowed))?;
        PyList::new(py, ids)
    }

    #[pyo3(signature = (texts, num_threads=None, allowed_special=None))]
    fn encode_batch<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<Text>,
        num_threads: Option<usize>,
        allowed_special: Option<Vec<Text>>,
    ) -> PyResult<Flat<'py>> {
        let allowed = self.allowed(allowed_special)?;
        let encode = |monitor: &Monitor| self.inner.encode_batch(&texts, &allowed, num_threads, monitor);
        let total: usize = texts.iter().map(|text| text.as_ref().len()).sum();
        let rows = if total < LONG_BYTES {
            py.offload(|| encode(&Monitor::default()))
        } else {
            py.offload_long(None, encode)
        };
        rows.map(|rows| flat(py, rows))
    }

    #[pyo3(signature = (ids, skip_special=false))]
    fn decode(&self, py: Python<'_>, ids: Ids, skip_special: bool) -> PyResult<String> {
        py.offload(|| self.inner.decode(&ids.0, skip_special))
    }

    #[pyo3(signature = (ids, skip_special=false))]
    fn decode_bytes<'py>(
        &self,
        py: Python<'py>,
        ids: Ids,
        skip_special: bool,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = py.offload(|| self.inner.decode_bytes(&ids.0, skip_special))?;
        Ok(PyBytes::new(py, &bytes))
    }

    fn token_bytes<'py>(&self, py: Python<'py>, id: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        self.inner.token_bytes(one_id(id)?).map(|bytes| PyBytes::new(py, bytes)).map_err(to_python)
    }

    fn token_to_id(&self, token: &[u8]) -> Option<u32> {
        self.inner.token_id(token)
    }

    fn special_id(&self, name: &str) -> PyResult<u32> {
        self.inner.special_id(name).map_err(to_python)
    }

    #[getter]
    fn special_tokens(&self) -> Vec<(String, u32)> {
        self.inner.specials().map(|(name, id)| (name.to_owned(), id)).collect()
    }

    #[getter]
    fn vocab_size(&self) -> usize {
        self.inner.vocab_size()
    }

    #[getter]
    fn num_merges(&self) -> usize {
        self.inner.num_merges()
    }

    #[getter]
    fn pattern(&self) -> &'static str {
        self.inner.pattern_name()
    }

    #[getter]
    fn sha256(&self) -> &str {
        self.inner.fingerprint()
    }
}

/// Batches below this many bytes take well under a tenth of a second, so nobody waits for Ctrl-C.
const LONG_BYTES: usize = 1 << 20;

/// Text from ids as they come. The lock makes pushes from several threads take turns.
#[pyclass(frozen, module = "tempa._core")]
pub(crate) struct StreamDecoder {
    tokenizer: Py<Tokenizer>,
    state: Mutex<bpe::StreamDecoder>,
}

#[pymethods]
impl StreamDecoder {
    #[new]
    #[pyo3(signature = (tokenizer, skip_special=false))]
    fn new(tokenizer: Py<Tokenizer>, skip_special: bool) -> Self {
        Self { tokenizer, state: Mutex::new(bpe::StreamDecoder::new(skip_special)) }
    }

    fn push(&self, id: &Bound<'_, PyAny>) -> PyResult<String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.push(&self.tokenizer.get().inner, one_id(id)?).map_err(to_python)
    }

    fn flush(&self) -> String {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).flush()
    }
}
