//! Writes a shard directory: all of it appears under its name, or nothing does.

use std::fs::{self, File};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use super::header::{Fingerprint, HEADER_BYTES, Header};
use super::manifest::{MANIFEST, Manifest, ManifestEntry, hex, shard_name};
use crate::ragged::check_offsets;
use crate::{Error, Result};

/// What a [`ShardWriter`] needs to know beforehand.
#[derive(Debug, Clone)]
pub struct WriterOptions {
    /// The tokenizer that makes the ids.
    pub fingerprint: Fingerprint,
    /// Every id must be below it.
    pub vocab_size: u64,
    /// A shard is closed at the first document that reaches this many ids.
    pub max_shard_tokens: u64,
    /// Whether a shard directory of the same name is replaced.
    pub overwrite: bool,
}

/// Writes documents to a directory of shards.
///
/// The files grow in `.NAME.partial` beside the target, which is renamed by [`ShardWriter::finish`] once every
/// byte is on disk. Dropping the writer before that removes it; one left by a killed process is removed by the
/// next writer. One process writes to one target at a time.
pub struct ShardWriter {
    target: PathBuf,
    staging: PathBuf,
    options: WriterOptions,
    open: Option<ShardFile>,
    entries: Vec<ManifestEntry>,
    num_documents: usize,
    finished: bool,
}

impl ShardWriter {
    /// Starts a directory.
    ///
    /// # Errors
    /// [`Error::Value`] if the target exists and may not be replaced or an option is out of range, [`Error::Io`]
    /// if the staging directory cannot be made.
    pub fn create(target: &Path, options: WriterOptions) -> Result<Self> {
        if options.vocab_size == 0 || options.vocab_size > 1 << 32 {
            return Err(Error::value(format!("vocab_size must be in 1..=2^32, got {}", options.vocab_size)));
        }
        if options.max_shard_tokens == 0 {
            return Err(Error::value("max_shard_tokens must be positive, got 0"));
        }
        let staging = sibling(target, "partial")?;
        check_target(target, options.overwrite)?;
        if staging.exists() {
            fs::remove_dir_all(&staging).map_err(Error::io(&staging))?;
        }
        fs::create_dir_all(&staging).map_err(Error::io(&staging))?;
        Ok(Self {
            target: target.to_owned(),
            staging,
            options,
            open: None,
            entries: Vec::new(),
            num_documents: 0,
            finished: false,
        })
    }

    /// The tokenizer whose ids are written.
    pub fn fingerprint(&self) -> Fingerprint {
        self.options.fingerprint
    }

    /// Documents so far.
    pub fn num_documents(&self) -> usize {
        self.num_documents
    }

    /// Appends documents: document `i` is `ids[offsets[i]..offsets[i + 1]]`.
    ///
    /// # Errors
    /// [`Error::Value`] if an id is not below the vocabulary size or the offsets do not fit, and then nothing of
    /// this call is written; [`Error::Io`] if the disk refuses.
    pub fn add(&mut self, ids: &[u32], offsets: &[i64]) -> Result<()> {
        check_offsets(offsets, ids.len())?;
        if let Some(at) = ids.iter().position(|&id| u64::from(id) >= self.options.vocab_size) {
            let (id, size) = (ids[at], self.options.vocab_size);
            return Err(Error::value(format!(
                "id {id} at position {at} is outside the vocabulary of {size}"
            )));
        }
        for document in offsets.windows(2) {
            let shard = match &mut self.open {
                Some(shard) => shard,
                none => none.insert(ShardFile::create(
                    self.staging.join(shard_name(self.entries.len())),
                    self.options.vocab_size,
                    self.options.fingerprint,
                )?),
            };
            shard.push(&ids[document[0] as usize..document[1] as usize])?;
            self.num_documents += 1;
            if shard.num_tokens() >= self.options.max_shard_tokens {
                self.close_shard()?;
            }
        }
        Ok(())
    }

    /// Puts the directory under its name and says what is in it.
    ///
    /// # Errors
    /// [`Error::Value`] if no document was added, [`Error::Io`] if the disk refuses; nothing has changed then.
    pub fn finish(mut self) -> Result<Manifest> {
        self.close_shard()?;
        if self.entries.is_empty() {
            return Err(Error::value(format!(
                "{}: no document was added to the shards",
                self.target.display()
            )));
        }
        let fingerprint = self.options.fingerprint.to_string();
        let manifest = Manifest::new(fingerprint, self.options.vocab_size, std::mem::take(&mut self.entries));
        manifest.save(&self.staging)?;
        sync_directory(&self.staging)?;
        check_target(&self.target, self.options.overwrite)?;
        replace_directory(&self.staging, &self.target)?;
        self.finished = true;
        Ok(manifest)
    }

    fn close_shard(&mut self) -> Result<()> {
        if let Some(shard) = self.open.take() {
            self.entries.push(shard.close()?);
        }
        Ok(())
    }
}

impl Drop for ShardWriter {
    fn drop(&mut self) {
        if !self.finished {
            self.open = None;
            // Nobody is left to tell, and the next writer removes it too.
            let _ = fs::remove_dir_all(&self.staging);
        }
    }
}

/// One file whose ids are still being written.
pub(crate) struct ShardFile {
    path: PathBuf,
    file: BufWriter<File>,
    hasher: Box<Xxh3>,
    header: Header,
    boundaries: Vec<i64>,
    narrow: Vec<u16>,
}

impl ShardFile {
    pub(crate) fn create(path: PathBuf, vocab_size: u64, fingerprint: Fingerprint) -> Result<Self> {
        let file = File::create(&path).map_err(Error::io(&path))?;
        let mut file = BufWriter::with_capacity(1 << 20, file);
        file.write_all(&[0; HEADER_BYTES]).map_err(Error::io(&path))?;
        let header = Header::new(vocab_size, fingerprint);
        Ok(Self { path, file, hasher: Box::default(), header, boundaries: vec![0], narrow: Vec::new() })
    }

    fn num_tokens(&self) -> u64 {
        self.boundaries[self.boundaries.len() - 1] as u64
    }

    /// Appends a document, whose ids must be below the vocabulary size.
    pub(crate) fn push(&mut self, document: &[u32]) -> Result<()> {
        if self.header.bytes_per_id == 2 {
            let mut narrow = std::mem::take(&mut self.narrow);
            narrow.clear();
            narrow.extend(document.iter().map(|&id| id as u16));
            self.write(bytemuck::cast_slice(&narrow))?;
            self.narrow = narrow;
        } else {
            self.write(bytemuck::cast_slice(document))?;
        }
        self.boundaries.push(self.num_tokens() as i64 + document.len() as i64);
        Ok(())
    }

    /// Writes everything to disk and says what is in the file.
    pub(crate) fn close(mut self) -> Result<ManifestEntry> {
        let ids_bytes = self.num_tokens() * u64::from(self.header.bytes_per_id);
        self.write(&[0; 8][..(ids_bytes.next_multiple_of(8) - ids_bytes) as usize])?;
        let boundaries = std::mem::take(&mut self.boundaries);
        self.write(bytemuck::cast_slice(&boundaries))?;
        let (num_tokens, num_documents) =
            (boundaries[boundaries.len() - 1] as u64, boundaries.len() as u64 - 1);
        let checksum = self.hasher.digest128();
        let header = self.header.sealed(num_tokens, num_documents, checksum);
        let path = &self.path;
        let mut file = self.file.into_inner().map_err(|error| Error::io(path)(error.into_error()))?;
        file.seek(SeekFrom::Start(0))
            .and_then(|_| file.write_all(bytemuck::bytes_of(&header)))
            .and_then(|()| file.sync_all())
            .map_err(Error::io(path))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(ManifestEntry { file: name, num_tokens, num_documents, xxh3_128: hex(checksum) })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(Error::io(&self.path))
    }
}

/// `.NAME.suffix` beside `target`, on the same file system so that it can be renamed.
fn sibling(target: &Path, suffix: &str) -> Result<PathBuf> {
    let name = target
        .file_name()
        .ok_or_else(|| Error::value(format!("{}: not a name for a shard directory", target.display())))?;
    Ok(target.with_file_name(format!(".{}.{suffix}", name.to_string_lossy())))
}

fn check_target(target: &Path, overwrite: bool) -> Result<()> {
    let is_empty = |path: &Path| fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    if !target.exists() || is_empty(target) {
        return Ok(());
    }
    if !target.join(MANIFEST).is_file() {
        let reason = "exists and is not a shard directory; choose another name";
        return Err(Error::value(format!("{}: {reason}", target.display())));
    }
    if !overwrite {
        let reason = "shards exist already; remove them, ask to overwrite, or choose another name";
        return Err(Error::value(format!("{}: {reason}", target.display())));
    }
    Ok(())
}

fn replace_directory(staging: &Path, target: &Path) -> Result<()> {
    let old = sibling(target, "replaced")?;
    if old.exists() {
        fs::remove_dir_all(&old).map_err(Error::io(&old))?;
    }
    if target.exists() {
        fs::rename(target, &old).map_err(Error::io(target))?;
    }
    if let Err(error) = fs::rename(staging, target) {
        if old.exists() {
            fs::rename(&old, target).map_err(Error::io(&old))?;
        }
        return Err(Error::io(target)(error));
    }
    if let Some(parent) = target.parent() {
        sync_directory(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })?;
    }
    if old.exists() {
        fs::remove_dir_all(&old).map_err(Error::io(&old))?;
    }
    Ok(())
}

/// Makes renames and new names in a directory survive a power cut, where the system has such a call.
fn sync_directory(directory: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(directory).and_then(|file| file.sync_all()).map_err(Error::io(directory))?;
    }
    Ok(())
}
