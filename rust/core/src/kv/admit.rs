//! Admission: the stored prefix of a prompt, and whether the whole of it fits.

use super::manager::{KvManager, promise};
use super::pool::{MAX_PRIORITY, Retention};
use super::sequence::State;
use super::store::Hit;
use super::{BlockCopy, NONE};
use crate::{Error, Result};

/// Prompts one after the other, with one entry of every other slice for each; an empty slice stands for defaults.
#[derive(Debug, Clone, Copy, Default)]
pub struct Requests<'a> {
    /// The ids of all prompts.
    pub tokens: &'a [u32],
    /// Where each begins, and where the last ends.
    pub offsets: &'a [i64],
    /// Only prompts of the same namespace share blocks: an adapter, a tenant, the digest of an image.
    pub namespaces: &'a [&'a [u8]],
    /// 0 to [`MAX_PRIORITY`]: what it leaves in the cache stays before that of lower ones.
    pub priorities: &'a [u8],
    /// Until when the priority counts, in the unit of [`KvManager::expire`]; `u32::MAX` and the default: always.
    pub until: &'a [u32],
    /// Tokens beyond the prompt to set blocks aside for.
    pub reserves: &'a [i64],
}

/// What became of requests: the first of them, in order, as far as they fit.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// One for each that was admitted.
    pub handles: Vec<i64>,
    /// How many tokens of each are in the cache, less than all.
    pub num_cached: Vec<i64>,
    /// To do before the next call.
    pub copies: Vec<BlockCopy>,
}

/// A request that is not a sequence yet.
#[derive(Clone, Copy)]
struct Request<'a> {
    tokens: &'a [u32],
    namespace: &'a [u8],
    retention: Retention,
    target: usize,
}

impl KvManager {
    /// Starts sequences with the blocks of their longest stored prefix, as many requests as fit in their order.
    ///
    /// A request fits if all blocks of its prompt and its reserve are available beside those set aside for others
    /// and the watermark. Requests of one call do not hit each other: nothing of them is computed yet.
    ///
    /// # Errors
    /// [`Error::Value`] for an empty prompt, wrong offsets, another number of settings than of prompts, a priority
    /// out of range, or a request that could not fit the empty cache. Nothing changes then.
    pub fn admit(&mut self, requests: Requests<'_>) -> Result<Admission> {
        let checked = self.check_requests(requests)?;
        let mut admission = Admission::default();
        let mut read = Vec::new();
        for request in checked {
            let at = self.sequences.open(self.store.groups.len());
            let root = self.store.trie.root(request.namespace);
            self.store.trie.enter(root);
            let sequence = self.sequences.get_mut(at);
            (sequence.tip, sequence.root) = (root, root);
            (sequence.retention, sequence.target) = (request.retention, request.target);
            if !self.place(at, request.tokens, &mut admission, &mut read) {
                self.store.trie.leave(root);
                self.store.trie.leave(root);
                self.sequences.close(at);
                break;
            }
            admission.handles.push(self.sequences.handle(at));
        }
        self.end_admission(&read);
        Ok(admission)
    }

    /// Admits preempted sequences again, as many as fit in their order: with all their tokens, of which the stored
    /// ones, maybe their own, are in the cache.
    ///
    /// # Errors
    /// [`Error::Key`] for an unknown handle, [`Error::Value`] for one that comes twice or is not preempted.
    pub fn resume(&mut self, handles: &[i64]) -> Result<Admission> {
        let places = self.sequences.resolve_all(handles, State::Preempted)?;
        let mut admission = Admission::default();
        let mut read = Vec::new();
        for (&handle, at) in handles.iter().zip(places) {
            let tokens = std::mem::take(&mut self.sequences.get_mut(at).unstored);
            if !self.place(at, &tokens, &mut admission, &mut read) {
                self.sequences.get_mut(at).unstored = tokens;
                break;
            }
            let sequence = self.sequences.get_mut(at);
            (sequence.state, sequence.is_stale) = (State::Running, false);
            admission.handles.push(handle);
        }
        self.end_admission(&read);
        Ok(admission)
    }

    /// Whether a sequence of so many tokens fits now, without a stored prefix, beside what is set aside.
    pub fn fits(&self, num_tokens: usize) -> bool {
        let size = self.store.block_size;
        let num_places = num_tokens.div_ceil(size);
        self.store.groups.iter().zip(&self.store.pools).zip(&self.promised).all(
            |((group, pool), promised)| {
                group.keeps_at_most(num_places, size) + promised + self.watermark <= pool.num_available()
            },
        )
    }

    fn check_requests<'a>(&self, requests: Requests<'a>) -> Result<Vec<Request<'a>>> {
        let Requests { tokens, offsets, namespaces, priorities, until, reserves } = requests;
        let num = offsets.len().saturating_sub(1);
        for (name, len) in [
            ("namespaces", namespaces.len()),
            ("priorities", priorities.len()),
            ("times", until.len()),
            ("reserves", reserves.len()),
        ] {
            if len != 0 && len != num {
                return Err(Error::value(format!("{num} prompts but {len} {name}")));
            }
        }
        if offsets.first() != Some(&0) || offsets.last().copied() != i64::try_from(tokens.len()).ok() {
            return Err(Error::value(format!("offsets have to go from 0 to the {} tokens", tokens.len())));
        }
        let size = self.store.block_size;
        (0..num)
            .map(|i| {
                let prompt = usize::try_from(offsets[i])
                    .ok()
                    .zip(usize::try_from(offsets[i + 1]).ok())
                    .and_then(|(start, end)| tokens.get(start..end))
                    .filter(|prompt| !prompt.is_empty())
                    .ok_or_else(|| {
                        Error::value(format!(
                            "prompt {i} goes from {} to {}: expected at least one of {} tokens",
                            offsets[i],
                            offsets[i + 1],
                            tokens.len()
                        ))
                    })?;
                let priority = priorities.get(i).copied().unwrap_or(0);
                if priority > MAX_PRIORITY {
                    return Err(Error::value(format!(
                        "prompt {i} has the priority {priority}: expected 0 to {MAX_PRIORITY}"
                    )));
                }
                let reserve = reserves.get(i).copied().unwrap_or(0);
                let target = usize::try_from(reserve).ok().and_then(|reserve| prompt.len().checked_add(reserve));
                let target = target.filter(|&target| i32::try_from(target).is_ok()).ok_or_else(|| {
                    Error::value(format!("prompt {i}: cannot set blocks aside for {reserve} more tokens"))
                })?;
                for group in &self.store.groups {
                    let needed = group.keeps_at_most(target.div_ceil(size), size);
                    if needed + self.watermark > group.num_blocks {
                        return Err(Error::value(format!(
                            "prompt {i} can never fit: it needs {needed} cache blocks, and {} of {} are for admission",
                            group.num_blocks - self.watermark,
                            group.num_blocks
                        )));
                    }
                }
                Ok(Request {
                    tokens: prompt,
                    namespace: namespaces.get(i).copied().unwrap_or(b""),
                    retention: Retention { priority, until: until.get(i).copied().unwrap_or(NONE) },
                    target,
                })
            })
            .collect()
    }

    /// Gives a sequence without blocks those of its stored prefix, if the rest fits too. Blocks that are copied
    /// from are put in `read` and stay listed, so that no other copy of this admission goes there.
    fn place(
        &mut self,
        at: usize,
        tokens: &[u32],
        admission: &mut Admission,
        read: &mut Vec<(usize, u32)>,
    ) -> bool {
        let sequence = self.sequences.get(at);
        let num_wanted = sequence.target.max(tokens.len()).div_ceil(self.store.block_size);
        let mut hit = self.store.find_prefix(sequence.root, tokens);
        if !self.has_room(num_wanted, &hit) {
            // The block to copy from counts as well, but only until the copy is made.
            if hit.partial.take().is_none() || !self.has_room(num_wanted, &hit) {
                return false;
            }
        }
        let (store, sequence) = (&mut self.store, self.sequences.get_mut(at));
        let (size, num_groups) = (store.block_size, store.groups.len());
        let num_places = hit.nodes.len();
        sequence.blocks.reserve(tokens.len().div_ceil(size) * num_groups);
        sequence.blocks.resize(num_places * num_groups, NONE);
        for (group, kind) in store.groups.iter().enumerate() {
            let (first, sinks) = (kind.first_seen(num_places * size, size), kind.sink_places(size));
            sequence.shares[group].kept = if first > sinks { first } else { 0 };
            let pool = &mut store.pools[group];
            for places in kind.seen(num_places, size) {
                let rows = sequence.blocks[places.start * num_groups..].chunks_exact_mut(num_groups);
                for (&node, row) in hit.nodes[places].iter().zip(rows) {
                    row[group] = store.trie.block(node, group);
                    pool.acquire(row[group]);
                }
            }
        }
        if let Some(&last) = hit.nodes.last() {
            store.trie.enter(last);
            store.trie.leave(std::mem::replace(&mut sequence.tip, last));
        }
        sequence.num_stored = num_places;
        sequence.unstored.extend_from_slice(&tokens[num_places * size..]);
        sequence.len = num_places * size;
        if let Some((node, num_tokens)) = hit.partial {
            for group in 0..store.groups.len() {
                let source = store.trie.block(node, group);
                store.pools[group].acquire(source);
                read.push((group, source));
            }
            for group in 0..store.groups.len() {
                let (source, target) = (store.trie.block(node, group), store.take(group));
                sequence.blocks.push(target);
                admission.copies.push(BlockCopy {
                    group: group as u32,
                    source,
                    target,
                    num_tokens: num_tokens as u32,
                });
            }
            sequence.len += num_tokens;
        }
        promise(&mut self.promised, sequence, store);
        admission.num_cached.push(sequence.len as i64);
        self.num_queried += tokens.len() as u64;
        self.num_hit += sequence.len as u64;
        true
    }

    /// Whether what `num_wanted` places do not share with a running sequence through the hit is available.
    fn has_room(&self, num_wanted: usize, hit: &Hit) -> bool {
        let store = &self.store;
        let size = store.block_size;
        store.groups.iter().zip(&store.pools).enumerate().all(|(group, (kind, pool))| {
            let is_used = |node: u32| pool.count(store.trie.block(node, group)) > 0;
            let num_read = usize::from(hit.partial.is_some_and(|(node, _)| !is_used(node)));
            let others = num_read + self.promised[group] + self.watermark;
            let needed = kind.keeps_at_most(num_wanted, size);
            // Mostly it is, even if nothing were shared, and then the blocks need not be looked at.
            needed + others <= pool.num_available() || {
                let seen = kind.seen(hit.nodes.len(), size).into_iter().flatten();
                let num_shared = seen.filter(|&place| is_used(hit.nodes[place])).count();
                needed.saturating_sub(num_shared) + others <= pool.num_available()
            }
        })
    }

    fn end_admission(&mut self, read: &[(usize, u32)]) {
        for &(group, block) in read {
            self.store.release(group, block, Retention::default());
        }
        self.num_copied += read.len() as u64;
    }
}
