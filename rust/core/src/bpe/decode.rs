//! Ids to text.

use super::tokenizer::Tokenizer;
use crate::Result;

impl Tokenizer {
    /// The bytes of the ids, one after the other. Special tokens are their names, or nothing with `skip_special`.
    /// A vocabulary that puts a space in front of texts takes it away again.
    ///
    /// # Errors
    /// [`crate::Error::Value`] naming the first id that is not in the vocabulary.
    pub fn decode_bytes(&self, ids: &[u32], skip_special: bool) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        let mut has_started = false;
        for &id in ids {
            let token = self.token_bytes(id)?;
            if !(skip_special && self.is_special(id)) {
                bytes.extend_from_slice(if has_started { token } else { self.without_prefix(token) });
                has_started = true;
            }
        }
        Ok(bytes)
    }

    /// The first token of a text without the space that encoding put in front.
    fn without_prefix<'t>(&self, token: &'t [u8]) -> &'t [u8] {
        let strips = self.pipeline.fallback.as_ref().is_some_and(|fallback| fallback.strips_first);
        token.strip_prefix(b" ").filter(|_| strips).unwrap_or(token)
    }

    /// The text of the ids. Bytes that are not UTF-8, as after a cut inside a character, become U+FFFD.
    ///
    /// # Errors
    /// As [`Tokenizer::decode_bytes`].
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let bytes = self.decode_bytes(ids, skip_special)?;
        Ok(String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }
}

/// Text from ids as they come: a character is handed out when its last byte is there.
///
/// All pieces together, with that of [`StreamDecoder::flush`], are exactly [`Tokenizer::decode`] of all ids.
#[derive(Debug, Clone, Default)]
pub struct StreamDecoder {
    /// The start of a character, at most three bytes.
    pending: Vec<u8>,
    skip_special: bool,
    has_started: bool,
}

impl StreamDecoder {
    /// A decoder at the start of a text.
    pub fn new(skip_special: bool) -> Self {
        Self { pending: Vec::new(), skip_special, has_started: false }
    }

    /// The text that this id completes, which may be empty.
    ///
    /// # Errors
    /// [`crate::Error::Value`] if the id is not in the vocabulary; the decoder is as before.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String> {
        let token = tokenizer.token_bytes(id)?;
        if !(self.skip_special && tokenizer.is_special(id)) {
            let token = if self.has_started { token } else { tokenizer.without_prefix(token) };
            self.pending.extend_from_slice(token);
            self.has_started = true;
        }
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        while let Some(chunk) = rest.utf8_chunks().next() {
            text.push_str(chunk.valid());
            let (valid, invalid) = (chunk.valid().len(), chunk.invalid().len());
            let is_tail = valid + invalid == rest.len();
            if invalid == 0 || (is_tail && is_incomplete(chunk.invalid())) {
                rest = &rest[valid..];
                break;
            }
            text.push(char::REPLACEMENT_CHARACTER);
            rest = &rest[valid + invalid..];
        }
        let kept = rest.len();
        self.pending.drain(..self.pending.len() - kept);
        Ok(text)
    }

    /// What is left at the end: U+FFFD if the last character is incomplete, else nothing.
    pub fn flush(&mut self) -> String {
        self.has_started = false;
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}

/// Whether more bytes could still make this a character.
fn is_incomplete(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}
