//! The first 128 bytes of a shard, and the fingerprint of a tokenizer.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use bytemuck::{Pod, Zeroable};
use xxhash_rust::xxh3::xxh3_64;

use crate::{Error, Result};

pub(super) const HEADER_BYTES: usize = size_of::<Header>();
const MAGIC: [u8; 8] = *b"tempashd";
const VERSION: u32 = 1;
/// Bytes of the header that its own check covers.
const CHECKED_BYTES: usize = HEADER_BYTES - size_of::<u64>();

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Header {
    magic: [u8; 8],
    version: u32,
    pub(super) bytes_per_id: u32,
    pub(super) vocab_size: u64,
    pub(super) num_tokens: u64,
    pub(super) num_documents: u64,
    pub(super) fingerprint: Fingerprint,
    /// Low and high half of the body's xxh3-128.
    checksum: [u64; 2],
    reserved: [u64; 4],
    check: u64,
}

impl Header {
    pub(super) fn new(vocab_size: u64, fingerprint: Fingerprint) -> Self {
        Self {
            magic: MAGIC,
            version: VERSION,
            bytes_per_id: if vocab_size <= 1 << 16 { 2 } else { 4 },
            vocab_size,
            fingerprint,
            ..Self::zeroed()
        }
    }

    /// The same header for a finished body.
    pub(super) fn sealed(mut self, num_tokens: u64, num_documents: u64, checksum: u128) -> Self {
        self.num_tokens = num_tokens;
        self.num_documents = num_documents;
        self.checksum = [checksum as u64, (checksum >> 64) as u64];
        self.check = self.own_hash();
        self
    }

    pub(super) fn checksum(&self) -> u128 {
        u128::from(self.checksum[1]) << 64 | u128::from(self.checksum[0])
    }

    /// Reads and checks the header of a file of `file_bytes` bytes.
    pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<Self> {
        let too_short =
            || Error::format(path, format!("{} bytes are too few for a shard; {REBUILD}", bytes.len()));
        let header: Self = bytemuck::pod_read_unaligned(bytes.get(..HEADER_BYTES).ok_or_else(too_short)?);
        if header.magic != MAGIC {
            return Err(Error::format(path, format!("not a tempa shard; {REBUILD}")));
        }
        if header.version != VERSION {
            let version = header.version;
            let reason =
                format!("shard format {version}, this version of tempa reads format {VERSION}; {REBUILD}");
            return Err(Error::format(path, reason));
        }
        if header.check != header.own_hash() {
            return Err(Error::format(path, format!("the header has been altered; {REBUILD}")));
        }
        let expected = header.file_bytes();
        if expected != Some(bytes.len() as u64) {
            let expected = expected.map_or("an impossible number".to_owned(), |n| n.to_string());
            let reason =
                format!("{} bytes where the header says {expected}: truncated or appended to", bytes.len());
            return Err(Error::format(path, format!("{reason}; {REBUILD}")));
        }
        Ok(header)
    }

    /// Bytes of the ids with their padding.
    pub(super) fn ids_bytes(&self) -> Option<u64> {
        self.num_tokens.checked_mul(u64::from(self.bytes_per_id))?.checked_next_multiple_of(8)
    }

    fn file_bytes(&self) -> Option<u64> {
        let boundaries = self.num_documents.checked_add(1)?.checked_mul(8)?;
        self.ids_bytes()?.checked_add(boundaries)?.checked_add(HEADER_BYTES as u64)
    }

    fn own_hash(&self) -> u64 {
        xxh3_64(&bytemuck::bytes_of(self)[..CHECKED_BYTES])
    }
}

/// What to do about a file that cannot be used.
pub(super) const REBUILD: &str = "make it again with `tempa data build`";

/// SHA-256 of a tokenizer: ids mean nothing without the tokenizer that made them.
#[derive(Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct Fingerprint(pub [u8; 32]);

impl FromStr for Fingerprint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong =
            || Error::value(format!("a tokenizer fingerprint is 64 hexadecimal digits, got {text:?}"));
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (byte, digits) in bytes.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&text[digits..digits + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_128_bytes_and_fingerprints_print_as_they_parse() {
        assert_eq!(HEADER_BYTES, 128);
        let text = "00ff".repeat(16);
        assert_eq!(text.parse::<Fingerprint>().unwrap().to_string(), text);
        for wrong in ["", "00ff", &"0g".repeat(32), &"+1".repeat(32), &"é".repeat(32)] {
            assert!(wrong.parse::<Fingerprint>().is_err(), "{wrong}");
        }
    }
}
