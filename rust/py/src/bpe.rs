//! Tokenizer and its streaming decoder.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use numpy::{IntoPyArray, PyArray1, PyArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use tempa_core::bpe::{self, Allowed, Disallowed, Input, Request, Unit};
use tempa_core::{Monitor, Ragged, pages};

use crate::border::Offload;
use crate::error::to_python;
use crate::ints::{Ints, NoCollection};
use crate::texts::{Source, Text, in_blocks};

/// Flat values and offsets as arrays.
pub(crate) type Flat<'py> = (Bound<'py, PyArray1<u32>>, Bound<'py, PyArray1<i64>>);

pub(crate) fn flat(py: Python<'_>, rows: Ragged<u32>) -> Flat<'_> {
    (rows.values.into_pyarray(py), rows.offsets.into_pyarray(py))
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

/// (allowed_special or None for all, disallowed_special, added_tokens, add_special_tokens, max_tokens, keeps_end)
type Options = (Option<Vec<String>>, Vec<String>, bool, bool, Option<usize>, bool);

/// Ids, where they begin and end, and the text they are in.
type Placed<'py> = (Bound<'py, PyArray1<u32>>, Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<i64>>, String);

fn arrays(py: Python<'_>, placed: bpe::Placed) -> Placed<'_> {
    let bpe::Placed { ids, starts, ends, text } = placed;
    (ids.into_pyarray(py), starts.into_pyarray(py), ends.into_pyarray(py), text)
}

fn unit(in_chars: bool) -> Unit {
    if in_chars { Unit::Char } else { Unit::Byte }
}

impl Tokenizer {
    fn request(&self, options: Option<Options>) -> PyResult<Request> {
        let Some((allowed, disallowed, added, add_special, max_tokens, keeps_end)) = options else {
            return Ok(Request::default());
        };
        let allowed = match allowed {
            _ if !added => Ok(Allowed::nothing()),
            None => Allowed::all(&self.inner),
            Some(names) => Allowed::new(&self.inner, names.iter().map(String::as_str)),
        };
        let disallowed = Disallowed::new(&self.inner, disallowed).map_err(to_python)?;
        let allowed = allowed.map_err(to_python)?;
        Ok(Request { allowed, disallowed, add_special, max_tokens, keeps_end })
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
    fn from_sentencepiece(py: Python<'_>, path: PathBuf, special_user_defined: bool) -> PyResult<Self> {
        py.offload(|| bpe::Tokenizer::from_sentencepiece(&path, special_user_defined))
            .map(|inner| Self { inner })
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

    #[staticmethod]
    fn from_tiktoken(
        py: Python<'_>,
        path: PathBuf,
        pattern: &str,
        special_tokens: Vec<(String, u32)>,
    ) -> PyResult<Self> {
        py.offload(|| bpe::Tokenizer::from_tiktoken(&path, pattern, &special_tokens))
            .map(|inner| Self { inner })
    }

    fn save_tiktoken(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        py.offload(|| self.inner.save_tiktoken(&path))
    }

    fn save_gpt2(&self, py: Python<'_>, vocab_bpe: PathBuf, encoder_json: PathBuf) -> PyResult<()> {
        py.offload(|| self.inner.save_gpt2(&vocab_bpe, &encoder_json))
    }

    fn with_plain_tokens(&self, py: Python<'_>, names: Vec<String>) -> PyResult<Self> {
        py.offload(|| self.inner.with_plain_tokens(&names)).map(|inner| Self { inner })
    }

    #[pyo3(signature = (text, options=None))]
    fn encode<'py>(
        &self,
        py: Python<'py>,
        text: &Bound<'py, PyAny>,
        options: Option<Options>,
    ) -> PyResult<Bound<'py, PyList>> {
        let request = self.request(options)?;
        let text = Source::one(text)?;
        let ids = py.offload(|| {
            let mut ids = Vec::with_capacity(text.input().as_bytes().len() / 3);
            self.inner.encoder().encode_request(text.input(), &request, &mut ids)?;
            Ok(ids)
        })?;
        Ints::up_to(py, self.inner.vocab_size()).list(py, &ids)
    }

    #[pyo3(signature = (texts, num_threads=None, options=None))]
    fn encode_lists<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<Bound<'py, PyAny>>,
        num_threads: Option<usize>,
        options: Option<Options>,
    ) -> PyResult<Bound<'py, PyList>> {
        let request = self.request(options)?;
        let ints = Ints::up_to(py, self.inner.vocab_size());
        let _paused = NoCollection::start(py);
        let mut lists = Vec::with_capacity(texts.len());
        let encode = |inputs: &[Input<'_>], first: usize, monitor: &Monitor| {
            let mut rows = Ragged::default();
            self.inner.encode_requests(inputs, first, &request, num_threads, monitor, &mut rows)?;
            Ok(rows)
        };
        in_blocks(py, &texts, num_threads, encode, |rows| {
            rows.rows().try_for_each(|row| {
                lists.push(ints.list(py, row)?);
                Ok(())
            })
        })?;
        PyList::new(py, lists)
    }

    #[pyo3(signature = (texts, num_threads=None, options=None))]
    fn encode_batch<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<Bound<'py, PyAny>>,
        num_threads: Option<usize>,
        options: Option<Options>,
    ) -> PyResult<Flat<'py>> {
        let request = self.request(options)?;
        let mut rows = Ragged::default();
        // Few texts have more ids than characters.
        let num_chars = texts.iter().map(|text| text.len().unwrap_or(0)).sum();
        pages::reserve(&mut rows.values, num_chars);
        rows.offsets.reserve_exact(texts.len());
        let encode = |inputs: &[Input<'_>], first: usize, monitor: &Monitor| {
            self.inner.encode_requests(inputs, first, &request, num_threads, monitor, &mut rows)
        };
        in_blocks(py, &texts, num_threads, encode, Ok)?;
        rows.values.shrink_to_fit();
        Ok(flat(py, rows))
    }

    #[pyo3(signature = (texts, num_threads=None, options=None))]
    fn count_batch<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<Bound<'py, PyAny>>,
        num_threads: Option<usize>,
        options: Option<Options>,
    ) -> PyResult<Bound<'py, PyArray1<u32>>> {
        let request = self.request(options)?;
        let mut counts = Vec::with_capacity(texts.len());
        let count = |inputs: &[Input<'_>], first: usize, monitor: &Monitor| {
            self.inner.count_requests(inputs, first, &request, num_threads, monitor, &mut counts)
        };
        in_blocks(py, &texts, num_threads, count, Ok)?;
        Ok(counts.into_pyarray(py))
    }

    #[pyo3(signature = (text, in_chars, options=None))]
    fn encode_with_offsets<'py>(
        &self,
        py: Python<'py>,
        text: Text,
        in_chars: bool,
        options: Option<Options>,
    ) -> PyResult<Placed<'py>> {
        let allowed = self.request(options)?.allowed;
        let placed =
            py.offload(|| self.inner.encode_with_offsets(text.as_ref(), &allowed, unit(in_chars)))?;
        Ok(arrays(py, placed))
    }

    #[pyo3(signature = (ids, in_chars, skip_special=false))]
    fn decode_with_offsets<'py>(
        &self,
        py: Python<'py>,
        ids: Ids,
        in_chars: bool,
        skip_special: bool,
    ) -> PyResult<Placed<'py>> {
        let placed = py.offload(|| self.inner.decode_with_offsets(&ids.0, skip_special, unit(in_chars)))?;
        Ok(arrays(py, placed))
    }

    #[pyo3(signature = (text, options=None))]
    fn normalize(&self, py: Python<'_>, text: Text, options: Option<Options>) -> PyResult<String> {
        let allowed = self.request(options)?.allowed;
        py.offload(|| Ok(self.inner.normalize(text.as_ref(), &allowed)))
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
    fn plain_tokens(&self) -> Vec<(String, u32)> {
        self.inner.plain_tokens().into_iter().map(|(name, id)| (name.to_owned(), id)).collect()
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

/// write_whole(path, text): a file that appears whole or not at all.
#[pyfunction]
pub(crate) fn write_whole(py: Python<'_>, path: PathBuf, text: &str) -> PyResult<()> {
    py.offload(|| bpe::write_whole(&[(&path, text)]))
}

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

/// Ids from text as it comes. The lock makes pushes from several threads take turns.
#[pyclass(frozen, module = "tempa._core")]
pub(crate) struct StreamEncoder {
    tokenizer: Py<Tokenizer>,
    allowed: Allowed,
    state: Mutex<bpe::StreamEncoder>,
}

#[pymethods]
impl StreamEncoder {
    #[new]
    #[pyo3(signature = (tokenizer, options=None))]
    fn new(tokenizer: Py<Tokenizer>, options: Option<Options>) -> PyResult<Self> {
        let allowed = tokenizer.get().request(options)?.allowed;
        Ok(Self { tokenizer, allowed, state: Mutex::default() })
    }

    fn push<'py>(&self, py: Python<'py>, text: Text) -> PyResult<Bound<'py, PyList>> {
        let ids = py.offload(|| {
            let mut ids = Vec::new();
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.push(&self.tokenizer.get().inner, text.as_ref(), &self.allowed, &mut ids)?;
            Ok(ids)
        })?;
        PyList::new(py, ids)
    }

    fn finish<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let ids = py.offload(|| {
            let mut ids = Vec::new();
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.finish(&self.tokenizer.get().inner, &self.allowed, &mut ids)?;
            Ok(ids)
        })?;
        PyList::new(py, ids)
    }

    #[getter]
    fn num_pending(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).num_pending()
    }
}
