//! The one call per engine step, for the whole batch.

use std::ops::Range;

use super::manager::{KvManager, promise};
use super::pool::Retention;
use super::sequence::{Sequence, State};
use super::store::Store;
use super::{BlockCopy, NONE};
use crate::{Error, Result};

/// Memory of the caller that a step writes to.
#[derive(Debug)]
pub struct Arrays<'a> {
    /// For each group, `num_rows` rows of `width` blocks. Row `i` belongs to the `i`-th sequence of the step.
    pub tables: &'a mut [i32],
    /// Sequences that the tables have room for.
    pub num_rows: usize,
    /// Blocks that a row has room for.
    pub width: usize,
    /// For each group equally many: `block * block_size + offset` of every new token, sequence by sequence.
    pub slots: &'a mut [i32],
    /// Tokens of each sequence, the new ones included.
    pub lengths: &'a mut [i32],
    /// Whether the tables are those of the last step, unchanged since: then only what is new is written.
    pub is_same: bool,
}

impl KvManager {
    /// Makes room for `counts[i]` more tokens in sequence `handles[i]`, one each if there are no counts.
    ///
    /// Tokens come from the prompt as long as it is not in the cache, then from `tokens`: exactly those that are
    /// missing, sequence by sequence. Without `tokens`, what is written then is unknown and never stored. What earlier
    /// steps wrote counts as final now: full blocks of it are stored. Blocks that a window has passed are given back.
    ///
    /// In a row, places before the window and behind the last block hold any block.
    ///
    /// # Errors
    /// [`Error::Key`] for an unknown handle; [`Error::Value`] for one that comes twice or is preempted, for a count or
    /// a number of tokens that does not fit, for arrays that are too small, or too few blocks. Nothing changes then,
    /// but with too few blocks, what earlier steps wrote is stored all the same.
    pub fn step(
        &mut self,
        handles: &[i64],
        counts: Option<&[i64]>,
        tokens: Option<&[u32]>,
        arrays: Arrays<'_>,
    ) -> Result<Vec<BlockCopy>> {
        if counts.is_some_and(|counts| counts.len() != handles.len()) {
            let len = counts.map_or(0, <[i64]>::len);
            return Err(Error::value(format!("{} handles but {len} counts", handles.len())));
        }
        self.plan(handles, counts, tokens, &arrays)?;
        if !arrays.is_same {
            self.rows.clear();
        }
        self.rows.resize(arrays.num_rows, -1);

        let Self { store, sequences, promised, rows, busy, .. } = self;
        for &(at, _) in &*busy {
            store.drop_unseen(sequences.get_mut(at as usize));
        }
        let (mut copies, mut read) = (Vec::new(), Vec::new());
        for &(at, count) in &*busy {
            let sequence = sequences.get_mut(at as usize);
            store.extend(sequence, count as usize, &mut copies, &mut read);
        }
        for (group, block, retention) in read {
            store.release(group, block, retention);
        }

        let num_groups = store.groups.len();
        let num_cells = arrays.num_rows * arrays.width;
        let (mut next_token, mut next_slot) = (0, 0);
        for (i, &handle) in handles.iter().enumerate() {
            let sequence = sequences.get_mut((handle & i64::from(u32::MAX)) as usize);
            let start = sequence.len;
            sequence.len += counts.map_or(1, |counts| counts[i] as usize);
            if let Some(tokens) = tokens {
                let missing = sequence.len.saturating_sub(sequence.num_tokens(store.block_size));
                sequence.unstored.extend_from_slice(&tokens[next_token..next_token + missing]);
                next_token += missing;
            }
            arrays.lengths[i] = sequence.len as i32;
            let count = sequence.len - start;
            if num_groups == 1 && count <= sequence.room {
                for slot in &mut arrays.slots[next_slot..next_slot + count] {
                    *slot = sequence.next_slot;
                    sequence.next_slot += 1;
                }
                sequence.room -= count;
            } else {
                store.write_slots(sequence, start, arrays.slots, next_slot);
            }
            next_slot += count;
            if sequence.row != i as u32 || rows[i] != handle {
                (sequence.row, sequence.num_published, rows[i]) = (i as u32, 0, handle);
            }
            let first = sequence.num_published * num_groups;
            if first < sequence.blocks.len() {
                for group in 0..num_groups {
                    let cells = &mut arrays.tables[group * num_cells + i * arrays.width..][..arrays.width];
                    let blocks = sequence.blocks[first..].chunks_exact(num_groups);
                    for (cell, row) in cells[sequence.num_published..].iter_mut().zip(blocks) {
                        *cell = if row[group] == NONE { 0 } else { row[group] as i32 };
                    }
                }
                sequence.num_published = sequence.blocks.len() / num_groups;
            }
        }
        for &(at, _) in &*busy {
            promise(promised, sequences.get_mut(at as usize), store);
        }
        self.num_copied += copies.len() as u64;
        Ok(copies)
    }

    /// Checks everything about a step, and lists the sequences that are not done with a place in their last block.
    fn plan(
        &mut self,
        handles: &[i64],
        counts: Option<&[i64]>,
        tokens: Option<&[u32]>,
        arrays: &Arrays<'_>,
    ) -> Result<()> {
        let Self { store, sequences, busy, .. } = self;
        let (size, num_groups) = (store.block_size, store.groups.len());
        busy.clear();
        sequences.start_call();
        let (mut num_new, mut num_missing) = (0, 0);
        for (i, &handle) in handles.iter().enumerate() {
            let at = sequences.resolve(handle, State::Running)?;
            let sequence = sequences.get(at);
            let count = counts.map_or(1, |counts| counts[i]);
            let room = arrays.width.saturating_mul(size).min(i32::MAX as usize);
            let len = usize::try_from(count).ok().and_then(|count| sequence.len.checked_add(count));
            let Some(len) = len.filter(|&len| len <= room) else {
                return Err(Error::value(format!(
                    "cannot add {count} tokens to the {} of sequence {handle}: its row has room for {} blocks of {size}",
                    sequence.len, arrays.width
                )));
            };
            let num_known = sequence.num_tokens(size);
            if tokens.is_some() && num_known < sequence.len {
                return Err(Error::value(format!(
                    "the sequence {handle} was stepped without tokens before, so it cannot get some now"
                )));
            }
            num_new += len - sequence.len;
            num_missing += len.saturating_sub(num_known.max(sequence.len));
            if sequence.room == 0 || len - sequence.len > sequence.room {
                busy.push((at as u32, (len - sequence.len) as u32));
            }
        }
        if let Some(tokens) = tokens
            && tokens.len() != num_missing
        {
            return Err(Error::value(format!(
                "the step needs {num_missing} new tokens, got {}",
                tokens.len()
            )));
        }
        let shape = (arrays.num_rows, arrays.lengths.len(), arrays.slots.len() / num_groups);
        if arrays.tables.len() != num_groups * shape.0 * arrays.width
            || !arrays.slots.len().is_multiple_of(num_groups)
            || shape.0.min(shape.1) < handles.len()
            || shape.2 < num_new
        {
            return Err(Error::value(format!(
                "{} sequences with {num_new} new tokens do not fit arrays with {} rows, {} lengths and {} slots in each of \
                 {num_groups} groups",
                handles.len(),
                shape.0,
                shape.1,
                shape.2
            )));
        }
        // First of all: a block that is stored is no longer written in place.
        for &(at, _) in &*busy {
            store.commit(sequences.get_mut(at as usize));
        }
        let busy = busy.iter().map(|&(at, count)| (sequences.get(at as usize), count as usize));
        store.check_room(busy)
    }
}

impl Store {
    /// Whether there are blocks for a step, counting those that windows give back in it.
    fn check_room<'a>(&mut self, busy: impl Iterator<Item = (&'a Sequence, usize)> + Clone) -> Result<()> {
        let num_groups = self.groups.len();
        for group in 0..num_groups {
            let (mut needed, mut gained) = (0, 0);
            // Counts are lowered to see which blocks become free, and who of those that share one writes in place.
            let mut lowered = Vec::new();
            for (sequence, count) in busy.clone() {
                for place in self.unseen(sequence, group) {
                    lowered.push(sequence.blocks[place * num_groups + group]);
                    gained += usize::from(self.pools[group].lower(lowered[lowered.len() - 1]) == 0);
                }
                let num_places = sequence.blocks.len() / num_groups;
                needed += (sequence.len + count).div_ceil(self.block_size) - num_places;
                if let Some(tail) = self.shared_tail(sequence, group).filter(|_| count > 0) {
                    needed += 1;
                    if self.pools[group].node(tail) == NONE {
                        self.pools[group].lower(tail);
                        lowered.push(tail);
                    }
                }
            }
            for block in lowered {
                self.pools[group].raise(block);
            }
            let (available, all) =
                (self.pools[group].num_available() + gained, self.pools[group].num_blocks());
            if needed > available {
                return Err(Error::value(format!(
                    "{needed} cache blocks needed, {available} of {all} are free"
                )));
            }
        }
        Ok(())
    }

    /// Writes where the tokens from `start` on go, from `at` on in each group's part of `slots`.
    fn write_slots(&self, sequence: &mut Sequence, start: usize, slots: &mut [i32], at: usize) {
        let (size, num_groups) = (self.block_size, self.groups.len());
        let num_slots = slots.len() / num_groups;
        let num_new = sequence.len - start;
        for group in 0..num_groups {
            // Block by block: a prompt has thousands of tokens.
            let mut slots = &mut slots[group * num_slots + at..][..num_new];
            let mut offset = start % size;
            for row in sequence.blocks[start / size * num_groups..].chunks_exact(num_groups) {
                let (here, after) = slots.split_at_mut(slots.len().min(size - offset));
                let first = row[group] as i32 * size as i32 + offset as i32;
                here.iter_mut().zip(first..).for_each(|(slot, value)| *slot = value);
                sequence.next_slot = first + here.len() as i32;
                (slots, offset) = (after, 0);
            }
        }
        let is_complete =
            sequence.is_stale || sequence.len.min(sequence.num_tokens(size)) / size == sequence.num_stored;
        let is_windowed = self.groups.iter().any(|group| group.window.is_some());
        if num_new > 0 {
            // The end of the last block is where everything else happens.
            let room = sequence.len.next_multiple_of(size) - sequence.len;
            sequence.room = if is_complete && !is_windowed { room } else { 0 };
        }
    }

    /// Places of a sequence that its window passes before the next token.
    fn unseen(&self, sequence: &Sequence, group: usize) -> Range<usize> {
        let sinks = self.groups[group].sink_places(self.block_size);
        let first = self.groups[group].first_seen(sequence.len, self.block_size);
        sequence.shares[group].kept.max(sinks)..first.max(sinks)
    }

    /// The partly filled last block, if the sequence must not write to it.
    fn shared_tail(&self, sequence: &Sequence, group: usize) -> Option<u32> {
        let is_partial = !sequence.len.is_multiple_of(self.block_size);
        let tail = is_partial.then(|| sequence.blocks[sequence.blocks.len() - self.groups.len() + group])?;
        (!self.pools[group].is_writable(tail)).then_some(tail)
    }

    fn drop_unseen(&mut self, sequence: &mut Sequence) {
        let num_groups = self.groups.len();
        for group in 0..num_groups {
            let unseen = self.unseen(sequence, group);
            if unseen.is_empty() {
                continue;
            }
            sequence.shares[group].kept = unseen.end;
            for place in unseen.rev() {
                let block = std::mem::replace(&mut sequence.blocks[place * num_groups + group], NONE);
                self.release(group, block, sequence.retention);
            }
        }
    }

    /// Gives a sequence blocks to write to. What is copied from and would no longer be listed is put in `read`.
    fn extend(
        &mut self,
        sequence: &mut Sequence,
        count: usize,
        copies: &mut Vec<BlockCopy>,
        read: &mut Vec<(usize, u32, Retention)>,
    ) {
        if count == 0 {
            return;
        }
        let num_groups = self.groups.len();
        for group in 0..num_groups {
            let Some(source) = self.shared_tail(sequence, group) else { continue };
            let target = self.take(group);
            let tail = sequence.blocks.len() - num_groups + group;
            sequence.blocks[tail] = target;
            sequence.num_published = sequence.num_published.min(tail / num_groups);
            let num_tokens = (sequence.len % self.block_size) as u32;
            copies.push(BlockCopy { group: group as u32, source, target, num_tokens });
            if self.pools[group].node(source) == NONE {
                self.release(group, source, sequence.retention);
            } else {
                // It may be the last use of a stored block: no other copy of this step may go there.
                read.push((group, source, sequence.retention));
            }
        }
        let num_places = (sequence.len + count).div_ceil(self.block_size);
        for _ in sequence.blocks.len() / num_groups..num_places {
            sequence.blocks.extend((0..num_groups).map(|group| self.take(group)));
        }
    }
}
