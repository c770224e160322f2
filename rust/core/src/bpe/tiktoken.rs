//! Rank files of tiktoken: a token in base 64 and its rank on each line, merges implied.
//!
//! tiktoken joins the two neighbours whose joined bytes have the lowest rank.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::Merge;
use super::cut::{Behavior, Cut, Stage};
use super::join::last_join;
use super::pipeline::{Components, Pipeline};
use super::pretokenize::Pattern;
use super::regex::{CL100K_BASE, Dialect, builtin, is_cl100k_base, translate};
use super::tokenizer::{Parts, Tokenizer};
use super::vocab::Vocab;
use super::write::write_whole;
use crate::{Error, Result};

/// Ids beyond this are taken for damage.
const MAX_ID: u32 = 1 << 24;

impl Tokenizer {
    /// Loads a rank file. The pattern is a built-in one by name, or an expression as tiktoken takes it.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Format`] if it is no rank file, [`Error::Value`] if the
    /// pattern or an id of a special token cannot be used.
    pub fn from_tiktoken(path: &Path, pattern: &str, specials: &[(String, u32)]) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let mut tokens: Vec<Vec<u8>> = Vec::new();
        for (i, line) in text.lines().enumerate() {
            if line.is_empty() {
                continue;
            }
            let entry = line.split_once(' ').and_then(|(token, rank)| {
                Some((base64(token)?, rank.parse().ok().filter(|&rank: &u32| rank <= MAX_ID)?))
            });
            let Some((token, rank)) = entry.filter(|(token, _)| !token.is_empty()) else {
                return Err(Error::format(
                    path,
                    format!("line {}: not a token in base 64 and its rank", i + 1),
                ));
            };
            put(&mut tokens, rank, token).map_err(|reason| Error::format(path, reason))?;
        }
        for (name, id) in specials {
            if name.is_empty() || *id > MAX_ID {
                return Err(Error::value(format!("special token {name:?} cannot have id {id}")));
            }
            put(&mut tokens, *id, name.clone().into_bytes()).map_err(Error::Value)?;
        }
        let specials: Vec<u32> = specials.iter().map(|(_, id)| *id).collect();
        let (pattern, pipeline) = cutting(pattern)?;
        let merges = merges(&tokens, &specials).map_err(|error| Error::format(path, error.to_string()))?;
        let parts = Parts { pattern, tokens, merges, specials, ignore_merges: true };
        Self::with_pipeline(parts, pipeline).map_err(|error| Error::format(path, error.to_string()))
    }

    /// The text of a rank file with all ordinary tokens; pattern and special tokens have no place in it.
    ///
    /// # Errors
    /// [`Error::Value`] if tiktoken would give other ids with these ranks.
    pub fn to_tiktoken(&self) -> Result<String> {
        if self.pattern == Pattern::Characters || self.pipeline.fallback.is_some() {
            return Err(Error::value("a rank file holds byte-level vocabularies only"));
        }
        let is_ordinary = |id: u32| !self.is_special(id) && !self.pipeline.is_apart(id);
        let Parts { tokens, merges: own, specials, .. } = self.parts();
        let apart: Vec<u32> = (0..tokens.len() as u32).filter(|&id| !is_ordinary(id)).collect();
        if let Some(id) = (0..tokens.len())
            .find(|&id| is_ordinary(id as u32) && !tokens[id].is_empty() && !self.is_whole[id])
        {
            return Err(Error::value(format!(
                "token {id} is never made from text here, but tiktoken would make it: a rank file cannot say so"
            )));
        }
        let implied = merges(&tokens, &apart)?;
        if let Some((rank, (merge, _))) =
            own.iter().zip(&implied).enumerate().find(|(_, (own, implied))| own != implied)
        {
            return Err(Error::value(format!(
                "merge {rank} makes token {}, but ids are not in the order in which ranks would merge them",
                merge.new
            )));
        }
        if own.len() != implied.len() {
            let (own, implied) = (own.len(), implied.len());
            return Err(Error::value(format!("there are {own} merges, but ranks would imply {implied}")));
        }
        let mut text = String::new();
        for (id, token) in tokens.iter().enumerate() {
            if is_ordinary(id as u32) && !token.is_empty() && !specials.contains(&(id as u32)) {
                // Writing to a string does not fail.
                let _ = writeln!(text, "{} {id}", to_base64(token));
            }
        }
        Ok(text)
    }
}

impl Tokenizer {
    /// Saves [`Tokenizer::to_tiktoken`]. The file appears whole or not at all.
    ///
    /// # Errors
    /// As [`Tokenizer::to_tiktoken`]; [`Error::Io`] if it cannot be written.
    pub fn save_tiktoken(&self, path: &Path) -> Result<()> {
        write_whole(&[(path, &self.to_tiktoken()?)])
    }
}

fn put(tokens: &mut Vec<Vec<u8>>, id: u32, token: Vec<u8>) -> std::result::Result<(), String> {
    if tokens.len() <= id as usize {
        tokens.resize(id as usize + 1, Vec::new());
    }
    let place = &mut tokens[id as usize];
    if !place.is_empty() {
        let texts = [place.as_slice(), &token].map(String::from_utf8_lossy);
        return Err(format!("tokens {:?} and {:?} both have id {id}", texts[0], texts[1]));
    }
    *place = token;
    Ok(())
}

/// A built-in pattern, or the pipeline that runs an expression.
fn cutting(pattern: &str) -> Result<(Pattern, Pipeline)> {
    let pattern = if pattern == "cl100k_base" { CL100K_BASE } else { pattern };
    let is_name = pattern.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if is_name {
        return Ok((Pattern::from_name(pattern)?, Pipeline::default()));
    }
    if let Some(pattern) = builtin(pattern) {
        return Ok((pattern, Pipeline::default()));
    }
    let expression = translate(pattern, Dialect::Fancy).map_err(Error::Value)?;
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let split =
        json!({"type": "Split", "pattern": {"Regex": expression}, "behavior": "Removed", "invert": true});
    let components = Some(Components {
        normalizer: Value::Null,
        pre_tokenizer: json!({"type": "Sequence", "pretokenizers": [split, byte_level.clone()]}),
        post_processor: Value::Null,
        decoder: byte_level,
    });
    if is_cl100k_base(pattern, Dialect::Fancy) {
        return Ok((Pattern::Cl100k, Pipeline { joins_last_space: true, components, ..Pipeline::default() }));
    }
    let stage = Stage::split(&expression, Behavior::Removed, true).map_err(Error::Value)?;
    let cut = Cut { stages: vec![stage], spelled: vec![] };
    Ok((Pattern::Gpt2, Pipeline { cut: Some(Arc::new(cut)), components, ..Pipeline::default() }))
}

/// The last join of each token that joins make, in order of rank.
fn merges(tokens: &[Vec<u8>], apart: &[u32]) -> Result<Vec<Merge>> {
    let mut is_apart = vec![false; tokens.len()];
    for &id in apart {
        is_apart[id as usize] = true;
    }
    let vocab = Vocab::new(tokens.iter().map(Vec::as_slice), |id| is_apart[id as usize])?;
    let rank = |bytes: &[u8]| vocab.id(bytes).filter(|&id| !is_apart[id as usize]);
    let mut merges = Vec::with_capacity(tokens.len());
    for (new, token) in (0..).zip(tokens) {
        if token.len() > 1 && !is_apart[new as usize] {
            let Some(at) = last_join(token, (0..=token.len()).collect(), rank) else { continue };
            let (left, right) = token.split_at(at);
            merges.extend(rank(left).zip(rank(right)).map(|(left, right)| Merge { left, right, new }));
        }
    }
    Ok(merges)
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Reads base 64 with or without its padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=').as_bytes();
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    for group in text.chunks(4) {
        let mut bits = 0;
        for digit in group {
            bits = bits << 6 | DIGITS.iter().position(|known| known == digit)? as u32;
        }
        bits <<= 6 * (4 - group.len());
        bytes.extend_from_slice(bits.to_be_bytes().get(1..group.len())?);
    }
    (text.len() % 4 != 1).then_some(bytes)
}

fn to_base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits =
            group.iter().zip([16, 8, 0]).fold(0, |bits, (&byte, shift)| bits | u32::from(byte) << shift);
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_64_is_the_published_one() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(to_base64(bytes.as_bytes()), text);
            assert_eq!(base64(text).as_deref(), Some(bytes.as_bytes()));
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(base64(&to_base64(&all)), Some(all));
        assert_eq!((base64("Z"), base64("Z*==")), (None, None));
    }
}
