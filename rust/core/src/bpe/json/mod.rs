//! `tokenizer.json`, the format of the `tokenizers` package.
//!
//! Saved files load there and give the same ids. Loading refuses, with a reason, what this tokenizer would
//! encode differently. A character tokenizer is stored as BPE without merges, pretokenizer and byte alphabet;
//! there `tokenizers` gives the same ids for known characters, and drops unknown ones where we fail.

mod components;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Merge;
use super::fallback::{Fallback, SPACE, Spaces};
use super::gpt2::{by_id, merge_of, spell, unspell};
use super::pipeline::{Components, Pipeline, Prefix, Template};
use super::pretokenize::Pattern;
use super::special::Rules;
use super::tokenizer::{Parts, Tokenizer};
use super::write::write_whole;
use crate::{Error, Result};
use components::{Cutting, Refused, kind_of};

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    truncation: Value,
    #[serde(default)]
    padding: Value,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    model: Model,
}

#[derive(Serialize, Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    #[serde(default)]
    dropout: Option<f64>,
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    vocab: FxHashMap<String, u32>,
    merges: Vec<Spelling>,
}

/// Only the kind of model, where the rest is not what a BPE model has.
#[derive(Deserialize)]
struct Other {
    model: Kind,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    kind: String,
}

/// Both ways in which versions of `tokenizers` write a merge.
#[derive(Deserialize)]
#[serde(untagged)]
enum Spelling {
    Joined(String),
    Pair(String, String),
}

impl Tokenizer {
    /// Loads a `tokenizer.json`, or the one in a directory.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::Format`] if it is not such a file or has a feature that
    /// this tokenizer does not have, named in the message.
    pub fn load(path: &Path) -> Result<Self> {
        let path = &file_in(path);
        let text = fs::read_to_string(path).map_err(Error::io(path))?;
        Self::from_json(&text).map_err(|error| Error::format(path, error.to_string()))
    }

    /// Reads the text of a `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Value`] as for [`Tokenizer::load`].
    pub fn from_json(text: &str) -> Result<Self> {
        let file: File = serde_json::from_str(text).map_err(|error| match serde_json::from_str(text) {
            Ok(Other { model: Kind { kind } }) if kind != "BPE" => Error::value(format!(
                "only BPE models are supported, found {kind}: tempa.load_tokenizer runs it with the \
                 tokenizers package"
            )),
            _ => Error::value(format!("not a tokenizer.json with a BPE model: {error}")),
        })?;
        let (parts, pipeline) = file.into_parts().map_err(Error::Value)?;
        Self::with_pipeline(parts, pipeline)
    }

    /// Saves as `tokenizer.json`: to that file if the name ends in `.json`, else into a directory, which is made.
    /// The file appears whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written; an earlier file is then as it was.
    pub fn save(&self, path: &Path) -> Result<()> {
        let path = &file_in(path);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(Error::io(directory))?;
        }
        write_whole(&[(path, &self.to_json())])
    }

    /// The text of the `tokenizer.json`; equal tokenizers give equal text.
    pub fn to_json(&self) -> String {
        let vocab: Vec<_> = (0..self.vocab_size() as u32).map(|id| self.spelling(id)).collect();
        let name = |id: u32| vocab[id as usize].as_deref().unwrap_or_default();
        let joined = |rule: &Merge| format!("{} {}", name(rule.left), name(rule.right));
        let mut added: Vec<_> =
            self.added().map(|(name, id, rules)| AddedToken::new(name, id, rules)).collect();
        added.sort_unstable_by_key(|token| token.id);
        let decoder =
            if self.pattern == Pattern::Characters { json!({"type": "Fuse"}) } else { byte_level(true) };
        let components = self.pipeline.components.clone().unwrap_or(Components {
            normalizer: Value::Null,
            pre_tokenizer: pre_tokenizer(self.pattern),
            post_processor: Value::Null,
            decoder,
        });
        let Components { normalizer, pre_tokenizer, post_processor, decoder } = components;
        let file = Saved {
            version: "1.0",
            truncation: (),
            padding: (),
            added_tokens: added,
            normalizer,
            pre_tokenizer,
            post_processor,
            decoder,
            model: SavedModel {
                kind: "BPE",
                dropout: (),
                unk_token: (),
                continuing_subword_prefix: (),
                end_of_word_suffix: (),
                fuse_unk: false,
                byte_fallback: self.pipeline.fallback.is_some(),
                ignore_merges: self.ignore_merges,
                merges: self.merges.list().iter().map(joined).collect(),
                vocab: ById(vocab),
            },
        };
        // Strings, numbers and string keys always have a JSON form.
        serde_json::to_string_pretty(&file).unwrap_or_default() + "\n"
    }

    /// How files spell a token; nothing for an id without one.
    pub(super) fn spelling(&self, id: u32) -> Option<String> {
        let token = self.vocab.get(id).filter(|token| !token.is_empty())?;
        let text = || String::from_utf8_lossy(token).into_owned();
        Some(match &self.pipeline.fallback {
            Some(fallback) => match fallback.bytes.iter().position(|&byte| byte == id) {
                Some(byte) => components::byte_name(byte as u8),
                None if self.is_special(id) || self.pipeline.is_apart(id) => text(),
                None => text().replace(' ', &SPACE.to_string()),
            },
            None if self.pattern == Pattern::Characters => text(),
            None if self.is_special(id) || self.pipeline.is_apart(id) => text(),
            None => spell(token),
        })
    }
}

/// What is written, in the order in which `tokenizers` writes it; `()` is null.
#[derive(Serialize)]
struct Saved {
    version: &'static str,
    truncation: (),
    padding: (),
    added_tokens: Vec<AddedToken>,
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: Value,
    decoder: Value,
    model: SavedModel,
}

#[derive(Serialize)]
struct SavedModel {
    #[serde(rename = "type")]
    kind: &'static str,
    dropout: (),
    unk_token: (),
    continuing_subword_prefix: (),
    end_of_word_suffix: (),
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    vocab: ById,
    merges: Vec<String>,
}

/// Tokens as a map to their position, in that order.
struct ById(Vec<Option<String>>);

impl Serialize for ById {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let tokens = self.0.iter().enumerate();
        serializer.collect_map(tokens.filter_map(|(id, token)| Some((token.as_ref()?, id))))
    }
}

fn file_in(path: &Path) -> PathBuf {
    if path.extension().is_some_and(|extension| extension == "json") {
        path.to_owned()
    } else {
        path.join("tokenizer.json")
    }
}

fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

/// How `tokenizers` is told to cut like the pattern.
fn pre_tokenizer(pattern: Pattern) -> Value {
    match pattern {
        Pattern::Gpt2 => byte_level(true),
        Pattern::Cl100k | Pattern::Qwen2 | Pattern::O200k => json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern.regex()}, "behavior": "Isolated", "invert": false},
            byte_level(false),
        ]}),
        Pattern::Characters => Value::Null,
    }
}

impl AddedToken {
    fn new(name: &str, id: u32, rules: Rules) -> Self {
        let Rules { is_plain, single_word, lstrip, rstrip, normalized } = rules;
        Self { id, content: name.to_owned(), single_word, lstrip, rstrip, normalized, special: !is_plain }
    }

    fn rules(&self) -> Rules {
        let Self { single_word, lstrip, rstrip, normalized, special, .. } = *self;
        Rules { is_plain: !special, single_word, lstrip, rstrip, normalized }
    }
}

impl File {
    fn into_parts(self) -> Refused<(Parts, Pipeline)> {
        for (name, value) in [("truncation", &self.truncation), ("padding", &self.padding)] {
            if !value.is_null() {
                return Err(format!("{name} is not supported, found {}", kind_of(value)));
            }
        }
        if let Some(kind) = self.model.kind.as_deref().filter(|kind| *kind != "BPE") {
            return Err(format!("only BPE models are supported, found {kind}"));
        }
        let normalizer = components::normalizer(&self.normalizer)?;
        let template = components::template(&self.post_processor)?;
        let units = self.units(&normalizer)?;
        self.model.check(&units)?;
        let Model { mut vocab, merges, ignore_merges, .. } = self.model;
        let merges =
            merges.iter().map(|merge| merge_of(&vocab, merge.pair()?)).collect::<Refused<Vec<_>>>()?;

        let (mut specials, mut apart, mut rules) = (Vec::new(), FxHashSet::default(), FxHashMap::default());
        let made: FxHashSet<u32> = merges.iter().map(|merge: &Merge| merge.new).collect();
        // Without a normalizer the rule `normalized` only says which of two groups is looked for first.
        let (first, others) = (self.added_tokens.first(), &self.added_tokens);
        let is_one_group =
            others.iter().all(|token| Some(token.normalized) == first.map(|token| token.normalized));
        for token in &self.added_tokens {
            let AddedToken { id, content, .. } = token;
            match vocab.get(content) {
                Some(known) if known != id => {
                    return Err(format!(
                        "added token {content:?} has id {id} there and {known} in the vocabulary"
                    ));
                }
                Some(_) if !token.special && !units.is_spelled_alike(content) => {
                    if made.contains(id) || units.is_piece(content, ignore_merges) {
                        return Err(format!("added token {content:?} is also a token of other bytes"));
                    }
                    apart.insert(*id);
                }
                Some(_) => {}
                None => {
                    vocab.insert(content.clone(), *id);
                    apart.insert(*id);
                }
            }
            if token.special {
                specials.push(*id);
                apart.remove(id);
            }
            let mut how = token.rules();
            how.normalized &= !normalizer.is_empty() || !is_one_group;
            if how != Rules::default() {
                rules.insert(*id, how);
            }
        }
        let is_special: FxHashSet<u32> = specials.iter().copied().collect();
        let mut tokens = Vec::new();
        for (id, text) in (0..).zip(by_id(&vocab)?) {
            let is_ordinary = !is_special.contains(&id) && !apart.contains(&id);
            let token = if is_ordinary { units.bytes(text) } else { None };
            if is_ordinary && token.is_none() {
                apart.insert(id);
            }
            tokens.push(token.unwrap_or_else(|| text.as_bytes().to_vec()));
        }
        let mut pipeline = Pipeline { normalizer, rules, apart, template, ..Pipeline::default() };
        let pattern = match units {
            Units::Characters => Pattern::Characters,
            Units::Bytes(Cutting { pattern, cut, prefix, joins_last_space }) => {
                (pipeline.cut, pipeline.prefix, pipeline.joins_last_space) = (cut, prefix, joins_last_space);
                pattern.unwrap_or(Pattern::Gpt2)
            }
            Units::Fallback { cut, prefix, strips_first } => {
                pipeline.prefix = prefix;
                let mut fallback = Fallback {
                    chars: FxHashMap::default(),
                    bytes: components::byte_tokens(&vocab)?,
                    cut: cut.unwrap_or(Spaces::Runs),
                    strips_first,
                };
                pipeline.apart.extend(fallback.bytes);
                for (id, byte) in fallback.bytes.iter().zip(0..=u8::MAX) {
                    tokens[*id as usize] = vec![byte];
                }
                fallback.index(&tokens, |id| is_special.contains(&id) || pipeline.apart.contains(&id));
                if ignore_merges && cut.is_none() {
                    fallback.cut = Spaces::Nowhere;
                }
                pipeline.fallback = Some(Arc::new(fallback));
                Pattern::Gpt2
            }
        };
        if !pipeline.is_plain() || pipeline.template != Template::default() {
            pipeline.components = Some(Components {
                normalizer: self.normalizer,
                pre_tokenizer: self.pre_tokenizer,
                post_processor: self.post_processor,
                decoder: self.decoder,
            });
        }
        let ignore_merges = ignore_merges || pattern == Pattern::Characters;
        Ok((Parts { pattern, tokens, merges, specials, ignore_merges }, pipeline))
    }

    /// What merges join, and how text is cut.
    fn units(&self, normalizer: &[super::normalize::Step]) -> Refused<Units> {
        if components::is_byte_level(&self.pre_tokenizer) {
            components::check_decoder(&self.decoder, "ByteLevel")?;
            return components::byte_level(&self.pre_tokenizer).map(Units::Bytes);
        }
        if self.model.byte_fallback {
            let (cut, prefix) = components::spaces(&self.pre_tokenizer, normalizer)?;
            let strips_first = components::strips_first(&self.decoder)?;
            return Ok(Units::Fallback { cut, prefix, strips_first });
        }
        if !self.pre_tokenizer.is_null() {
            return Err(format!(
                "the pre-tokenizer has no ByteLevel, and only byte-level vocabularies and those with \
                 byte_fallback are supported: {}",
                self.pre_tokenizer
            ));
        }
        components::check_decoder(&self.decoder, "Fuse")?;
        Ok(Units::Characters)
    }
}

/// What merges join.
enum Units {
    Characters,
    Bytes(Cutting),
    Fallback { cut: Option<Spaces>, prefix: Prefix, strips_first: bool },
}

impl Units {
    /// The bytes that an entry of the vocabulary spells, if it spells any.
    fn bytes(&self, text: &str) -> Option<Vec<u8>> {
        match self {
            Self::Characters => Some(text.as_bytes().to_vec()),
            Self::Bytes(_) => unspell(text),
            // A space is written as its sign, so an entry with a space is never made.
            Self::Fallback { .. } => {
                (!text.contains(' ')).then(|| Fallback::with_spaces(text).into_owned().into_bytes())
            }
        }
    }

    /// Whether text can become this entry of the vocabulary without a merge that makes it.
    fn is_piece(&self, text: &str, ignore_merges: bool) -> bool {
        self.bytes(text)
            .is_some_and(|bytes| bytes.len() == 1 || (ignore_merges && String::from_utf8(bytes).is_ok()))
    }

    /// Whether an entry of the vocabulary stands for its own text.
    fn is_spelled_alike(&self, text: &str) -> bool {
        self.bytes(text).is_none_or(|bytes| bytes == text.as_bytes())
    }
}

impl Model {
    fn check(&self, units: &Units) -> Refused<()> {
        if self.dropout.is_some_and(|rate| rate > 0.0) {
            return Err("merge dropout makes ids random and is not supported".to_owned());
        }
        let texts = [
            ("continuing_subword_prefix", &self.continuing_subword_prefix),
            ("end_of_word_suffix", &self.end_of_word_suffix),
        ];
        for (name, text) in texts {
            if let Some(text) = text.as_deref().filter(|text| !text.is_empty()) {
                return Err(format!("{name} {text:?} is not supported"));
            }
        }
        // With all bytes in the vocabulary nothing is unknown, so a token for it never appears.
        match &self.unk_token {
            Some(token) if matches!(units, Units::Characters) => {
                Err(format!("unk_token {token:?} is not supported: unknown characters are errors"))
            }
            _ => Ok(()),
        }
    }
}

impl Spelling {
    fn pair(&self) -> Refused<(&str, &str)> {
        match self {
            Self::Pair(left, right) => Ok((left, right)),
            Self::Joined(text) => {
                text.split_once(' ').ok_or_else(|| format!("merge {text:?} is not two tokens"))
            }
        }
    }
}
