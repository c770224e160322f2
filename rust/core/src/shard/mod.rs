//! Token files: format, writer, memory-mapped reader.
//!
//! A shard directory holds `shard-00000.bin`, `shard-00001.bin`, ... and `manifest.json`. Together they are
//! one stream of token ids cut into documents; a document never spans two shards. Files are written once and
//! never changed: a directory appears under its name when all of it is on disk, or not at all.
//!
//! One shard file, little-endian throughout:
//!
//! | bytes | content |
//! | --- | --- |
//! | 0..8 | magic `tempashd` |
//! | 8..12 | format version, 1 |
//! | 12..16 | bytes per id: 2 if the vocabulary has at most 65,536 entries, else 4 |
//! | 16..24 | vocabulary size; every id is below it |
//! | 24..32 | number of ids, `t` |
//! | 32..40 | number of documents, `n` |
//! | 40..72 | SHA-256 of the tokenizer that made the ids |
//! | 72..88 | xxh3-128 of everything from byte 128 on |
//! | 88..120 | zero |
//! | 120..128 | xxh3-64 of bytes 0..120 |
//! | 128.. | the `t` ids, then zeros up to a multiple of 8 |
//! | .. | `n + 1` document boundaries as i64, from 0 to `t` |
//!
//! Opening a shard checks the header, the size of the file and the boundaries; [`Shard::verify`] reads the
//! rest once and compares the checksum.

mod encode;
mod header;
mod manifest;
mod reader;
mod set;
mod writer;

pub use header::Fingerprint;
pub use manifest::{Manifest, ManifestEntry};
pub use reader::{Ids, Shard};
pub use set::ShardSet;
pub(crate) use writer::ShardFile;
pub use writer::{ShardWriter, WriterOptions};

#[cfg(target_endian = "big")]
compile_error!("shards are little-endian and read in place");
