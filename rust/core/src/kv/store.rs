//! Blocks and the prefix index together: taking, evicting, storing, finding.

use std::ops::Range;

use super::NONE;
use super::pool::{Pool, Retention};
use super::sequence::Sequence;
use super::trie::Trie;

/// Layers that share block tables: the same positions stay in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// Blocks of its pool.
    pub num_blocks: usize,
    /// How many tokens back a query sees, itself included; all when `None`.
    pub window: Option<usize>,
    /// Tokens at the beginning that every query sees besides its window.
    pub sinks: usize,
}

impl Group {
    /// Places that the sinks cover.
    pub(super) fn sink_places(&self, block_size: usize) -> usize {
        if self.window.is_some() { self.sinks.div_ceil(block_size) } else { 0 }
    }

    /// The first place, sinks aside, that the token at `position` and later ones see.
    pub(super) fn first_seen(&self, position: usize, block_size: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window) / block_size)
    }

    /// Of so many full places, those that the next token sees.
    pub(super) fn seen(&self, num_places: usize, block_size: usize) -> [Range<usize>; 2] {
        let first = self.first_seen(num_places * block_size, block_size);
        [0..self.sink_places(block_size).min(first), first..num_places]
    }

    /// Blocks that a sequence of `num_places` keeps between steps, at most.
    pub(super) fn keeps_at_most(&self, num_places: usize, block_size: usize) -> usize {
        let Some(window) = self.window else { return num_places };
        num_places.min(self.sink_places(block_size) + (window - 1).div_ceil(block_size) + 1)
    }
}

/// What happened since the beginning.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counters {
    pub(super) num_evicted: u64,
    pub(super) num_merged: u64,
}

#[derive(Debug)]
pub(super) struct Store {
    pub(super) block_size: usize,
    pub(super) groups: Vec<Group>,
    pub(super) pools: Vec<Pool>,
    pub(super) trie: Trie,
    pub(super) now: u32,
    pub(super) counters: Counters,
}

/// The stored prefix of a sequence.
#[derive(Debug, Default)]
pub(super) struct Hit {
    /// Nodes of whole blocks.
    pub(super) nodes: Vec<u32>,
    /// The node whose beginning is copied, and how much of it.
    pub(super) partial: Option<(u32, usize)>,
}

impl Store {
    /// A block for a sequence: a free one, or the first to evict. The caller has counted those available.
    pub(super) fn take(&mut self, group: usize) -> u32 {
        if let Some(block) = self.pools[group].take() {
            return block;
        }
        self.evict(group);
        self.pools[group].take().unwrap_or_else(|| unreachable!("blocks are counted before they are taken"))
    }

    /// Makes one cached block of a group free, if there is one.
    pub(super) fn evict(&mut self, group: usize) -> bool {
        let Some(block) = self.pools[group].oldest() else { return false };
        let node = self.pools[group].node(block);
        self.counters.num_evicted += 1;
        // Without its block in a group that needs the whole prefix, a node serves no hit: the others are free too.
        let is_end = self.groups[group].window.is_none();
        for other in (0..self.groups.len()).filter(|&other| is_end || other == group) {
            let block = self.trie.block(node, other);
            if block != NONE {
                self.pools[other].discard(block);
                self.trie.detach(node, other);
            }
        }
        true
    }

    /// Lists the block of a sequence once less.
    pub(super) fn release(&mut self, group: usize, block: u32, retention: Retention) {
        if block != NONE {
            self.pools[group].release(block, retention, self.now);
        }
    }

    /// Blocks that a sequence lacks for the tokens that are known or reserved.
    pub(super) fn still_needs(&self, sequence: &Sequence, group: usize) -> usize {
        let (size, kind) = (self.block_size, &self.groups[group]);
        let wanted = sequence.target.max(sequence.num_tokens(size)).div_ceil(size);
        let dropped = sequence.shares[group].kept.saturating_sub(kind.sink_places(size));
        let held = sequence.blocks.len() / self.groups.len() - dropped;
        kind.keeps_at_most(wanted, size).saturating_sub(held)
    }

    /// Stores the full blocks whose tokens are known, or lists the stored ones in their place.
    ///
    /// Their tokens have to be final, and the work that fills the blocks under way.
    pub(super) fn commit(&mut self, sequence: &mut Sequence) {
        let size = self.block_size;
        let end = if sequence.is_stale { 0 } else { sequence.len.min(sequence.num_tokens(size)) / size };
        let before = sequence.num_stored;
        if end <= before {
            return;
        }
        // The trie keeps their tokens from now on.
        let mut tokens = std::mem::take(&mut sequence.unstored);
        let mut blocks = tokens.chunks_exact(size).take(end - before);
        while blocks.next().is_some_and(|block| self.store_next(sequence, block)) {}
        tokens.drain(..(sequence.num_stored - before) * size);
        sequence.unstored = tokens;
    }

    /// Stores the block at the first place that is not, if there is room.
    fn store_next(&mut self, sequence: &mut Sequence, tokens: &[u32]) -> bool {
        let (place, num_groups) = (sequence.num_stored, self.groups.len());
        let row = &mut sequence.blocks[place * num_groups..][..num_groups];
        let mut node = self.trie.find(sequence.tip, tokens);
        if node == NONE {
            if !self.make_room() {
                return false;
            }
            node = self.trie.grow(sequence.tip, tokens);
        } else if self.can_merge(node, row) {
            self.trie.enter(node);
            self.trie.leave(sequence.tip);
        } else {
            return false;
        }
        sequence.tip = node;
        sequence.num_stored += 1;
        for (group, own) in row.iter_mut().enumerate() {
            let stored = self.trie.block(node, group);
            if *own == stored || *own == NONE {
                continue;
            }
            if stored == NONE {
                self.trie.attach(node, group, *own);
                self.pools[group].set_node(*own, node);
            } else {
                self.pools[group].acquire(stored);
                self.pools[group].release(std::mem::replace(own, stored), sequence.retention, self.now);
                sequence.num_published = sequence.num_published.min(place);
                self.counters.num_merged += 1;
            }
        }
        true
    }

    /// All known tokens of a sequence, those that the trie keeps for it included.
    pub(super) fn tokens_of(&self, sequence: &Sequence) -> Vec<u32> {
        let mut tokens = vec![0; sequence.num_tokens(self.block_size)];
        let (stored, unstored) = tokens.split_at_mut(sequence.num_stored * self.block_size);
        unstored.copy_from_slice(&sequence.unstored);
        let mut node = sequence.tip;
        for block in stored.chunks_exact_mut(self.block_size).rev() {
            block.copy_from_slice(self.trie.tokens(node));
            node = self.trie.parent(node);
        }
        tokens
    }

    /// Room for one more node. Only windows leave nodes without blocks, so only then something may have to go.
    fn make_room(&mut self) -> bool {
        while self.trie.is_full() {
            if !(0..self.groups.len()).any(|group| self.evict(group)) {
                return false;
            }
        }
        true
    }

    /// Whether a sequence can list the blocks of `node` instead of `own` without taking an available block from others:
    /// a cached one is taken only for one that becomes free.
    fn can_merge(&self, node: u32, own: &[u32]) -> bool {
        own.iter().zip(&self.pools).enumerate().all(|(group, (&own, pool))| {
            let stored = self.trie.block(node, group);
            own == NONE || stored == NONE || own == stored || pool.count(stored) > 0 || pool.count(own) == 1
        })
    }

    /// The longest stored prefix that leaves at least one token to compute.
    pub(super) fn find_prefix(&self, root: u32, tokens: &[u32]) -> Hit {
        let size = self.block_size;
        let limit = tokens.len() - 1;
        let mut nodes: Vec<u32> = Vec::with_capacity(limit / size + 1);
        let mut at = root;
        for block in tokens.chunks_exact(size) {
            let node = self.trie.find(at, block);
            if node == NONE {
                break;
            }
            nodes.push(node);
            at = node;
        }
        let num_places = self.usable(&nodes, limit / size);
        // The next block may be known as a whole: then all of it but the last token can be copied.
        let rest = &tokens[num_places * size..limit];
        let partial = match nodes.get(num_places) {
            Some(&node) if (0..self.groups.len()).all(|group| self.trie.block(node, group) != NONE) => {
                (!rest.is_empty()).then_some((node, rest.len().min(size)))
            }
            _ => {
                let at = num_places.checked_sub(1).map_or(root, |last| nodes[last]);
                self.trie.closest(at, rest)
            }
        };
        nodes.truncate(num_places);
        Hit { nodes, partial }
    }

    /// How many of at most `longest` places can be hit: every group must have the blocks that the next token sees.
    fn usable(&self, nodes: &[u32], longest: usize) -> usize {
        let size = self.block_size;
        let mut num_places = longest.min(nodes.len());
        'shorter: loop {
            for (g, group) in self.groups.iter().enumerate().filter(|(_, group)| group.window.is_some()) {
                // Without this block no longer hit is possible either, as far as its window covers it.
                let missing = |place: &usize| self.trie.block(nodes[*place], g) == NONE;
                if let Some(place) = group.seen(num_places, size).into_iter().flatten().rev().find(missing) {
                    num_places = place;
                    continue 'shorter;
                }
            }
            return num_places;
        }
    }
}
