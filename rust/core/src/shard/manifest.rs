//! `manifest.json`: what a shard directory holds, so that a missing or exchanged file is noticed.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::header::REBUILD;
use crate::{Error, Result};

pub(super) const MANIFEST: &str = "manifest.json";
const FORMAT: &str = "tempa-shards";
const VERSION: u32 = 1;

/// The content of `manifest.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    format: String,
    version: u32,
    /// SHA-256 of the tokenizer, in hexadecimal.
    pub tokenizer_fingerprint: String,
    /// Every id is below it.
    pub vocab_size: u64,
    /// Ids in all shards.
    pub num_tokens: u64,
    /// Documents in all shards.
    pub num_documents: u64,
    /// The files in the order of the stream.
    pub shards: Vec<ManifestEntry>,
}

/// One shard of a [`Manifest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestEntry {
    /// File name in the directory of the manifest.
    pub file: String,
    /// Ids in the file.
    pub num_tokens: u64,
    /// Documents in the file.
    pub num_documents: u64,
    /// The checksum in the file's header, in hexadecimal.
    pub xxh3_128: String,
}

impl Manifest {
    pub(super) fn new(tokenizer_fingerprint: String, vocab_size: u64, shards: Vec<ManifestEntry>) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            tokenizer_fingerprint,
            vocab_size,
            num_tokens: shards.iter().map(|shard| shard.num_tokens).sum(),
            num_documents: shards.iter().map(|shard| shard.num_documents).sum(),
            shards,
        }
    }

    /// Reads the manifest of a shard directory.
    ///
    /// # Errors
    /// [`Error::Io`] if there is none, [`Error::Format`] if it is another kind of file.
    pub fn read(directory: &Path) -> Result<Self> {
        let path = directory.join(MANIFEST);
        let bytes = fs::read(&path).map_err(Error::io(&path))?;
        let manifest: Self = serde_json::from_slice(&bytes)
            .map_err(|error| Error::format(&path, format!("not a shard manifest: {error}; {REBUILD}")))?;
        if manifest.format != FORMAT || manifest.version != VERSION {
            let found = format!("{} {}", manifest.format, manifest.version);
            let reason =
                format!("this version of tempa reads {FORMAT} {VERSION}, the file is {found}; {REBUILD}");
            return Err(Error::format(&path, reason));
        }
        Ok(manifest)
    }
}

pub(super) fn hex(checksum: u128) -> String {
    format!("{checksum:032x}")
}
