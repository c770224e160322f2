//! The invariants, recounted.

use super::NONE;
use super::manager::KvManager;
use super::sequence::{Sequence, State};
use crate::{Error, Result};

impl KvManager {
    /// Recounts what is counted: who lists which block, what is free, cached, stored and set aside.
    ///
    /// # Errors
    /// [`Error::Value`] that names the first contradiction; there is none unless this module is wrong.
    pub fn check(&self) -> Result<()> {
        self.recount().map_err(|reason| Error::value(format!("the cache contradicts itself: {reason}")))
    }

    fn recount(&self) -> std::result::Result<(), String> {
        let num_groups = self.store.groups.len();
        let mut counts: Vec<Vec<u32>> =
            self.store.groups.iter().map(|group| vec![0; group.num_blocks]).collect();
        let mut places: Vec<Vec<usize>> =
            self.store.groups.iter().map(|group| vec![0; group.num_blocks]).collect();
        let mut promised = vec![0; num_groups];
        let mut tips = Vec::new();
        for sequence in self.sequences.iter() {
            tips.extend([sequence.tip, sequence.root]);
            self.check_sequence(sequence)?;
            for (index, &block) in sequence.blocks.iter().enumerate().filter(|&(_, &block)| block != NONE) {
                let (place, group) = (index / num_groups, index % num_groups);
                if counts[group][block as usize] > 0 && places[group][block as usize] != place {
                    return Err(format!("block {block} is at two places"));
                }
                counts[group][block as usize] += 1;
                places[group][block as usize] = place;
            }
            promised.iter_mut().zip(&sequence.shares).for_each(|(all, share)| *all += share.promised);
        }
        if promised != self.promised {
            return Err(format!("{promised:?} blocks are set aside, {:?} are counted", self.promised));
        }
        for (group, pool) in self.store.pools.iter().enumerate() {
            pool.check(&counts[group])?;
            let nodes: Vec<u32> = (0..counts[group].len() as u32).filter(|&b| pool.node(b) != NONE).collect();
            if let Some(block) = nodes.iter().find(|&&b| self.store.trie.block(pool.node(b), group) != b) {
                return Err(format!("block {block} and its node do not know each other"));
            }
            if self.store.groups[group].window.is_none() && nodes.len() != self.store.trie.len() {
                return Err(format!(
                    "{} nodes, but {} blocks of group {group}",
                    self.store.trie.len(),
                    nodes.len()
                ));
            }
        }
        self.store.trie.check(&tips)
    }

    fn check_sequence(&self, sequence: &Sequence) -> std::result::Result<(), String> {
        let (size, num_groups) = (self.store.block_size, self.store.groups.len());
        if sequence.blocks.len() != sequence.len.div_ceil(size) * num_groups {
            return Err(format!("{} tokens are in {} blocks", sequence.len, sequence.blocks.len()));
        }
        if sequence.state == State::Preempted && sequence.len > 0 {
            return Err("a preempted sequence has tokens in the cache".to_owned());
        }
        for (group, share) in sequence.shares.iter().enumerate() {
            let is_running = sequence.state == State::Running;
            let needed = if is_running { self.store.still_needs(sequence, group) } else { 0 };
            if share.promised != needed {
                return Err(format!(
                    "{} blocks are set aside for a sequence that needs {needed}",
                    share.promised
                ));
            }
        }
        for (group, share) in sequence.shares.iter().enumerate() {
            let sinks = self.store.groups[group].sink_places(size);
            for (place, row) in sequence.blocks.chunks(num_groups).enumerate() {
                if (row[group] == NONE) != (sinks..share.kept).contains(&place) {
                    return Err(format!("place {place} is dropped or kept against its window"));
                }
            }
        }
        let mut node = sequence.tip;
        for place in (0..sequence.num_stored).rev() {
            for (group, &block) in sequence.blocks[place * num_groups..][..num_groups].iter().enumerate() {
                if block != NONE && self.store.trie.block(node, group) != block {
                    return Err(format!("block {block} is stored elsewhere"));
                }
            }
            node = self.store.trie.parent(node);
        }
        (node == sequence.root)
            .then_some(())
            .ok_or_else(|| "a sequence does not begin at its root".to_owned())
    }
}
