//! From staged documents to shards: those that are kept are tokenised, some of them held out.

use std::path::{Path, PathBuf};

use super::staged::Staged;
use crate::bpe::{Allowed, Tokenizer};
use crate::shard::{Fingerprint, ManifestEntry, ShardFile};
use crate::{Error, Monitor, Result};

/// Which documents of a partition are held out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Those whose content hash, its low 64 bits, is below this.
    Hash(u64),
    /// Those from this one on, and of this one what is behind a byte.
    Tail(usize, usize),
}

/// How the shards of a partition are written.
#[derive(Clone, Copy)]
pub struct EmitOptions<'a> {
    /// Makes the ids.
    pub tokenizer: &'a Tokenizer,
    /// An id that ends each document.
    pub end: Option<u32>,
    /// What is held out.
    pub split: Split,
    /// The first document to train on that would be beyond it is left out with all after it.
    pub max_tokens: Option<u64>,
}

/// What one shard file holds.
#[derive(Debug, Clone)]
pub struct Emitted {
    /// Its entry for a manifest.
    pub entry: ManifestEntry,
    /// Bytes of the texts.
    pub num_bytes: u64,
}

/// Writes the shard files of one partition: what is trained on, and what is held out. A side without documents has no
/// file. The last value says whether the budget was used up. The monitor counts bytes of text.
///
/// # Errors
/// As [`Tokenizer::encode`] with the name of the document, [`Error::Io`] if the disk refuses,
/// [`Error::Interrupted`] if cancelled.
pub fn emit(
    staged: &Staged,
    is_kept: &[bool],
    options: EmitOptions<'_>,
    targets: [&Path; 2],
    monitor: &Monitor,
) -> Result<([Option<Emitted>; 2], bool)> {
    let EmitOptions { tokenizer, end, split, max_tokens } = options;
    let fingerprint: Fingerprint = tokenizer.fingerprint().parse()?;
    let vocab_size = tokenizer.vocab_size() as u64;
    let (mut left, mut is_full) = (max_tokens.unwrap_or(u64::MAX), false);
    let mut sides = targets.map(|target| Side { target, file: None, num_bytes: 0 });
    let (mut encoder, allowed, mut ids) = (tokenizer.encoder(), Allowed::default(), Vec::new());
    'documents: for document in (0..staged.len()).filter(|&at| is_kept.get(at).copied().unwrap_or_default()) {
        let text = staged.text(document);
        let [train, val] = &mut sides;
        let pieces: [(&mut Side<'_>, &str); 2] = match split {
            Split::Hash(below) if staged.contents()[document][0] < below => [(train, ""), (val, text)],
            Split::Hash(_) => [(train, text), (val, "")],
            Split::Tail(first, at) => {
                let cut = match document.cmp(&first) {
                    std::cmp::Ordering::Less => text.len(),
                    std::cmp::Ordering::Equal => {
                        (at..text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len())
                    }
                    std::cmp::Ordering::Greater => 0,
                };
                [(train, &text[..cut]), (val, &text[cut..])]
            }
        };
        for (number, (side, piece)) in pieces.into_iter().enumerate() {
            if !piece.is_empty() {
                ids.clear();
                encoder.encode(piece, &allowed, &mut ids).map_err(|error| match error {
                    Error::Value(reason) => Error::Value(format!("{}: {reason}", staged.name(document))),
                    other => other,
                })?;
                ids.extend(end);
                if number == 0 {
                    let Some(rest) = left.checked_sub(ids.len() as u64) else {
                        is_full = true;
                        break 'documents;
                    };
                    left = rest;
                }
                side.push(&ids, piece.len(), vocab_size, fingerprint)?;
            }
        }
        monitor.advance(text.len() as u64)?;
    }
    let [train, val] = sides;
    Ok(([train.close()?, val.close()?], is_full))
}

/// One of the two files.
struct Side<'a> {
    target: &'a Path,
    file: Option<(ShardFile, PathBuf)>,
    num_bytes: u64,
}

impl Side<'_> {
    fn push(
        &mut self,
        ids: &[u32],
        num_bytes: usize,
        vocab_size: u64,
        fingerprint: Fingerprint,
    ) -> Result<()> {
        let (file, _) = match &mut self.file {
            Some(file) => file,
            none => {
                let partial = self.target.with_extension("partial");
                none.insert((ShardFile::create(partial.clone(), vocab_size, fingerprint)?, partial))
            }
        };
        self.num_bytes += num_bytes as u64;
        file.push(ids)
    }

    fn close(self) -> Result<Option<Emitted>> {
        let Some((file, partial)) = self.file else { return Ok(None) };
        let mut entry = file.close()?;
        std::fs::rename(&partial, self.target).map_err(Error::io(self.target))?;
        entry.file = self.target.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Some(Emitted { entry, num_bytes: self.num_bytes }))
    }
}
