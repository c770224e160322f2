//! The prefix index: one node for each stored block of tokens, below the root of its namespace.
//!
//! An only child is found from its parent, siblings in a table, where a hash of the parent and their tokens leads to.
//! What is found is compared token by token. Nodes are rows of flat arrays, taken and given back without allocation.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use super::NONE;
use super::events::Events;

/// Set in the id of a root, which stands where a node's parent stands.
pub(super) const ROOT: u32 = 1 << 31;

/// Children looked at, newest first, for the longest common beginning: a bound on the time of a miss.
const MAX_SIBLINGS: usize = 64;

#[derive(Debug, Default)]
struct Root {
    name: Box<[u8]>,
    uses: u32,
    first_child: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Node {
    parent: u32,
    /// Odd; 0 while the node is not in the table, which it need not be as long as it has no siblings.
    hash: u32,
    /// Children, blocks, and sequences that end here; a node without any goes.
    uses: u32,
    first_child: u32,
    /// Siblings from the newest to the oldest; of spare nodes, the next spare one.
    next: u32,
    previous: u32,
}

#[derive(Debug)]
pub(super) struct Trie {
    block_size: usize,
    num_groups: usize,
    /// Where the hash begins. Secret, so that nobody can make the table slow; no result depends on it.
    seed: u64,
    /// Tests set it to 0: every block then has the same hash.
    hash_mask: u32,
    tokens: Vec<u32>,
    /// The block of each node in each group; none of a spare node.
    blocks: Vec<u32>,
    nodes: Vec<Node>,
    spare: u32,
    /// Nodes from here on were never used.
    num_touched: u32,
    len: usize,
    /// Nodes with siblings, and those that had some. Open addressing, at most half full.
    table: Vec<u32>,
    roots: Vec<Root>,
    spare_roots: Vec<u32>,
    names: HashMap<Box<[u8]>, u32>,
    pub(super) events: Option<Events>,
}

impl Trie {
    pub(super) fn new(capacity: usize, block_size: usize, num_groups: usize, hash_mask: u32) -> Self {
        Self {
            block_size,
            num_groups,
            seed: RandomState::new().hash_one(0),
            hash_mask,
            tokens: vec![0; capacity * block_size],
            blocks: vec![NONE; capacity * num_groups],
            nodes: vec![Node::default(); capacity],
            spare: NONE,
            num_touched: 0,
            len: 0,
            table: vec![NONE; 2 * capacity + 1],
            roots: Vec::new(),
            spare_roots: Vec::new(),
            names: HashMap::new(),
            events: None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether another node has room.
    pub(super) fn is_full(&self) -> bool {
        self.len == self.nodes.len()
    }

    /// Bytes of the arrays, per node.
    pub(super) fn bytes_per_node(&self) -> f64 {
        let words = self.tokens.len() + self.blocks.len() + self.table.len();
        (words * size_of::<u32>()) as f64 / self.nodes.len() as f64 + size_of::<Node>() as f64
    }

    pub(super) fn tokens(&self, node: u32) -> &[u32] {
        &self.tokens[node as usize * self.block_size..][..self.block_size]
    }

    pub(super) fn parent(&self, node: u32) -> u32 {
        self.nodes[node as usize].parent
    }

    pub(super) fn block(&self, node: u32, group: usize) -> u32 {
        self.blocks[node as usize * self.num_groups + group]
    }

    /// Gives a node its block in a group.
    pub(super) fn attach(&mut self, node: u32, group: usize, block: u32) {
        debug_assert_eq!(self.block(node, group), NONE);
        self.blocks[node as usize * self.num_groups + group] = block;
        self.enter(node);
    }

    /// Takes its block in a group from a node, which may go then.
    pub(super) fn detach(&mut self, node: u32, group: usize) {
        self.blocks[node as usize * self.num_groups + group] = NONE;
        self.leave(node);
    }

    /// The root of a namespace, used once more.
    pub(super) fn root(&mut self, name: &[u8]) -> u32 {
        let index = self.names.get(name).copied().unwrap_or_else(|| {
            let index = self.spare_roots.pop().unwrap_or_else(|| {
                self.roots.push(Root::default());
                self.roots.len() as u32 - 1
            });
            let name: Box<[u8]> = name.into();
            self.roots[index as usize] = Root { name: name.clone(), uses: 0, first_child: NONE };
            self.names.insert(name, index);
            index
        });
        self.roots[index as usize].uses += 1;
        ROOT | index
    }

    /// Counts one more user of a node or root.
    pub(super) fn enter(&mut self, at: u32) {
        *self.uses_mut(at) += 1;
    }

    /// Counts one user less; what nobody uses goes, and so may its ancestors.
    pub(super) fn leave(&mut self, mut at: u32) {
        loop {
            let uses = self.uses_mut(at);
            debug_assert!(*uses > 0, "{at} left once more than entered");
            *uses -= 1;
            if *uses > 0 {
                return;
            }
            if at & ROOT != 0 {
                let root = std::mem::take(&mut self.roots[(at & !ROOT) as usize]);
                self.names.remove(&root.name);
                self.spare_roots.push(at & !ROOT);
                return;
            }
            let parent = self.parent(at);
            self.remove(at);
            at = parent;
        }
    }

    /// The child of `parent` with these tokens, or [`NONE`].
    #[inline(always)]
    pub(super) fn find(&self, parent: u32, tokens: &[u32]) -> u32 {
        let newest = self.first_child(parent);
        // Most chains do not branch, and then nothing has to be hashed.
        if newest == NONE || is_equal(self.tokens(newest), tokens) {
            newest
        } else if self.nodes[newest as usize].next == NONE {
            NONE
        } else {
            self.find_listed(parent, tokens)
        }
    }

    #[inline(never)]
    fn find_listed(&self, parent: u32, tokens: &[u32]) -> u32 {
        let hash = self.hash_of(parent, tokens);
        let mut slot = self.home(hash);
        loop {
            let node = self.table[slot];
            if node == NONE {
                return NONE;
            }
            let i = node as usize;
            if self.nodes[i].hash == hash
                && self.nodes[i].parent == parent
                && is_equal(self.tokens(node), tokens)
            {
                return node;
            }
            slot = self.after(slot);
        }
    }

    /// The child that has the longest beginning in common with `rest`, of those with all their blocks, and its length;
    /// the newest of equals.
    pub(super) fn closest(&self, parent: u32, rest: &[u32]) -> Option<(u32, usize)> {
        let mut best = None;
        let mut child = self.first_child(parent);
        for _ in 0..MAX_SIBLINGS {
            if child == NONE {
                break;
            }
            let common = self.tokens(child).iter().zip(rest).take_while(|(a, b)| a == b).count();
            if common > best.map_or(0, |(_, longest)| longest)
                && (0..self.num_groups).all(|group| self.block(child, group) != NONE)
            {
                best = Some((child, common));
            }
            child = self.nodes[child as usize].next;
        }
        best
    }

    /// Adds a child that does not exist yet, for a user of `parent` that uses the child instead; there must be room.
    pub(super) fn grow(&mut self, parent: u32, tokens: &[u32]) -> u32 {
        let node = if self.spare == NONE {
            self.num_touched += 1;
            self.num_touched - 1
        } else {
            let next = self.nodes[self.spare as usize].next;
            std::mem::replace(&mut self.spare, next)
        };
        let i = node as usize;
        self.tokens[i * self.block_size..][..self.block_size].copy_from_slice(tokens);
        // The parent has the child as a user in place of the one that goes on.
        let sibling = std::mem::replace(self.first_child_mut(parent), node);
        self.nodes[i] = Node { parent, hash: 0, uses: 1, first_child: NONE, next: sibling, previous: NONE };
        if sibling != NONE {
            self.nodes[sibling as usize].previous = node;
            self.list(node);
            if self.nodes[sibling as usize].hash == 0 {
                self.list(sibling);
            }
        }
        self.len += 1;
        if let Some(events) = &mut self.events {
            let name =
                if parent & ROOT == 0 { None } else { Some(&*self.roots[(parent & !ROOT) as usize].name) };
            events.stored(node, parent, name, tokens);
        }
        node
    }

    fn remove(&mut self, node: u32) {
        let Node { parent, hash, previous, next, .. } = self.nodes[node as usize];
        if previous == NONE {
            *self.first_child_mut(parent) = next;
        } else {
            self.nodes[previous as usize].next = next;
        }
        if next != NONE {
            self.nodes[next as usize].previous = previous;
        }
        if hash != 0 {
            self.unlist(node);
        }
        self.nodes[node as usize].next = self.spare;
        self.spare = node;
        self.len -= 1;
        if let Some(events) = &mut self.events {
            events.removed(node);
        }
    }

    /// Puts a node in the table.
    fn list(&mut self, node: u32) {
        let hash = self.hash_of(self.parent(node), self.tokens(node));
        self.nodes[node as usize].hash = hash;
        let mut slot = self.home(hash);
        while self.table[slot] != NONE {
            slot = self.after(slot);
        }
        self.table[slot] = node;
    }

    /// Takes a node out of the table.
    fn unlist(&mut self, node: u32) {
        let mut hole = self.home(self.nodes[node as usize].hash);
        while self.table[hole] != node {
            hole = self.after(hole);
        }
        // What follows moves up, unless that would put it before its home.
        let mut slot = hole;
        loop {
            slot = self.after(slot);
            let moved = self.table[slot];
            if moved == NONE {
                break;
            }
            let home = self.home(self.nodes[moved as usize].hash);
            let stays = if hole < slot { hole < home && home <= slot } else { hole < home || home <= slot };
            if !stays {
                self.table[hole] = moved;
                hole = slot;
            }
        }
        self.table[hole] = NONE;
    }

    /// Removes all nodes. Roots stay with the users that are sequences; each of `roots` is one of them.
    pub(super) fn clear(&mut self, roots: impl Iterator<Item = u32>) {
        self.table.fill(NONE);
        self.blocks.fill(NONE);
        (self.spare, self.num_touched, self.len) = (NONE, 0, 0);
        for root in &mut self.roots {
            (root.uses, root.first_child) = (0, NONE);
        }
        for root in roots {
            self.enter(root);
        }
        for (index, root) in self.roots.iter_mut().enumerate() {
            // A spare root has the name of the empty namespace.
            if root.uses == 0 && self.names.get(&root.name) == Some(&(index as u32)) {
                self.names.remove(&root.name);
                *root = Root::default();
                self.spare_roots.push(index as u32);
            }
        }
        if let Some(events) = &mut self.events {
            events.cleared();
        }
    }

    fn first_child(&self, at: u32) -> u32 {
        if at & ROOT == 0 {
            self.nodes[at as usize].first_child
        } else {
            self.roots[(at & !ROOT) as usize].first_child
        }
    }

    fn first_child_mut(&mut self, at: u32) -> &mut u32 {
        if at & ROOT == 0 {
            &mut self.nodes[at as usize].first_child
        } else {
            &mut self.roots[(at & !ROOT) as usize].first_child
        }
    }

    fn uses_mut(&mut self, at: u32) -> &mut u32 {
        if at & ROOT == 0 {
            &mut self.nodes[at as usize].uses
        } else {
            &mut self.roots[(at & !ROOT) as usize].uses
        }
    }

    fn hash_of(&self, parent: u32, tokens: &[u32]) -> u32 {
        const ODD: [u64; 2] = [0x9E37_79B9_7F4A_7C15, 0xD1B5_4A32_D192_ED03];
        let fold = |a: u64, b: u64| {
            let product = u128::from(a) * u128::from(b);
            product as u64 ^ (product >> 64) as u64
        };
        let mut state = fold(self.seed ^ u64::from(parent), ODD[0]);
        for four in tokens.chunks(4) {
            let word = |at: usize| u64::from(four.get(at).copied().unwrap_or(0));
            state = fold(state ^ (word(0) | word(1) << 32), ODD[1] ^ (word(2) | word(3) << 32));
        }
        (fold(state ^ self.seed, ODD[0]) >> 32) as u32 & self.hash_mask | 1
    }

    fn home(&self, hash: u32) -> usize {
        ((u64::from(hash) * self.table.len() as u64) >> 32) as usize
    }

    fn after(&self, slot: usize) -> usize {
        if slot + 1 == self.table.len() { 0 } else { slot + 1 }
    }

    /// Recounts everything that can be recounted without the sequences; `tips` are the places where sequences end and
    /// their roots.
    pub(super) fn check(&self, tips: &[u32]) -> std::result::Result<(), String> {
        let live = (0..self.roots.len()).filter(|&root| self.roots[root].uses > 0);
        let live: Vec<u32> = live.map(|root| ROOT | root as u32).collect();
        let mut uses: HashMap<u32, u32> = HashMap::new();
        let (mut found, mut next) = (live.clone(), 0);
        while let Some(&parent) = found.get(next) {
            next += 1;
            let (mut child, mut before) = (self.first_child(parent), NONE);
            while child != NONE {
                let Node { parent: above, hash, previous, next, .. } = self.nodes[child as usize];
                if (above, previous) != (parent, before) || found.len() > live.len() + self.len {
                    return Err(format!("node {child} is linked wrongly"));
                }
                let is_alone = (previous, next) == (NONE, NONE);
                if self.find(parent, self.tokens(child)) != child || (hash == 0 && !is_alone) {
                    return Err(format!("node {child} cannot be found from its parent"));
                }
                let blocks = (0..self.num_groups).filter(|&group| self.block(child, group) != NONE).count();
                *uses.entry(child).or_default() += blocks as u32;
                *uses.entry(parent).or_default() += 1;
                found.push(child);
                (before, child) = (child, next);
            }
        }
        let mut listed: Vec<u32> = self.table.iter().copied().filter(|&node| node != NONE).collect();
        let has_hash = |&node: &u32| self.nodes[node as usize].hash != 0;
        let mut hashed: Vec<u32> = found[live.len()..].iter().copied().filter(has_hash).collect();
        listed.sort_unstable();
        hashed.sort_unstable();
        if found.len() - live.len() != self.len || listed != hashed {
            return Err(format!(
                "there are {} nodes, {} are counted; {} of {} are in the table",
                found.len() - live.len(),
                self.len,
                listed.len(),
                hashed.len()
            ));
        }
        for &tip in tips {
            *uses.entry(tip).or_default() += 1;
        }
        for at in found {
            let counted = if at & ROOT == 0 {
                self.nodes[at as usize].uses
            } else {
                self.roots[(at & !ROOT) as usize].uses
            };
            let real = uses.remove(&at).unwrap_or(0);
            if counted != real || real == 0 {
                return Err(format!("{at} has {real} uses, {counted} are counted"));
            }
        }
        uses.is_empty().then_some(()).ok_or_else(|| format!("{uses:?} are used but absent"))
    }
}

/// Whether two blocks of tokens are the same. Those of the usual size are compared without a call or a loop.
#[inline]
fn is_equal(a: &[u32], b: &[u32]) -> bool {
    match (<&[u32; 16]>::try_from(a), <&[u32; 16]>::try_from(b)) {
        (Ok(a), Ok(b)) => a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0,
        _ => a == b,
    }
}
