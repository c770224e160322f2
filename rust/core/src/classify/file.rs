//! A classifier in a file: a [`Header`], the labels a line each, a bias for each score, the weights, little-endian.

use std::path::Path;

use bytemuck::{Pod, Zeroable};

use super::{Classifier, Features, num_scores, row_width};
use crate::sealed::{Magic, seal, unseal};
use crate::{Error, Result};

const MAGIC: Magic = *b"tempacls";
const VERSION: u32 = 1;

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Header {
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
        let header = Header {
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
        let mut content = [bytemuck::bytes_of(&header), labels.as_bytes(), bias].concat();
        for row in self.weights.chunks_exact(row_width(self.bias.len())) {
            content.extend_from_slice(bytemuck::cast_slice(&row[..self.bias.len()]));
        }
        seal(MAGIC, &content)
    }

    /// Reads a file that [`Classifier::encode`] has made.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Format`] if it is truncated, altered or no classifier.
    pub fn open(path: &Path) -> Result<Self> {
        let wrong = |reason: String| Error::format(path, format!("{reason}; train it again"));
        let content = unseal(path, MAGIC, "a classifier")?;
        let Some((head, body)) = content.split_at_checked(size_of::<Header>()) else {
            return Err(wrong("the header is cut off".into()));
        };
        let header: Header = bytemuck::pod_read_unaligned(head);
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
