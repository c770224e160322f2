//! Texts from Python: their UTF-8, and many of them some at a time.

use std::ops::Deref;

use pyo3::exceptions::{PyUnicodeEncodeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::types::{PyBytes, PyString};
use tempa_core::Monitor;
use tempa_core::bpe::{Input, num_processors};

use crate::border::Offload;

/// The UTF-8 of a `str`. A lone surrogate, which has no UTF-8, is a `ValueError` that says where it is.
pub(crate) enum Text {
    /// What the `str` has, or gets for as long as it lives.
    Own(PyBackedStr),
    /// For as long as this lives.
    Encoded(PyBackedBytes),
}

impl Text {
    /// For a single text, where asking takes longer than what is kept is worth.
    fn kept(value: &Bound<'_, PyAny>) -> PyResult<Self> {
        value.extract().map(Self::Own).map_err(|error: PyErr| no_text(value.py(), error))
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Own(text) => text,
            // SAFETY: the bytes come from Python's own encoder to UTF-8 and nobody can change them.
            Self::Encoded(bytes) => unsafe { std::str::from_utf8_unchecked(bytes) },
        }
    }
}

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        self
    }
}

/// For many texts: their UTF-8 goes with the call. ASCII is UTF-8 as it is.
impl<'a, 'py> FromPyObject<'a, 'py> for Text {
    type Error = PyErr;

    fn extract(value: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let text = value.cast::<PyString>()?;
        if text.call_method0(intern!(value.py(), "isascii"))?.is_truthy()? {
            return text.extract().map(Self::Own);
        }
        let bytes = text.encode_utf8().map_err(|error| no_text(value.py(), error))?;
        Ok(Self::Encoded(bytes.into()))
    }
}

/// What `encode` takes: `str`, or `bytes` that may not be UTF-8.
pub(crate) enum Source {
    Text(Text),
    Bytes(PyBackedBytes),
}

impl Source {
    /// For a single text.
    pub(crate) fn one(value: &Bound<'_, PyAny>) -> PyResult<Self> {
        if value.is_instance_of::<PyBytes>() {
            Ok(Self::Bytes(value.extract()?))
        } else {
            Text::kept(value).map(Self::Text)
        }
    }

    pub(crate) fn input(&self) -> Input<'_> {
        match self {
            Self::Text(text) => Input::Text(text.as_ref()),
            Self::Bytes(bytes) => Input::Bytes(bytes),
        }
    }
}

impl<'a, 'py> FromPyObject<'a, 'py> for Source {
    type Error = PyErr;

    fn extract(value: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        if value.is_instance_of::<PyBytes>() {
            Ok(Self::Bytes(value.extract()?))
        } else {
            value.extract().map(Self::Text)
        }
    }
}

/// A lone surrogate is a `ValueError` that says where it is; other errors stay as they are.
fn no_text(py: Python<'_>, error: PyErr) -> PyErr {
    if !error.is_instance_of::<PyUnicodeEncodeError>(py) {
        return error;
    }
    let position = error.value(py).getattr("start").and_then(|start| start.extract::<usize>());
    PyValueError::new_err(match position {
        Ok(at) => format!("text has a lone surrogate at character {at}: half of a UTF-16 pair is not text"),
        Err(_) => "text has a lone surrogate: half of a UTF-16 pair is not text".to_owned(),
    })
}

/// Text that is handed to each thread at a time: so little that its UTF-8 and its ids are still near when they are
/// needed again, so much that handing it over costs nothing.
const BLOCK_BYTES: usize = 1 << 20;

/// Less than this for each thread takes well under a second, so nobody waits for Ctrl-C.
const LONG_BYTES: usize = 4 << 20;

/// Calls `work(inputs, number of the first, monitor)` for some texts at a time, which are UTF-8 only as long, and
/// `take` with what it gives.
pub(crate) fn in_blocks<T: Send>(
    py: Python<'_>,
    texts: &[Bound<'_, PyAny>],
    num_threads: Option<usize>,
    mut work: impl FnMut(&[Input<'_>], usize, &Monitor) -> tempa_core::Result<T> + Send,
    mut take: impl FnMut(T) -> PyResult<()>,
) -> PyResult<()> {
    let num_threads = num_threads.unwrap_or_else(num_processors);
    let read = |first: usize| -> PyResult<(Vec<Source>, usize)> {
        let (mut block, mut num_bytes) = (Vec::new(), 0);
        for text in &texts[first..] {
            let source: Source = text.extract()?;
            num_bytes += source.input().as_bytes().len();
            block.push(source);
            if num_bytes >= BLOCK_BYTES.saturating_mul(num_threads) {
                break;
            }
        }
        Ok((block, num_bytes))
    };
    let (mut first, mut next) = (0, read(0));
    // No texts are a block as well: what is asked for is checked all the same.
    loop {
        let (block, num_bytes) = next?;
        let inputs: Vec<_> = block.iter().map(Source::input).collect();
        let end = first + block.len();
        let has_nothing_beside = num_threads == 1 || end == texts.len();
        let result = if has_nothing_beside && num_bytes < LONG_BYTES.saturating_mul(num_threads) {
            let result = py.offload(|| work(&inputs, first, &Monitor::default()));
            next = read(end);
            result
        } else {
            let work = |monitor: &Monitor| work(&inputs, first, monitor);
            let (result, read) = py.offload_beside(None, work, || read(end));
            next = read;
            result
        };
        take(result?)?;
        if end == texts.len() {
            return Ok(());
        }
        first = end;
    }
}
