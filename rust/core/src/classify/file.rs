//! A classifier in a file: a [`Header`], the labels a line each, a bias for each score, the weights, little-endian.

use std::path::Path;

use bytemuck::{Pod, Zeroable};
use xxhash_rust::xxh3::xxh3_128;

use super::{Classifier, Features, num_scores, row_width};
use crate::{Error, Result};

const MAGIC: [u8; 8] = *b"tempacls";
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
    bits: u32,
    word_ngram: u32,
    char_ngram: u32,
    max_bytes: u64,
    line: [f64; 2],
    num_labels: u32,
    /// Bytes of the labels, with their line feeds.
    label_bytes: u32,
}

impl Classifier {
    /// The bytes of its file.
    pub fn encode(&self) -> Vec<u8> {
        let labels: String = self.labels.iter().flat_map(|label| [label, "\n"]).collect();
        let mut header = Header {
            magic: MAGIC,
            checksum: [0; 2],
            version: VERSION,
            bits: self.features.bits,
            word_ngram: self.features.word_ngram as u32,
            char_ngram: self.features.char_ngram as u32,
            max_bytes: self.features.max_bytes as u64,
            line: self.line,
            num_labels: self.labels.len() as u32,
            label_bytes: labels.len() as u32,
        };
        let bias: &[u8] = bytemuck::cast_slice(&self.bias);
        let mut bytes = [bytemuck::bytes_of(&header), labels.as_bytes(), bias].concat();
        for row in self.weights.chunks_exact(row_width(self.bias.len())) {
            bytes.extend_from_slice(bytemuck::cast_slice(&row[..self.bias.len()]));
        }
        let checksum = xxh3_128(&bytes[UNCHECKED_BYTES..]);
        header.checksum = [checksum as u64, (checksum >> 64) as u64];
        bytes[..HEADER_BYTES].copy_from_slice(bytemuck::bytes_of(&header));
        bytes
    }

    /// Reads a file that [`Classifier::encode`] has made.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Format`] if it is truncated, altered or no classifier.
    pub fn open(path: &Path) -> Result<Self> {
        let wrong = |reason: String| Error::format(path, format!("{reason}; train it again"));
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        let Some((head, body)) =
            bytes.split_at_checked(HEADER_BYTES).filter(|(head, _)| head.starts_with(&MAGIC))
        else {
            return Err(wrong("not a classifier".into()));
        };
        let header: Header = bytemuck::pod_read_unaligned(head);
        let checksum = xxh3_128(&bytes[UNCHECKED_BYTES..]);
        if header.checksum != [checksum as u64, (checksum >> 64) as u64] {
            return Err(wrong("the checksum does not match: truncated or altered".into()));
        }
        let features = Features {
            bits: header.bits,
            word_ngram: header.word_ngram as usize,
            char_ngram: header.char_ngram as usize,
            max_bytes: header.max_bytes as usize,
        };
        if header.version != VERSION {
            return Err(wrong(format!("version {} where {VERSION} was expected", header.version)));
        }
        let parsed = features.check().ok().and_then(|()| {
            let (labels, body) = body.split_at_checked(header.label_bytes as usize)?;
            let labels: Vec<String> = std::str::from_utf8(labels).ok()?.lines().map(str::to_owned).collect();
            let count = num_scores(labels.len());
            let num_bytes = count.checked_mul(1 + features.num_buckets())?.checked_mul(4)?;
            let fits = labels.len() == header.num_labels as usize && body.len() == num_bytes;
            fits.then_some((labels, body.split_at_checked(4 * count)?))
        });
        let Some((labels, (bias, weights))) = parsed else {
            return Err(wrong("the header does not fit the weights".into()));
        };
        let bias = bias.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect();
        let weights = weights.chunks_exact(4).map(bytemuck::pod_read_unaligned);
        Ok(Self::new(features, labels, header.line, bias, weights))
    }
}
