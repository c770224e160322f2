//! The manager: what lives as long as the cache, and everything but admission and the step.

use super::NONE;
use super::events::Events;
use super::pool::Pool;
use super::sequence::{Sequence, Sequences, Share, State};
use super::store::{Counters, Group, Store};
use super::trie::Trie;
use crate::{Error, Result};

/// Counts since the beginning, and sizes now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Live sequences, preempted ones included.
    pub num_sequences: usize,
    /// Blocks of tokens in the prefix index.
    pub num_stored: usize,
    /// Tokens of admitted and resumed sequences.
    pub num_queried: u64,
    /// Those of them that were in the cache.
    pub num_hit: u64,
    /// Blocks that lost their content to make room.
    pub num_evicted: u64,
    /// Blocks given back because an equal one was stored.
    pub num_merged: u64,
    /// Blocks that were copied.
    pub num_copied: u64,
    /// Sequences that were preempted.
    pub num_preempted: u64,
}

/// Blocks of tokens in one or more groups of layers, sequences that list them, and the prefixes they share.
#[derive(Debug)]
pub struct KvManager {
    pub(super) store: Store,
    pub(super) sequences: Sequences,
    /// Blocks of each group that admission leaves for sequences that grow.
    pub(super) watermark: usize,
    /// Blocks of each group set aside for admitted sequences.
    pub(super) promised: Vec<usize>,
    /// The handle that each row of the caller's tables was written for, or -1.
    pub(super) rows: Vec<i64>,
    pub(super) num_queried: u64,
    pub(super) num_hit: u64,
    pub(super) num_copied: u64,
    num_preempted: u64,
    epoch: i64,
    /// Sequences of a step that need more than the next place of their last block.
    pub(super) busy: Vec<(u32, u32)>,
}

impl KvManager {
    /// Free blocks, no sequences.
    ///
    /// # Errors
    /// [`Error::Value`] if there is no group, a pool has no block, a block has no token, a window is 0, or a slot would
    /// not fit 31 bits.
    pub fn new(groups: &[Group], block_size: usize, watermark: usize) -> Result<Self> {
        Self::build(groups, block_size, watermark, u32::MAX)
    }

    /// A manager where every block of tokens has the same hash: slow, and otherwise the same.
    ///
    /// # Errors
    /// As [`Self::new`].
    #[doc(hidden)]
    pub fn with_equal_hashes(groups: &[Group], block_size: usize, watermark: usize) -> Result<Self> {
        Self::build(groups, block_size, watermark, 0)
    }

    fn build(groups: &[Group], block_size: usize, watermark: usize, hash_mask: u32) -> Result<Self> {
        if groups.is_empty() || groups.len() > 64 {
            return Err(Error::value(format!("expected 1 to 64 groups of layers, got {}", groups.len())));
        }
        for (index, group) in groups.iter().enumerate() {
            let slots = group.num_blocks.saturating_mul(block_size);
            if slots == 0 || slots > i32::MAX as usize {
                return Err(Error::value(format!(
                    "{} blocks of {block_size} tokens: expected at least one of each and at most 2^31 - 1 tokens, so \
                     that a slot is an int32",
                    group.num_blocks
                )));
            }
            if group.window == Some(0) || (group.window.is_none() && group.sinks > 0) {
                return Err(Error::value(format!(
                    "group {index} has the window {:?} and {} sinks: a window is at least 1, sinks need a window",
                    group.window, group.sinks
                )));
            }
            if watermark >= group.num_blocks {
                return Err(Error::value(format!(
                    "a watermark of {watermark} leaves nothing of {} blocks",
                    group.num_blocks
                )));
            }
        }
        let capacity = groups.iter().map(|group| group.num_blocks).max().unwrap_or(0);
        Ok(Self {
            store: Store {
                block_size,
                groups: groups.to_vec(),
                pools: groups.iter().map(|group| Pool::new(group.num_blocks)).collect(),
                trie: Trie::new(capacity, block_size, groups.len(), hash_mask),
                now: 0,
                counters: Counters::default(),
            },
            sequences: Sequences::default(),
            watermark,
            promised: vec![0; groups.len()],
            rows: Vec::new(),
            num_queried: 0,
            num_hit: 0,
            num_copied: 0,
            num_preempted: 0,
            epoch: 0,
            busy: Vec::new(),
        })
    }

    /// Tokens per block.
    pub fn block_size(&self) -> usize {
        self.store.block_size
    }

    /// The groups, in order.
    pub fn groups(&self) -> &[Group] {
        &self.store.groups
    }

    /// Blocks of a group that no sequence lists: free ones and cached ones.
    pub fn num_available(&self, group: usize) -> usize {
        self.store.pools[group].num_available()
    }

    /// Those of them that hold a prefix.
    pub fn num_cached(&self, group: usize) -> usize {
        self.store.pools[group].num_cached()
    }

    /// Bytes of the arrays for a stored block: its tokens, its node and its row in each pool.
    pub fn bytes_per_block(&self) -> f64 {
        self.store.trie.bytes_per_node() + (self.store.groups.len() * Pool::BYTES_PER_BLOCK) as f64
    }

    /// Counts since the beginning, and sizes now.
    pub fn stats(&self) -> Stats {
        let counters = self.store.counters;
        Stats {
            num_sequences: self.sequences.iter().count(),
            num_stored: self.store.trie.len(),
            num_queried: self.num_queried,
            num_hit: self.num_hit,
            num_evicted: counters.num_evicted,
            num_merged: counters.num_merged,
            num_copied: self.num_copied,
            num_preempted: self.num_preempted,
        }
    }

    /// Starts `n` sequences that share the blocks of another one, without a copy until one of them writes.
    ///
    /// # Errors
    /// [`Error::Key`] if the handle is unknown; [`Error::Value`] if it is preempted or `n` is out of range.
    pub fn fork(&mut self, handle: i64, n: usize) -> Result<Vec<i64>> {
        let at = self.sequences.resolve_all(&[handle], State::Running)?[0];
        if n > 1 << 20 {
            return Err(Error::value(format!("{n} forks at once: expected at most 2^20")));
        }
        self.sequences.get_mut(at).room = 0;
        let handles: Vec<i64> = (0..n).map(|_| self.fork_one(at)).collect();
        Ok(handles)
    }

    fn fork_one(&mut self, of: usize) -> i64 {
        let num_groups = self.store.groups.len();
        let at = self.sequences.open(num_groups);
        let mut fork = std::mem::take(self.sequences.get_mut(at));
        let parent = self.sequences.get(of);
        fork.blocks.extend_from_slice(&parent.blocks);
        fork.unstored.extend_from_slice(&parent.unstored);
        fork.shares.copy_from_slice(&parent.shares);
        fork.shares.iter_mut().for_each(|share| share.promised = 0);
        (fork.len, fork.target, fork.num_stored) = (parent.len, 0, parent.num_stored);
        (fork.tip, fork.root, fork.retention) = (parent.tip, parent.root, parent.retention);
        fork.is_stale = parent.is_stale;
        for (index, &block) in fork.blocks.iter().enumerate() {
            if block != NONE {
                self.store.pools[index % num_groups].acquire(block);
            }
        }
        self.store.trie.enter(fork.tip);
        self.store.trie.enter(fork.root);
        promise(&mut self.promised, &mut fork, &self.store);
        *self.sequences.get_mut(at) = fork;
        self.sequences.handle(at)
    }

    /// Takes back the last `counts[i]` tokens of sequence `handles[i]`, such as rejected drafts.
    ///
    /// # Errors
    /// [`Error::Key`] for an unknown handle; [`Error::Value`] for one that comes twice, for more tokens than there are,
    /// for a prompt that is not in the cache as a whole, or if a window has dropped what the sequence would see again.
    /// Nothing changes then.
    pub fn rollback(&mut self, handles: &[i64], counts: &[i64]) -> Result<()> {
        if handles.len() != counts.len() {
            return Err(Error::value(format!("{} handles but {} counts", handles.len(), counts.len())));
        }
        let places = self.sequences.resolve_all(handles, State::Running)?;
        let size = self.store.block_size;
        for ((&at, &count), &handle) in places.iter().zip(counts).zip(handles) {
            let sequence = self.sequences.get(at);
            let is_whole = sequence.num_tokens(size) <= sequence.len;
            let Some(len) = usize::try_from(count)
                .ok()
                .and_then(|count| sequence.len.checked_sub(count))
                .filter(|_| is_whole)
            else {
                return Err(Error::value(format!(
                    "cannot take {count} tokens back from the sequence {handle}: {} are in the cache of {}",
                    sequence.len,
                    sequence.num_tokens(size).max(sequence.len)
                )));
            };
            let is_gone = |(group, share): (&Group, &Share)| {
                let first = group.first_seen(len, size).max(group.sink_places(size));
                share.kept > first
            };
            if self.store.groups.iter().zip(&sequence.shares).any(is_gone) {
                return Err(Error::value(format!(
                    "cannot take {count} tokens back from the sequence {handle}: its window has moved on"
                )));
            }
        }
        for (&at, &count) in places.iter().zip(counts) {
            let sequence = self.sequences.get_mut(at);
            sequence.len -= count as usize;
            sequence.unstored.truncate(sequence.len.saturating_sub(sequence.num_stored * size));
            while sequence.num_stored > sequence.len / size {
                if sequence.num_stored - 1 == sequence.len / size {
                    let tokens = &self.store.trie.tokens(sequence.tip)[..sequence.len % size];
                    sequence.unstored.extend_from_slice(tokens);
                }
                let parent = self.store.trie.parent(sequence.tip);
                self.store.trie.enter(parent);
                self.store.trie.leave(sequence.tip);
                sequence.tip = parent;
                sequence.num_stored -= 1;
            }
            let end = sequence.len.div_ceil(size);
            release_from(&mut self.store, sequence, end);
            sequence.room = 0;
            promise(&mut self.promised, sequence, &self.store);
        }
        Ok(())
    }

    /// Stores the full blocks of sequences now, not at their next step.
    ///
    /// # Errors
    /// [`Error::Key`] for an unknown handle, [`Error::Value`] for one that comes twice or is preempted.
    pub fn commit(&mut self, handles: &[i64]) -> Result<()> {
        for at in self.sequences.resolve_all(handles, State::Running)? {
            self.store.commit(self.sequences.get_mut(at));
        }
        Ok(())
    }

    /// Ends sequences, preempted or not. What they stored stays until its room is needed; with `is_committed`, their
    /// last full blocks are stored too.
    ///
    /// # Errors
    /// [`Error::Key`] if a handle is unknown, [`Error::Value`] if one comes twice; nothing is freed then.
    pub fn free(&mut self, handles: &[i64], is_committed: bool) -> Result<()> {
        self.sequences.start_call();
        let mut places = Vec::with_capacity(handles.len());
        for &handle in handles {
            let at = self.sequences.resolve(handle, State::Running);
            places.push(
                at.or_else(|error| self.sequences.resolve(handle, State::Preempted).map_err(|_| error))?,
            );
        }
        for at in places {
            if is_committed {
                // A preempted one has no tokens in the cache, and so nothing to store.
                self.store.commit(self.sequences.get_mut(at));
            }
            self.vacate(at);
            let sequence = self.sequences.get(at);
            self.store.trie.leave(sequence.tip);
            self.store.trie.leave(sequence.root);
            self.sequences.close(at);
        }
        Ok(())
    }

    /// Gives the blocks of sequences back, last blocks first, but keeps their tokens for [`Self::resume`].
    ///
    /// # Errors
    /// [`Error::Key`] for an unknown handle; [`Error::Value`] for one that comes twice, is preempted already, or was
    /// stepped without tokens. Nothing changes then.
    pub fn preempt(&mut self, handles: &[i64]) -> Result<()> {
        let places = self.sequences.resolve_all(handles, State::Running)?;
        if let Some(at) = places.iter().position(|&at| {
            let sequence = self.sequences.get(at);
            let num_tokens = sequence.num_tokens(self.store.block_size);
            num_tokens < sequence.len || num_tokens == 0
        }) {
            return Err(Error::value(format!(
                "the sequence {} cannot be preempted: it was stepped without its tokens",
                handles[at]
            )));
        }
        for at in places {
            self.store.commit(self.sequences.get_mut(at));
            let tokens = self.store.tokens_of(self.sequences.get(at));
            self.vacate(at);
            let sequence = self.sequences.get_mut(at);
            (sequence.unstored, sequence.state) = (tokens, State::Preempted);
            self.num_preempted += 1;
        }
        Ok(())
    }

    /// Leaves a sequence without blocks, at its root.
    fn vacate(&mut self, at: usize) {
        let sequence = self.sequences.get_mut(at);
        release_from(&mut self.store, sequence, 0);
        self.store.trie.enter(sequence.root);
        self.store.trie.leave(std::mem::replace(&mut sequence.tip, sequence.root));
        (sequence.len, sequence.num_stored, sequence.room) = (0, 0, 0);
        for (share, promised) in sequence.shares.iter_mut().zip(&mut self.promised) {
            *promised -= share.promised;
            *share = Share::default();
        }
    }

    /// Evicts cached blocks until `num_blocks` more are free in every group, or none is cached there. Admission and
    /// steps evict what they need; this does it before, when there is time. Returns how many became free in each group.
    pub fn evict(&mut self, num_blocks: usize) -> Vec<usize> {
        let before: Vec<usize> = self.store.pools.iter().map(Pool::num_free).collect();
        for (group, &before) in before.iter().enumerate() {
            while self.store.pools[group].num_free() - before < num_blocks && self.store.evict(group) {}
        }
        self.store.pools.iter().zip(before).map(|(pool, before)| pool.num_free() - before).collect()
    }

    /// Forgets all prefixes if `epoch` is not that of the last call: the weights have changed, and what was computed
    /// before is of no use to new sequences. Those that live go on and store nothing more.
    pub fn reset(&mut self, epoch: i64) -> bool {
        if epoch == self.epoch {
            return false;
        }
        self.epoch = epoch;
        for sequence in self.sequences.iter_mut() {
            sequence.unstored = self.store.tokens_of(sequence);
            (sequence.tip, sequence.num_stored) = (sequence.root, 0);
            (sequence.is_stale, sequence.room) = (true, 0);
        }
        self.store.trie.clear(self.sequences.iter().flat_map(|sequence| [sequence.tip, sequence.root]));
        self.store.pools.iter_mut().for_each(Pool::clear);
        true
    }

    /// Says what time it is, in the unit of the `until` of requests: what was kept until then is kept no longer.
    ///
    /// # Errors
    /// [`Error::Value`] if time goes back.
    pub fn expire(&mut self, now: u32) -> Result<()> {
        if now < self.store.now || now == NONE {
            return Err(Error::value(format!("the time {now} is before {} or too large", self.store.now)));
        }
        self.store.now = now;
        self.store.pools.iter_mut().for_each(|pool| pool.expire(now));
        Ok(())
    }

    /// Records events from now on.
    pub fn record_events(&mut self) {
        self.store.trie.events.get_or_insert_default();
    }

    /// The events since the last call; none if they are not recorded.
    pub fn take_events(&mut self) -> Events {
        self.store.trie.events.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

/// Gives back the blocks of a sequence from a place on, the last first: a prefix is of use to more than its end.
pub(super) fn release_from(store: &mut Store, sequence: &mut Sequence, place: usize) {
    let num_groups = store.groups.len();
    let end = sequence.blocks.len().min(place * num_groups);
    for row in sequence.blocks[end..].chunks_exact(num_groups).rev() {
        for (group, &block) in row.iter().enumerate().rev() {
            store.release(group, block, sequence.retention);
        }
    }
    sequence.blocks.truncate(end);
    sequence.num_published = sequence.num_published.min(place);
}

/// Sets aside what a sequence still needs for the tokens that are known or reserved.
pub(super) fn promise(promised: &mut [usize], sequence: &mut Sequence, store: &Store) {
    for (group, promised) in promised.iter_mut().enumerate() {
        let needed = store.still_needs(sequence, group);
        *promised = *promised + needed - std::mem::replace(&mut sequence.shares[group].promised, needed);
    }
}
