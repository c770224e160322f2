//! `manifest.json`: what a shard directory holds, so that a missing or exchanged file is noticed.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::header::{Fingerprint, REBUILD};
use super::reader::Shard;
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

    /// Writes the manifest of a directory that already has its shards, named `shard-00000.bin` and so on.
    ///
    /// # Errors
    /// [`Error::Io`] if the disk refuses, [`Error::Format`] if a file is damaged or of another tokenizer.
    pub fn write_for(directory: &Path, fingerprint: Fingerprint, vocab_size: u64) -> Result<Self> {
        let mut entries = Vec::new();
        loop {
            let file = shard_name(entries.len());
            let path = directory.join(&file);
            if !path.exists() {
                break;
            }
            let shard = Shard::open(&path)?;
            if (shard.fingerprint(), shard.vocab_size()) != (fingerprint, vocab_size) {
                return Err(Error::format(&path, format!("of another tokenizer; {REBUILD}")));
            }
            entries.push(ManifestEntry {
                file,
                num_tokens: shard.num_tokens(),
                num_documents: shard.num_documents(),
                xxh3_128: hex(shard.checksum()),
            });
        }
        let manifest = Self::new(fingerprint.to_string(), vocab_size, entries);
        manifest.save(directory)?;
        Ok(manifest)
    }

    /// Writes the manifest to disk.
    pub(super) fn save(&self, directory: &Path) -> Result<()> {
        let path = directory.join(MANIFEST);
        let text =
            serde_json::to_string_pretty(self).map_err(|error| Error::format(&path, error.to_string()))?;
        let mut file = File::create(&path).map_err(Error::io(&path))?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(Error::io(&path))
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

/// The name of the shard of a number.
pub(super) fn shard_name(number: usize) -> String {
    format!("shard-{number:05}.bin")
}
