//! A model in a file: a [`Header`], then the slots of its table, little-endian.

use std::path::Path;

use bytemuck::{Pod, Zeroable};
use xxhash_rust::xxh3::xxh3_128;

use super::table::{Entry, Table};
use super::{MAX_ORDER, NgramModel};
use crate::{Error, Result};

const MAGIC: [u8; 8] = *b"tempangr";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = size_of::<Header>();
/// Bytes before what the checksum covers.
const UNCHECKED_BYTES: usize = 24;

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    /// Low and high half of the xxh3-128 of all that follows.
    checksum: [u64; 2],
    version: u32,
    order: u32,
}

impl NgramModel {
    /// The bytes of its file.
    pub fn encode(&self) -> Vec<u8> {
        let mut header =
            Header { magic: MAGIC, checksum: [0; 2], version: VERSION, order: self.order as u32 };
        let mut bytes = [bytemuck::bytes_of(&header), bytemuck::cast_slice(self.table.slots())].concat();
        let checksum = xxh3_128(&bytes[UNCHECKED_BYTES..]);
        header.checksum = [checksum as u64, (checksum >> 64) as u64];
        bytes[..HEADER_BYTES].copy_from_slice(bytemuck::bytes_of(&header));
        bytes
    }

    /// Reads a file that [`NgramModel::encode`] has made.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Format`] if it is truncated, altered or no model.
    pub fn open(path: &Path) -> Result<Self> {
        let wrong = |reason: String| Error::format(path, format!("{reason}; train it again"));
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        let Some((head, body)) =
            bytes.split_at_checked(HEADER_BYTES).filter(|(head, _)| head.starts_with(&MAGIC))
        else {
            return Err(wrong("not an n-gram model".into()));
        };
        let header: Header = bytemuck::pod_read_unaligned(head);
        let checksum = xxh3_128(&bytes[UNCHECKED_BYTES..]);
        if header.checksum != [checksum as u64, (checksum >> 64) as u64] {
            return Err(wrong("the checksum does not match: truncated or altered".into()));
        }
        if header.version != VERSION {
            return Err(wrong(format!("version {} where {VERSION} was expected", header.version)));
        }
        let order = header.order as usize;
        let slots: Vec<Entry> =
            body.chunks_exact(size_of::<Entry>()).map(bytemuck::pod_read_unaligned).collect();
        let is_whole = body.len().is_multiple_of(size_of::<Entry>()) && (1..=MAX_ORDER).contains(&order);
        match Table::from_slots(slots).filter(|_| is_whole) {
            Some(table) => Ok(Self { order, table }),
            None => Err(wrong("the header does not fit the n-grams".into())),
        }
    }
}
