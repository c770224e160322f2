//! Sequences and their handles.

use super::NONE;
use super::pool::Retention;
use crate::{Error, Result};

/// What becomes of a handle's place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum State {
    #[default]
    Vacant,
    Running,
    /// Without blocks, but its tokens are known.
    Preempted,
}

/// What a sequence has in one group.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Share {
    /// Places before this one and after the sinks have been dropped.
    pub(super) kept: usize,
    /// Blocks that it is still going to need, set aside at admission.
    pub(super) promised: usize,
}

#[derive(Debug, Default)]
pub(super) struct Sequence {
    /// Place by place, the block of every group; [`NONE`] where the window has passed.
    pub(super) blocks: Vec<u32>,
    /// Its tokens behind the stored places, whose tokens are in the trie. They end with those in the cache, and before
    /// these are there with the prompt, and earlier when tokens were not told.
    pub(super) unstored: Vec<u32>,
    /// Tokens in the cache.
    pub(super) len: usize,
    /// Tokens to set blocks aside for.
    pub(super) target: usize,
    /// Places whose blocks have been offered to the trie.
    pub(super) num_stored: usize,
    /// Node of the last of them, or the root.
    pub(super) tip: u32,
    pub(super) root: u32,
    pub(super) retention: Retention,
    pub(super) shares: Vec<Share>,
    /// Computed before a reset, so of no use to others.
    pub(super) is_stale: bool,
    /// Tokens that fit the last block and need nothing else: nobody else has it, and nothing is to be stored or dropped.
    pub(super) room: usize,
    /// Where the next of them goes, if there is one group.
    pub(super) next_slot: i32,
    /// The row that it was written to last, and how many of its places are right there.
    pub(super) row: u32,
    pub(super) num_published: usize,
    pub(super) state: State,
    /// Changes when the place is given to another sequence, so an old handle is noticed.
    generation: u32,
    /// The call that named this sequence last, to find it named twice.
    call: u64,
}

impl Sequence {
    /// Tokens that are known.
    pub(super) fn num_tokens(&self, block_size: usize) -> usize {
        self.num_stored * block_size + self.unstored.len()
    }
}

/// All sequences by handle: generation above, place below.
#[derive(Debug, Default)]
pub(super) struct Sequences {
    all: Vec<Sequence>,
    vacant: Vec<u32>,
    calls: u64,
}

impl Sequences {
    pub(super) fn get(&self, at: usize) -> &Sequence {
        &self.all[at]
    }

    pub(super) fn get_mut(&mut self, at: usize) -> &mut Sequence {
        &mut self.all[at]
    }

    /// Those that live.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Sequence> {
        self.all.iter().filter(|sequence| sequence.state != State::Vacant)
    }

    /// Those that live.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Sequence> {
        self.all.iter_mut().filter(|sequence| sequence.state != State::Vacant)
    }

    /// The handle of the sequence at a place.
    pub(super) fn handle(&self, at: usize) -> i64 {
        i64::from(self.all[at].generation) << 32 | at as i64
    }

    /// A place for a new sequence, which keeps the memory of an old one.
    pub(super) fn open(&mut self, num_groups: usize) -> usize {
        let at = self.vacant.pop().unwrap_or_else(|| {
            self.all.push(Sequence::default());
            self.all.len() as u32 - 1
        }) as usize;
        let sequence = &mut self.all[at];
        sequence.blocks.clear();
        sequence.unstored.clear();
        sequence.shares.clear();
        sequence.shares.resize(num_groups, Share::default());
        (sequence.len, sequence.target, sequence.num_stored, sequence.num_published) = (0, 0, 0, 0);
        (sequence.is_stale, sequence.room) = (false, 0);
        (sequence.state, sequence.row) = (State::Running, NONE);
        at
    }

    /// Gives the place back; old handles are no longer known.
    pub(super) fn close(&mut self, at: usize) {
        let sequence = &mut self.all[at];
        sequence.state = State::Vacant;
        sequence.generation = sequence.generation.wrapping_add(1) & (i32::MAX as u32);
        self.vacant.push(at as u32);
    }

    /// Marks the beginning of a call for [`Self::resolve`].
    pub(super) fn start_call(&mut self) {
        self.calls += 1;
    }

    /// The place of a sequence in the given state that this call has not named yet.
    #[inline]
    pub(super) fn resolve(&mut self, handle: i64, state: State) -> Result<usize> {
        let at = (handle & i64::from(u32::MAX)) as usize;
        let calls = self.calls;
        match self.all.get_mut(at) {
            Some(found)
                if i64::from(found.generation) == handle >> 32
                    && found.state == state
                    && found.call != calls =>
            {
                found.call = calls;
                Ok(at)
            }
            _ => Err(self.refuse(handle, state)),
        }
    }

    /// The places of distinct sequences, all in the given state.
    pub(super) fn resolve_all(&mut self, handles: &[i64], state: State) -> Result<Vec<usize>> {
        self.start_call();
        handles.iter().map(|&handle| self.resolve(handle, state)).collect()
    }

    #[cold]
    fn refuse(&self, handle: i64, state: State) -> Error {
        let at = (handle & i64::from(u32::MAX)) as usize;
        let found =
            self.all.get(at).filter(|s| s.state != State::Vacant && i64::from(s.generation) == handle >> 32);
        match found {
            None => Error::Key(format!("no sequence has the handle {handle}; was it freed?")),
            Some(found) if found.state != state => Error::value(match found.state {
                State::Preempted => format!("the sequence {handle} is preempted; resume it first"),
                _ => format!("the sequence {handle} is not preempted"),
            }),
            Some(_) => Error::value(format!("handle {handle} comes twice in one call")),
        }
    }
}
