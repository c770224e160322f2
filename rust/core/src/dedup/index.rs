//! Signatures of published texts in a file, for crawls that come later.
//!
//! The file is little-endian: a [`Header`], the signatures, one after the other, the ends of the names, and the names. It is
//! mapped into memory and read from start to end for each crawl, whose own signatures are what is held.

use std::cmp::Reverse;
use std::fs::File;
use std::path::{Path, PathBuf};

use bytemuck::{Pod, Zeroable};
use memmap2::Mmap;
use rayon::prelude::*;
use rustc_hash::FxHashMap;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::bands::Bands;
use super::near::NearOptions;
use super::shingle::{Shingler, Unit};
use super::signatures::{Signatures, band_key, band_of};
use super::sketch::agreement;
use crate::{Error, Monitor, Result};

const MAGIC: [u8; 8] = *b"tempasig";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = size_of::<Header>();
/// Bytes of the header that its own check covers.
const CHECKED_BYTES: usize = HEADER_BYTES - size_of::<u64>();
const REBUILD: &str = "make it again from its documents";
/// Published texts that one task compares.
const TASK: usize = 4096;

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: u32,
    unit: u32,
    ngram: u64,
    seed: u64,
    bands: u32,
    rows: u32,
    num_texts: u64,
    names_bytes: u64,
    /// Low and high half of the body's xxh3-128.
    checksum: [u64; 2],
    check: u64,
}

impl Header {
    /// Bytes of the file, if they can be counted.
    fn file_bytes(&self) -> Option<u64> {
        let hashes = u64::from(self.bands) * u64::from(self.rows);
        let per_text = hashes.checked_mul(2)?.checked_add(8)?;
        self.num_texts.checked_mul(per_text)?.checked_add(self.names_bytes)?.checked_add(HEADER_BYTES as u64)
    }
}

/// The bytes of an index of texts and their names. The monitor counts bytes of text.
///
/// # Errors
/// [`Error::Value`] if an option is out of range or names are not one for each text, [`Error::Interrupted`] if the
/// monitor is cancelled.
pub fn encode_index<T: AsRef<str> + Sync, N: AsRef<str>>(
    texts: &[T],
    names: &[N],
    options: &NearOptions,
    monitor: &Monitor,
) -> Result<Vec<u8>> {
    options.check()?;
    if texts.len() != names.len() {
        return Err(Error::value(format!("{} names for {} texts", names.len(), texts.len())));
    }
    let signatures = Signatures::of(texts, options.shingler, options.bands, monitor)?;
    // Texts without words are like no others.
    let published: Vec<u32> = (0..signatures.len()).filter(|&text| signatures.sum(text).is_some()).collect();
    let mut bytes = vec![0; HEADER_BYTES];
    for &text in &published {
        bytes.extend(signatures.get(text).iter().flat_map(|entry| entry.to_le_bytes()));
    }
    let mut names_bytes = 0u64;
    for &text in &published {
        names_bytes += names[text as usize].as_ref().len() as u64;
        bytes.extend(names_bytes.to_le_bytes());
    }
    for &text in &published {
        bytes.extend(names[text as usize].as_ref().as_bytes());
    }
    let checksum = xxh3_128(&bytes[HEADER_BYTES..]);
    let Shingler { unit, ngram, seed } = options.shingler;
    let mut header = Header {
        magic: MAGIC,
        version: VERSION,
        unit: unit as u32,
        ngram: ngram as u64,
        seed,
        bands: options.bands.bands as u32,
        rows: options.bands.rows as u32,
        num_texts: published.len() as u64,
        names_bytes,
        checksum: [checksum as u64, (checksum >> 64) as u64],
        check: 0,
    };
    header.check = xxh3_64(&bytemuck::bytes_of(&header)[..CHECKED_BYTES]);
    bytes[..HEADER_BYTES].copy_from_slice(bytemuck::bytes_of(&header));
    Ok(bytes)
}

/// An index that is mapped into memory, of which every byte has been checked.
#[derive(Debug)]
pub struct Index {
    path: PathBuf,
    map: Mmap,
    shingler: Shingler,
    bands: Bands,
    num_texts: usize,
}

impl Index {
    /// Maps a file that [`encode_index`] has made.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Format`] if it is truncated, altered or no index.
    pub fn open(path: &Path) -> Result<Self> {
        let wrong = |reason: String| Error::format(path, format!("{reason}; {REBUILD}"));
        let file = File::open(path).map_err(Error::io(path))?;
        // SAFETY: an index is never changed under its final name; a writer makes a new file and renames it.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path))?;
        let Some(head) = map.get(..HEADER_BYTES).filter(|head| head[..8] == MAGIC) else {
            return Err(wrong("not an index of signatures".into()));
        };
        let header: Header = bytemuck::pod_read_unaligned(head);
        if header.version != VERSION {
            return Err(wrong(format!("version {} where {VERSION} was expected", header.version)));
        }
        let options = NearOptions {
            shingler: Shingler {
                unit: *Unit::ALL
                    .get(header.unit as usize)
                    .ok_or_else(|| wrong(format!("unknown unit {}", header.unit)))?,
                ngram: header.ngram as usize,
                seed: header.seed,
            },
            bands: Bands { bands: header.bands as usize, rows: header.rows as usize },
            ..NearOptions::default()
        };
        if header.check != xxh3_64(&head[..CHECKED_BYTES]) || options.check().is_err() {
            return Err(wrong("the header was altered".into()));
        }
        if header.file_bytes() != Some(map.len() as u64) {
            let expected = header.file_bytes().map_or("more".to_owned(), |bytes| bytes.to_string());
            return Err(wrong(format!("{} bytes where {expected} were expected: truncated", map.len())));
        }
        let checksum = xxh3_128(&map[HEADER_BYTES..]);
        if header.checksum != [checksum as u64, (checksum >> 64) as u64] {
            return Err(wrong("the checksum does not match: a byte was altered".into()));
        }
        let (shingler, bands) = (options.shingler, options.bands);
        Ok(Self { path: path.to_owned(), map, shingler, bands, num_texts: header.num_texts as usize })
    }

    /// Published texts in it.
    pub fn len(&self) -> usize {
        self.num_texts
    }

    /// Whether it holds no text.
    pub fn is_empty(&self) -> bool {
        self.num_texts == 0
    }

    /// The name of a published text.
    ///
    /// # Errors
    /// [`Error::Key`] if there is none at that place.
    pub fn name(&self, place: usize) -> Result<&str> {
        let ends = HEADER_BYTES + self.num_texts * self.signature_bytes();
        let names = ends + self.num_texts * 8;
        let end = |place: usize| {
            let bytes = self.map.get(ends + place * 8..)?.first_chunk()?;
            usize::try_from(u64::from_le_bytes(*bytes)).ok()
        };
        let start = if place == 0 { Some(0) } else { end(place - 1) };
        let range = start.zip(end(place)).filter(|_| place < self.num_texts);
        let name = range.and_then(|(start, end)| self.map.get(names + start..names + end));
        let name = name.and_then(|name| std::str::from_utf8(name).ok());
        name.ok_or_else(|| {
            Error::Key(format!("{}: no text {place} of {}", self.path.display(), self.num_texts))
        })
    }

    /// For each text the place of the published one that is most like it, if their signatures agree in a band and in
    /// a share of at least `threshold` of all entries; the first of several.
    ///
    /// The share estimates the similarity with a standard error of at most `0.5 / sqrt(hashes)`. The monitor counts bytes
    /// of text.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the monitor is cancelled.
    pub fn find<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
        threshold: f64,
        monitor: &Monitor,
    ) -> Result<Vec<Option<usize>>> {
        self.find_signed(&Signatures::of(texts, self.shingler, self.bands, monitor)?, threshold, monitor)
    }

    /// Whether signatures made with these options may be looked for.
    ///
    /// # Errors
    /// [`Error::Value`] naming both, if the index was made with others.
    pub fn check_options(&self, shingler: Shingler, bands: Bands) -> Result<()> {
        if (self.shingler, self.bands) == (shingler, bands) {
            return Ok(());
        }
        let say = |shingler: Shingler, bands: Bands| {
            let Shingler { unit, ngram, seed } = shingler;
            format!(
                "{} {}-grams, {} bands of {} rows, seed {seed}",
                unit.name(),
                ngram,
                bands.bands,
                bands.rows
            )
        };
        let (own, other) = (say(self.shingler, self.bands), say(shingler, bands));
        Err(Error::value(format!("{}: made with {own}, not with {other}", self.path.display())))
    }

    /// [`Index::find`] for texts that have been signed with the options of the index.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the monitor is cancelled.
    pub fn find_signed(
        &self,
        new: &Signatures<'_>,
        threshold: f64,
        monitor: &Monitor,
    ) -> Result<Vec<Option<usize>>> {
        let bands: Vec<FxHashMap<u64, Vec<u32>>> = (0..self.bands.bands)
            .into_par_iter()
            .map(|band| {
                let mut texts_of: FxHashMap<u64, Vec<u32>> = FxHashMap::default();
                for text in (0..new.len()).filter(|&text| new.sum(text).is_some()) {
                    let key = band_key(band_of(new.get(text), self.bands, band));
                    texts_of.entry(key).or_default().push(text);
                }
                texts_of
            })
            .collect();
        let found = (0..self.num_texts.div_ceil(TASK)).into_par_iter().map(|task| {
            monitor.advance(0)?;
            Ok(self.find_among(task * TASK..self.num_texts.min((task + 1) * TASK), new, &bands, threshold))
        });
        let mut best: Vec<Option<(u32, Reverse<usize>)>> = vec![None; new.len() as usize];
        for (text, agreement, place) in found.collect::<Result<Vec<_>>>()?.into_iter().flatten() {
            let best = &mut best[text as usize];
            *best = (*best).max(Some((agreement, Reverse(place))));
        }
        Ok(best.into_iter().map(|best| best.map(|(_, Reverse(place))| place)).collect())
    }

    /// (text, equal entries, place) for the published texts of a range.
    fn find_among(
        &self,
        places: std::ops::Range<usize>,
        new: &Signatures<'_>,
        bands: &[FxHashMap<u64, Vec<u32>>],
        threshold: f64,
    ) -> Vec<(u32, u32, usize)> {
        let mut found = Vec::new();
        let mut signature = vec![0u16; self.bands.num_hashes()];
        for place in places {
            let start = HEADER_BYTES + place * self.signature_bytes();
            let bytes = &self.map[start..start + self.signature_bytes()];
            for (entry, bytes) in signature.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *entry = u16::from_le_bytes(*bytes);
            }
            for (band, texts_of) in bands.iter().enumerate() {
                let key = band_key(band_of(&signature, self.bands, band));
                for &text in texts_of.get(&key).into_iter().flatten() {
                    let share = agreement(new.get(text), &signature);
                    if share >= threshold {
                        found.push((text, (share * signature.len() as f64).round() as u32, place));
                    }
                }
            }
        }
        found
    }

    fn signature_bytes(&self) -> usize {
        self.bands.num_hashes() * 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;

    fn text(seed: usize, changed: usize) -> String {
        let number = |i: usize| rng::below(5000, 0, seed as u64, i as u64);
        let word = |i: usize| if i < changed { format!("x{seed}y{i}") } else { format!("w{}", number(i)) };
        (0..200).map(word).collect::<Vec<_>>().join(" ")
    }

    fn written(texts: &[String]) -> (tempfile::TempDir, PathBuf) {
        let names: Vec<String> = (0..texts.len()).map(|i| format!("page {i} é")).collect();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("old.index");
        let options = NearOptions::default();
        std::fs::write(&path, encode_index(texts, &names, &options, &Monitor::default()).unwrap()).unwrap();
        (directory, path)
    }

    #[test]
    fn texts_like_published_ones_are_found_by_name() {
        let old: Vec<String> = (0..50).map(|i| text(i, 0)).chain([String::new()]).collect();
        let (_directory, path) = written(&old);
        let index = Index::open(&path).unwrap();
        assert_eq!(index.len(), 50);
        let new =
            [text(7, 0), text(300, 0), text(30, 3), text(49, 150), String::new(), text(0, 0).to_uppercase()];
        let found = index.find(&new, 0.8, &Monitor::default()).unwrap();
        assert_eq!(found, [Some(7), None, Some(30), None, None, Some(0)]);
        assert_eq!(index.name(30).unwrap(), "page 30 é");
        assert!(index.name(50).is_err());
    }

    #[test]
    fn damaged_files_are_refused() {
        let (_directory, path) = written(&[text(1, 0), text(2, 0)]);
        let whole = std::fs::read(&path).unwrap();
        for len in [0, 7, HEADER_BYTES - 1, HEADER_BYTES, whole.len() - 1] {
            std::fs::write(&path, &whole[..len]).unwrap();
            let error = Index::open(&path).unwrap_err().to_string();
            assert!(error.contains("old.index"), "{error}");
        }
        for at in (0..whole.len()).step_by(5) {
            let mut altered = whole.clone();
            altered[at] ^= 16;
            std::fs::write(&path, &altered).unwrap();
            assert!(matches!(Index::open(&path), Err(Error::Format { .. })), "byte {at}");
        }
        assert!(Index::open(Path::new("nowhere.index")).is_err());
    }

    #[test]
    fn names_are_one_for_each_text() {
        assert!(encode_index(&["a"], &["a", "b"], &NearOptions::default(), &Monitor::default()).is_err());
    }
}
