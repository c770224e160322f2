//! Merges recovered from vocabularies that only say which tokens there are and which comes first.

/// Where the last join inside a token is, if joins make the whole token.
///
/// `begins` are the places where the units begin that joining starts from, and the end. Of all neighbours that join to
/// something with a rank, those of the lowest are joined, the leftmost first. What happens inside a token does not
/// depend on what is around it, so the last join that makes a token is always the same, and is its merge rule.
pub(super) fn last_join<R: Ord + Copy>(
    token: &[u8],
    mut begins: Vec<usize>,
    rank: impl Fn(&[u8]) -> Option<R>,
) -> Option<usize> {
    let mut ranks: Vec<Option<R>> = begins.windows(3).map(|part| rank(&token[part[0]..part[2]])).collect();
    loop {
        let (at, _) = ranks
            .iter()
            .enumerate()
            .filter_map(|(at, rank)| Some((at, (*rank)?)))
            .min_by_key(|&(_, rank)| rank)?;
        if ranks.len() == 1 {
            return Some(begins[1]);
        }
        begins.remove(at + 1);
        ranks.remove(at);
        if at > 0 {
            ranks[at - 1] = rank(&token[begins[at - 1]..begins[at + 1]]);
        }
        if at < ranks.len() {
            ranks[at] = rank(&token[begins[at]..begins[at + 2]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_join_follows_the_ranks_inside_a_token() {
        let rank = |bytes: &[u8]| {
            ["a", "b", "c", "bc", "ab", "abc", "cc"].iter().position(|t| t.as_bytes() == bytes)
        };
        let last = |token: &str| last_join(token.as_bytes(), (0..=token.len()).collect(), rank);
        assert_eq!(last("abc"), Some(1));
        assert_eq!(last("ab"), Some(1));
        // No two of its parts join to a token, and one part has nothing to join.
        assert_eq!(last("acb"), None);
        assert_eq!(last("a"), None);
    }
}
