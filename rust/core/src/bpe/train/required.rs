//! Tokens that a vocabulary has to have: merges after all others make what is still missing.

use rustc_hash::{FxHashMap, FxHashSet};

use super::super::merges::Merge;
use super::super::pretokenize::Pattern;
use crate::{Error, Result};

/// Tokens and merges to append to a vocabulary.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Chains {
    pub(super) tokens: Vec<Vec<u8>>,
    pub(super) merges: Vec<Merge>,
}

/// Checks that text can become each of the tokens.
///
/// # Errors
/// [`Error::Value`] if one is empty, or is text that the pattern cuts.
pub(super) fn check(required: &[Vec<u8>], pattern: Pattern) -> Result<()> {
    for token in required {
        if token.is_empty() {
            return Err(Error::value("a required token needs bytes, got an empty string"));
        }
        // Bytes that are not text by themselves can be a part of a piece.
        let num_pieces = std::str::from_utf8(token).map_or(1, |text| pattern.pieces(text).count());
        if num_pieces > 1 {
            return Err(Error::value(format!(
                "required token {:?} is cut into {num_pieces} pieces by pattern {}, so no text can become it; \
                 make it a special token or leave it out",
                String::from_utf8_lossy(token),
                pattern.name()
            )));
        }
    }
    Ok(())
}

/// An upper bound of the tokens that [`chains`] adds.
pub(super) fn most_ids(required: &[Vec<u8>]) -> usize {
    let distinct: FxHashSet<_> = required.iter().collect();
    distinct.into_iter().map(|token| token.len() - 1).sum()
}

/// For each required token, the merges that join from left to right what the other merges leave of it.
///
/// Merges that come later never change what earlier ones do, so a token made by them stays reachable.
pub(super) fn chains(required: &[Vec<u8>], tokens: &[Box<[u8]>], merges: &[Merge]) -> Chains {
    if required.is_empty() {
        return Chains::default();
    }
    let mut ids: FxHashMap<Vec<u8>, u32> =
        tokens.iter().zip(0..).map(|(token, id)| (token.to_vec(), id)).collect();
    let mut rules: FxHashMap<(u32, u32), (usize, u32)> = merges
        .iter()
        .enumerate()
        .map(|(rank, merge)| ((merge.left, merge.right), (rank, merge.new)))
        .collect();
    let mut added = Chains::default();
    for token in required {
        let mut rest: Vec<u32> =
            token.iter().filter_map(|&byte| ids.get([byte].as_slice()).copied()).collect();
        loop {
            let found = rest
                .windows(2)
                .enumerate()
                .filter_map(|(at, pair)| rules.get(&(pair[0], pair[1])).map(|&(rank, new)| (rank, at, new)));
            if let Some((_, at, new)) = found.min() {
                rest.splice(at..at + 2, [new]);
            } else if let [left, right, ..] = rest[..] {
                let len: usize = [left, right].iter().map(|&id| bytes_of(tokens, &added, id).len()).sum();
                let next = (tokens.len() + added.tokens.len()) as u32;
                let new = *ids.entry(token[..len].to_vec()).or_insert(next);
                if new == next {
                    added.tokens.push(token[..len].to_vec());
                }
                rules.insert((left, right), (rules.len(), new));
                added.merges.push(Merge { left, right, new });
            } else {
                break;
            }
        }
    }
    added
}

fn bytes_of<'t>(tokens: &'t [Box<[u8]>], added: &'t Chains, id: u32) -> &'t [u8] {
    let id = id as usize;
    if id < tokens.len() { &tokens[id] } else { &added.tokens[id - tokens.len()] }
}

#[cfg(test)]
mod tests {
    use super::super::super::reference;
    use super::*;
    use proptest::prelude::*;

    /// Three letters and the tokens of random rules over them.
    fn vocabulary(rules: &[Merge]) -> (Vec<Box<[u8]>>, Vec<Merge>) {
        let mut tokens: Vec<Box<[u8]>> = b"abc".iter().map(|&byte| Box::from([byte])).collect();
        let mut merges: Vec<Merge> = Vec::new();
        for rule in rules {
            let number = |id: u32| id % tokens.len() as u32;
            let (left, right) = (number(rule.left), number(rule.right));
            let bytes = [&*tokens[left as usize], &*tokens[right as usize]].concat();
            let is_known = merges.iter().any(|merge| (merge.left, merge.right) == (left, right));
            if !is_known && tokens.iter().all(|token| **token != *bytes) {
                merges.push(Merge { left, right, new: tokens.len() as u32 });
                tokens.push(bytes.into());
            }
        }
        (tokens, merges)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        #[test]
        fn required_tokens_are_what_their_bytes_become(
            rules in reference::merges(3, 8),
            required in proptest::collection::vec(proptest::collection::vec(b'a'..=b'c', 1..7), 1..6),
        ) {
            let (tokens, merges) = vocabulary(&rules);
            let most = most_ids(&required);
            for num_merges in 0..=merges.len() {
                let added = chains(&required, &tokens[..3 + num_merges], &merges[..num_merges]);
                prop_assert!(added.tokens.len() <= most);
                let all: Vec<_> = merges[..num_merges].iter().chain(&added.merges).copied().collect();
                for token in &required {
                    let letters: Vec<u32> = token.iter().map(|&byte| u32::from(byte - b'a')).collect();
                    let ids = reference::merge(&all, &letters);
                    prop_assert_eq!(ids.len(), 1);
                    prop_assert_eq!(bytes_of(&tokens[..3 + num_merges], &added, ids[0]), token.as_slice());
                }
            }
        }
    }
}
