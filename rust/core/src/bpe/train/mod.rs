//! Learning merges from text.
//!
//! Counts of unique pieces are gathered first, from texts handed in as they come; a whole text is one document,
//! so pieces that contain line ends are learned too. Merges equal those of the `BpeTrainer` of `tokenizers` with
//! the byte alphabet as initial alphabet: the most frequent pair first, of equally frequent pairs the one
//! with the smaller ids. Counts have 64 bits.

mod count;
mod learn;
#[cfg(test)]
mod reference;
mod required;
mod start;
mod words;

pub use count::{CountOptions, PieceCounts};

use super::tokenizer::{Parts, Tokenizer};
use crate::{Error, Monitor, Result};
use learn::{Learner, Limits};
use start::Start;

/// What to learn.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    /// Number of ids: those at the start, which are 256 bytes or those of `base`, the merged and the required
    /// tokens, the specials. Smaller if no pair is left to merge.
    pub vocab_size: usize,
    /// Pairs that occur less often are not merged.
    pub min_frequency: u64,
    /// No longer token is learned, in bytes.
    pub max_token_length: Option<usize>,
    /// Names of the special tokens, which get the last ids; those that `base` has keep theirs.
    pub specials: Vec<String>,
    /// Tokens to have even if they are not learned. Their merges come last.
    pub required: Vec<Vec<u8>>,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            vocab_size: 32768,
            min_frequency: 2,
            max_token_length: None,
            specials: Vec::new(),
            required: Vec::new(),
        }
    }
}

/// Learns a tokenizer from counted pieces, or more merges for `base`. The monitor counts merges.
///
/// # Errors
/// [`Error::Value`] if the vocabulary is too small for what it must hold, no text was counted, `base` does not
/// cut text as it was counted, or a required token can never be used; [`Error::Interrupted`] if cancelled.
pub fn train(
    counts: PieceCounts,
    options: &TrainOptions,
    base: Option<&Tokenizer>,
    monitor: &Monitor,
) -> Result<Tokenizer> {
    let pattern = counts.pattern();
    let start = base.map_or_else(|| Ok(Start::bytes()), |base| Start::of(base, pattern))?;
    let mut specials = options.specials.clone();
    specials.retain(|name| base.is_none_or(|base| base.special_id(name).is_err()));
    required::check(&options.required, pattern)?;
    // An upper bound of the ids that required tokens take; what learning saves of it is learned instead.
    let mut reserve = required::most_ids(&options.required);
    let fixed = start.tokens.len() + specials.len() + reserve;
    if options.vocab_size < fixed {
        let start = if base.is_some() { "the tokens of the base" } else { "256 bytes" };
        let required =
            if reserve > 0 { format!(", {reserve} pieces of required tokens") } else { String::new() };
        return Err(Error::value(format!(
            "vocab_size must be at least {fixed} for {start}{required} and {} special tokens, got {}",
            specials.len(),
            options.vocab_size,
        )));
    }
    let most = options.vocab_size - specials.len();
    let limits = Limits {
        min_frequency: options.min_frequency.max(1),
        max_len: options.max_token_length.map_or(u32::MAX, |len| u32::try_from(len).unwrap_or(u32::MAX)),
    };
    let (words, names) = (start.words(counts.join())?, &options.specials);
    let mut merges = start.merges;
    let mut learner = Learner::new(words, start.tokens, limits, start.unmade, names);
    let last = loop {
        let mut has_more = true;
        while learner.tokens.len() < most - reserve && has_more {
            has_more = learner.step();
            monitor.advance(u64::from(has_more))?;
        }
        merges.append(&mut learner.merges);
        let mut last = required::chains(&options.required, &learner.tokens, &merges);
        // A learned merge seldom takes apart what two chains shared; then it is undone.
        while learner.tokens.len() + last.tokens.len() > most {
            has_more = false;
            if merges.pop().is_some_and(|merge| merge.new as usize + 1 == learner.tokens.len()) {
                learner.tokens.pop();
            }
            last = required::chains(&options.required, &learner.tokens, &merges);
        }
        if !has_more || learner.tokens.len() + last.tokens.len() == most {
            break last;
        }
        reserve = last.tokens.len();
    };
    let tokens = learner.tokens.into_iter().map(Vec::from).chain(last.tokens).collect();
    merges.extend(last.merges);
    let parts =
        Parts { pattern, tokens, merges, specials: start.specials, ignore_merges: start.ignore_merges };
    Tokenizer::with_pipeline(parts.with_specials(&specials)?, start.pipeline)
}

#[cfg(test)]
mod tests {
    use super::super::merges::Merge;
    use super::count::PieceTable;
    use super::*;
    use proptest::prelude::*;

    /// Pieces over the letters `abcd` with counts, and what both learners make of them.
    fn learn(pieces: &[(Vec<u8>, u64)], limits: Limits) -> [(Vec<Vec<u8>>, Vec<Merge>); 2] {
        let mut table = PieceTable::default();
        for (piece, count) in pieces {
            table.add(piece, *count);
        }
        let mut reference = reference::Learner::new(pieces, limits);
        while reference.step() {}
        let start = Start::bytes();
        let words = start.words(table).unwrap();
        let mut fast = Learner::new(words, start.tokens, limits, start.unmade, &[]);
        while fast.step() {}
        let tokens = fast.tokens.into_iter().map(Vec::from).collect();
        [(reference.tokens, reference.merges), (tokens, fast.merges)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn the_fast_learner_equals_the_reference(
            pieces in proptest::collection::btree_map(
                proptest::collection::vec(b'a'..b'd', 1..20), prop_oneof![1u64..4, 1u64..300], 1..40,
            ),
            min_frequency in 1u64..4,
            max_len in prop_oneof![Just(u32::MAX), 2u32..9],
        ) {
            let pieces: Vec<_> = pieces.into_iter().collect();
            let [reference, fast] = learn(&pieces, Limits { min_frequency, max_len });
            prop_assert_eq!(fast, reference);
        }
    }

    #[test]
    fn counts_beyond_32_bits_decide_the_order() {
        let pieces = [(b"ab".to_vec(), (1 << 32) + 1), (b"cd".to_vec(), 3 << 32)];
        for (tokens, _) in learn(&pieces, Limits { min_frequency: 2, max_len: u32::MAX }) {
            assert_eq!(tokens[256..], [b"cd", b"ab"]);
        }
    }
}
