//! The blocks of one group: who is free, who is cached, and who of those goes first.

use super::NONE;

/// The highest priority of a request; 0 is the lowest.
pub const MAX_PRIORITY: u8 = 31;
const NUM_LISTS: usize = MAX_PRIORITY as usize + 1;

/// How long what a request leaves behind is kept: before lower priorities, until a time.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Retention {
    pub(super) priority: u8,
    /// The first moment without the priority; [`NONE`] for never.
    pub(super) until: u32,
}

#[derive(Debug, Clone, Copy)]
struct List {
    first: u32,
    last: u32,
}

#[derive(Debug, Clone, Copy)]
struct Block {
    count: u32,
    node: u32,
    previous: u32,
    /// The next block of the list or of the stack of free blocks.
    next: u32,
    until: u32,
    priority: u8,
}

/// Cached blocks stand in one list a priority, the longest unused first. A block takes the highest priority and the
/// latest time of all that used it. Who uses a block uses those before it, so along a prefix neither grows, and later
/// blocks of a prefix stand before earlier ones of the same list.
#[derive(Debug)]
pub(super) struct Pool {
    blocks: Vec<Block>,
    free: u32,
    /// Blocks from here on were never used.
    num_touched: u32,
    num_free: usize,
    num_cached: usize,
    lists: [List; NUM_LISTS],
    /// One bit for each list that is not empty.
    filled: u32,
}

impl Pool {
    pub(super) fn new(num_blocks: usize) -> Self {
        Self {
            blocks: vec![
                Block { count: 0, node: NONE, previous: 0, next: 0, until: 0, priority: 0 };
                num_blocks
            ],
            free: NONE,
            num_touched: 0,
            num_free: num_blocks,
            num_cached: 0,
            lists: [List { first: NONE, last: NONE }; NUM_LISTS],
            filled: 0,
        }
    }

    /// Bytes of a block's row.
    pub(super) const BYTES_PER_BLOCK: usize = size_of::<Block>();

    pub(super) fn num_blocks(&self) -> usize {
        self.blocks.len()
    }

    pub(super) fn num_free(&self) -> usize {
        self.num_free
    }

    /// Blocks that no sequence lists: free ones and cached ones.
    pub(super) fn num_available(&self) -> usize {
        self.num_free + self.num_cached
    }

    pub(super) fn num_cached(&self) -> usize {
        self.num_cached
    }

    pub(super) fn count(&self, block: u32) -> u32 {
        self.blocks[block as usize].count
    }

    pub(super) fn node(&self, block: u32) -> u32 {
        self.blocks[block as usize].node
    }

    pub(super) fn set_node(&mut self, block: u32, node: u32) {
        self.blocks[block as usize].node = node;
    }

    /// Whether its only sequence may write to it.
    pub(super) fn is_writable(&self, block: u32) -> bool {
        self.count(block) == 1 && self.node(block) == NONE
    }

    /// Lowers a count until it is raised again, to see what would happen.
    pub(super) fn lower(&mut self, block: u32) -> u32 {
        self.blocks[block as usize].count -= 1;
        self.blocks[block as usize].count
    }

    /// Undoes [`Self::lower`].
    pub(super) fn raise(&mut self, block: u32) {
        self.blocks[block as usize].count += 1;
    }

    /// A free block, listed once.
    pub(super) fn take(&mut self) -> Option<u32> {
        let block = if self.free != NONE {
            let next = self.blocks[self.free as usize].next;
            std::mem::replace(&mut self.free, next)
        } else if (self.num_touched as usize) < self.blocks.len() {
            self.num_touched += 1;
            self.num_touched - 1
        } else {
            return None;
        };
        self.num_free -= 1;
        let taken = &mut self.blocks[block as usize];
        (taken.count, taken.priority, taken.until) = (1, 0, 0);
        Some(block)
    }

    /// The cached block to evict first.
    pub(super) fn oldest(&self) -> Option<u32> {
        self.lists.get(self.filled.trailing_zeros() as usize).map(|list| list.first)
    }

    /// Makes a cached block free; its node must be gone.
    pub(super) fn discard(&mut self, block: u32) {
        self.unlink(block);
        self.set_node(block, NONE);
        self.push_free(block);
    }

    /// Lists a block once more.
    pub(super) fn acquire(&mut self, block: u32) {
        let count = &mut self.blocks[block as usize].count;
        *count += 1;
        if *count == 1 {
            self.unlink(block);
        }
    }

    /// Lists a block once less. The last to leave makes it free, or cached if it is stored.
    pub(super) fn release(&mut self, block: u32, retention: Retention, now: u32) {
        let i = block as usize;
        debug_assert!(self.blocks[i].count > 0, "block {block} released twice");
        if self.blocks[i].until <= now {
            self.blocks[i].priority = 0;
        }
        if retention.priority > 0 && retention.until > now {
            self.blocks[i].priority = self.blocks[i].priority.max(retention.priority);
            self.blocks[i].until = self.blocks[i].until.max(retention.until);
        }
        self.blocks[i].count -= 1;
        if self.blocks[i].count > 0 {
            return;
        }
        if self.blocks[i].node == NONE {
            self.push_free(block);
        } else {
            self.push_cached(block);
        }
    }

    /// Moves cached blocks whose time has come to the end of the lowest list, in an order that keeps the later blocks of
    /// a prefix before the earlier ones. Looks at every cached block that has a priority.
    pub(super) fn expire(&mut self, now: u32) {
        for priority in 1..NUM_LISTS {
            let mut block = self.lists[priority].first;
            while block != NONE {
                let next = self.blocks[block as usize].next;
                if self.blocks[block as usize].until <= now {
                    self.unlink(block);
                    self.blocks[block as usize].priority = 0;
                    self.push_cached(block);
                }
                block = next;
            }
        }
    }

    /// Forgets all nodes: cached blocks become free.
    pub(super) fn clear(&mut self) {
        while let Some(block) = self.oldest() {
            self.discard(block);
        }
        self.blocks.iter_mut().for_each(|block| block.node = NONE);
    }

    fn push_free(&mut self, block: u32) {
        self.blocks[block as usize].next = self.free;
        self.free = block;
        self.num_free += 1;
    }

    fn push_cached(&mut self, block: u32) {
        let i = block as usize;
        let list = &mut self.lists[self.blocks[i].priority as usize];
        self.blocks[i].previous = list.last;
        self.blocks[i].next = NONE;
        let before = std::mem::replace(&mut list.last, block);
        if before == NONE {
            list.first = block;
            self.filled |= 1 << self.blocks[i].priority;
        } else {
            self.blocks[before as usize].next = block;
        }
        self.num_cached += 1;
    }

    fn unlink(&mut self, block: u32) {
        let i = block as usize;
        let (previous, next) = (self.blocks[i].previous, self.blocks[i].next);
        let list = &mut self.lists[self.blocks[i].priority as usize];
        if previous == NONE {
            list.first = next;
        } else {
            self.blocks[previous as usize].next = next;
        }
        if next == NONE {
            list.last = previous;
        } else {
            self.blocks[next as usize].previous = previous;
        }
        if list.first == NONE {
            self.filled &= !(1 << self.blocks[i].priority);
        }
        self.num_cached -= 1;
    }

    /// Recounts the lists and the stack; `counts` are the blocks that sequences list.
    pub(super) fn check(&self, counts: &[u32]) -> std::result::Result<(), String> {
        if let Some(block) = (0..counts.len()).find(|&b| counts[b] != self.blocks[b].count) {
            return Err(format!(
                "block {block} is in {} sequences, {} are counted",
                counts[block], self.blocks[block].count
            ));
        }
        let mut unused: Vec<bool> = counts.iter().map(|&count| count == 0).collect();
        let mut visit = |block: u32, is_stored: bool| {
            let is_right =
                std::mem::take(&mut unused[block as usize]) && (self.node(block) != NONE) == is_stored;
            is_right.then_some(()).ok_or_else(|| format!("block {block} is in a wrong list"))
        };
        let (mut num_free, mut num_cached) = (self.blocks.len() - self.num_touched as usize, 0);
        for block in self.num_touched..self.blocks.len() as u32 {
            visit(block, false)?;
        }
        let mut block = self.free;
        while block != NONE {
            visit(block, false)?;
            (block, num_free) = (self.blocks[block as usize].next, num_free + 1);
        }
        for (priority, list) in self.lists.iter().enumerate() {
            let (mut block, mut before) = (list.first, NONE);
            if (self.filled >> priority & 1 == 1) != (block != NONE) {
                return Err(format!("the list of priority {priority} is marked wrongly"));
            }
            while block != NONE {
                visit(block, true)?;
                if self.blocks[block as usize].previous != before
                    || self.blocks[block as usize].priority as usize != priority
                {
                    return Err(format!("block {block} is linked wrongly"));
                }
                (before, block, num_cached) = (block, self.blocks[block as usize].next, num_cached + 1);
            }
            if list.last != before {
                return Err(format!("the list of priority {priority} ends wrongly"));
            }
        }
        if unused.contains(&true) || (num_free, num_cached) != (self.num_free, self.num_cached) {
            return Err(format!("{num_free} blocks are free and {num_cached} cached, counted otherwise"));
        }
        Ok(())
    }
}
