//! Lists of phrases and of domains that are not wanted.

use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use rayon::prelude::*;
use tempa_core::unwanted::{self, Scratch};

use crate::border::Offload;
use crate::texts::Text;

/// UnwantedPhrases(phrases): prepared for searching.
#[pyclass(frozen, module = "tempa._core")]
pub(crate) struct UnwantedPhrases(unwanted::Phrases);

#[pymethods]
impl UnwantedPhrases {
    #[new]
    fn new(py: Python<'_>, phrases: Vec<PyBackedStr>) -> PyResult<Self> {
        py.offload(|| unwanted::Phrases::new(&phrases)).map(Self)
    }

    /// measure(texts) -> (phrases in each text, share of its words that are in them)
    fn measure(&self, py: Python<'_>, texts: Vec<Text>) -> PyResult<Vec<(usize, f64)>> {
        let measure = |scratch: &mut Scratch, text: &Text| self.0.measure(text, scratch);
        py.offload(|| Ok(texts.par_iter().map_init(Scratch::default, measure).collect()))
    }

    /// mask(texts, replacement) -> (text, phrases that were replaced) of each text, None where there are none
    fn mask(
        &self,
        py: Python<'_>,
        texts: Vec<Text>,
        replacement: PyBackedStr,
    ) -> PyResult<Vec<Option<(String, usize)>>> {
        let mask = |scratch: &mut Scratch, text: &Text| {
            let (masked, count) = self.0.mask(text, &replacement, scratch)?;
            Some((masked.to_owned(), count))
        };
        py.offload(|| Ok(texts.par_iter().map_init(Scratch::default, mask).collect()))
    }
}

/// UnwantedUrls(entries): domains and URLs, prepared for searching.
#[pyclass(frozen, module = "tempa._core")]
pub(crate) struct UnwantedUrls(unwanted::Urls);

#[pymethods]
impl UnwantedUrls {
    #[new]
    fn new(py: Python<'_>, entries: Vec<PyBackedStr>) -> PyResult<Self> {
        py.offload(|| unwanted::Urls::new(&entries)).map(Self)
    }

    /// find(urls) -> the entry that each belongs to, or None
    fn find(&self, py: Python<'_>, urls: Vec<Text>) -> PyResult<Vec<Option<String>>> {
        py.offload(|| Ok(urls.iter().map(|url| self.0.find(url).map(str::to_owned)).collect()))
    }
}
