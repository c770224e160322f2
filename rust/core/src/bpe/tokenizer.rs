//! The tokenizer itself: what it is made of, checked once, and what can be asked of it.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, OnceLock};

use rustc_hash::FxHashMap;
use sha2::{Digest, Sha256};

use super::chars::Boundaries;
use super::encode::Buffers;
use super::fallback::SPACE;
use super::long::{self, Work};
use super::merges::{Merge, Merges};
use super::normalize::Place;
use super::pipeline::Pipeline;
use super::pretokenize::Pattern;
use super::special::{Allowed, Finder, Part, Rules};
use super::vocab::Vocab;
use crate::{Error, Result};

/// What defines a tokenizer; [`Tokenizer::new`] checks that it is consistent.
#[derive(Debug, Clone)]
pub struct Parts {
    /// How text is cut into pieces, unless a file says it in another way.
    pub pattern: Pattern,
    /// The bytes of each token; the position is the id. A special token's bytes are its name. An id without a
    /// token has no bytes.
    pub tokens: Vec<Vec<u8>>,
    /// The merge rules by rank.
    pub merges: Vec<Merge>,
    /// Ids of the special tokens.
    pub specials: Vec<u32>,
    /// Whether a piece that is a token becomes that token without asking the merges.
    pub ignore_merges: bool,
}

/// A byte-level BPE or character tokenizer. Immutable: every method takes `&self` and any thread may call it.
#[derive(Debug)]
pub struct Tokenizer {
    pub(super) pattern: Pattern,
    pub(super) vocab: Vocab,
    pub(super) merges: Merges,
    pub(super) boundaries: Boundaries,
    pub(super) ignore_merges: bool,
    /// The token of each single byte, or `NO_TOKEN`.
    pub(super) byte_tokens: [u32; 256],
    /// Whether a piece with the bytes of this token is encoded as this token alone.
    pub(super) is_whole: Vec<bool>,
    /// What surrounds the merges: other ways to cut, changes to text, added tokens, templates.
    pub(super) pipeline: Pipeline,
    /// Added tokens that are not decoded as their name, because it has the sign of a space.
    spaced: FxHashMap<u32, Vec<u8>>,
    /// Finds the tokens that are added but not special, if there are any.
    pub(super) find_plain: Option<Finder>,
    /// Finds all added tokens; made when first asked for.
    pub(super) find_all: OnceLock<Arc<Finder>>,
    /// Ascending.
    specials: Vec<u32>,
    /// Buffers of finished calls, for the next ones; at most one for each thread that ever encoded at once.
    pub(super) idle: Mutex<Vec<Buffers>>,
    fingerprint: OnceLock<String>,
}

/// Not an id.
pub(super) const NO_TOKEN: u32 = u32::MAX;

impl Tokenizer {
    /// Builds the tables.
    ///
    /// # Errors
    /// [`Error::Value`] if ids are out of range, tokens repeat, a merge does not join its tokens' bytes,
    /// or the tokens do not fit the pattern: all 256 bytes for BPE, single characters for characters.
    pub fn new(parts: Parts) -> Result<Self> {
        Self::with_pipeline(parts, Pipeline::default())
    }

    /// Builds the tables for a tokenizer that does more than cut and merge.
    pub(super) fn with_pipeline(parts: Parts, pipeline: Pipeline) -> Result<Self> {
        let Parts { pattern, tokens, merges, mut specials, ignore_merges } = parts;
        specials.sort_unstable();
        specials.dedup();
        let is_apart = |id: u32| specials.binary_search(&id).is_ok() || pipeline.is_apart(id);
        let vocab = Vocab::new(tokens.iter().map(Vec::as_slice), is_apart)?;
        for &id in &specials {
            if vocab.get(id).is_none_or(|name| std::str::from_utf8(name).is_err()) {
                return Err(Error::value(format!("special token {id} has no name")));
            }
        }
        let mut byte_tokens = [NO_TOKEN; 256];
        for (id, token) in vocab.iter().enumerate() {
            if let ([byte], false) = (token, is_apart(id as u32)) {
                byte_tokens[*byte as usize] = id as u32;
            }
        }
        if let Some(fallback) = &pipeline.fallback {
            byte_tokens = fallback.bytes;
        }
        check_merges(&merges, &vocab, is_apart)?;
        match pattern {
            Pattern::Characters => check_characters(&vocab, &merges, is_apart)?,
            Pattern::Gpt2 | Pattern::Cl100k | Pattern::Qwen2 | Pattern::O200k => {
                if let Some(byte) = byte_tokens.iter().position(|&id| id == NO_TOKEN) {
                    return Err(Error::value(format!("byte 0x{byte:02x} has no token; all 256 are needed")));
                }
            }
        }
        let merges = Merges::new(merges)?;
        let mut tokenizer = Self {
            boundaries: Boundaries::new(&vocab, &merges),
            pattern,
            vocab,
            merges,
            ignore_merges,
            byte_tokens,
            is_whole: Vec::new(),
            pipeline,
            spaced: FxHashMap::default(),
            find_plain: None,
            find_all: OnceLock::new(),
            specials,
            idle: Mutex::default(),
            fingerprint: OnceLock::new(),
        };
        tokenizer.is_whole = tokenizer.find_whole();
        if tokenizer.pipeline.fallback.is_some() {
            let spaced = tokenizer.added().filter(|(name, ..)| name.contains(SPACE));
            tokenizer.spaced =
                spaced.map(|(name, id, _)| (id, name.replace(SPACE, " ").into_bytes())).collect();
        }
        if tokenizer.pipeline.rules.values().any(|rules| rules.is_plain) {
            tokenizer.find_plain = Some(Finder::new(&tokenizer, &[])?);
        }
        Ok(tokenizer)
    }

    /// A tokenizer whose ordinary tokens are the distinct characters of `text` in code point order,
    /// followed by the specials.
    ///
    /// # Errors
    /// [`Error::Value`] if `text` is empty, or a special is empty, repeated, or one of the characters.
    pub fn from_characters(text: &str, specials: &[String]) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::value("a character vocabulary needs text, got an empty string"));
        }
        let characters: std::collections::BTreeSet<char> = text.chars().collect();
        let tokens = characters.into_iter().map(|c| c.to_string().into_bytes()).collect();
        let parts = Parts {
            pattern: Pattern::Characters,
            tokens,
            merges: vec![],
            specials: vec![],
            ignore_merges: true,
        };
        Self::new(parts.with_specials(specials)?)
    }

    /// The same tokenizer with more special tokens, which get the ids after the last.
    ///
    /// # Errors
    /// [`Error::Value`] if a name is empty, repeated, or already a token.
    pub fn with_specials(&self, names: &[String]) -> Result<Self> {
        self.check_spellings(names)?;
        Self::with_pipeline(self.parts().with_specials(names)?, self.pipeline.clone())
    }

    /// The same tokenizer with more tokens that are always found in text, with the ids after the last.
    ///
    /// # Errors
    /// As [`Tokenizer::with_specials`].
    pub fn with_plain_tokens(&self, names: &[String]) -> Result<Self> {
        self.check_spellings(names)?;
        let Parts { specials, .. } = self.parts();
        let parts = self.parts().with_specials(names)?;
        let mut pipeline = self.pipeline.clone();
        for id in self.vocab.len()..parts.tokens.len() {
            pipeline.apart.insert(id as u32);
            pipeline.rules.insert(id as u32, Rules { is_plain: true, ..Rules::default() });
        }
        Self::with_pipeline(Parts { specials, ..parts }, pipeline)
    }

    /// Files have added tokens beside the spelling of ordinary ones, so the two must differ.
    fn check_spellings(&self, names: &[String]) -> Result<()> {
        for id in 0..self.vocab_size() as u32 {
            let Some(name) = self.spelling(id).filter(|spelling| names.contains(spelling)) else { continue };
            if self.vocab.get(id) != Some(name.as_bytes()) {
                return Err(Error::value(format!(
                    "{name:?} is how files write token {id}, so it cannot be a token of its own"
                )));
            }
        }
        Ok(())
    }

    /// What this tokenizer was built from.
    pub fn parts(&self) -> Parts {
        Parts {
            pattern: self.pattern,
            tokens: self.vocab.iter().map(<[u8]>::to_vec).collect(),
            merges: self.merges.list().to_vec(),
            specials: self.specials.clone(),
            ignore_merges: self.ignore_merges,
        }
    }

    /// Number of ids, special ones included.
    pub fn vocab_size(&self) -> usize {
        self.vocab.len()
    }

    /// How text is cut into pieces.
    pub fn pattern(&self) -> Pattern {
        self.pattern
    }

    /// What cuts text, in a word: the pattern's name unless the file has its own way.
    pub fn pattern_name(&self) -> &'static str {
        if self.pipeline.fallback.is_some() {
            "spaces"
        } else if self.pipeline.joins_last_space {
            "cl100k_base"
        } else if self.pipeline.cut.is_some() {
            "custom"
        } else {
            self.pattern.name()
        }
    }

    /// Number of merge rules.
    pub fn num_merges(&self) -> usize {
        self.merges.list().len()
    }

    /// Special tokens as (name, id), by id.
    pub fn specials(&self) -> impl ExactSizeIterator<Item = (&str, u32)> {
        let name = |id| std::str::from_utf8(self.vocab.get(id).unwrap_or_default()).unwrap_or_default();
        self.specials.iter().map(move |&id| (name(id), id))
    }

    /// Tokens that are not special but found in any text before it is cut, as (name, id), by id.
    pub fn plain_tokens(&self) -> Vec<(&str, u32)> {
        let mut tokens: Vec<_> = self.plain_added().map(|(name, id, _)| (name, id)).collect();
        tokens.sort_unstable_by_key(|(_, id)| *id);
        tokens
    }

    /// A text as it is before it is cut, with added tokens in their places: offsets count in it.
    pub fn normalize(&self, text: &str, allowed: &Allowed) -> String {
        let mut normalized = String::with_capacity(text.len());
        let joined = self.visit(text, allowed.finder(self), Place::First, |part| {
            let (Part::Text(text) | Part::Added(_, text)) = part;
            normalized.push_str(text);
            Ok::<_, Infallible>(())
        });
        match joined {
            Ok(()) => normalized,
            Err(never) => match never {},
        }
    }

    /// Whether the id is a special token.
    pub fn is_special(&self, id: u32) -> bool {
        self.specials.binary_search(&id).is_ok()
    }

    /// All tokens that are looked for in text before it is cut, special or not: (name, id, how).
    pub(super) fn added(&self) -> impl Iterator<Item = (&str, u32, Rules)> {
        let rules = &self.pipeline.rules;
        let specials =
            self.specials().map(|(name, id)| (name, id, rules.get(&id).copied().unwrap_or_default()));
        specials.chain(self.plain_added())
    }

    /// Tokens that are added but not special.
    fn plain_added(&self) -> impl Iterator<Item = (&str, u32, Rules)> {
        let plain = self.pipeline.rules.iter().filter(|(_, rules)| rules.is_plain);
        plain.map(|(&id, &rules)| {
            let name = std::str::from_utf8(self.vocab.get(id).unwrap_or_default());
            (name.unwrap_or_default(), id, rules)
        })
    }

    /// The id of a special token.
    ///
    /// # Errors
    /// [`Error::Value`] that lists the special tokens there are.
    pub fn special_id(&self, name: &str) -> Result<u32> {
        // An ordinary token of the same bytes comes first in the vocabulary.
        let usual = self.vocab.id(name.as_bytes()).filter(|&id| self.is_special(id));
        let special = usual.or_else(|| self.specials().find(|(known, _)| *known == name).map(|(_, id)| id));
        special.ok_or_else(|| {
            let known: Vec<_> = self.specials().map(|(name, _)| name).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            Error::value(format!("no special token {name:?} in this tokenizer; it has {known}"))
        })
    }

    /// The bytes of a token.
    ///
    /// # Errors
    /// [`Error::Value`] if there is no such id.
    pub fn token_bytes(&self, id: u32) -> Result<&[u8]> {
        let token = self.vocab.get(id).ok_or_else(|| {
            Error::value(format!(
                "no token {id}: the vocabulary has ids 0 to {}",
                self.vocab.len().saturating_sub(1)
            ))
        })?;
        if token.is_empty() {
            return Err(Error::value(format!("no token {id}: the vocabulary leaves this id out")));
        }
        Ok(self.spaced.get(&id).map_or(token, Vec::as_slice))
    }

    /// The token with exactly these bytes.
    pub fn token_id(&self, token: &[u8]) -> Option<u32> {
        self.vocab.id(token)
    }

    /// SHA-256 of everything that decides ids, in hexadecimal: equal for equal tokenizers, however they were
    /// made or stored.
    pub fn fingerprint(&self) -> &str {
        self.fingerprint.get_or_init(|| {
            let mut hash = Sha256::new();
            hash.update(format!("tempa tokenizer 1\n{}\n{}\n", self.pattern.name(), self.ignore_merges));
            hash.update((self.vocab.len() as u64).to_le_bytes());
            for token in self.vocab.iter() {
                hash.update((token.len() as u64).to_le_bytes());
                hash.update(token);
            }
            hash.update((self.merges.list().len() as u64).to_le_bytes());
            for merge in self.merges.list() {
                hash.update([merge.left, merge.right, merge.new].map(u32::to_le_bytes).concat());
            }
            hash.update((self.specials.len() as u64).to_le_bytes());
            for id in &self.specials {
                hash.update(id.to_le_bytes());
            }
            self.pipeline.hash(|bytes| hash.update(bytes));
            let digits = hash.finalize().into_iter().flat_map(|byte| [byte >> 4, byte & 15]);
            digits.map(|digit| char::from(b"0123456789abcdef"[digit as usize])).collect()
        })
    }

    /// Which tokens a piece with their bytes becomes. That follows from running the merges: some vocabularies
    /// have tokens that the merges never make.
    fn find_whole(&self) -> Vec<bool> {
        let (mut ids, mut work) = (Vec::new(), Work::default());
        let is_whole = |(id, token): (usize, &[u8])| {
            if token.is_empty() || self.is_special(id as u32) || self.pipeline.is_apart(id as u32) {
                return false;
            }
            if self.ignore_merges {
                return true;
            }
            ids.clear();
            self.units(token, &mut ids);
            long::merge(&self.merges, &mut ids, 0, &mut work);
            ids == [id as u32]
        };
        self.vocab.iter().enumerate().map(is_whole).collect()
    }
}

impl Parts {
    /// Adds special tokens at the end.
    pub(super) fn with_specials(mut self, names: &[String]) -> Result<Self> {
        super::special::check_names(names)?;
        for name in names {
            if let Some(id) = self.tokens.iter().position(|token| token == name.as_bytes()) {
                let new = self.tokens.len();
                return Err(Error::value(format!("tokens {id} and {new} are both {name:?}")));
            }
            self.specials.push(self.tokens.len() as u32);
            self.tokens.push(name.clone().into_bytes());
        }
        Ok(self)
    }
}

fn check_merges(merges: &[Merge], vocab: &Vocab, is_apart: impl Fn(u32) -> bool) -> Result<()> {
    let bytes = |id| vocab.get(id).filter(|_| !is_apart(id));
    for (rank, merge) in merges.iter().enumerate() {
        let joined = bytes(merge.left).zip(bytes(merge.right)).zip(bytes(merge.new));
        if joined.is_none_or(|((left, right), new)| new.strip_prefix(left) != Some(right)) {
            let Merge { left, right, new } = merge;
            return Err(Error::value(format!(
                "merge {rank}: token {new} is not token {left} followed by token {right}"
            )));
        }
    }
    Ok(())
}

fn check_characters(vocab: &Vocab, merges: &[Merge], is_apart: impl Fn(u32) -> bool) -> Result<()> {
    if !merges.is_empty() {
        return Err(Error::value(format!("a character tokenizer has no merges, got {}", merges.len())));
    }
    for (id, token) in vocab.iter().enumerate() {
        let is_character = std::str::from_utf8(token).is_ok_and(|text| text.chars().count() == 1);
        if !is_character && !token.is_empty() && !is_apart(id as u32) {
            let text = String::from_utf8_lossy(token);
            return Err(Error::value(format!(
                "token {id} of a character tokenizer is not one character: {text:?}"
            )));
        }
    }
    Ok(())
}
