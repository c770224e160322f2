//! The token at which weights, added in order, reach a target: by histogram rounds, never by a sort of everything.

/// A token with its weight. Larger keys come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) key: u64,
    pub(super) weight: u64,
}

/// Members that are sorted at once.
const FEW: usize = 64;
const BITS: u32 = 10;

/// A key that orders by `major`, then by id ascending.
pub(super) fn key(major: u32, id: usize) -> u64 {
    u64::from(major) << 32 | u64::from(u32::MAX - id as u32)
}

pub(super) fn id(key: u64) -> usize {
    (u32::MAX - key as u32) as usize
}

/// The key of the member at which the weights, added from the largest key down, are at least `target`; that of the
/// last if they never are, 0 if there are none. Keys differ. The members are consumed.
pub(super) fn reach(members: &mut Vec<Member>, mut target: u64) -> u64 {
    while members.len() > FEW {
        let (low, high) =
            members.iter().fold((u64::MAX, 0), |(low, high), m| (low.min(m.key), high.max(m.key)));
        let shift = (u64::BITS - (high - low).leading_zeros()).saturating_sub(BITS);
        let mut bins = [0u64; 1 << BITS];
        for member in &*members {
            bins[((high - member.key) >> shift) as usize] += member.weight;
        }
        let mut before = 0;
        let last = ((high - low) >> shift) as usize;
        let mut chosen = last;
        for (bin, &weight) in bins[..last].iter().enumerate() {
            if before + weight >= target {
                chosen = bin;
                break;
            }
            before += weight;
        }
        target = target.saturating_sub(before);
        members.retain(|member| ((high - member.key) >> shift) as usize == chosen);
    }
    members.sort_unstable_by_key(|member| std::cmp::Reverse(member.key));
    let mut taken = 0;
    for member in &*members {
        taken += member.weight;
        if taken >= target {
            return member.key;
        }
    }
    members.last().map_or(0, |member| member.key)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Few majors make long ties.
        #[test]
        fn reach_is_what_a_sort_finds(
            majors in prop::collection::vec(prop_oneof![0u32..3, any::<u32>()], 1..500), part in 0.0f64..1.1,
        ) {
            let mut members: Vec<Member> = majors
                .iter()
                .enumerate()
                .map(|(at, &major)| Member { key: key(major, at), weight: u64::from(major % 5) })
                .collect();
            let target = (part * members.iter().map(|m| m.weight).sum::<u64>() as f64) as u64;
            let mut sorted = members.clone();
            sorted.sort_by_key(|m| std::cmp::Reverse(m.key));
            let mut taken = 0;
            let found = sorted.iter().find(|m| { taken += m.weight; taken >= target });
            prop_assert_eq!(reach(&mut members, target), found.or(sorted.last()).unwrap().key);
        }
    }

    #[test]
    fn keys_give_back_their_ids() {
        assert_eq!([0, 7, (1 << 23) - 1].map(|at| id(key(3, at))), [0, 7, (1 << 23) - 1]);
        assert!(key(2, 0) > key(1, 0) && key(1, 0) > key(1, 1));
        assert_eq!(reach(&mut Vec::new(), 5), 0);
    }
}
