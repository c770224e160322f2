//! Many texts to ids, on several threads.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::encode::{Encoder, lock};
use super::parallel;
use super::tokenizer::Tokenizer;
use crate::{Ragged, Result, pages};

/// Text is handed to threads in chunks of about this size: long enough to make hand-outs and the joining of
/// results cheap, short enough to keep all threads busy to the end.
const CHUNK_BYTES: usize = 64 << 10;

impl Tokenizer {
    /// Rows made in parallel, in order: `make(encoder, i, rows)` appends row `i`. Rows are grouped into tasks by
    /// `num_bytes(i)`, the size of their text.
    pub(crate) fn encode_rows(
        &self,
        num_rows: usize,
        num_bytes: impl Fn(usize) -> usize,
        num_threads: Option<usize>,
        make: impl Fn(&mut Encoder<'_>, usize, &mut Ragged<u32>) -> Result<()> + Sync,
    ) -> Result<Ragged<u32>> {
        let mut rows = Ragged::default();
        pages::reserve(&mut rows.values, (0..num_rows).map(&num_bytes).sum::<usize>() / 2);
        self.append_rows(num_rows, num_bytes, num_threads, make, &mut rows)?;
        rows.values.shrink_to_fit();
        Ok(rows)
    }

    /// [`Tokenizer::encode_rows`] after rows that are there already.
    pub(super) fn append_rows(
        &self,
        num_rows: usize,
        num_bytes: impl Fn(usize) -> usize,
        num_threads: Option<usize>,
        make: impl Fn(&mut Encoder<'_>, usize, &mut Ragged<u32>) -> Result<()> + Sync,
        rows: &mut Ragged<u32>,
    ) -> Result<()> {
        let mut starts = vec![0];
        let mut filled = 0;
        for i in 0..num_rows {
            filled += num_bytes(i);
            if filled >= CHUNK_BYTES || i + 1 == num_rows {
                starts.push(i + 1);
                filled = 0;
            }
        }
        let num_tasks = starts.len() - 1;
        let num_threads = parallel::threads(num_threads)?.min(num_tasks);
        if num_threads <= 1 {
            let mut encoder = self.encoder();
            return (0..num_rows).try_for_each(|i| make(&mut encoder, i, rows));
        }
        let joined = Mutex::new(Joined { rows, next: 0, waiting: BTreeMap::new(), unused: Vec::new() });
        let mut encoders: Vec<_> = (0..num_threads).map(|_| self.encoder()).collect();
        parallel::for_each(&mut encoders, num_tasks, |encoder, task| {
            let mut rows = lock(&joined).unused.pop().unwrap_or_default();
            (starts[task]..starts[task + 1]).try_for_each(|i| make(encoder, i, &mut rows))?;
            lock(&joined).add(task, rows);
            Ok(())
        })
    }
}

/// Rows of finished tasks, in order.
#[derive(Debug)]
struct Joined<'r> {
    rows: &'r mut Ragged<u32>,
    /// The first task whose rows are not among them.
    next: usize,
    /// Rows of tasks that finished before an earlier one.
    waiting: BTreeMap<usize, Ragged<u32>>,
    /// Empty, with memory.
    unused: Vec<Ragged<u32>>,
}

impl Joined<'_> {
    fn add(&mut self, task: usize, rows: Ragged<u32>) {
        self.waiting.insert(task, rows);
        while let Some(mut rows) = self.waiting.remove(&self.next) {
            let base = self.rows.values.len() as i64;
            self.rows.values.extend_from_slice(&rows.values);
            self.rows.offsets.extend(rows.offsets[1..].iter().map(|offset| base + offset));
            rows.values.clear();
            rows.offsets.truncate(1);
            self.unused.push(rows);
            self.next += 1;
        }
    }
}
