//! A corpus in one pass.

use std::path::PathBuf;
use std::sync::Arc;

use numpy::ndarray::Array2;
use numpy::{IntoPyArray, PyArray1, PyArray2, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyIterator};
use tempa_core::bpe::num_processors;
use tempa_core::classify::Classifier;
use tempa_core::corpus::{
    self, EmitOptions, Extract, Fields, Item, Partition, ReadOptions, SettleOptions, Split,
};
use tempa_core::dedup::{self, EvalItems, Groups, Keep, Overlap};
use tempa_core::perplexity::NgramModel;
use tempa_core::quality::{EDITS, Edits, RULES, Thresholds};
use tempa_core::unwanted::{Phrases, Urls};
use tempa_core::{Error, Monitor};

use crate::border::Offload;
use crate::bpe::Tokenizer;
use crate::dedup::{Options, SignatureIndex, near_options};
use crate::error::to_python;
use crate::pii::parse_kinds;
use crate::texts::Text;

/// Work(): what long calls on other threads have done so far, and a way to stop them.
#[pyclass(frozen, module = "tempa._core")]
#[derive(Default)]
pub(crate) struct Work(Monitor);

#[pymethods]
impl Work {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Units that are done, of those that the calls state.
    #[getter]
    fn done(&self) -> u64 {
        self.0.done()
    }

    /// cancel(): calls that are given this raise KeyboardInterrupt soon.
    fn cancel(&self) {
        self.0.cancel();
    }
}

/// num_processors() -> the processors that this process may use.
#[pyfunction(name = "num_processors")]
pub(crate) fn count_processors() -> usize {
    num_processors()
}

/// A step of the funnel that looks at one document at a time.
#[pyclass(frozen, module = "tempa._core")]
pub(crate) struct Step(Arc<dyn corpus::Step>);

#[pymethods]
impl Step {
    /// sample(share): takes a share of the documents by the hash of their text.
    #[staticmethod]
    fn sample(share: f64) -> Self {
        Self(Arc::new(corpus::Sample { share }))
    }

    /// clean(thresholds, edits): normalises, takes out the lines of line_edits(), and applies the rules of quality_rules().
    #[staticmethod]
    fn clean(thresholds: Vec<f64>, edits: Vec<bool>) -> PyResult<Self> {
        let thresholds: Thresholds = thresholds.try_into().map_err(|given: Vec<_>| {
            to_python(Error::value(format!("{} thresholds for {} rules", given.len(), RULES.len())))
        })?;
        let edits: Edits = edits.try_into().map_err(|given: Vec<_>| {
            to_python(Error::value(format!("{} switches for {} edits", given.len(), EDITS.len())))
        })?;
        Ok(Self(Arc::new(corpus::Clean { edits, thresholds })))
    }

    /// mask(kinds): replaces personal data by placeholders.
    #[staticmethod]
    fn mask(kinds: Vec<String>) -> PyResult<Self> {
        let kinds = parse_kinds(&kinds).map_err(to_python)?;
        Ok(Self(Arc::new(corpus::Mask { kinds })))
    }

    /// repair(): decodes entities that are left over, and what was read as another encoding.
    #[staticmethod]
    fn repair() -> Self {
        Self(Arc::new(corpus::Repair))
    }

    /// drop_urls(urls): drops documents whose name is a page of a list.
    #[staticmethod]
    fn drop_urls(urls: Vec<Text>) -> PyResult<Self> {
        let urls = Urls::new(&urls).map_err(to_python)?;
        Ok(Self(Arc::new(corpus::DropUrls { urls })))
    }

    /// drop_phrases(phrases, max_phrases, max_share): drops documents that have phrases of a list.
    #[staticmethod]
    fn drop_phrases(py: Python<'_>, phrases: Vec<Text>, max_phrases: f64, max_share: f64) -> PyResult<Self> {
        let phrases = py.offload(|| Phrases::new(&phrases))?;
        Ok(Self(Arc::new(corpus::DropPhrases { phrases, max_phrases, max_share })))
    }

    /// mask_phrases(phrases, replacement): replaces phrases of a list.
    #[staticmethod]
    fn mask_phrases(py: Python<'_>, phrases: Vec<Text>, replacement: String) -> PyResult<Self> {
        let phrases = py.offload(|| Phrases::new(&phrases))?;
        Ok(Self(Arc::new(corpus::MaskPhrases { phrases, replacement })))
    }

    /// classify(model, wanted, min_probability): drops documents that a classifier's file says are not of the wanted labels.
    #[staticmethod]
    fn classify(py: Python<'_>, model: PathBuf, wanted: Vec<String>, min_probability: f64) -> PyResult<Self> {
        let classifier = py.offload(|| Classifier::open(&model))?;
        let labels = classifier.labels();
        if let Some(label) = wanted.iter().find(|label| !labels.contains(label)) {
            let known = labels.join(", ");
            return Err(to_python(Error::value(format!(
                "the classifier has no label {label:?}; it has {known}"
            ))));
        }
        let is_wanted = labels.iter().map(|label| wanted.is_empty() || wanted.contains(label)).collect();
        Ok(Self(Arc::new(corpus::Classify { classifier, is_wanted, min_probability })))
    }

    /// perplexity(model, min, max): drops documents whose perplexity under an n-gram model's file is out of range.
    #[staticmethod]
    fn perplexity(py: Python<'_>, model: PathBuf, min: f64, max: f64) -> PyResult<Self> {
        let model = py.offload(|| NgramModel::open(&model))?;
        Ok(Self(Arc::new(corpus::Perplexity { model, min, max })))
    }

    /// decontaminate(items, names, overlap, margin): keeps items out, each of a task and with a name. Overlap is (ngram,
    /// min_words, min_span, min_share); with a margin, items are cut out with so many words on both sides.
    #[staticmethod]
    fn decontaminate(
        py: Python<'_>,
        items: Vec<Text>,
        names: Vec<(String, String)>,
        overlap: (usize, usize, usize, f64),
        margin: Option<usize>,
    ) -> PyResult<Self> {
        let (ngram, min_words, min_span, min_share) = overlap;
        let overlap = Overlap { ngram, min_words, min_span, min_share };
        let items = py.offload(|| EvalItems::new(&items, overlap))?;
        let (is_cut, margin) = (margin.is_some(), margin.unwrap_or_default());
        Ok(Self(Arc::new(corpus::Decontaminate { items, names, is_cut, margin })))
    }
}

/// What is called with the bytes of a page and the encoding that its server named, and gives its text.
#[derive(Debug)]
struct Extractor(Py<PyAny>);

impl Extract for Extractor {
    fn text(&self, html: &[u8], encoding: &str) -> Result<String, String> {
        Python::attach(|py| {
            let text = self.0.bind(py).call1((PyBytes::new(py, html), encoding));
            text.and_then(|text| text.extract())
                .map_err(|error| format!("its text cannot be extracted: {error}"))
        })
    }
}

/// (path, first byte, byte after the last line's start)
type Stretch = (PathBuf, u64, u64);

/// Texts, their names and places, and (place, reason) of what is no text.
type Batch = (Vec<Text>, Vec<Text>, Vec<u64>, Vec<(u64, String)>);

/// Stager(steps, near=None): from files to staged documents. Near are the options of near_duplicates().
#[pyclass(frozen, module = "tempa._core")]
pub(crate) struct Stager(corpus::Stager);

#[pymethods]
impl Stager {
    #[new]
    #[pyo3(signature = (steps, near=None))]
    fn new(steps: Vec<Bound<'_, Step>>, near: Option<Options>) -> PyResult<Self> {
        let steps = steps.iter().map(|step| Arc::clone(&step.get().0)).collect();
        let near = near.map(near_options).transpose()?.map(|near| (near.shingler, near.bands));
        Ok(Self(corpus::Stager::new(steps, near)))
    }

    /// stage_files(files, how, target, work, extract=None): reads stretches of files. How is (field of the text, field of the name or
    /// None, is_lossy, max_document_bytes); extract(html, encoding) -> text is for pages of HTML; the work counts bytes of the
    /// files.
    #[pyo3(signature = (files, how, target, work, extract=None))]
    fn stage_files(
        &self,
        py: Python<'_>,
        files: Vec<Stretch>,
        how: (String, Option<String>, bool, usize),
        target: PathBuf,
        work: &Bound<'_, Work>,
        extract: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let extract = extract.map(|extract| Arc::new(Extractor(extract)) as Arc<dyn Extract>);
        let (text, name, is_lossy, max_document_bytes) = how;
        let fields = Fields { text, name };
        let options = |(path, start, end)| ReadOptions {
            path,
            start,
            end,
            fields: fields.clone(),
            is_lossy,
            max_document_bytes,
            extract: extract.clone(),
        };
        let files: Vec<ReadOptions> = files.into_iter().map(options).collect();
        let monitor = &work.get().0;
        py.offload(|| self.0.stage(&files, &target, monitor))
    }

    /// stage_texts(batches, file, target, work): takes (texts, names, offsets, problems) from an iterator, problems being
    /// (offset, reason). The work counts bytes of text.
    fn stage_texts(
        &self,
        py: Python<'_>,
        batches: &Bound<'_, PyIterator>,
        file: String,
        target: PathBuf,
        work: &Bound<'_, Work>,
    ) -> PyResult<()> {
        let monitor = &work.get().0;
        let mut partition = Partition::new(&self.0, &target).map_err(to_python)?;
        partition.begin_file(file);
        for batch in batches {
            let (texts, names, offsets, problems): Batch = batch?.extract()?;
            let documents = texts.iter().zip(&names).zip(offsets);
            py.offload(|| {
                documents.into_iter().try_for_each(|((text, name), offset)| {
                    monitor.advance(text.len() as u64)?;
                    partition.add(Item::Document { text, name, offset })
                })?;
                problems.into_iter().try_for_each(|(offset, reason)| {
                    partition.add(Item::Problem { reason, offset, num_bytes: 0 })
                })
            })?;
        }
        py.offload(|| partition.finish())
    }
}

/// StagedDocuments(paths): the documents of staged files, numbered in the order of the files.
#[pyclass(frozen, module = "tempa._core")]
pub(crate) struct StagedDocuments(corpus::StagedSet);

/// Tokens, documents, checksum, bytes of text.
type Emitted = (u64, u64, String, u64);
type Documents<'py> = Bound<'py, PyArray1<u32>>;
type Settled<'py> = (Bound<'py, PyArray1<u8>>, Bound<'py, PyArray1<i64>>);

#[pymethods]
impl StagedDocuments {
    #[new]
    fn new(py: Python<'_>, paths: Vec<PathBuf>) -> PyResult<Self> {
        py.offload(|| corpus::StagedSet::open(&paths)).map(Self)
    }

    /// verify(work): compares checksums; the work counts bytes.
    fn verify(&self, py: Python<'_>, work: &Bound<'_, Work>) -> PyResult<()> {
        let monitor = &work.get().0;
        py.offload(|| self.0.parts().iter().try_for_each(|part| part.verify(monitor)))
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    /// The first document of each file, then the number of documents.
    #[getter]
    fn starts<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        self.0.starts().iter().map(|&start| i64::from(start)).collect::<Vec<_>>().into_pyarray(py)
    }

    /// Bytes of all texts.
    #[getter]
    fn num_bytes(&self) -> u64 {
        self.0.parts().iter().map(corpus::Staged::text_bytes).sum()
    }

    /// sizes() -> int64 array: bytes of each text.
    fn sizes<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        let mut sizes = Vec::with_capacity(self.0.len());
        for part in self.0.parts() {
            let mut start = 0;
            for &end in part.text_ends() {
                sizes.push((end - start) as i64);
                start = end;
            }
        }
        sizes.into_pyarray(py)
    }

    /// report(file) -> the JSON report of the steps before.
    fn report<'py>(&self, py: Python<'py>, file: usize) -> PyResult<Bound<'py, PyBytes>> {
        let part = self.0.parts().get(file);
        let part = part.ok_or_else(|| to_python(Error::value(format!("no staged file {file}"))))?;
        Ok(PyBytes::new(py, part.report()))
    }

    /// text(document) -> its text.
    fn text(&self, document: usize) -> PyResult<&str> {
        self.0.place(document).map(|(part, at)| part.text(at)).map_err(to_python)
    }

    /// name(document) -> where it comes from.
    fn name(&self, document: usize) -> PyResult<&str> {
        self.0.place(document).map(|(part, at)| part.name(at)).map_err(to_python)
    }

    /// settle(against, reasons, similar, keep, work) -> (reasons, by): zero for documents that are kept, else one more
    /// than the place of the reason in ("known", "url", "exact", "near"), and the document that stands for each.
    ///
    /// Reasons name what is looked for beside what is known; similar are the options of near_duplicates(), keep is
    /// "first" or "longest".
    fn settle<'py>(
        &self,
        py: Python<'py>,
        against: Vec<Bound<'py, SignatureIndex>>,
        reasons: Vec<String>,
        similar: Option<Options>,
        keep: &str,
        work: &Bound<'py, Work>,
    ) -> PyResult<Settled<'py>> {
        let against: Vec<_> = against.iter().map(|index| &index.get().0).collect();
        let is_asked = |name: &str| reasons.iter().any(|reason| reason == name);
        let options = SettleOptions {
            against: &against,
            is_by_url: is_asked("url"),
            is_exact: is_asked("exact"),
            is_near: is_asked("near"),
            similar: similar.map(near_options).transpose()?,
            keeps_longest: matches!(keep_of(keep), Keep::Longest),
        };
        let monitor = &work.get().0;
        let settled = py.offload(|| corpus::settle(&self.0, &options, monitor))?;
        let by: Vec<i64> = settled.by.into_iter().map(i64::from).collect();
        Ok((settled.reasons.into_pyarray(py), by.into_pyarray(py)))
    }

    /// distinct(among, keep) -> (same, distinct), uint32 arrays: for each document the preferred one of those among the
    /// given with the same shingles, and those that stand for themselves and have shingles. The first of three steps by which
    /// several machines find near duplicates.
    fn distinct<'py>(
        &self,
        py: Python<'py>,
        among: PyReadonlyArray1<'py, u32>,
        similar: Options,
        keep: &str,
    ) -> PyResult<(Documents<'py>, Documents<'py>)> {
        let (among, similar) = (among.as_slice()?, near_options(similar)?);
        let (same, distinct) = py.offload(|| {
            check_documents(among, self.0.len())?;
            let (texts, signatures) = (self.0.texts(), self.0.signatures(similar.bands)?);
            Ok(dedup::distinct_texts(&texts, &signatures, among, keep_of(keep)))
        })?;
        Ok((same.into_pyarray(py), distinct.into_pyarray(py)))
    }

    /// band_groups(band, distinct, similar) -> (members, ends), uint32 and uint64 arrays: the documents of each two or more
    /// that agree in a band. The second step.
    fn band_groups<'py>(
        &self,
        py: Python<'py>,
        band: usize,
        distinct: PyReadonlyArray1<'py, u32>,
        similar: Options,
    ) -> PyResult<(Documents<'py>, Bound<'py, PyArray1<u64>>)> {
        let (distinct, similar) = (distinct.as_slice()?, near_options(similar)?);
        let (members, ends) = py.offload(|| {
            check_documents(distinct, self.0.len())?;
            if band >= similar.bands.bands {
                return Err(Error::value(format!("band {band} of {}", similar.bands.bands)));
            }
            Ok(self.0.signatures(similar.bands)?.groups_of_band(band, distinct).into_parts())
        })?;
        Ok((members.into_pyarray(py), ends.into_pyarray(py)))
    }

    /// decide(groups, part, similar, keep, work) -> uint32 array [n, 2]: documents and the kept ones that stand for them, of
    /// part part[0] of part[1], from the groups of all bands. The third step.
    fn decide<'py>(
        &self,
        py: Python<'py>,
        groups: Vec<(PyReadonlyArray1<'py, u32>, PyReadonlyArray1<'py, u64>)>,
        part: (usize, usize),
        similar: Options,
        keep: &str,
        work: &Bound<'py, Work>,
    ) -> PyResult<Bound<'py, PyArray2<u32>>> {
        let similar = near_options(similar)?;
        let groups = groups.iter().map(|(members, ends)| Ok((members.as_slice()?, ends.as_slice()?)));
        let groups: Vec<(&[u32], &[u64])> = groups.collect::<PyResult<_>>()?;
        let monitor = &work.get().0;
        let decided = py.offload(|| {
            let bands =
                groups.iter().map(|(members, ends)| Groups::from_parts(members.to_vec(), ends.to_vec()));
            let groups = Groups::joined(bands.collect::<tempa_core::Result<Vec<_>>>()?)?;
            let (texts, signatures) = (self.0.texts(), self.0.signatures(similar.bands)?);
            let decisions =
                dedup::decide(&texts, &signatures, &groups, part, &similar, keep_of(keep), monitor)?;
            let rows: Vec<u32> = decisions.iter().flat_map(|decision| [decision.text, decision.by]).collect();
            Array2::from_shape_vec((decisions.len(), 2), rows)
                .map_err(|error| Error::value(error.to_string()))
        })?;
        Ok(decided.into_pyarray(py))
    }

    /// emit(file, is_kept, how, targets, work) -> for what is trained on and what is held out None or (tokens, documents,
    /// checksum, bytes of text), and whether the budget was used up.
    ///
    /// How is (tokenizer, end, split, max_tokens or 0): split is ("hash", below, 0) or ("tail", document of the file,
    /// byte). The work counts bytes of text.
    fn emit(
        &self,
        py: Python<'_>,
        file: usize,
        is_kept: PyReadonlyArray1<'_, bool>,
        how: (Bound<'_, Tokenizer>, Option<u32>, (String, u64, u64), u64),
        targets: (PathBuf, PathBuf),
        work: &Bound<'_, Work>,
    ) -> PyResult<(Option<Emitted>, Option<Emitted>, bool)> {
        let (tokenizer, end, split, max_tokens) = how;
        let split = match split.0.as_str() {
            "hash" => Split::Hash(split.1),
            _ => Split::Tail(split.1 as usize, split.2 as usize),
        };
        let part = self.0.parts().get(file);
        let part = part.ok_or_else(|| to_python(Error::value(format!("no staged file {file}"))))?;
        let (is_kept, tokenizer) = (is_kept.as_slice()?, tokenizer.get());
        let monitor = &work.get().0;
        let max_tokens = (max_tokens > 0).then_some(max_tokens);
        let options = EmitOptions { tokenizer: &tokenizer.inner, end, split, max_tokens };
        let (emitted, is_full) = py.offload(|| {
            let targets = [targets.0.as_path(), targets.1.as_path()];
            corpus::emit(part, is_kept, options, targets, monitor)
        })?;
        let [train, val] = emitted.map(|side| {
            side.map(|corpus::Emitted { entry, num_bytes }| {
                (entry.num_tokens, entry.num_documents, entry.xxh3_128, num_bytes)
            })
        });
        Ok((train, val, is_full))
    }
}

fn keep_of(name: &str) -> Keep<'static> {
    if name == "longest" { Keep::Longest } else { Keep::First }
}

fn check_documents(documents: &[u32], count: usize) -> tempa_core::Result<()> {
    match documents.iter().find(|&&document| document as usize >= count) {
        None => Ok(()),
        Some(document) => Err(Error::value(format!("document {document} of {count}"))),
    }
}
