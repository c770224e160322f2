//! Threads that walk through many short stages together: started once, they spin between stages and sleep between
//! calls, since waking a thread takes longer than a stage.

use std::cell::Cell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::pages::prefetch_line;

/// How often a thread looks before it sleeps: some tens of microseconds, as long as the longest stage of a small model.
const SPINS: usize = 2000;

/// Bytes that are fetched together.
const LINE: usize = 64;
/// Lines that are asked for before a stage: about what arrives while a request travels.
const ASKED_AT_ONCE: usize = 96;

/// A number that goes up, and threads that wait for it.
#[derive(Debug, Default)]
struct Signal {
    value: AtomicUsize,
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Signal {
    fn advance(&self) {
        self.value.fetch_add(1, Ordering::SeqCst);
        // A sleeper has told so before it looked at the value for the last time.
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.changed.notify_all();
        }
    }

    /// Returns when the value is no longer `old`; does `meanwhile` between looks, as long as it looks.
    fn wait_past(&self, old: usize, mut meanwhile: impl FnMut()) {
        for _ in 0..SPINS {
            if self.value.load(Ordering::Acquire) != old {
                return;
            }
            meanwhile();
        }
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        while self.value.load(Ordering::SeqCst) == old {
            guard = self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        drop(guard);
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What all members do, each with its own [`Member`].
type Job = dyn Fn(&Member<'_>) + Sync;

#[derive(Default)]
struct State {
    size: usize,
    job: Mutex<Option<&'static Job>>,
    started: Signal,
    finished: Signal,
    num_finished: AtomicUsize,
    stage: Signal,
    num_arrived: AtomicUsize,
    /// The next piece of the stage.
    next: AtomicUsize,
    has_failed: AtomicBool,
    is_closing: AtomicBool,
}

/// The threads; the caller of [`Team::run`] is one of them.
pub(crate) struct Team {
    state: Arc<State>,
    threads: Vec<JoinHandle<()>>,
    process: u32,
}

/// A thread in a [`Team::run`].
pub(crate) struct Member<'a> {
    state: &'a State,
    /// Which of the threads it is.
    pub(crate) index: usize,
    /// Memory that is read in a later stage.
    ahead: Cell<Range<*const u8>>,
}

impl Team {
    /// A team of `size` threads, at least one.
    pub(crate) fn new(size: usize) -> Self {
        let state = Arc::new(State { size: size.max(1), ..State::default() });
        let spawn = |index| {
            let state = Arc::clone(&state);
            std::thread::spawn(move || serve(&state, index))
        };
        let threads = (1..state.size).map(spawn).collect();
        Self { state, threads, process: std::process::id() }
    }

    /// How many threads there are.
    pub(crate) fn size(&self) -> usize {
        self.state.size
    }

    /// Does `work` on all threads and returns when the last is done.
    pub(crate) fn run(&mut self, work: impl Fn(&Member<'_>) + Sync) {
        if self.process != std::process::id() {
            // Threads do not survive a fork.
            std::mem::forget(std::mem::replace(self, Self::new(self.size())));
        }
        let state = &*self.state;
        let job: &(dyn Fn(&Member<'_>) + Sync) = &work;
        // SAFETY: it outlives this call, which does not return before every thread has left it.
        let job = unsafe { std::mem::transmute::<&(dyn Fn(&Member<'_>) + Sync), &'static Job>(job) };
        *state.job.lock().unwrap_or_else(PoisonError::into_inner) = Some(job);
        let finished = state.finished.value.load(Ordering::SeqCst);
        state.started.advance();
        let own = attempt(state, job, 0);
        if state.size > 1 {
            state.finished.wait_past(finished, std::hint::spin_loop);
        }
        *state.job.lock().unwrap_or_else(PoisonError::into_inner) = None;
        state.num_arrived.store(0, Ordering::SeqCst);
        state.next.store(0, Ordering::SeqCst);
        let has_failed = state.has_failed.swap(false, Ordering::SeqCst);
        if let Err(panic) = own {
            resume_unwind(panic);
        }
        assert!(!has_failed, "a thread of the team panicked");
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.state.is_closing.store(true, Ordering::SeqCst);
        self.state.started.advance();
        for thread in self.threads.drain(..) {
            // It catches its panics, so there is nothing to learn.
            let _ = thread.join();
        }
    }
}

fn serve(state: &State, index: usize) {
    let mut round = 0;
    loop {
        state.started.wait_past(round, std::hint::spin_loop);
        round += 1;
        if state.is_closing.load(Ordering::SeqCst) {
            return;
        }
        let job = *state.job.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(job) = job {
            // The caller hears of a panic by the flag.
            let _ = attempt(state, job, index);
        }
        if state.num_finished.fetch_add(1, Ordering::SeqCst) + 2 == state.size {
            state.num_finished.store(0, Ordering::SeqCst);
            state.finished.advance();
        }
    }
}

/// Does the job; a panic sets the flag and frees those who wait for this thread.
fn attempt(state: &State, job: &Job, index: usize) -> std::thread::Result<()> {
    let result = catch_unwind(AssertUnwindSafe(|| job(&Member::new(state, index))));
    if result.is_err() {
        state.has_failed.store(true, Ordering::SeqCst);
        state.stage.advance();
    }
    result
}

impl<'a> Member<'a> {
    fn new(state: &'a State, index: usize) -> Self {
        Self { state, index, ahead: Cell::new(std::ptr::null()..std::ptr::null()) }
    }

    /// Fetches some memory, which may be any, while the member waits for others: its beginning at once.
    pub(crate) fn ask<T>(&self, values: &[T]) {
        let Range { start, end } = values.as_ptr_range();
        self.ahead.set(start.cast()..end.cast());
        for _ in 0..ASKED_AT_ONCE {
            self.fetch();
        }
    }

    /// Fetches a line of what lies ahead, if anything does.
    fn fetch(&self) {
        let Range { start, end } = self.ahead.take();
        if start < end {
            prefetch_line(start);
            self.ahead.set(start.wrapping_add(LINE)..end);
        } else {
            std::hint::spin_loop();
        }
    }

    /// A stage of `num_pieces`, each done by one member of the team. Returns when all are done, with what they wrote
    /// in sight of every member.
    pub(crate) fn share(&self, num_pieces: usize, mut piece: impl FnMut(usize)) {
        let state = self.state;
        if state.size == 1 {
            (0..num_pieces).for_each(piece);
            return;
        }
        loop {
            let i = state.next.fetch_add(1, Ordering::Relaxed);
            if i >= num_pieces {
                break;
            }
            piece(i);
        }
        let stage = state.stage.value.load(Ordering::SeqCst);
        assert!(!state.has_failed.load(Ordering::SeqCst), "another thread of the team panicked");
        if state.num_arrived.fetch_add(1, Ordering::SeqCst) + 1 == state.size {
            state.num_arrived.store(0, Ordering::SeqCst);
            state.next.store(0, Ordering::SeqCst);
            state.stage.advance();
        } else {
            state.stage.wait_past(stage, || self.fetch());
        }
        assert!(!state.has_failed.load(Ordering::SeqCst), "another thread of the team panicked");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn every_piece_of_every_stage_is_done_once_and_in_order() {
        for size in [1, 2, 5] {
            let mut team = Team::new(size);
            for round in 0..20 {
                let pieces: Vec<AtomicU64> = (0..37).map(|_| AtomicU64::new(0)).collect();
                team.run(|member| {
                    for stage in 0..50 {
                        member.share(round + stage % 17, |i| {
                            pieces[i].fetch_add(1, Ordering::Relaxed);
                        });
                        let expected = |i: usize| (0..=stage).filter(|s| i < round + s % 17).count() as u64;
                        if stage == 49 {
                            for (i, piece) in pieces.iter().enumerate() {
                                assert_eq!(piece.load(Ordering::Relaxed), expected(i));
                            }
                        }
                    }
                });
            }
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_goes_on() {
        let mut team = Team::new(3);
        for round in 0..10 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                team.run(|member| {
                    member.share(9, |i| assert_ne!(i, round));
                    member.share(9, |_| ());
                });
            }));
            assert_eq!(result.is_err(), round < 9, "round {round}");
        }
    }
}
