//! The byte alphabet of GPT-2, in which files spell tokens, and GPT-2's own two files.

use std::path::Path;
use std::sync::LazyLock;

use rustc_hash::FxHashMap;

use super::merges::Merge;
use super::pipeline::Template;
use super::pretokenize::Pattern;
use super::tokenizer::{Parts, Tokenizer};
use super::write::write_whole;
use crate::{Error, Result};

/// GPT-2's one special token.
const END_OF_TEXT: &str = "<|endoftext|>";

/// The bytes in the order of their GPT-2 ids, which is the order of the characters that spell them.
pub(super) static BYTES_BY_ID: LazyLock<[u8; 256]> = LazyLock::new(|| {
    let mut bytes: [u8; 256] = std::array::from_fn(|byte| byte as u8);
    bytes.sort_by_key(|&byte| CHAR_OF_BYTE[byte as usize]);
    bytes
});

/// Printable bytes are spelled by the Latin-1 character of that code, the others by characters from U+0100 on.
static CHAR_OF_BYTE: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut next = '\u{100}'..;
    std::array::from_fn(|byte| match byte as u8 {
        byte @ (b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) => char::from(byte),
        _ => next.next().unwrap_or_default(),
    })
});

static BYTE_OF_CHAR: LazyLock<FxHashMap<char, u8>> =
    LazyLock::new(|| CHAR_OF_BYTE.iter().enumerate().map(|(byte, &c)| (c, byte as u8)).collect());

/// Spells bytes as a string of printable characters without spaces.
pub(super) fn spell(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| CHAR_OF_BYTE[byte as usize]).collect()
}

/// The bytes that a string spells, or nothing if it has a character outside the alphabet.
pub(super) fn unspell(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|c| BYTE_OF_CHAR.get(&c).copied()).collect()
}

impl Tokenizer {
    /// Loads the files published with GPT-2: `vocab.bpe` with the merges and `encoder.json` with the ids.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read, [`Error::Format`] if it is not what its name says.
    pub fn from_gpt2(vocab_bpe: &Path, encoder_json: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(encoder_json).map_err(Error::io(encoder_json))?;
        let ids: FxHashMap<String, u32> = serde_json::from_str(&text)
            .map_err(|error| Error::format(encoder_json, format!("not a map from token to id: {error}")))?;
        let spellings = by_id(&ids).map_err(|reason| Error::format(encoder_json, reason))?;
        let merges = std::fs::read_to_string(vocab_bpe).map_err(Error::io(vocab_bpe))?;
        let merges = merges
            .lines()
            .filter(|line| !line.starts_with("#version") && !line.is_empty())
            .map(|line| {
                let pair = line.split_once(' ').ok_or_else(|| format!("merge {line:?} is not two tokens"))?;
                merge_of(&ids, pair)
            })
            .collect::<std::result::Result<_, _>>()
            .map_err(|reason| Error::format(vocab_bpe, reason))?;
        let specials: Vec<u32> = ids.get(END_OF_TEXT).copied().into_iter().collect();
        let tokens = spellings
            .iter()
            .map(|&text| match text {
                END_OF_TEXT => Ok(text.as_bytes().to_vec()),
                _ => unspell(text).ok_or_else(|| Error::format(encoder_json, not_bytes(text))),
            })
            .collect::<Result<_>>()?;
        Self::new(Parts { pattern: Pattern::Gpt2, tokens, merges, specials, ignore_merges: false })
            .map_err(|error| Error::format(encoder_json, error.to_string()))
    }
}

impl Tokenizer {
    /// The texts of GPT-2's two files: merges and ids.
    ///
    /// # Errors
    /// [`Error::Value`] if this is more than the files can say: another pattern, or another special token than GPT-2's.
    pub fn to_gpt2(&self) -> Result<(String, String)> {
        let refuse = |what: &str| Err(Error::value(format!("GPT-2's files cannot hold {what}")));
        if self.pattern_name() != Pattern::Gpt2.name() {
            return refuse(&format!("the pattern {:?}, only \"gpt2\"", self.pattern_name()));
        }
        if !self.pipeline.is_plain() || self.ignore_merges || self.pipeline.template != Template::default() {
            return refuse("a normalizer, a template or ignore_merges");
        }
        if let Some((name, _, _)) = self.added().find(|(name, ..)| *name != END_OF_TEXT) {
            return refuse(&format!("the added token {name:?}, only {END_OF_TEXT:?}"));
        }
        let spelling = |id: u32| self.spelling(id).unwrap_or_default();
        let mut merges = String::from("#version: 0.2\n");
        for Merge { left, right, .. } in self.merges.list() {
            merges.extend([&spelling(*left), " ", &spelling(*right), "\n"]);
        }
        let ids: serde_json::Map<String, serde_json::Value> =
            (0..self.vocab_size() as u32).filter_map(|id| Some((self.spelling(id)?, id.into()))).collect();
        Ok((merges, serde_json::Value::Object(ids).to_string() + "\n"))
    }

    /// Saves [`Tokenizer::to_gpt2`]. Both files appear, or none.
    ///
    /// # Errors
    /// As [`Tokenizer::to_gpt2`]; [`Error::Io`] if a file cannot be written.
    pub fn save_gpt2(&self, vocab_bpe: &Path, encoder_json: &Path) -> Result<()> {
        let (merges, ids) = self.to_gpt2()?;
        write_whole(&[(vocab_bpe, &merges), (encoder_json, &ids)])
    }
}

/// Why a token cannot be read.
pub(super) fn not_bytes(text: &str) -> String {
    format!("token {text:?} is not spelled in the byte-level alphabet")
}

/// The rule that joins two tokens given by their spelling.
pub(super) fn merge_of(
    ids: &FxHashMap<String, u32>,
    (left, right): (&str, &str),
) -> std::result::Result<Merge, String> {
    let id = |token: &str| {
        ids.get(token).copied().ok_or_else(|| {
            format!("merge {left:?} {right:?} needs token {token:?}, which is not in the vocabulary")
        })
    };
    Ok(Merge { left: id(left)?, right: id(right)?, new: id(&format!("{left}{right}"))? })
}

/// Ids beyond this are taken for damage: the vocabulary has a place for each id below its largest.
const MAX_ID: u32 = 1 << 24;

/// The spellings in the order of their ids; an id without a token has an empty one.
pub(super) fn by_id(ids: &FxHashMap<String, u32>) -> std::result::Result<Vec<&str>, String> {
    let len = ids.values().max().map_or(0, |&most| most as usize + 1);
    let mut spellings = vec![""; len.min(MAX_ID as usize)];
    for (text, &id) in ids {
        match spellings.get_mut(id as usize) {
            None => return Err(format!("token {text:?} has id {id}: ids beyond {MAX_ID} are not supported")),
            Some(free @ &mut "") => *free = text.as_str(),
            Some(other) => return Err(format!("tokens {other:?} and {text:?} both have id {id}")),
        }
    }
    Ok(spellings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_the_published_one() {
        assert_eq!(spell(b" a\n\xff\xad\0"), "Ġa\u{10a}ÿ\u{143}\u{100}");
        assert_eq!(unspell("Ġa"), Some(b" a".to_vec()));
        assert_eq!(unspell("a b"), None);
        assert_eq!(
            (BYTES_BY_ID[0], BYTES_BY_ID[93], BYTES_BY_ID[94], BYTES_BY_ID[188]),
            (b'!', b'~', 0xa1, 0)
        );
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(unspell(&spell(&all)), Some(all));
    }
}
