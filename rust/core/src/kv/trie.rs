//! The prefix index: one node for each stored block of tokens, below the root of its namespace.
//!
//! A node's place in the table follows from a hash of its parent and its tokens; what is found there is compared
//! token by token. Nodes are rows of flat arrays, taken and given back without allocation.

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
    /// The block of each node in each group.
    blocks: Vec<u32>,
    nodes: Vec<Node>,
    spare: u32,
    /// Nodes from here on were never used.
    num_touched: u32,
    len: usize,
    /// Open addressing, at most half full.
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
            blocks: vec![0; capacity * num_groups],
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
    pub(super) fn find(&self, parent: u32, tokens: &[u32]) -> u32 {
        let newest = self.first_child(parent);
        // Most chains do not branch, and then nothing has to be hashed.
        if newest == NONE || self.tokens(newest) == tokens {
            return newest;
        }
        if self.nodes[newest as usize].next == NONE {
            return NONE;
        }
        let hash = self.hash_of(parent, tokens);
        let mut slot = self.home(hash);
        loop {
            let node = self.table[slot];
            if node == NONE {
                return NONE;
            }
            let i = node as usize;
            if self.nodes[i].hash == hash && self.nodes[i].parent == parent && self.tokens(node) == tokens {
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

    /// Adds a child that does not exist yet. It has no user but is a user of its parent; there must be room.
    pub(super) fn insert(&mut self, parent: u32, tokens: &[u32]) -> u32 {
        let node = if self.spare == NONE {
            self.num_touched += 1;
            self.num_touched - 1
        } else {
            let next = self.nodes[self.spare as usize].next;
            std::mem::replace(&mut self.spare, next)
        };
        let i = node as usize;
        self.tokens[i * self.block_size..][..self.block_size].copy_from_slice(tokens);
        self.blocks[i * self.num_groups..][..self.num_groups].fill(NONE);
        self.nodes[i].parent = parent;
        self.nodes[i].uses = 0;
        self.nodes[i].first_child = NONE;
        let newest = std::mem::replace(self.first_child_mut(parent), node);
        self.nodes[i].next = newest;
        self.nodes[i].previous = NONE;
        if newest != NONE {
            self.nodes[newest as usize].previous = node;
        }
        self.enter(parent);
        let hash = self.hash_of(parent, tokens);
        self.nodes[i].hash = hash;
        let mut slot = self.home(hash);
        while self.table[slot] != NONE {
            slot = self.after(slot);
        }
        self.table[slot] = node;
        self.len += 1;
        if let Some(events) = &mut self.events {
            let name =
                if parent & ROOT == 0 { None } else { Some(&*self.roots[(parent & !ROOT) as usize].name) };
            events.stored(node, parent, name, tokens);
        }
        node
    }

    fn remove(&mut self, node: u32) {
        let i = node as usize;
        let (previous, next) = (self.nodes[i].previous, self.nodes[i].next);
        if previous == NONE {
            *self.first_child_mut(self.nodes[i].parent) = next;
        } else {
            self.nodes[previous as usize].next = next;
        }
        if next != NONE {
            self.nodes[next as usize].previous = previous;
        }
        let mut hole = self.home(self.nodes[i].hash);
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
        self.nodes[i].next = self.spare;
        self.spare = node;
        self.len -= 1;
        if let Some(events) = &mut self.events {
            events.removed(node);
        }
    }

    /// Removes all nodes. Roots stay with the users that are sequences; each of `roots` is one of them.
    pub(super) fn clear(&mut self, roots: impl Iterator<Item = u32>) {
        self.table.fill(NONE);
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
        (fold(state ^ self.seed, ODD[0]) >> 32) as u32 & self.hash_mask
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
        let found: Vec<u32> = self.table.iter().copied().filter(|&node| node != NONE).collect();
        if found.len() != self.len {
            return Err(format!("the table has {} nodes, {} are counted", found.len(), self.len));
        }
        let mut uses: HashMap<u32, u32> = HashMap::new();
        for &node in &found {
            let blocks = (0..self.num_groups).filter(|&group| self.block(node, group) != NONE).count();
            *uses.entry(node).or_default() += blocks as u32;
            *uses.entry(self.parent(node)).or_default() += 1;
            let mut seen = 0;
            let mut child = self.first_child(self.parent(node));
            while child != NONE && child != node && seen <= self.len {
                (child, seen) = (self.nodes[child as usize].next, seen + 1);
            }
            if child != node || self.find(self.parent(node), self.tokens(node)) != node {
                return Err(format!("node {node} cannot be found from its parent"));
            }
        }
        for &tip in tips {
            *uses.entry(tip).or_default() += 1;
        }
        let live =
            (0..self.roots.len() as u32).filter(|&r| self.roots[r as usize].uses > 0).map(|r| ROOT | r);
        for at in found.into_iter().chain(live) {
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
