//! Numbered tasks on a few threads that live for one call: no global pool, so nothing hangs after a fork.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::{Error, Result};

/// The number of threads to use: what was asked for, or one for each processor.
///
/// # Errors
/// [`Error::Value`] if zero is asked for.
pub(crate) fn threads(asked: Option<usize>) -> Result<usize> {
    match asked {
        Some(0) => Err(Error::value("num_threads must be at least 1, got 0")),
        Some(count) => Ok(count),
        None => Ok(num_processors()),
    }
}

/// The number of processors that this process may use, or 1 if that is not known. Asking the system takes longer than
/// a short text, so it is asked once.
pub fn num_processors() -> usize {
    static ANSWER: OnceLock<usize> = OnceLock::new();
    *ANSWER.get_or_init(|| thread::available_parallelism().map_or(1, usize::from))
}

/// Calls `work(state, task)` for each task in `0..num_tasks`, on one thread for each state.
///
/// Tasks start in order, each exactly once, so the error returned is that of the lowest failing task
/// whatever the number of threads.
pub(crate) fn for_each<S: Send>(
    states: &mut [S],
    num_tasks: usize,
    work: impl Fn(&mut S, usize) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let run = |state: &mut S| {
        loop {
            let task = next.fetch_add(1, Ordering::Relaxed);
            if task >= num_tasks {
                return None;
            }
            if let Err(error) = work(state, task) {
                next.store(num_tasks, Ordering::Relaxed);
                return Some((task, error));
            }
        }
    };
    let first = match states {
        [state] => run(state),
        _ => thread::scope(|scope| {
            let workers: Vec<_> = states.iter_mut().map(|state| scope.spawn(|| run(state))).collect();
            let failures = workers.into_iter().filter_map(|worker| match worker.join() {
                Ok(failure) => failure,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            failures.min_by_key(|(task, _)| *task)
        }),
    };
    first.map_or(Ok(()), |(_, error)| Err(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_for_any_number_of_threads() {
        for num_threads in [1, 2, 7] {
            let mut seen = vec![Vec::new(); num_threads];
            for_each(&mut seen, 100, |mine, task| {
                mine.push(task);
                Ok(())
            })
            .unwrap();
            let mut all = seen.concat();
            all.sort_unstable();
            assert_eq!(all, (0..100).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_lowest_failing_task_is_reported() {
        for num_threads in [1, 2, 5] {
            let fail = |(): &mut (), task: usize| {
                if task % 10 == 9 { Err(Error::value(task.to_string())) } else { Ok(()) }
            };
            let error = for_each(&mut vec![(); num_threads], 100, fail).unwrap_err();
            assert_eq!(error.to_string(), "9");
        }
    }
}
