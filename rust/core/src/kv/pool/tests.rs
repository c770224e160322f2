use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

/// The naive cache: every block holds the tokens themselves, so a wrong share, copy or slot changes what is read.
struct Model {
    pool: BlockPool,
    blocks: Vec<Vec<u32>>,
    sequences: HashMap<i64, Vec<u32>>,
}

impl Model {
    fn check(&self) {
        let pool = &self.pool;
        let mut counts = vec![0; pool.num_blocks()];
        for sequence in pool.sequences.iter().filter(|s| s.alive) {
            assert_eq!(sequence.blocks.len(), sequence.len.div_ceil(pool.block_size));
            sequence.blocks.iter().for_each(|&block| counts[block as usize] += 1);
        }
        assert_eq!(counts, pool.counts);
        let free: HashSet<u32> = pool.free.iter().copied().collect();
        assert_eq!(free.len(), pool.free.len(), "a block is free twice");
        assert!((0..pool.num_blocks() as u32).all(|b| free.contains(&b) == (counts[b as usize] == 0)));
        assert_eq!(pool.sequences.iter().filter(|s| s.alive).count(), self.sequences.len());
    }

    fn append(&mut self, handles: &[i64], counts: &[i64], next: &mut u32) {
        let before = format!("{:?}", (&self.pool.counts, &self.pool.free));
        let Ok(step) = self.pool.append(handles, counts) else {
            assert_eq!(before, format!("{:?}", (&self.pool.counts, &self.pool.free)));
            return;
        };
        let size = self.pool.block_size;
        for (&source, &target) in step.sources.iter().zip(&step.targets) {
            self.blocks[target as usize] = self.blocks[source as usize].clone();
        }
        let mut slots = step.slots.iter();
        for (handle, &count) in handles.iter().zip(counts) {
            for _ in 0..count {
                let slot = *slots.next().unwrap() as usize;
                self.blocks[slot / size][slot % size] = *next;
                self.sequences.get_mut(handle).unwrap().push(*next);
                *next += 1;
            }
        }
        assert!(slots.next().is_none());
        for (i, handle) in handles.iter().enumerate() {
            let expected = &self.sequences[handle];
            assert_eq!(step.lengths[i] as usize, expected.len());
            let table = &step.tables[i * step.width..(i + 1) * step.width];
            let read: Vec<u32> =
                table.iter().flat_map(|&b| self.blocks[b as usize].iter().copied()).collect();
            assert_eq!(&read[..expected.len()], expected);
        }
    }
}

fn build(num_blocks: usize, block_size: usize) -> Model {
    Model {
        pool: BlockPool::new(num_blocks, block_size).unwrap(),
        blocks: vec![vec![0; block_size]; num_blocks],
        sequences: HashMap::new(),
    }
}

proptest! {
    #[test]
    fn any_history_reads_back_what_was_written(
        num_blocks in 1usize..24, block_size in 1usize..5,
        history in prop::collection::vec((0u8..5, any::<prop::sample::Index>(), 0i64..9), 1..60),
    ) {
        let mut model = build(num_blocks, block_size);
        let mut next = 1;
        for (action, pick, n) in history {
            let mut handles: Vec<i64> = model.sequences.keys().copied().collect();
            handles.sort_unstable();
            let chosen = if handles.is_empty() { None } else { Some(handles[pick.index(handles.len())]) };
            match (action, chosen) {
                (0, _) => for handle in model.pool.alloc(n as usize % 3) {
                    model.sequences.insert(handle, Vec::new());
                },
                (1, Some(handle)) => {
                    let tokens = model.sequences[&handle].clone();
                    for fork in model.pool.fork(handle, n as usize % 4).unwrap() {
                        model.sequences.insert(fork, tokens.clone());
                    }
                }
                (2, Some(handle)) => {
                    model.pool.free(&[handle]).unwrap();
                    model.sequences.remove(&handle);
                    prop_assert!(model.pool.free(&[handle]).is_err(), "a freed handle still works");
                }
                (3, Some(handle)) => model.append(&[handle], &[n], &mut next),
                _ => { let counts: Vec<i64> = handles.iter().map(|h| (h + n) % 3).collect(); model.append(&handles, &counts, &mut next); }
            }
            model.check();
        }
        let handles: Vec<i64> = model.sequences.drain().map(|(handle, _)| handle).collect();
        model.pool.free(&handles).unwrap();
        prop_assert_eq!(model.pool.num_free(), num_blocks);
    }
}

#[test]
fn forks_share_full_blocks_and_the_last_writer_keeps_the_partial_one() {
    let mut pool = BlockPool::new(8, 4).unwrap();
    let prompt = pool.alloc(1)[0];
    pool.append(&[prompt], &[6]).unwrap();
    let mut all = pool.fork(prompt, 2).unwrap();
    assert_eq!(pool.num_free(), 6, "forking takes no block");
    all.insert(0, prompt);
    let step = pool.append(&all, &[1, 1, 1]).unwrap();
    assert_eq!(pool.num_free(), 4, "two of the three copy the block that holds tokens 4 and 5");
    assert_eq!((step.sources.len(), step.width), (2, 2));
    let heads: HashSet<i32> = step.tables.iter().step_by(2).copied().collect();
    assert_eq!(heads.len(), 1, "the full block is shared");
}

#[test]
fn mistakes_are_named_and_change_nothing() {
    let mut pool = BlockPool::new(2, 4).unwrap();
    let handles = pool.alloc(2);
    let message = |result: Result<Step>| result.unwrap_err().to_string();
    assert_eq!(message(pool.append(&handles, &[8, 1])), "3 cache blocks needed, 2 of 2 are free");
    assert_eq!(message(pool.append(&handles, &[-1, 1])), "cannot append -1 tokens to a sequence");
    assert!(message(pool.append(&[handles[0]; 2], &[1, 1])).contains("comes twice"));
    assert!(message(pool.append(&[99], &[1])).contains("no sequence has the handle 99"));
    assert!(pool.free(&[handles[0], handles[0]]).is_err());
    assert_eq!(pool.num_free(), 2);
    pool.append(&handles, &[4, 4]).unwrap();
    pool.free(&handles).unwrap();
    assert_eq!(pool.num_free(), 2);
    assert_ne!(pool.alloc(2), handles, "handles are not used again");
    assert!(BlockPool::new(0, 4).is_err());
}
