//! The definitions in their plainest form, which the fast versions are tested against.

use proptest::prelude::*;

use super::merges::Merge;

/// Applies merges as they are defined: while any pair has a rule, merge the leftmost pair of lowest rank.
pub(super) fn merge(merges: &[Merge], ids: &[u32]) -> Vec<u32> {
    let mut ids = ids.to_vec();
    let rank = |pair: &[u32]| merges.iter().position(|rule| [rule.left, rule.right] == *pair);
    while let Some((rank, at)) =
        ids.windows(2).enumerate().filter_map(|(at, pair)| Some((rank(pair)?, at))).min()
    {
        ids.splice(at..at + 2, [merges[rank].new]);
    }
    ids
}

/// Random rules over `alphabet` single tokens: each joins two tokens that exist before it.
pub(super) fn merges(alphabet: u32, max_len: usize) -> impl Strategy<Value = Vec<Merge>> {
    proptest::collection::vec((any::<u32>(), any::<u32>()), 0..max_len).prop_map(move |draws| {
        let mut rules: Vec<Merge> = Vec::new();
        for (left, right) in draws {
            let known = alphabet + rules.len() as u32;
            let (left, right) = (left % known, right % known);
            if rules.iter().all(|rule| (rule.left, rule.right) != (left, right)) {
                rules.push(Merge { left, right, new: known });
            }
        }
        rules
    })
}
