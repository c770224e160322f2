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
mod words;

use std::cmp::Reverse;

use super::gpt2::BYTES_BY_ID;
use super::tokenizer::{Parts, Tokenizer};
use crate::{Error, Monitor, Result};

use count::PieceTable;
pub use count::{CountOptions, PieceCounts};
use learn::{Learner, Limits};
use words::Words;

/// What to learn.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    /// Number of ids: 256 bytes, the merged tokens, the specials. Smaller if no pair is left to merge.
    pub vocab_size: usize,
    /// Pairs that occur less often are not merged.
    pub min_frequency: u64,
    /// Names of the special tokens, which get the last ids.
    pub specials: Vec<String>,
}

/// Learns a tokenizer from counted pieces. The monitor counts merges.
///
/// # Errors
/// [`Error::Value`] if the vocabulary cannot hold the bytes and specials, or no text was counted;
/// [`Error::Interrupted`] if cancelled.
pub fn train(counts: PieceCounts, options: &TrainOptions, monitor: &Monitor) -> Result<Tokenizer> {
    let TrainOptions { vocab_size, min_frequency, specials } = options;
    let fixed = BYTES_BY_ID.len() + specials.len();
    if *vocab_size < fixed {
        return Err(Error::value(format!(
            "vocab_size must be at least {fixed} for 256 bytes and {} special tokens, got {vocab_size}",
            specials.len()
        )));
    }
    let pattern = counts.pattern();
    let words = words_of(counts.join())?;
    let tokens = BYTES_BY_ID.iter().map(|&byte| Box::from([byte])).collect();
    let limits = Limits { min_frequency: (*min_frequency).max(1), max_len: u32::MAX };
    let mut learner = Learner::new(words, tokens, limits);
    while learner.tokens.len() < vocab_size - specials.len() && learner.step() {
        monitor.advance(1)?;
    }
    let Learner { tokens, merges, .. } = learner;
    let tokens = tokens.into_iter().map(Vec::from).collect();
    let parts = Parts { pattern, tokens, merges, specials: vec![], ignore_merges: false };
    Tokenizer::new(parts.with_specials(specials)?)
}

/// The pieces as words over single bytes.
fn words_of(pieces: PieceTable) -> Result<Words> {
    if pieces.len() == 0 {
        return Err(Error::value("there is no text to train on"));
    }
    let mut id_of_byte = [0; 256];
    for (id, &byte) in BYTES_BY_ID.iter().enumerate() {
        id_of_byte[byte as usize] = id as u32;
    }
    // Neighbours in this order share their first bytes and are merged at the same time.
    let mut order: Vec<_> =
        pieces.iter().map(|(piece, count)| (Reverse(count), piece.prefix(), piece)).collect();
    order.sort_unstable_by_key(|(count, prefix, _)| (*count, *prefix));
    let num_bytes = order.iter().map(|(.., piece)| piece.bytes().len()).sum();
    let mut words = Words::with_capacity(order.len(), num_bytes)?;
    for (Reverse(count), _, piece) in &order {
        words.push(piece.bytes().iter().map(|&byte| (id_of_byte[byte as usize], 1)), *count);
    }
    Ok(words)
}

/// Asks the processor for memory that will be needed soon.
#[inline]
fn prefetch<T>(place: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint: it reads nothing and cannot fault, whatever the address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(place.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

#[cfg(test)]
mod tests {
    use super::super::merges::Merge;
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
        let tokens = BYTES_BY_ID.iter().map(|&byte| Box::from([byte])).collect();
        let mut fast = Learner::new(words_of(table).unwrap(), tokens, limits);
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
