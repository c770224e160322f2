//! Disjoint sets whose representative is their smallest member.

/// Sets over `0..n`.
#[derive(Debug, Clone)]
pub struct UnionFind {
    parents: Vec<u32>,
}

impl UnionFind {
    /// Each of `0..n` alone.
    pub fn new(n: u32) -> Self {
        Self { parents: (0..n).collect() }
    }

    /// The smallest member of the set of `member`.
    pub fn find(&mut self, mut member: u32) -> u32 {
        while self.parents[member as usize] != member {
            let parent = self.parents[member as usize];
            // Halving the path keeps later searches short.
            self.parents[member as usize] = self.parents[parent as usize];
            member = parent;
        }
        member
    }

    /// [`UnionFind::find`] without shortening the path, for several threads at once.
    pub fn peek(&self, mut member: u32) -> u32 {
        while self.parents[member as usize] != member {
            member = self.parents[member as usize];
        }
        member
    }

    /// Joins the sets of two members.
    pub fn join(&mut self, a: u32, b: u32) {
        let (a, b) = (self.find(a), self.find(b));
        self.parents[a.max(b) as usize] = a.min(b);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn sets_are_the_components_of_the_joined_pairs(pairs in prop::collection::vec((0u32..30, 0u32..30), 0..40)) {
            let mut sets = UnionFind::new(30);
            let mut labels: Vec<u32> = (0..30).collect();
            for &(a, b) in &pairs {
                sets.join(a, b);
                let (a, b) = (labels[a as usize], labels[b as usize]);
                labels.iter_mut().filter(|label| **label == a.max(b)).for_each(|label| *label = a.min(b));
            }
            prop_assert!((0..30).all(|member| sets.peek(member) == labels[member as usize]));
            prop_assert!((0..30).all(|member| sets.find(member) == labels[member as usize]));
        }
    }
}
