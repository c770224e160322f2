//! Texts to shards without a stop on the way: ids go from the threads that make them to the file.

use super::header::Fingerprint;
use super::writer::ShardWriter;
use crate::bpe::{Allowed, Tokenizer};
use crate::{Error, Monitor, Result};

impl ShardWriter {
    /// Appends each text as a document of the ids that the tokenizer gives by default, followed by `end` if given.
    /// Returns the number of ids. The monitor counts bytes.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`], with the number of the document, [`Error::Value`] if the shards belong to
    /// another tokenizer, [`Error::Interrupted`] if cancelled, and then nothing of this call is written;
    /// [`Error::Io`] if the disk refuses.
    pub fn encode<T: AsRef<str> + Sync>(
        &mut self,
        tokenizer: &Tokenizer,
        texts: &[T],
        end: Option<u32>,
        num_threads: Option<usize>,
        monitor: &Monitor,
    ) -> Result<usize> {
        let found: Fingerprint = tokenizer.fingerprint().parse()?;
        if found != self.fingerprint() {
            let (own, other) = (self.fingerprint().to_string(), found.to_string());
            let reason = format!("the shards are for tokenizer {}, this is {}", &own[..12], &other[..12]);
            return Err(Error::value(reason));
        }
        let (first, allowed) = (self.num_documents(), Allowed::default());
        let num_bytes = |i: usize| texts[i].as_ref().len();
        let rows = tokenizer.encode_rows(texts.len(), num_bytes, num_threads, |encoder, i, rows| {
            encoder.encode(texts[i].as_ref(), &allowed, &mut rows.values).map_err(|error| match error {
                Error::Value(reason) => Error::Value(format!("document {}: {reason}", first + i)),
                other => other,
            })?;
            rows.values.extend(end);
            rows.end_row();
            monitor.advance(num_bytes(i) as u64)
        })?;
        self.add(&rows.values, &rows.offsets)?;
        Ok(rows.values.len())
    }
}
