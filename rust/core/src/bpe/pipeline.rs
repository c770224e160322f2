//! What surrounds the merges in a tokenizer file: changes to text, other ways to cut it, added tokens, templates.

use std::borrow::Cow;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use serde_json::Value;

use super::cut::Cut;
use super::fallback::Fallback;
use super::normalize::{Place, Step};
use super::special::Rules;

/// Empty for a tokenizer made here.
#[derive(Debug, Clone, Default)]
pub(super) struct Pipeline {
    /// Changes to text before it is cut.
    pub(super) normalizer: Vec<Step>,
    /// A space in front of each text that does not start with one.
    pub(super) prefix: Prefix,
    /// Cuts text instead of the tokenizer's pattern.
    pub(super) cut: Option<Arc<Cut>>,
    /// White space at the end of a text is one piece, which the pattern cl100k would cut after a line end.
    pub(super) joins_last_space: bool,
    /// Characters are the units that merges join, not bytes.
    pub(super) fallback: Option<Arc<Fallback>>,
    /// Added tokens that are not found like any special token, by id.
    pub(super) rules: FxHashMap<u32, Rules>,
    /// Tokens that no merge makes and no piece is: added ones, and entries that spell no bytes.
    pub(super) apart: FxHashSet<u32>,
    /// Tokens around a text when the caller asks for them.
    pub(super) template: Template,
    /// The components as the file has them, which is how they are saved again.
    pub(super) components: Option<Components>,
}

/// Where a space is put in front.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Prefix {
    /// Nowhere.
    #[default]
    Never,
    /// At the start of the whole text.
    First,
    /// There and after each added token.
    Always,
}

/// Ids before and after a text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Template {
    pub(super) before: Vec<u32>,
    pub(super) after: Vec<u32>,
}

/// JSON objects of a `tokenizer.json`.
#[derive(Debug, Clone, Default)]
pub(super) struct Components {
    pub(super) normalizer: Value,
    pub(super) pre_tokenizer: Value,
    pub(super) post_processor: Value,
    pub(super) decoder: Value,
}

impl Pipeline {
    /// Whether the token has no part in merging.
    pub(super) fn is_apart(&self, id: u32) -> bool {
        self.apart.contains(&id)
    }

    /// Whether text goes to the built-in pattern as it is.
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        self.normalizer.is_empty()
            && self.cut.is_none()
            && !self.joins_last_space
            && self.fallback.is_none()
            && self.prefix == Prefix::Never
    }

    /// What is done to normalized text between added tokens before it is cut.
    pub(super) fn finish<'t>(&self, text: &'t str, place: Place) -> Cow<'t, str> {
        let text = match &self.fallback {
            Some(_) => Fallback::with_spaces(text),
            None => Cow::Borrowed(text),
        };
        let is_due = match self.prefix {
            Prefix::Never => false,
            Prefix::First => place == Place::First,
            Prefix::Always => place != Place::Continued,
        };
        if is_due && !text.starts_with(' ') { Cow::Owned(format!(" {text}")) } else { text }
    }

    /// Feeds a fingerprint with what changes ids; nothing for an empty pipeline.
    pub(super) fn hash(&self, mut update: impl FnMut(&[u8])) {
        if let Some(Components { normalizer, pre_tokenizer, post_processor, decoder }) = &self.components {
            for component in [normalizer, pre_tokenizer, post_processor, decoder] {
                update(component.to_string().as_bytes());
            }
        }
        let mut rules: Vec<_> = self.rules.iter().collect();
        rules.sort_unstable_by_key(|(id, _)| **id);
        for (id, rules) in rules {
            let Rules { is_plain, single_word, lstrip, rstrip, normalized } = *rules;
            update(&id.to_le_bytes());
            update(&[is_plain, single_word, lstrip, rstrip, normalized].map(u8::from));
        }
    }
}
