//! Which of all staged documents are kept: duplicates are known only when everything has been read.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use rustc_hash::FxHashMap;

use super::staged::Staged;
use crate::dedup::{Bands, Index, Keep, NearOptions, Signatures, canonical_url, near_duplicates_among};
use crate::{Error, Monitor, Result};

/// Staged files, whose documents are numbered in the order of the files.
#[derive(Debug)]
pub struct StagedSet {
    parts: Vec<Staged>,
    /// The first document of each file, then the number of documents.
    starts: Vec<u32>,
}

impl StagedSet {
    /// Opens all files.
    ///
    /// # Errors
    /// As [`Staged::open`]; [`Error::Value`] if there are 2^32 documents or more or signatures of different lengths.
    pub fn open(paths: &[PathBuf]) -> Result<Self> {
        let mut set = Self { parts: Vec::with_capacity(paths.len()), starts: vec![0] };
        let mut end = 0u32;
        for path in paths {
            let part = Staged::open(path)?;
            if set.parts.first().is_some_and(|first| first.num_hashes() != part.num_hashes()) {
                return Err(different(path));
            }
            end = u32::try_from(part.len())
                .ok()
                .and_then(|len| end.checked_add(len))
                .ok_or_else(|| Error::value("at most 2^32 - 1 documents can be compared"))?;
            set.starts.push(end);
            set.parts.push(part);
        }
        Ok(set)
    }

    /// Number of documents.
    pub fn len(&self) -> usize {
        self.starts[self.parts.len()] as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The files.
    pub fn parts(&self) -> &[Staged] {
        &self.parts
    }

    /// The first document of each file, then the number of documents.
    pub fn starts(&self) -> &[u32] {
        &self.starts
    }

    /// The file that has a document, and its place there.
    ///
    /// # Errors
    /// [`Error::Value`] if there is no such document.
    pub fn place(&self, document: usize) -> Result<(&Staged, usize)> {
        if document >= self.len() {
            return Err(Error::value(format!("document {document} of {}", self.len())));
        }
        let part = self.starts.partition_point(|&start| start as usize <= document) - 1;
        Ok((&self.parts[part], document - self.starts[part] as usize))
    }

    /// The text of each document.
    pub fn texts(&self) -> Vec<&str> {
        self.documents().map(|(part, at)| part.text(at)).collect()
    }

    /// The signatures of all documents.
    ///
    /// # Errors
    /// [`Error::Value`] if they do not have the length of this layout.
    pub fn signatures(&self, bands: Bands) -> Result<Signatures<'_>> {
        let parts =
            self.parts.iter().map(|part| (Cow::Borrowed(part.signatures()), Cow::Borrowed(part.sums())));
        Signatures::from_parts(bands, parts)
    }

    fn documents(&self) -> impl Iterator<Item = (&Staged, usize)> {
        self.parts.iter().flat_map(|part| (0..part.len()).map(move |at| (part, at)))
    }
}

fn different(path: &Path) -> Error {
    Error::format(path, "has signatures of another length than the files before it; build again")
}

/// What counts as a duplicate.
#[derive(Debug, Default)]
pub struct SettleOptions<'a> {
    /// Published documents: what is similar to one of them goes.
    pub against: &'a [&'a Index],
    /// Documents of the same URL go, but for the first.
    pub is_by_url: bool,
    /// Documents whose folded text is equal go, but for the first.
    pub is_exact: bool,
    /// How signatures were made, and when two documents are similar; none if there are no signatures.
    pub similar: Option<NearOptions>,
    /// Documents that are similar go, but for one.
    pub is_near: bool,
    /// The one is the longest instead of the first.
    pub keeps_longest: bool,
}

/// Why a document was dropped, in the order in which it is asked.
pub const REASONS: [&str; 4] = ["known", "url", "exact", "near"];

/// What becomes of each document.
#[derive(Debug, PartialEq, Eq)]
pub struct Settled {
    /// Zero if it is kept, else one more than the place of the reason in [`REASONS`].
    pub reasons: Vec<u8>,
    /// The document that stands for it: itself if it is kept. For known ones the place in the index.
    pub by: Vec<u32>,
}

/// Says which documents are kept. The monitor is asked whether to go on.
///
/// # Errors
/// [`Error::Value`] if signatures do not have the length that the options ask for or an index was made with others,
/// [`Error::Interrupted`] if cancelled.
pub fn settle(set: &StagedSet, options: &SettleOptions<'_>, monitor: &Monitor) -> Result<Settled> {
    let len = set.len();
    let mut settled = Settled { reasons: vec![0; len], by: (0..len as u32).collect() };
    if let Some(near) = &options.similar
        && !options.against.is_empty()
    {
        let signatures = set.signatures(near.bands)?;
        for index in options.against {
            index.check_options(near.shingler, near.bands)?;
            let found = index.find_signed(&signatures, near.threshold, monitor)?;
            for (document, known) in found.into_iter().enumerate() {
                if let Some(known) = known {
                    settled.drop(document, 1, known as u32);
                }
            }
        }
    }
    if options.is_by_url {
        let urls = set.documents().map(|(part, at)| canonical_url(part.name(at)));
        settled.keep_first(2, urls);
    }
    if options.is_exact {
        let contents = set.parts.iter().flat_map(|part| part.contents().iter().copied());
        settled.keep_first(3, contents);
    }
    if let Some(near) = options.similar.as_ref().filter(|_| options.is_near) {
        let signatures = set.signatures(near.bands)?;
        let texts = set.texts();
        let among: Vec<u32> =
            (0..len as u32).filter(|&document| settled.reasons[document as usize] == 0).collect();
        let keep = if options.keeps_longest { Keep::Longest } else { Keep::First };
        let found = near_duplicates_among(&texts, &signatures, &among, near, keep, monitor)?;
        for (document, kept) in found.kept.into_iter().enumerate() {
            if kept != document {
                settled.drop(document, 4, kept as u32);
            }
        }
    }
    Ok(settled)
}

impl Settled {
    /// Drops a document that nothing has dropped before.
    fn drop(&mut self, document: usize, reason: u8, by: u32) {
        if self.reasons[document] == 0 {
            (self.reasons[document], self.by[document]) = (reason, by);
        }
    }

    /// Drops what has the key of a document before it.
    fn keep_first<K: std::hash::Hash + Eq>(&mut self, reason: u8, keys: impl Iterator<Item = K>) {
        let mut first = FxHashMap::default();
        for (document, key) in keys.enumerate() {
            if self.reasons[document] == 0 {
                let by = *first.entry(key).or_insert(document as u32);
                if by as usize != document {
                    self.drop(document, reason, by);
                }
            }
        }
    }
}
