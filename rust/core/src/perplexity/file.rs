//! A model in a file: a [`Header`], then the slots of its table, little-endian.

use std::path::Path;

use bytemuck::{Pod, Zeroable};

use super::table::{Entry, Table};
use super::{MAX_ORDER, NgramModel};
use crate::sealed::{Magic, seal, unseal};
use crate::{Error, Result};

const MAGIC: Magic = *b"tempangr";
const VERSION: u32 = 1;

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Header {
    version: u32,
    order: u32,
}

impl NgramModel {
    /// The bytes of its file.
    pub fn encode(&self) -> Vec<u8> {
        let header = Header { version: VERSION, order: self.order as u32 };
        let content = [bytemuck::bytes_of(&header), bytemuck::cast_slice(self.table.slots())].concat();
        seal(MAGIC, &content)
    }

    /// Reads a file that [`NgramModel::encode`] has made.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Format`] if it is truncated, altered or no model.
    pub fn open(path: &Path) -> Result<Self> {
        let content = unseal(path, MAGIC, "an n-gram model")?;
        let parsed = content.split_at_checked(size_of::<Header>()).and_then(|(head, body)| {
            let header: Header = bytemuck::pod_read_unaligned(head);
            let order = header.order as usize;
            let slots: Vec<Entry> =
                body.chunks_exact(size_of::<Entry>()).map(bytemuck::pod_read_unaligned).collect();
            let is_whole = body.len().is_multiple_of(size_of::<Entry>()) && (1..=MAX_ORDER).contains(&order);
            let table = Table::from_slots(slots).filter(|_| is_whole && header.version == VERSION)?;
            Some(Self { order, table })
        });
        parsed.ok_or_else(|| {
            Error::format(
                path,
                format!("not of version {VERSION}, or the header does not fit; train it again"),
            )
        })
    }
}
