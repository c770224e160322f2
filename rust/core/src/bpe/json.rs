//! `tokenizer.json`, the format of the `tokenizers` package.
//!
//! Saved files load there and give the same ids. Loading refuses, with a reason, what this tokenizer would
//! encode differently. A character tokenizer is stored as BPE without merges, pretokenizer and byte alphabet;
//! there `tokenizers` gives the same ids for known characters, and drops unknown ones where we fail.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Merge;
use super::gpt2::{by_id, merge_of, not_bytes, spell, unspell};
use super::pretokenize::Pattern;
use super::tokenizer::{Parts, Tokenizer};
use crate::{Error, Result};

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
        let file: File = serde_json::from_str(text)
            .map_err(|error| Error::value(format!("not a tokenizer.json with a BPE model: {error}")))?;
        Self::new(file.into_parts().map_err(Error::Value)?)
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
        let part = path.with_extension(format!("json.{}", std::process::id()));
        let write = |text: &[u8]| {
            let mut file = fs::File::create(&part)?;
            file.write_all(text)?;
            file.sync_all()?;
            fs::rename(&part, path)
        };
        write(self.to_json().as_bytes()).map_err(|source| {
            // The unfinished file is useless; that it cannot be removed changes nothing.
            let _ = fs::remove_file(&part);
            Error::Io { path: path.clone(), source }
        })
    }

    /// The text of the `tokenizer.json`; equal tokenizers give equal text.
    pub fn to_json(&self) -> String {
        let is_bytes = self.pattern != Pattern::Characters;
        let spelling = |(id, token): (usize, &[u8])| {
            let is_spelled = is_bytes && !self.is_special(id as u32);
            if is_spelled { spell(token) } else { String::from_utf8_lossy(token).into_owned() }
        };
        let vocab: Vec<String> = self.vocab.iter().enumerate().map(spelling).collect();
        let joined = |rule: &Merge| format!("{} {}", vocab[rule.left as usize], vocab[rule.right as usize]);
        let file = Saved {
            version: "1.0",
            truncation: (),
            padding: (),
            added_tokens: self.specials().map(|(name, id)| AddedToken::special(name, id)).collect(),
            normalizer: (),
            pre_tokenizer: pre_tokenizer(self.pattern),
            post_processor: (),
            decoder: if is_bytes { byte_level(true) } else { json!({"type": "Fuse"}) },
            model: SavedModel {
                kind: "BPE",
                dropout: (),
                unk_token: (),
                continuing_subword_prefix: (),
                end_of_word_suffix: (),
                fuse_unk: false,
                byte_fallback: false,
                ignore_merges: self.ignore_merges,
                merges: self.merges.list().iter().map(joined).collect(),
                vocab: ById(vocab),
            },
        };
        // Strings, numbers and string keys always have a JSON form.
        serde_json::to_string_pretty(&file).unwrap_or_default() + "\n"
    }
}

/// What is written, in the order in which `tokenizers` writes it; `()` is null.
#[derive(Serialize)]
struct Saved {
    version: &'static str,
    truncation: (),
    padding: (),
    added_tokens: Vec<AddedToken>,
    normalizer: (),
    pre_tokenizer: Value,
    post_processor: (),
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
struct ById(Vec<String>);

impl Serialize for ById {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().enumerate().map(|(id, token)| (token, id)))
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
    fn special(name: &str, id: u32) -> Self {
        Self {
            id,
            content: name.to_owned(),
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: false,
            special: true,
        }
    }
}

type Refused<T> = std::result::Result<T, String>;

impl File {
    fn into_parts(self) -> Refused<Parts> {
        for (name, value) in
            [("truncation", &self.truncation), ("padding", &self.padding), ("normalizer", &self.normalizer)]
        {
            if !value.is_null() {
                return Err(format!("{name} is not supported, found {}", kind_of(value)));
            }
        }
        if !self.post_processor.is_null() && kind_of(&self.post_processor) != "ByteLevel" {
            return Err(format!(
                "a post-processor that adds tokens is not supported, found {}",
                kind_of(&self.post_processor)
            ));
        }
        let pattern = self.pattern()?;
        let expected = if pattern == Pattern::Characters { "Fuse" } else { "ByteLevel" };
        if kind_of(&self.decoder) != expected {
            return Err(format!("the decoder must be {expected}, found {}", kind_of(&self.decoder)));
        }
        self.model.check(pattern)?;
        let Model { mut vocab, merges, ignore_merges, .. } = self.model;
        let mut specials = FxHashSet::default();
        for token in self.added_tokens {
            let AddedToken { id, content, .. } = &token;
            token.check()?;
            if *vocab.entry(content.clone()).or_insert(*id) != *id {
                return Err(format!(
                    "added token {content:?} has id {id} there and {} in the vocabulary",
                    vocab[content]
                ));
            }
            specials.insert(*id);
        }
        let merges = merges.iter().map(|merge| merge_of(&vocab, merge.pair()?)).collect::<Refused<_>>()?;
        let spellings = by_id(&vocab)?;
        let tokens = spellings.iter().enumerate().map(|(id, text)| {
            if pattern == Pattern::Characters || specials.contains(&(id as u32)) {
                Ok(text.as_bytes().to_vec())
            } else {
                unspell(text).ok_or_else(|| not_bytes(text))
            }
        });
        let tokens = tokens.collect::<Refused<_>>()?;
        Ok(Parts {
            pattern,
            tokens,
            merges,
            specials: specials.into_iter().collect(),
            ignore_merges: ignore_merges || pattern == Pattern::Characters,
        })
    }

    fn pattern(&self) -> Refused<Pattern> {
        let same = |pattern: Pattern| settings_equal(&self.pre_tokenizer, &pre_tokenizer(pattern));
        Pattern::ALL.into_iter().find(|&pattern| same(pattern)).ok_or_else(|| {
            format!(
                "the pre-tokenizer is none of the supported patterns (gpt2, cl100k, qwen2, o200k): {}",
                self.pre_tokenizer
            )
        })
    }
}

/// Whether two pre-tokenizers cut alike: equal but for `trim_offsets`, which only concerns offsets.
fn settings_equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys()).filter(|key| *key != "trim_offsets");
            keys.into_iter().all(|key| match (a.get(key), b.get(key)) {
                (Some(a), Some(b)) => settings_equal(a, b),
                // Old files lack this setting and mean true.
                (None, Some(value)) => key == "use_regex" && *value == Value::Bool(true),
                _ => false,
            })
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| settings_equal(a, b))
        }
        _ => a == b,
    }
}

/// The `type` of a component, or its JSON.
fn kind_of(value: &Value) -> String {
    value.get("type").and_then(Value::as_str).map_or_else(|| value.to_string(), str::to_owned)
}

impl Model {
    fn check(&self, pattern: Pattern) -> Refused<()> {
        if let Some(kind) = self.kind.as_deref().filter(|kind| *kind != "BPE") {
            return Err(format!("only BPE models are supported, found {kind}"));
        }
        if self.dropout.is_some_and(|rate| rate > 0.0) {
            return Err("merge dropout makes ids random and is not supported".to_owned());
        }
        if self.byte_fallback {
            return Err("byte_fallback is not supported: only byte-level vocabularies are".to_owned());
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
            Some(token) if pattern == Pattern::Characters => {
                Err(format!("unk_token {token:?} is not supported: unknown characters are errors"))
            }
            _ => Ok(()),
        }
    }
}

impl AddedToken {
    fn check(&self) -> Refused<()> {
        let Self { content, single_word, lstrip, rstrip, special, .. } = self;
        if !special {
            return Err(format!(
                "added token {content:?} is not special: text would always turn into it, which is not supported"
            ));
        }
        if *single_word || *lstrip || *rstrip {
            return Err(format!(
                "added token {content:?} has single_word, lstrip or rstrip, which is not supported"
            ));
        }
        Ok(())
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
