//! Progress and cancellation of long work, shared between the worker and whoever waits for it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::{Error, Result};

/// A counter that the work advances and a flag that its owner may raise.
///
/// The unit of the counter is the work's own (bytes, documents, merges) and is stated by the function
/// that takes the monitor.
#[derive(Debug, Default)]
pub struct Monitor {
    done: AtomicU64,
    cancelled: AtomicBool,
}

impl Monitor {
    /// Adds to the counter and fails if the work was cancelled.
    ///
    /// # Errors
    /// [`Error::Interrupted`] after [`Monitor::cancel`].
    pub fn advance(&self, units: u64) -> Result<()> {
        self.done.fetch_add(units, Ordering::Relaxed);
        if self.cancelled.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// Units finished so far.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Asks the work to stop at its next [`Monitor::advance`].
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advance_counts_until_cancelled() {
        let monitor = Monitor::default();
        monitor.advance(3).unwrap();
        monitor.cancel();
        assert!(matches!(monitor.advance(4), Err(Error::Interrupted)));
        assert_eq!(monitor.done(), 7);
    }
}
