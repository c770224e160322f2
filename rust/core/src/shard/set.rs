//! The shards of a directory as one stream of ids and one list of documents.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::header::{Fingerprint, REBUILD};
use super::manifest::{MANIFEST, Manifest, hex};
use super::reader::{Ids, Shard};
use crate::{Error, Monitor, Result};

/// The open shards of one directory.
///
/// Invariant: there is at least one shard, and all have the same vocabulary and tokenizer.
#[derive(Debug)]
pub struct ShardSet {
    directory: PathBuf,
    shards: Vec<Shard>,
    /// The first token of each shard, then the number of tokens.
    token_starts: Vec<u64>,
    /// The first document of each shard, then the number of documents.
    document_starts: Vec<u64>,
}

impl ShardSet {
    /// Opens every shard that the manifest names.
    ///
    /// # Errors
    /// [`Error::Io`] if a file is missing, [`Error::Format`] if one is damaged or is not the file that the
    /// manifest describes.
    pub fn open(directory: &Path) -> Result<Self> {
        let manifest = Manifest::read(directory)?;
        let mut set = Self {
            directory: directory.to_owned(),
            shards: Vec::with_capacity(manifest.shards.len()),
            token_starts: vec![0],
            document_starts: vec![0],
        };
        let (mut num_tokens, mut num_documents) = (0u64, 0u64);
        for entry in &manifest.shards {
            let shard = Shard::open(&directory.join(&entry.file))?;
            let described = entry.num_tokens == shard.num_tokens()
                && entry.num_documents == shard.num_documents()
                && entry.xxh3_128 == hex(shard.checksum())
                && manifest.vocab_size == shard.vocab_size()
                && manifest.tokenizer_fingerprint == shard.fingerprint().to_string();
            if !described {
                let reason = format!("is not the file that {MANIFEST} describes; {REBUILD}");
                return Err(Error::format(shard.path(), reason));
            }
            num_tokens = num_tokens.saturating_add(shard.num_tokens());
            num_documents = num_documents.saturating_add(shard.num_documents());
            set.token_starts.push(num_tokens);
            set.document_starts.push(num_documents);
            set.shards.push(shard);
        }
        if set.shards.is_empty()
            || (num_tokens, num_documents) != (manifest.num_tokens, manifest.num_documents)
        {
            let reason = format!("the totals are not those of the shards it names; {REBUILD}");
            return Err(Error::format(&directory.join(MANIFEST), reason));
        }
        Ok(set)
    }

    /// Compares the checksum of every shard. The monitor counts bytes.
    ///
    /// # Errors
    /// [`Error::Format`] naming a shard that has changed since it was written.
    pub fn verify(&self, monitor: &Monitor) -> Result<()> {
        self.shards.par_iter().try_for_each(|shard| shard.verify(monitor))
    }

    /// Fails unless `fingerprint` made these ids.
    ///
    /// # Errors
    /// [`Error::Format`] naming both tokenizers.
    pub fn check_tokenizer(&self, fingerprint: Fingerprint) -> Result<()> {
        let own = self.fingerprint();
        if own == fingerprint {
            return Ok(());
        }
        let (own, other) = (own.to_string(), fingerprint.to_string());
        let reason = format!(
            "the ids were made by tokenizer {}, not by {}; use that tokenizer or make the shards again with this one",
            &own[..12],
            &other[..12]
        );
        Err(Error::format(&self.directory, reason))
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Ids in all shards.
    pub fn num_tokens(&self) -> u64 {
        self.token_starts[self.shards.len()]
    }

    /// Documents in all shards.
    pub fn num_documents(&self) -> u64 {
        self.document_starts[self.shards.len()]
    }

    /// Every id is below it.
    pub fn vocab_size(&self) -> u64 {
        self.shards[0].vocab_size()
    }

    /// The tokenizer that made the ids.
    pub fn fingerprint(&self) -> Fingerprint {
        self.shards[0].fingerprint()
    }

    /// Where documents begin and end in the stream: `num_documents + 1` positions from 0.
    pub fn offsets(&self) -> Vec<i64> {
        let mut offsets = Vec::with_capacity(self.num_documents() as usize + 1);
        offsets.push(0);
        for (shard, &start) in self.shards.iter().zip(&self.token_starts) {
            offsets.extend(shard.boundaries()[1..].iter().map(|boundary| boundary + start as i64));
        }
        offsets
    }

    /// The ids of one document.
    ///
    /// # Errors
    /// [`Error::Value`] if there is no such document.
    pub fn document(&self, index: u64) -> Result<Ids<'_>> {
        if index >= self.num_documents() {
            let message =
                format!("document {index} of {} in {}", self.num_documents(), self.directory.display());
            return Err(Error::value(message));
        }
        let at = self.document_starts.partition_point(|&start| start <= index) - 1;
        let (shard, local) = (&self.shards[at], (index - self.document_starts[at]) as usize);
        let boundaries = shard.boundaries();
        Ok(shard.ids().slice(boundaries[local] as usize, boundaries[local + 1] as usize))
    }

    /// The ids `start..stop` of the stream, in pieces that each lie in one shard.
    ///
    /// # Errors
    /// [`Error::Value`] if the range is not within the stream.
    pub fn tokens(&self, start: u64, stop: u64) -> Result<impl Iterator<Item = Ids<'_>>> {
        if start > stop || stop > self.num_tokens() {
            let message =
                format!("tokens {start}..{stop} of {} in {}", self.num_tokens(), self.directory.display());
            return Err(Error::value(message));
        }
        let first = self.token_starts.partition_point(|&at| at <= start).min(self.shards.len()) - 1;
        let shards = self.shards.iter().zip(&self.token_starts).skip(first);
        Ok(shards.take_while(move |&(_, &at)| at < stop).map(move |(shard, &at)| {
            let last = (stop - at).min(shard.num_tokens());
            shard.ids().slice((start.max(at) - at) as usize, last as usize)
        }))
    }
}
