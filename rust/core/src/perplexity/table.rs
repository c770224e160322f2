//! N-grams of all lengths in one hash table of 8 bytes a slot.

use bytemuck::{Pod, Zeroable};

use crate::prefetch::prefetch;

/// Steps of a nat in which surprises and back-offs are kept, so their sums are exact.
const STEPS: f64 = 2048.0;

/// So many steps in nats.
pub(super) fn nats(steps: u64) -> f64 {
    steps as f64 / STEPS
}

/// What a model says of an n-gram. All zeros is a free slot: the surprise of an n-gram is at least one step.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Entry {
    /// Low bits of its hash; the slot says what the high ones are, nearly.
    check: u32,
    surprise: u16,
    backoff: u16,
}

impl Entry {
    /// An n-gram whose last word has the probability `p` after the others, and which costs a factor of `backoff` if
    /// what follows it is not known.
    pub(super) fn new(hash: u64, p: f64, backoff: f64) -> Self {
        let steps = |p: f64| (-p.ln() * STEPS).round().clamp(0.0, f64::from(u16::MAX)) as u16;
        Self { check: hash as u32, surprise: steps(p).max(1), backoff: steps(backoff) }
    }

    /// Minus the logarithm of the probability of its last word, in steps.
    pub(super) fn surprise(self) -> u64 {
        self.surprise.into()
    }

    /// Minus the logarithm of its back-off, in steps.
    pub(super) fn backoff(self) -> u64 {
        self.backoff.into()
    }

    fn is_free(self) -> bool {
        self.surprise == 0
    }
}

/// Entries by hash, with linear probing. There is always a free slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    slots: Vec<Entry>,
    len: usize,
}

impl Table {
    /// A table for so many entries.
    pub(super) fn with_capacity(len: usize) -> Self {
        Self { slots: vec![Entry::default(); len + len / 3 + 1], len: 0 }
    }

    /// The table that has these slots; none if no slot is free.
    pub(super) fn from_slots(slots: Vec<Entry>) -> Option<Self> {
        let len = slots.iter().filter(|slot| !slot.is_free()).count();
        (len < slots.len()).then_some(Self { slots, len })
    }

    pub(super) fn slots(&self) -> &[Entry] {
        &self.slots
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds an entry that is not there, of which there are no more than the table was made for.
    pub(super) fn insert(&mut self, hash: u64, entry: Entry) {
        debug_assert!(self.len + 1 < self.slots.len(), "the table is full");
        let mut slot = self.slot_of(hash);
        while !self.slots[slot].is_free() {
            slot = self.after(slot);
        }
        self.slots[slot] = entry;
        self.len += 1;
    }

    /// What is known of an n-gram.
    #[inline]
    pub(super) fn find(&self, hash: u64) -> Option<Entry> {
        let mut slot = self.slot_of(hash);
        loop {
            let entry = self.slots[slot];
            if entry.is_free() {
                return None;
            }
            if entry.check == hash as u32 {
                return Some(entry);
            }
            slot = self.after(slot);
        }
    }

    /// Asks for the slot of a hash.
    #[inline]
    pub(super) fn prefetch(&self, hash: u64) {
        prefetch(&self.slots, self.slot_of(hash));
    }

    /// A hash as a fraction of all hashes, so that any number of slots serves.
    #[inline]
    fn slot_of(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.slots.len() as u128) >> 64) as usize
    }

    #[inline]
    fn after(&self, slot: usize) -> usize {
        if slot + 1 == self.slots.len() { 0 } else { slot + 1 }
    }
}
