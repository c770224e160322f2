//! Random histories in a world where every slot remembers what was written to it, so that a wrong hit, copy, slot or
//! table is read back as another text.

use std::collections::BTreeMap;

use super::*;
use crate::rng;

const WIDTH: usize = 32;
const MAX_ROWS: usize = 12;

struct Text {
    namespace: u32,
    tokens: Vec<u32>,
    /// Of the tokens in the cache: all that the value of a slot depends on.
    prints: Vec<u64>,
    is_preempted: bool,
}

struct World {
    kv: KvManager,
    memory: Vec<Vec<u64>>,
    tables: Vec<i32>,
    texts: BTreeMap<i64, Text>,
    epoch: i64,
    now: u32,
    seed: u64,
    draws: u64,
}

fn print_of(before: u64, token: u32, epoch: i64) -> u64 {
    (before ^ u64::from(token) ^ (epoch as u64) << 40).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
}

impl World {
    fn new(groups: &[Group], block_size: usize, seed: u64, has_equal_hashes: bool) -> Self {
        let make = if has_equal_hashes { KvManager::with_equal_hashes } else { KvManager::new };
        let mut kv = make(groups, block_size, seed as usize % 2).unwrap();
        kv.record_events();
        Self {
            kv,
            memory: groups.iter().map(|group| vec![0; group.num_blocks * block_size]).collect(),
            tables: vec![0; groups.len() * MAX_ROWS * WIDTH],
            texts: BTreeMap::new(),
            epoch: 0,
            now: 0,
            seed,
            draws: 0,
        }
    }

    fn below(&mut self, end: usize) -> usize {
        self.draws += 1;
        rng::below(end as u64, self.seed, 0, self.draws) as usize
    }

    fn pick(&mut self, is_preempted: bool) -> Option<i64> {
        let all: Vec<i64> = self
            .texts
            .iter()
            .filter(|(_, text)| text.is_preempted == is_preempted)
            .map(|(&h, _)| h)
            .collect();
        (!all.is_empty()).then(|| all[self.below(all.len())])
    }

    fn copy(&mut self, copies: &[BlockCopy]) {
        let size = self.kv.block_size();
        for copy in copies {
            let is_read = |other: &BlockCopy| other.group == copy.group && other.source == copy.target;
            assert!(!copies.iter().any(is_read), "a block is read and written by copies of one call");
            assert!(copies.iter().filter(|c| (c.group, c.target) == (copy.group, copy.target)).count() == 1);
            let (from, to) = (copy.source as usize * size, copy.target as usize * size);
            self.memory[copy.group as usize].copy_within(from..from + copy.num_tokens as usize, to);
        }
    }

    fn admit(&mut self) {
        let size = self.kv.block_size();
        let mut prompts: Vec<(u32, Vec<u32>)> = Vec::new();
        for _ in 0..=self.below(3) {
            // Few texts with few tokens, so that prefixes agree for a while and then do not.
            let mut tokens = Vec::new();
            for _ in 0..=self.below(5) {
                let chunk = self.below(3) as u32;
                let len = 1 + self.below(2 * size);
                tokens.extend((0..len as u32).map(|i| chunk * (i % 2)));
            }
            let known =
                self.pick(self.draws.is_multiple_of(2)).map(|handle| self.texts[&handle].tokens.clone());
            if let Some(known) = known.filter(|known| !known.is_empty())
                && self.below(2) == 0
            {
                let end = 1 + self.below(known.len());
                tokens.splice(..0, known[..end].iter().copied());
            }
            tokens.truncate((WIDTH - 4) * size);
            prompts.push((self.below(2) as u32, tokens));
        }
        let tokens: Vec<u32> = prompts.iter().flat_map(|(_, tokens)| tokens.iter().copied()).collect();
        let mut offsets = vec![0];
        for (_, prompt) in &prompts {
            offsets.push(offsets.last().unwrap() + prompt.len() as i64);
        }
        let names: Vec<&[u8]> = prompts.iter().map(|&(name, _)| [&b""[..], b"b"][name as usize]).collect();
        let priorities: Vec<u8> = prompts.iter().map(|_| [0, 0, 3, 31][self.below(4)]).collect();
        let until: Vec<u32> = prompts.iter().map(|_| self.now + self.below(4) as u32).collect();
        let reserves: Vec<i64> = prompts.iter().map(|_| self.below(6) as i64).collect();
        let requests = Requests {
            tokens: &tokens,
            offsets: &offsets,
            namespaces: &names,
            priorities: &priorities,
            until: &until,
            reserves: &reserves,
        };
        let Ok(admission) = self.kv.admit(requests) else { return };
        self.copy(&admission.copies);
        for ((&handle, &cached), (namespace, tokens)) in
            admission.handles.iter().zip(&admission.num_cached).zip(prompts)
        {
            assert!((cached as usize) < tokens.len(), "no token is left to compute");
            let text = Text { namespace, tokens, prints: Vec::new(), is_preempted: false };
            assert!(self.texts.insert(handle, text).is_none());
            self.begin(handle, cached as usize);
        }
    }

    /// What is said to be in the cache has to be what this text would write there.
    fn begin(&mut self, handle: i64, num_cached: usize) {
        let epoch = self.epoch;
        let text = self.texts.get_mut(&handle).unwrap();
        let mut last = u64::from(text.namespace) + 1;
        text.prints = text.tokens[..num_cached]
            .iter()
            .map(|&token| {
                last = print_of(last, token, epoch);
                last
            })
            .collect();
        text.is_preempted = false;
    }

    fn step(&mut self) {
        let mut handles: Vec<i64> =
            self.texts.iter().filter(|(_, text)| !text.is_preempted).map(|(&handle, _)| handle).collect();
        match self.below(3) {
            0 => handles.retain(|_| self.below(2) == 0),
            1 => handles.reverse(),
            _ => {}
        }
        handles.truncate(MAX_ROWS);
        let (counts, mut tokens) = (self.draw_counts(&handles), Vec::new());
        for (handle, &count) in handles.iter().zip(&counts) {
            let text = &self.texts[handle];
            for _ in 0..(text.prints.len() + count as usize).saturating_sub(text.tokens.len()) {
                tokens.push(self.below(3) as u32);
            }
        }
        let num_groups = self.memory.len();
        let mut slots = vec![-1; num_groups * counts.iter().sum::<i64>() as usize];
        let mut lengths = vec![-1; handles.len()];
        let arrays = Arrays {
            tables: &mut self.tables,
            num_rows: MAX_ROWS,
            width: WIDTH,
            slots: &mut slots,
            lengths: &mut lengths,
            is_same: !self.draws.is_multiple_of(8),
        };
        let Ok(copies) = self.kv.step(&handles, Some(&counts), Some(&tokens), arrays) else {
            return;
        };
        self.copy(&copies);
        let (mut next_token, mut next_slot) = (tokens.iter(), 0);
        let num_slots = slots.len() / num_groups;
        for (row, (handle, &count)) in handles.iter().zip(&counts).enumerate() {
            let text = self.texts.get_mut(handle).unwrap();
            let start = text.prints.len();
            for position in start..start + count as usize {
                if position == text.tokens.len() {
                    text.tokens.push(*next_token.next().unwrap());
                }
                let before = text.prints.last().copied().unwrap_or(u64::from(text.namespace) + 1);
                let print = print_of(before, text.tokens[position], self.epoch);
                text.prints.push(print);
                for (group, memory) in self.memory.iter_mut().enumerate() {
                    memory[slots[group * num_slots + next_slot] as usize] = print;
                }
                next_slot += 1;
            }
            assert_eq!(lengths[row] as usize, text.prints.len());
        }
        for (row, handle) in handles.iter().enumerate() {
            self.read(row, &self.texts[handle].prints, counts[row] as usize);
        }
    }

    fn draw_counts(&mut self, handles: &[i64]) -> Vec<i64> {
        let size = self.kv.block_size();
        let draw = |handle| {
            let text = &self.texts[handle];
            let (len, known) = (text.prints.len(), text.tokens.len());
            let draws = rng::below(1 << 20, self.seed, 1, self.draws + *handle as u64) as usize;
            let count = if known > len { 1 + draws % (known - len) } else { [1, 1, 1, 0, 3][draws % 5] };
            count.min(WIDTH * size - len) as i64
        };
        handles.iter().map(draw).collect()
    }

    /// Reads what the new tokens of a row see.
    fn read(&self, row: usize, prints: &[u64], num_new: usize) {
        let size = self.kv.block_size();
        let first_query = prints.len() - num_new;
        for (group, kind) in self.kv.groups().iter().enumerate() {
            let table = &self.tables[(group * MAX_ROWS + row) * WIDTH..][..WIDTH];
            let first = kind.window.map_or(0, |window| (first_query + 1).saturating_sub(window));
            for (position, &print) in prints.iter().enumerate() {
                if position < kind.sinks || position >= first {
                    let slot = table[position / size] as usize * size + position % size;
                    assert_eq!(self.memory[group][slot], print, "position {position} of group {group}");
                }
            }
        }
    }

    fn rollback(&mut self) {
        let Some(handle) = self.pick(false) else { return };
        let text = &self.texts[&handle];
        let count = self.draws as usize % (text.prints.len() + 2) / (1 + self.draws as usize % 7);
        if self.kv.rollback(&[handle], &[count as i64]).is_ok() {
            let text = self.texts.get_mut(&handle).unwrap();
            text.prints.truncate(text.prints.len() - count);
            text.tokens.truncate(text.prints.len());
        }
    }

    fn fork(&mut self) {
        let Some(handle) = self.pick(false) else { return };
        let n = self.below(3);
        for fork in self.kv.fork(handle, n).unwrap() {
            let text = &self.texts[&handle];
            let (tokens, prints) = (text.tokens.clone(), text.prints.clone());
            self.texts.insert(fork, Text { namespace: text.namespace, tokens, prints, is_preempted: false });
        }
    }

    fn evict(&mut self) {
        let num_blocks = self.below(6);
        let states = |kv: &KvManager| -> Vec<(usize, usize)> {
            (0..kv.groups().len()).map(|group| (kv.num_available(group), kv.num_cached(group))).collect()
        };
        let before = states(&self.kv);
        let freed = self.kv.evict(num_blocks);
        for ((before, after), freed) in before.into_iter().zip(states(&self.kv)).zip(freed) {
            assert_eq!((after.0, after.1 + freed), before, "evicted blocks are available, but not cached");
            assert!(freed >= num_blocks.min(before.1), "{freed} of {} became free", before.1);
        }
    }

    fn act(&mut self) {
        match self.below(40) {
            0..6 if self.texts.len() < MAX_ROWS => self.admit(),
            0..9 => {
                let is_preempted = self.below(8) == 0;
                if let Some(handle) = self.pick(is_preempted) {
                    self.kv.free(&[handle], true).unwrap();
                    self.texts.remove(&handle);
                    assert!(self.kv.free(&[handle], true).is_err(), "a freed handle still works");
                }
            }
            9 if self.texts.len() < MAX_ROWS => self.fork(),
            10 | 11 => self.rollback(),
            12 => {
                if let Some(handle) = self.pick(false)
                    && self.kv.preempt(&[handle]).is_ok()
                {
                    let text = self.texts.get_mut(&handle).unwrap();
                    (text.is_preempted, text.prints) = (true, Vec::new());
                }
            }
            13 | 14 => {
                if let Some(handle) = self.pick(true) {
                    let admission = self.kv.resume(&[handle]).unwrap();
                    self.copy(&admission.copies);
                    if let Some(&cached) = admission.num_cached.first() {
                        self.begin(handle, cached as usize);
                    }
                }
            }
            15 => {
                if let Some(handle) = self.pick(false) {
                    self.kv.commit(&[handle]).unwrap();
                }
            }
            16 => {
                self.now += 1;
                self.kv.expire(self.now).unwrap();
            }
            17 if self.below(4) == 0 => self.evict(),
            18 if self.below(20) == 0 => {
                self.epoch += 1;
                assert!(self.kv.reset(self.epoch));
            }
            _ => self.step(),
        }
    }

    fn end(&mut self) {
        let handles: Vec<i64> = self.texts.keys().copied().collect();
        self.texts.clear();
        self.kv.free(&handles, true).unwrap();
        self.kv.check().unwrap();
        for (group, kind) in self.kv.groups().to_vec().iter().enumerate() {
            assert_eq!(self.kv.num_available(group), kind.num_blocks);
        }
        self.kv.reset(-1);
        self.kv.check().unwrap();
        assert_eq!(self.kv.stats().num_stored, 0);
    }
}

fn shapes() -> Vec<Vec<Group>> {
    let full = |num_blocks| Group { num_blocks, window: None, sinks: 0 };
    let windowed = |num_blocks, window, sinks| Group { num_blocks, window: Some(window), sinks };
    vec![
        vec![full(24)],
        vec![full(64)],
        vec![windowed(20, 5, 0)],
        vec![windowed(24, 1, 3)],
        vec![full(40), windowed(24, 6, 2)],
        vec![full(30), full(34), windowed(24, 9, 0)],
    ]
}

fn run(num_operations: usize, check_every: usize) {
    let shapes = shapes();
    let num_worlds = shapes.len() * 4;
    let mut totals = Stats::default();
    for (index, groups) in shapes.iter().cycle().take(num_worlds).enumerate() {
        let block_size = [1, 2, 4, 3][index / shapes.len()];
        let mut world = World::new(groups, block_size, index as u64, index % 3 == 1);
        for operation in 0..num_operations / num_worlds {
            world.act();
            if operation % check_every == 0 {
                world.kv.check().unwrap();
                world.kv.take_events();
            }
        }
        let stats = world.kv.stats();
        totals.num_hit += stats.num_hit;
        totals.num_evicted += stats.num_evicted;
        totals.num_merged += stats.num_merged;
        totals.num_copied += stats.num_copied;
        totals.num_preempted += stats.num_preempted;
        world.end();
    }
    let all =
        [totals.num_hit, totals.num_evicted, totals.num_merged, totals.num_copied, totals.num_preempted];
    assert!(all.iter().all(|&count| count as usize > num_operations / 2000), "{totals:?}");
}

#[test]
fn any_history_reads_back_what_was_written() {
    run(48_000, 1);
}

#[test]
#[ignore = "minutes; `make soak` runs it"]
fn ten_million_operations_read_back_what_was_written() {
    run(10_000_000, 1000);
}
