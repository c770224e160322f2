//! Documents between the steps that look at one at a time and those that look at all: their text, hashes and signatures
//! in one file for each partition.
//!
//! A file is little-endian: a [`Header`], the texts one after the other, and columns with one entry for each document. It
//! appears complete under its name; one that was cut off by a power failure fails its checksum and is made again.

use std::fs::{self, File};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytemuck::{Pod, Zeroable};
use memmap2::Mmap;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::{Error, Monitor, Result};

const MAGIC: [u8; 8] = *b"tempadoc";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = size_of::<Header>();
/// Bytes of the header that its own check covers.
const CHECKED_BYTES: usize = HEADER_BYTES - size_of::<u64>();
/// Bytes that are hashed between two looks at the monitor.
const VERIFY_STEP: usize = 16 << 20;

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: u32,
    num_hashes: u32,
    num_documents: u64,
    text_bytes: u64,
    names_bytes: u64,
    report_bytes: u64,
    /// Low and high half of the body's xxh3-128.
    checksum: [u64; 2],
    reserved: [u64; 7],
    check: u64,
}

/// Where the columns of a file are.
#[derive(Debug, Clone)]
struct Columns {
    texts: Range<usize>,
    text_ends: Range<usize>,
    name_ends: Range<usize>,
    contents: Range<usize>,
    sums: Range<usize>,
    signatures: Range<usize>,
    names: Range<usize>,
    report: Range<usize>,
}

impl Header {
    fn own_hash(&self) -> u64 {
        xxh3_64(&bytemuck::bytes_of(self)[..CHECKED_BYTES])
    }

    /// None if the sizes are impossible.
    fn columns(&self) -> Option<Columns> {
        let mut at = HEADER_BYTES;
        let mut column = |count: u64, bytes: u64| {
            let len = usize::try_from(count.checked_mul(bytes)?).ok()?;
            let range = at..at.checked_add(len)?;
            at = range.end.checked_next_multiple_of(8)?;
            Some(range)
        };
        let n = self.num_documents;
        Some(Columns {
            texts: column(self.text_bytes, 1)?,
            text_ends: column(n, 8)?,
            name_ends: column(n, 8)?,
            contents: column(n, 16)?,
            sums: column(n, 8)?,
            signatures: column(n, u64::from(self.num_hashes).checked_mul(2)?)?,
            names: column(self.names_bytes, 1)?,
            report: column(self.report_bytes, 1)?,
        })
    }
}

/// What is known of a document besides its text.
pub(super) struct Entry<'a> {
    /// Where it comes from.
    pub(super) name: &'a str,
    /// See [`crate::dedup::content_hash`].
    pub(super) content: u128,
    /// Of its shingles; zero if it has none.
    pub(super) sum: u64,
    pub(super) signature: &'a [u16],
}

/// Writes one file.
pub(super) struct StagedWriter {
    target: PathBuf,
    path: PathBuf,
    file: BufWriter<File>,
    hasher: Box<Xxh3>,
    num_hashes: usize,
    text_bytes: u64,
    text_ends: Vec<u64>,
    name_ends: Vec<u64>,
    contents: Vec<[u64; 2]>,
    sums: Vec<u64>,
    signatures: Vec<u16>,
    names: String,
    is_finished: bool,
}

impl StagedWriter {
    pub(super) fn create(target: &Path, num_hashes: usize) -> Result<Self> {
        let path = target.with_extension("partial");
        let file = File::create(&path).map_err(Error::io(&path))?;
        let mut file = BufWriter::with_capacity(1 << 20, file);
        file.write_all(&[0; HEADER_BYTES]).map_err(Error::io(&path))?;
        Ok(Self {
            target: target.to_owned(),
            path,
            file,
            hasher: Box::default(),
            num_hashes,
            text_bytes: 0,
            text_ends: Vec::new(),
            name_ends: Vec::new(),
            contents: Vec::new(),
            sums: Vec::new(),
            signatures: Vec::new(),
            names: String::new(),
            is_finished: false,
        })
    }

    pub(super) fn add(&mut self, text: &str, entry: &Entry<'_>) -> Result<()> {
        debug_assert_eq!(entry.signature.len(), self.num_hashes);
        self.write(text.as_bytes())?;
        self.text_bytes += text.len() as u64;
        self.text_ends.push(self.text_bytes);
        self.names.push_str(entry.name);
        self.name_ends.push(self.names.len() as u64);
        self.contents.push([entry.content as u64, (entry.content >> 64) as u64]);
        self.sums.push(entry.sum);
        self.signatures.extend_from_slice(entry.signature);
        Ok(())
    }

    /// Writes the columns and puts the file under its name.
    pub(super) fn finish(mut self, report: &[u8]) -> Result<()> {
        let mut header = Header {
            magic: MAGIC,
            version: VERSION,
            num_hashes: self.num_hashes as u32,
            num_documents: self.text_ends.len() as u64,
            text_bytes: self.text_bytes,
            names_bytes: self.names.len() as u64,
            report_bytes: report.len() as u64,
            ..Header::zeroed()
        };
        self.pad(self.text_bytes as usize)?;
        let (text_ends, name_ends) =
            (std::mem::take(&mut self.text_ends), std::mem::take(&mut self.name_ends));
        let (contents, sums) = (std::mem::take(&mut self.contents), std::mem::take(&mut self.sums));
        let (signatures, names) = (std::mem::take(&mut self.signatures), std::mem::take(&mut self.names));
        for column in [
            bytemuck::cast_slice(&text_ends),
            bytemuck::cast_slice(&name_ends),
            bytemuck::cast_slice(&contents),
            bytemuck::cast_slice(&sums),
            bytemuck::cast_slice(&signatures),
            names.as_bytes(),
            report,
        ] {
            self.write(column)?;
            self.pad(column.len())?;
        }
        let checksum = self.hasher.digest128();
        header.checksum = [checksum as u64, (checksum >> 64) as u64];
        header.check = header.own_hash();
        let path = &self.path;
        self.file
            .seek(SeekFrom::Start(0))
            .and_then(|_| self.file.write_all(bytemuck::bytes_of(&header)))
            .and_then(|()| self.file.flush())
            .map_err(Error::io(path))?;
        fs::rename(path, &self.target).map_err(Error::io(&self.target))?;
        self.is_finished = true;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(Error::io(&self.path))
    }

    fn pad(&mut self, len: usize) -> Result<()> {
        self.write(&[0; 8][..len.next_multiple_of(8) - len])
    }
}

impl Drop for StagedWriter {
    fn drop(&mut self) {
        if !self.is_finished {
            // Nobody is left to tell, and the next run writes it again.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// One file, mapped into memory.
#[derive(Debug)]
pub struct Staged {
    path: PathBuf,
    map: Mmap,
    header: Header,
    columns: Columns,
}

impl Staged {
    /// Maps a file and checks its header and size.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Format`] if it is truncated, altered or another kind of file.
    pub fn open(path: &Path) -> Result<Self> {
        let wrong = |reason: &str| Error::format(path, format!("{reason}; remove it and build again"));
        let file = File::open(path).map_err(Error::io(path))?;
        // SAFETY: such a file is never changed under its final name; a writer makes a new one and renames it.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path))?;
        let Some(head) = map.get(..HEADER_BYTES).filter(|head| head[..8] == MAGIC) else {
            return Err(wrong("not a file of documents between two steps of a build"));
        };
        let header: Header = bytemuck::pod_read_unaligned(head);
        if header.version != VERSION || header.check != header.own_hash() {
            return Err(wrong("the header has been altered or is of another version"));
        }
        let columns = header.columns().filter(|columns| columns.report.end.next_multiple_of(8) == map.len());
        let columns = columns.ok_or_else(|| wrong("the size is not what the header says: truncated"))?;
        let staged = Self { path: path.to_owned(), map, header, columns };
        staged.check_ends().ok_or_else(|| wrong("the places of the texts have been altered"))?;
        Ok(staged)
    }

    /// Compares the checksum. The monitor counts bytes.
    ///
    /// # Errors
    /// [`Error::Format`] if the file has been altered, [`Error::Interrupted`] if cancelled.
    pub fn verify(&self, monitor: &Monitor) -> Result<()> {
        let mut hasher = Xxh3::new();
        for step in self.map[HEADER_BYTES..].chunks(VERIFY_STEP) {
            hasher.update(step);
            monitor.advance(step.len() as u64)?;
        }
        let [low, high] = self.header.checksum;
        if hasher.digest128() == u128::from(high) << 64 | u128::from(low) {
            return Ok(());
        }
        Err(Error::format(&self.path, "the checksum does not match: altered; remove it and build again"))
    }

    /// Number of documents.
    pub fn len(&self) -> usize {
        self.header.num_documents as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of all texts.
    pub fn text_bytes(&self) -> u64 {
        self.header.text_bytes
    }

    /// Entries of a signature.
    pub fn num_hashes(&self) -> usize {
        self.header.num_hashes as usize
    }

    /// The text of a document; empty if there is no such document or the file has been altered.
    pub fn text(&self, index: usize) -> &str {
        self.string(&self.columns.texts, self.ends(&self.columns.text_ends), index)
    }

    /// Where a document comes from.
    pub fn name(&self, index: usize) -> &str {
        self.string(&self.columns.names, self.ends(&self.columns.name_ends), index)
    }

    /// Where texts end, from the start of the first.
    pub fn text_ends(&self) -> &[u64] {
        self.ends(&self.columns.text_ends)
    }

    /// Low and high half of the hash of each text's content.
    pub fn contents(&self) -> &[[u64; 2]] {
        bytemuck::cast_slice(&self.map[self.columns.contents.clone()])
    }

    /// The sum of the shingles of each document; zero if it has none.
    pub fn sums(&self) -> &[u64] {
        self.ends(&self.columns.sums)
    }

    /// The signatures, one after the other.
    pub fn signatures(&self) -> &[u16] {
        bytemuck::cast_slice(&self.map[self.columns.signatures.clone()])
    }

    /// The JSON report of the steps before.
    pub fn report(&self) -> &[u8] {
        &self.map[self.columns.report.clone()]
    }

    fn ends(&self, column: &Range<usize>) -> &[u64] {
        bytemuck::cast_slice(&self.map[column.clone()])
    }

    fn string(&self, column: &Range<usize>, ends: &[u64], index: usize) -> &str {
        let start = index.checked_sub(1).and_then(|before| ends.get(before)).copied().unwrap_or(0);
        let end = ends.get(index).copied().unwrap_or(start);
        let bytes = self.map[column.clone()].get(start as usize..end as usize);
        bytes.and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }

    fn check_ends(&self) -> Option<()> {
        let texts = (&self.columns.text_ends, self.header.text_bytes);
        let names = (&self.columns.name_ends, self.header.names_bytes);
        [texts, names].into_iter().all(|(column, bytes)| self.are_ends(column, bytes)).then_some(())
    }

    fn are_ends(&self, column: &Range<usize>, bytes: u64) -> bool {
        let ends = self.ends(column);
        ends.is_sorted() && ends.last().copied().unwrap_or(0) == bytes
    }
}
