//! Reads one shard in place.

use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use xxhash_rust::xxh3::Xxh3;

use super::header::{Fingerprint, HEADER_BYTES, Header, REBUILD};
use crate::ragged::check_offsets;
use crate::{Error, Monitor, Result};

/// Bytes that are hashed between two looks at the monitor.
const VERIFY_STEP: usize = 16 << 20;

/// A memory-mapped shard whose header, size and boundaries have been checked.
#[derive(Debug)]
pub struct Shard {
    path: PathBuf,
    map: Mmap,
    header: Header,
    /// Where the boundaries begin.
    boundaries_at: usize,
}

/// Ids as they lie in the file.
#[derive(Debug, Clone, Copy)]
pub enum Ids<'a> {
    /// Of a vocabulary of at most 65,536 entries.
    U16(&'a [u16]),
    /// Of a larger one.
    U32(&'a [u32]),
}

impl Ids<'_> {
    /// Number of ids.
    pub fn len(self) -> usize {
        match self {
            Self::U16(ids) => ids.len(),
            Self::U32(ids) => ids.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The ids `start..stop`.
    ///
    /// # Panics
    /// If the range does not lie within the ids.
    #[must_use]
    pub fn slice(self, start: usize, stop: usize) -> Self {
        match self {
            Self::U16(ids) => Self::U16(&ids[start..stop]),
            Self::U32(ids) => Self::U32(&ids[start..stop]),
        }
    }

    /// Appends the ids to `out`.
    pub fn append_to(self, out: &mut Vec<i64>) {
        match self {
            Self::U16(ids) => out.extend(ids.iter().map(|&id| i64::from(id))),
            Self::U32(ids) => out.extend(ids.iter().map(|&id| i64::from(id))),
        }
    }
}

impl Shard {
    /// Maps a file and checks everything but the values of the ids.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Format`] if it is truncated, altered or not a shard.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        // SAFETY: shards are never changed under their final name; a writer makes a new directory and renames it.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path))?;
        let header = Header::read(path, &map)?;
        let boundaries_at = HEADER_BYTES + header.ids_bytes().unwrap_or_default() as usize;
        let shard = Self { path: path.to_owned(), map, header, boundaries_at };
        check_offsets(shard.boundaries(), shard.header.num_tokens as usize)
            .map_err(|error| Error::format(path, format!("document boundaries: {error}; {REBUILD}")))?;
        Ok(shard)
    }

    /// Reads the whole file and compares its checksum. The monitor counts bytes.
    ///
    /// # Errors
    /// [`Error::Format`] if a byte has changed since the shard was written.
    pub fn verify(&self, monitor: &Monitor) -> Result<()> {
        let mut hasher = Xxh3::default();
        for piece in self.map[HEADER_BYTES..].chunks(VERIFY_STEP) {
            hasher.update(piece);
            monitor.advance(piece.len() as u64)?;
        }
        if hasher.digest128() != self.header.checksum() {
            let reason = "the content does not match its checksum: the file has been altered";
            return Err(Error::format(&self.path, format!("{reason}; {REBUILD}")));
        }
        Ok(())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All ids.
    pub fn ids(&self) -> Ids<'_> {
        let len = self.header.num_tokens as usize * self.header.bytes_per_id as usize;
        let bytes = &self.map[HEADER_BYTES..HEADER_BYTES + len];
        // The map begins on a page and the header is 128 bytes, so the casts cannot fail.
        if self.header.bytes_per_id == 2 {
            Ids::U16(bytemuck::cast_slice(bytes))
        } else {
            Ids::U32(bytemuck::cast_slice(bytes))
        }
    }

    /// Document `i` is `ids[boundaries[i]..boundaries[i + 1]]`.
    pub fn boundaries(&self) -> &[i64] {
        bytemuck::cast_slice(&self.map[self.boundaries_at..])
    }

    /// Number of ids.
    pub fn num_tokens(&self) -> u64 {
        self.header.num_tokens
    }

    /// Number of documents.
    pub fn num_documents(&self) -> u64 {
        self.header.num_documents
    }

    /// Every id is below it.
    pub fn vocab_size(&self) -> u64 {
        self.header.vocab_size
    }

    /// The tokenizer that made the ids.
    pub fn fingerprint(&self) -> Fingerprint {
        self.header.fingerprint
    }

    /// The checksum that the header holds.
    pub fn checksum(&self) -> u128 {
        self.header.checksum()
    }
}
