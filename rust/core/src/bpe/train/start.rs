//! What learning starts from: single bytes, or a tokenizer whose merges come first.

use std::cmp::Reverse;

use rustc_hash::FxHashMap;

use super::super::gpt2::BYTES_BY_ID;
use super::super::long::{self, Work};
use super::super::merges::{Merge, Merges};
use super::super::pipeline::Pipeline;
use super::super::pretokenize::Pattern;
use super::super::tokenizer::{Parts, Tokenizer};
use super::count::PieceTable;
use super::words::Words;
use crate::{Error, Result};

/// The tokens that there are before anything is learned.
pub(super) struct Start<'b> {
    pub(super) tokens: Vec<Box<[u8]>>,
    pub(super) merges: Vec<Merge>,
    pub(super) specials: Vec<u32>,
    /// Ordinary tokens of a base that its merges never make; learning may.
    pub(super) unmade: FxHashMap<Box<[u8]>, u32>,
    pub(super) ignore_merges: bool,
    pub(super) pipeline: Pipeline,
    byte_tokens: [u32; 256],
    base: Option<&'b Tokenizer>,
}

impl<'b> Start<'b> {
    /// The bytes in GPT-2's order.
    pub(super) fn bytes() -> Self {
        let mut byte_tokens = [0; 256];
        for (id, &byte) in BYTES_BY_ID.iter().enumerate() {
            byte_tokens[byte as usize] = id as u32;
        }
        Self {
            tokens: BYTES_BY_ID.iter().map(|&byte| Box::from([byte])).collect(),
            merges: Vec::new(),
            specials: Vec::new(),
            unmade: FxHashMap::default(),
            ignore_merges: false,
            pipeline: Pipeline::default(),
            byte_tokens,
            base: None,
        }
    }

    /// All tokens of a tokenizer.
    ///
    /// # Errors
    /// [`Error::Value`] if it does not cut text by `pattern` alone.
    pub(super) fn of(base: &'b Tokenizer, pattern: Pattern) -> Result<Self> {
        if !base.pipeline.is_plain() || base.pattern() != pattern {
            return Err(Error::value(format!(
                "the base cuts text in its own way ({}), but pieces were counted by {}; only a tokenizer with \
                 one of the patterns and no normalizer can be trained further",
                base.pattern_name(),
                pattern.name()
            )));
        }
        let Parts { tokens, merges, specials, ignore_merges, .. } = base.parts();
        let is_apart = |id: u32| base.is_special(id) || base.pipeline.is_apart(id);
        let mut is_made = vec![false; tokens.len()];
        for merge in &merges {
            is_made[merge.new as usize] = true;
        }
        let unmade = tokens
            .iter()
            .zip(0..)
            .filter(|&(token, id)| token.len() > 1 && !is_made[id as usize] && !is_apart(id));
        Ok(Self {
            unmade: unmade.map(|(token, id)| (token.as_slice().into(), id)).collect(),
            tokens: tokens.into_iter().map(Vec::into_boxed_slice).collect(),
            merges,
            specials,
            ignore_merges,
            pipeline: base.pipeline.clone(),
            byte_tokens: base.byte_tokens,
            base: Some(base),
        })
    }

    /// The pieces as words over the tokens that the merges make of them.
    ///
    /// # Errors
    /// [`Error::Value`] if there are none.
    pub(super) fn words(&self, pieces: PieceTable) -> Result<Words> {
        if pieces.len() == 0 {
            return Err(Error::value("there is no text to train on"));
        }
        // Neighbours in this order share their first bytes and are merged at the same time.
        let mut order: Vec<_> =
            pieces.iter().map(|(piece, count)| (Reverse(count), piece.prefix(), piece)).collect();
        order.sort_unstable_by_key(|(count, prefix, _)| (*count, *prefix));
        let num_bytes = order.iter().map(|(.., piece)| piece.bytes().len()).sum();
        let mut words = Words::with_capacity(order.len(), num_bytes)?;
        let merges = Merges::new(self.merges.clone())?;
        let (mut ids, mut work) = (Vec::new(), Work::default());
        for (Reverse(count), _, piece) in &order {
            ids.clear();
            let whole =
                |base: &Tokenizer| base.token_id(piece.bytes()).filter(|&id| base.is_whole[id as usize]);
            if let Some(id) = self.base.and_then(whole) {
                ids.push(id);
            } else {
                ids.extend(piece.bytes().iter().map(|&byte| self.byte_tokens[byte as usize]));
            }
            if !self.merges.is_empty() {
                long::merge(&merges, &mut ids, 0, &mut work);
            }
            words.push(ids.iter().map(|&id| (id, self.tokens[id as usize].len() as u32)), *count);
        }
        Ok(words)
    }
}
