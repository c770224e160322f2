//! The `.model` files of sentencepiece: BPE with byte fallback, as of Llama 2, Mistral and Gemma.
//!
//! sentencepiece joins the two neighbours whose joined text is the piece of the best score, the leftmost first, which
//! is BPE with one merge rule for each piece, in the order of scores. A model is read as the `tokenizer.json` that says
//! the same, so it can be saved as one. What such a file cannot say is refused with the reason.
//!
//! Pieces of equal score are merged in the order of their places, which rules cannot say, with one exception: when they
//! are all the repetitions of one character, such as the spaces of Llama 2. A repetition grows from the left, one after
//! the other, so what could be merged further to the right are still single characters, and the longest result is
//! always the leftmost: rules in the order of length do the same.

mod wire;

use std::cmp::Reverse;
use std::path::Path;

use rustc_hash::FxHashMap;
use serde_json::{Value, json};

use super::fallback::SPACE;
use super::join::last_join;
use super::tokenizer::Tokenizer;
use crate::{Error, Result};
use wire::{Field, Message, Wire};

/// Finding the joins inside a piece takes the square of its length; pieces of usual files have 16 characters.
const MAX_PIECE_BYTES: usize = 1 << 10;

/// The kind of model that is read.
const BPE: u64 = 2;

impl Tokenizer {
    /// Loads a sentencepiece model. User-defined pieces are found in every text, or, if they are to be special, only
    /// where a call allows them.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read; [`Error::Format`] if it is no such model, naming the byte, or has
    /// a feature that this tokenizer does not have.
    pub fn from_sentencepiece(path: &Path, special_user_defined: bool) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        let mut model = Model::read(&bytes)
            .map_err(|reason| Error::format(path, format!("not a sentencepiece model: {reason}")))?;
        if special_user_defined {
            let user_defined = model.pieces.iter_mut().filter(|piece| piece.kind == Kind::UserDefined);
            user_defined.for_each(|piece| piece.kind = Kind::Control);
        }
        let json = model.to_json().map_err(|reason| Error::format(path, reason))?;
        Self::from_json(&json.to_string()).map_err(|error| Error::format(path, error.to_string()))
    }
}

/// What a file says, as far as it matters for ids.
#[derive(Debug)]
struct Model<'b> {
    pieces: Vec<Piece<'b>>,
    kind: u64,
    byte_fallback: bool,
    spaces_are_suffixes: bool,
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
    escape_whitespaces: bool,
    /// Name and size of the rules that change characters.
    normalizer: &'b str,
    rules_bytes: usize,
    denormalizer_bytes: usize,
}

#[derive(Debug, Clone, Copy)]
struct Piece<'b> {
    text: &'b str,
    score: f32,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl<'b> Model<'b> {
    fn read(bytes: &'b [u8]) -> Wire<Self> {
        // What a file leaves out has these values.
        let mut model = Self {
            pieces: Vec::new(),
            kind: 1,
            byte_fallback: false,
            spaces_are_suffixes: false,
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
            normalizer: "",
            rules_bytes: 0,
            denormalizer_bytes: 0,
        };
        let mut file = Message::new(bytes);
        while let Some(field) = file.next()? {
            match field.number {
                1 => model.pieces.push(Piece::read(field)?),
                2 => model.read_trainer(field.message()?)?,
                3 => model.read_normalizer(field.message()?)?,
                5 => {
                    let mut rules = field.message()?;
                    while let Some(field) = rules.next()? {
                        if field.number == 2 {
                            model.denormalizer_bytes = field.bytes()?.len();
                        }
                    }
                }
                _ => {}
            }
        }
        if model.pieces.is_empty() { Err("it has no pieces".to_owned()) } else { Ok(model) }
    }

    fn read_trainer(&mut self, mut message: Message<'b>) -> Wire<()> {
        while let Some(field) = message.next()? {
            match field.number {
                3 => self.kind = field.number()?,
                24 => self.spaces_are_suffixes = field.flag()?,
                35 => self.byte_fallback = field.flag()?,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_normalizer(&mut self, mut message: Message<'b>) -> Wire<()> {
        while let Some(field) = message.next()? {
            match field.number {
                1 => self.normalizer = field.text()?,
                2 => self.rules_bytes = field.bytes()?.len(),
                3 => self.add_dummy_prefix = field.flag()?,
                4 => self.remove_extra_whitespaces = field.flag()?,
                5 => self.escape_whitespaces = field.flag()?,
                _ => {}
            }
        }
        Ok(())
    }

    /// The `tokenizer.json` of the same ids, or why there is none.
    fn to_json(&self) -> std::result::Result<Value, String> {
        self.check()?;
        let mut vocab = FxHashMap::default();
        for (id, piece) in self.pieces.iter().enumerate() {
            if let Some(other) = vocab.insert(piece.text, id) {
                return Err(format!("pieces {other} and {id} are both {:?}", piece.text));
            }
        }
        let added_tokens: Vec<_> = self.pieces.iter().enumerate().filter_map(added_token).collect();
        let replace = |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
        let (space, sign) = (" ", SPACE.to_string());
        let mut normalizers = vec![replace(json!({"String": space}), &sign)];
        if self.add_dummy_prefix {
            normalizers.insert(0, json!({"type": "Prepend", "prepend": sign}));
        }
        if self.remove_extra_whitespaces {
            let first = [replace(json!({"Regex": "\\A +"}), ""), replace(json!({"Regex": " {2,}"}), space)];
            normalizers.splice(0..0, first);
            normalizers.push(replace(json!({"Regex": format!("{sign}+\\z")}), ""));
        }
        let mut decoders = vec![
            replace(json!({"String": sign}), space),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if self.add_dummy_prefix || self.remove_extra_whitespaces {
            decoders.push(json!({"type": "Strip", "content": space, "start": 1, "stop": 0}));
        }
        Ok(json!({
            "added_tokens": added_tokens,
            "normalizer": {"type": "Sequence", "normalizers": normalizers},
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {"type": "BPE", "byte_fallback": true, "merges": self.merges(&vocab)?, "vocab": vocab},
        }))
    }

    /// Refuses what would be encoded differently here.
    fn check(&self) -> std::result::Result<(), String> {
        if self.kind != BPE {
            let kind = ["unigram", "BPE", "word", "char"].get((self.kind as usize).wrapping_sub(1));
            return Err(format!(
                "only BPE models are supported, found {}: tempa.load_tokenizer runs the tokenizer.json of others",
                kind.unwrap_or(&"another kind")
            ));
        }
        if self.rules_bytes > 0 {
            return Err(format!(
                "the normalizer {:?} changes characters by rules of its own, which are not supported: train with \
                 normalization_rule_name=identity",
                self.normalizer
            ));
        }
        let refused = [
            (
                !self.byte_fallback,
                "without byte_fallback, characters that are not in the vocabulary have no ids: train with \
                 byte_fallback=true",
            ),
            (self.denormalizer_bytes > 0, "a denormalizer is not supported"),
            (!self.escape_whitespaces, "escape_whitespaces=false is not supported"),
            (self.spaces_are_suffixes, "treat_whitespace_as_suffix is not supported"),
        ];
        if let Some((_, reason)) = refused.into_iter().find(|(is_refused, _)| *is_refused) {
            return Err(reason.to_owned());
        }
        self.pieces.iter().enumerate().try_for_each(|(id, piece)| self.check_piece(id, piece))
    }

    fn check_piece(&self, id: usize, piece: &Piece<'_>) -> std::result::Result<(), String> {
        let Piece { text, score, kind } = *piece;
        let changes_spaces = self.add_dummy_prefix || self.remove_extra_whitespaces;
        let reason = match kind {
            _ if text.is_empty() => "is empty",
            _ if text.len() > MAX_PIECE_BYTES => "has more than 1,024 bytes",
            _ if score.is_nan() => "has no score",
            Kind::Unused => "is unused, which is not supported",
            Kind::Control | Kind::Unknown | Kind::Byte if text.chars().count() == 1 => {
                "is a character, and not an ordinary piece, which is not supported"
            }
            Kind::UserDefined if text.contains(' ') => "is user-defined and has a space",
            Kind::UserDefined if changes_spaces => {
                "is user-defined, and the model adds or removes spaces in a way that no tokenizer.json can say: \
                 user_defined=\"special\" reads such pieces as special tokens"
            }
            _ => return Ok(()),
        };
        Err(format!("piece {id}, {:?}, {reason}", text.chars().take(40).collect::<String>()))
    }

    /// The merge of each piece that joins make, best score first.
    fn merges(&self, vocab: &FxHashMap<&str, usize>) -> std::result::Result<Vec<(&'b str, &'b str)>, String> {
        let normal = |text: &[u8]| {
            let id = *vocab.get(std::str::from_utf8(text).ok()?)?;
            (self.pieces[id].kind == Kind::Normal).then_some(id)
        };
        // Equal for equal scores, also for both zeros.
        let mut scores: Vec<f32> = self.pieces.iter().map(|piece| piece.score + 0.0).collect();
        scores.sort_unstable_by(|a, b| b.total_cmp(a));
        scores.dedup();
        let rank = |score: f32| scores.partition_point(|&better| better > score);
        let ranks: Vec<usize> = self.pieces.iter().map(|piece| rank(piece.score)).collect();
        let mut merges = Vec::new();
        for (id, piece) in self.pieces.iter().enumerate().filter(|(_, piece)| piece.kind == Kind::Normal) {
            let text = piece.text;
            let begins = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
            let Some(at) = last_join(text.as_bytes(), begins, |part| normal(part).map(|id| ranks[id])) else {
                continue;
            };
            let (left, right) = text.split_at(at);
            if let Some(part) = [left, right].into_iter().find(|part| normal(part.as_bytes()).is_none()) {
                return Err(format!("piece {id}, {text:?}, is made from {part:?}, which is not a piece"));
            }
            let mut chars = text.chars();
            let repeated = chars.next().filter(|first| chars.all(|c| c == *first));
            merges.push(Ranked { rank: ranks[id], longest: Reverse(text.len()), repeated, left, right });
        }
        merges.sort_unstable();
        let mut num_repeated: FxHashMap<char, usize> = FxHashMap::default();
        for repeated in merges.iter().filter_map(|merge| merge.repeated) {
            *num_repeated.entry(repeated).or_default() += 1;
        }
        for same in merges.chunk_by(|a, b| a.rank == b.rank).filter(|same| same.len() > 1) {
            let repeated =
                same[0].repeated.filter(|repeated| num_repeated.get(repeated) == Some(&same.len()));
            if repeated.is_none() || same.iter().any(|merge| merge.repeated != repeated) {
                let names = same.iter().map(|merge| format!("{}{}", merge.left, merge.right));
                return Err(format!(
                    "the pieces {:?} have the same score, {}: which is merged first depends on the text, and no \
                     tokenizer.json can say so",
                    names.take(3).collect::<Vec<_>>(),
                    scores[same[0].rank],
                ));
            }
        }
        Ok(merges.into_iter().map(|merge| (merge.left, merge.right)).collect())
    }
}

/// The merge that makes a piece; sorted in the order of ranks, then by length.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ranked<'b> {
    rank: usize,
    longest: Reverse<usize>,
    /// The character that the piece repeats.
    repeated: Option<char>,
    left: &'b str,
    right: &'b str,
}

impl<'b> Piece<'b> {
    fn read(field: Field<'b>) -> Wire<Self> {
        let mut piece = Self { text: "", score: 0.0, kind: Kind::Normal };
        let mut message = field.message()?;
        while let Some(field) = message.next()? {
            match field.number {
                1 => piece.text = field.text()?,
                2 => piece.score = field.float()?,
                3 => {
                    piece.kind = match field.number()? {
                        1 => Kind::Normal,
                        2 => Kind::Unknown,
                        3 => Kind::Control,
                        4 => Kind::UserDefined,
                        5 => Kind::Unused,
                        6 => Kind::Byte,
                        other => return Err(format!("byte {}: no pieces are of type {other}", field.at)),
                    }
                }
                _ => {}
            }
        }
        Ok(piece)
    }
}

/// What is found in text, or only where the caller allows it, instead of being merged.
fn added_token((id, piece): (usize, &Piece<'_>)) -> Option<Value> {
    let is_special = match piece.kind {
        Kind::Unknown | Kind::Control => true,
        // Looked for where spaces have become their sign, as pieces spell them.
        Kind::UserDefined => false,
        Kind::Normal | Kind::Unused | Kind::Byte => return None,
    };
    Some(json!({
        "id": id, "content": piece.text, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": !is_special, "special": is_special,
    }))
}
