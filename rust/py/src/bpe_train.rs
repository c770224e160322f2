//! The trainer of tokenizers.

use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;
use tempa_core::bpe::{self, CountOptions, Pattern, TrainOptions};

use crate::border::Offload;
use crate::bpe::Tokenizer;
use crate::error::to_python;
use crate::texts::Text;

/// Counts of unique pieces, filled text by text. The lock lets `train` take them away.
#[pyclass(frozen, module = "tempa._core")]
pub(crate) struct PieceCounts(Mutex<Option<bpe::PieceCounts>>);

#[pymethods]
impl PieceCounts {
    #[new]
    #[pyo3(signature = (pattern, num_threads=None, by_line=false, max_memory=None))]
    fn new(
        pattern: &str,
        num_threads: Option<usize>,
        by_line: bool,
        max_memory: Option<usize>,
    ) -> PyResult<Self> {
        let options = CountOptions { num_threads, by_line, max_memory };
        let counts = Pattern::from_name(pattern).and_then(|pattern| bpe::PieceCounts::new(pattern, &options));
        counts.map(|counts| Self(Mutex::new(Some(counts)))).map_err(to_python)
    }

    /// add(texts) -> int: count the pieces of each text; returns the number of bytes.
    fn add(&self, py: Python<'_>, texts: Vec<Text>) -> PyResult<usize> {
        py.offload_long(None, |monitor| {
            let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            counts.as_mut().ok_or_else(used)?.add(&texts, monitor)
        })?;
        Ok(texts.iter().map(|text| text.as_ref().len()).sum())
    }

    /// train(vocab_size, ...): learn merges; the counts are used up.
    /// `progress` is called with the number of merges learned.
    #[pyo3(signature = (
        vocab_size, *, min_frequency, max_token_length, special_tokens, required_tokens, base, progress
    ))]
    #[expect(clippy::too_many_arguments, reason = "they are the options, by name")]
    fn train(
        &self,
        py: Python<'_>,
        vocab_size: usize,
        min_frequency: u64,
        max_token_length: Option<usize>,
        special_tokens: Vec<String>,
        required_tokens: Vec<Vec<u8>>,
        base: Option<Py<Tokenizer>>,
        progress: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Tokenizer> {
        let options = TrainOptions {
            vocab_size,
            min_frequency,
            max_token_length,
            specials: special_tokens,
            required: required_tokens,
        };
        py.offload_long(progress, |monitor| {
            let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or_else(used)?;
            bpe::train(counts, &options, base.as_ref().map(|base| &base.get().inner), monitor)
        })
        .map(|inner| Tokenizer { inner })
    }
}

fn used() -> tempa_core::Error {
    tempa_core::Error::value("these counts were used up by train: count again")
}
