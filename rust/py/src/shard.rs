//! Token shards: views of the mapped files, and the writer.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use numpy::ndarray::ArrayView1;
use numpy::{Element, IntoPyArray, PyArray1, PyArrayMethods, PyReadonlyArray1};
use pyo3::prelude::*;
use tempa_core::Error;
use tempa_core::shard::{self, Ids, Manifest, ShardSet, WriterOptions};

use crate::border::Offload;
use crate::bpe::Tokenizer;
use crate::texts::Text;

/// Shards(directory): the open shards of a directory.
#[pyclass(frozen, module = "tempa._core")]
pub(crate) struct Shards(pub(crate) Arc<ShardSet>);

#[pymethods]
impl Shards {
    #[new]
    fn new(py: Python<'_>, directory: PathBuf) -> PyResult<Self> {
        py.offload(|| ShardSet::open(&directory)).map(|set| Self(Arc::new(set)))
    }

    /// verify(progress=None): compare every checksum; progress gets the bytes read.
    #[pyo3(signature = (progress=None))]
    fn verify(&self, py: Python<'_>, progress: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        py.offload_long(progress, |monitor| self.0.verify(monitor))
    }

    /// check_tokenizer(fingerprint): fail unless this tokenizer made the ids.
    fn check_tokenizer(&self, py: Python<'_>, fingerprint: &str) -> PyResult<()> {
        py.offload(|| self.0.check_tokenizer(fingerprint.parse()?))
    }

    /// document(index) -> read-only view of the file.
    fn document<'py>(this: &Bound<'py, Self>, index: u64) -> PyResult<Bound<'py, PyAny>> {
        let set = &this.get().0;
        view(this, this.py().offload(|| set.document(index))?)
    }

    /// tokens(start, stop) -> list of read-only views, one for each file that the range touches.
    fn tokens<'py>(this: &Bound<'py, Self>, start: u64, stop: u64) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let set = &this.get().0;
        let pieces: Vec<_> = this.py().offload(|| Ok(set.tokens(start, stop)?.collect()))?;
        pieces.into_iter().map(|ids| view(this, ids)).collect()
    }

    /// offsets() -> int64 array: where documents begin and end in the stream.
    fn offsets<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<i64>>> {
        py.offload(|| Ok(self.0.offsets())).map(|offsets| offsets.into_pyarray(py))
    }

    #[getter]
    fn num_tokens(&self) -> u64 {
        self.0.num_tokens()
    }

    #[getter]
    fn num_documents(&self) -> u64 {
        self.0.num_documents()
    }

    #[getter]
    fn vocab_size(&self) -> u64 {
        self.0.vocab_size()
    }

    #[getter]
    fn fingerprint(&self) -> String {
        self.0.fingerprint().to_string()
    }
}

fn view<'py>(owner: &Bound<'py, Shards>, ids: Ids<'_>) -> PyResult<Bound<'py, PyAny>> {
    match ids {
        Ids::U16(ids) => borrow(owner, ids),
        Ids::U32(ids) => borrow(owner, ids),
    }
}

/// A read-only array over ids that lie in one of the owner's files.
fn borrow<'py, T: Element>(owner: &Bound<'py, Shards>, ids: &[T]) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the ids lie in a memory map of the owner, which is frozen and which the array keeps alive.
    let array = unsafe { PyArray1::borrow_from_array(&ArrayView1::from(ids), owner.clone().into_any()) };
    Ok(array.try_readwrite()?.make_nonwriteable().as_any().clone())
}

/// ShardWriter(directory, fingerprint, vocab_size, max_shard_tokens, overwrite)
///
/// The lock makes `add` from several threads append whole batches, in the order of the calls.
#[pyclass(frozen, module = "tempa._core")]
pub(crate) struct ShardWriter(Mutex<Option<shard::ShardWriter>>);

#[pymethods]
impl ShardWriter {
    #[new]
    fn new(
        py: Python<'_>,
        directory: PathBuf,
        fingerprint: &str,
        vocab_size: u64,
        max_shard_tokens: u64,
        overwrite: bool,
    ) -> PyResult<Self> {
        let writer = py.offload(|| {
            let fingerprint = fingerprint.parse()?;
            let options = WriterOptions { fingerprint, vocab_size, max_shard_tokens, overwrite };
            shard::ShardWriter::create(&directory, options)
        })?;
        Ok(Self(Mutex::new(Some(writer))))
    }

    /// add(ids, offsets): append documents.
    fn add(
        &self,
        py: Python<'_>,
        ids: PyReadonlyArray1<'_, u32>,
        offsets: PyReadonlyArray1<'_, i64>,
    ) -> PyResult<()> {
        let (ids, offsets) = (ids.as_slice()?, offsets.as_slice()?);
        py.offload(|| self.with(|writer| writer.as_mut().ok_or_else(closed)?.add(ids, offsets)))
    }

    /// encode(tokenizer, texts, end=None, num_threads=None) -> (tokens, bytes): append texts as they are encoded.
    #[pyo3(signature = (tokenizer, texts, end=None, num_threads=None))]
    fn encode(
        &self,
        py: Python<'_>,
        tokenizer: Py<Tokenizer>,
        texts: Vec<Text>,
        end: Option<u32>,
        num_threads: Option<usize>,
    ) -> PyResult<(usize, usize)> {
        let tokenizer = &tokenizer.get().inner;
        let num_tokens = py.offload_long(None, |monitor| {
            self.with(|writer| {
                let writer = writer.as_mut().ok_or_else(closed)?;
                writer.encode(tokenizer, &texts, end, num_threads, monitor)
            })
        })?;
        Ok((num_tokens, texts.iter().map(|text| text.as_ref().len()).sum()))
    }

    /// finish() -> (documents, tokens): put the directory under its name.
    fn finish(&self, py: Python<'_>) -> PyResult<(u64, u64)> {
        py.offload(|| {
            let manifest = self.with(Option::take).ok_or_else(closed)?.finish()?;
            Ok((manifest.num_documents, manifest.num_tokens))
        })
    }

    /// abort(): remove what has been written; nothing happens after finish().
    fn abort(&self, py: Python<'_>) -> PyResult<()> {
        py.offload(|| {
            drop(self.with(Option::take));
            Ok(())
        })
    }
}

impl ShardWriter {
    fn with<R>(&self, call: impl FnOnce(&mut Option<shard::ShardWriter>) -> R) -> R {
        // A panic in the writer leaves it as it was before the call or with part of a file, which `finish` would
        // describe truthfully; there is no broken state to protect from.
        call(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn closed() -> Error {
    Error::value("the shard writer is closed")
}

/// write_shard_manifest(directory, fingerprint, vocab_size): describes the files shard-00000.bin, ... that are there.
#[pyfunction]
pub(crate) fn write_shard_manifest(
    py: Python<'_>,
    directory: PathBuf,
    fingerprint: &str,
    vocab_size: u64,
) -> PyResult<()> {
    py.offload(|| Manifest::write_for(&directory, fingerprint.parse()?, vocab_size).map(|_| ()))
}
