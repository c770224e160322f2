//! What every binding uses: leaving the interpreter, Ctrl-C, progress, and arrays without copies.

use std::sync::mpsc;
use std::time::Duration;

use pyo3::prelude::*;
use tempa_core::{Monitor, Result};

use crate::error::to_python;

/// How often a waiting call looks for Ctrl-C and reports progress.
const POLL: Duration = Duration::from_millis(100);

/// Runs core work with the interpreter released and its error mapped.
pub(crate) trait Offload {
    /// For work of microseconds to a second.
    fn offload<T: Send>(self, work: impl FnOnce() -> Result<T> + Send) -> PyResult<T>;

    /// For longer work: Ctrl-C raises the monitor's flag, and `progress`, if given, is called with the
    /// units done about ten times a second.
    fn offload_long<T: Send>(
        self,
        progress: Option<&Bound<'_, PyAny>>,
        work: impl FnOnce(&Monitor) -> Result<T> + Send,
    ) -> PyResult<T>;

    /// [`Offload::offload_long`], while this thread does something else with the interpreter first.
    fn offload_beside<T: Send, R>(
        self,
        progress: Option<&Bound<'_, PyAny>>,
        work: impl FnOnce(&Monitor) -> Result<T> + Send,
        beside: impl FnOnce() -> R,
    ) -> (PyResult<T>, R);
}

impl Offload for Python<'_> {
    fn offload<T: Send>(self, work: impl FnOnce() -> Result<T> + Send) -> PyResult<T> {
        let result = self.detach(work);
        // Ctrl-C that came meanwhile is raised here: numpy, when it is first asked for an array, would panic on it.
        self.check_signals()?;
        result.map_err(to_python)
    }

    fn offload_long<T: Send>(
        self,
        progress: Option<&Bound<'_, PyAny>>,
        work: impl FnOnce(&Monitor) -> Result<T> + Send,
    ) -> PyResult<T> {
        self.offload_beside(progress, work, || ()).0
    }

    fn offload_beside<T: Send, R>(
        self,
        progress: Option<&Bound<'_, PyAny>>,
        work: impl FnOnce(&Monitor) -> Result<T> + Send,
        beside: impl FnOnce() -> R,
    ) -> (PyResult<T>, R) {
        let monitor = Monitor::default();
        let callback = progress.map(|call| call.clone().unbind());
        let (result, raised, other) = std::thread::scope(|scope| {
            let (done, finished) = mpsc::channel();
            let worker = scope.spawn({
                let monitor = &monitor;
                move || {
                    let result = work(monitor);
                    // The receiver outlives the worker, so the message always arrives.
                    let _ = done.send(());
                    result
                }
            });
            let other = beside();
            let (monitor, callback) = (&monitor, &callback);
            let wait = move || {
                let mut raised = None;
                while matches!(finished.recv_timeout(POLL), Err(mpsc::RecvTimeoutError::Timeout)) {
                    if raised.is_none() {
                        raised = Python::attach(|py| {
                            py.check_signals()?;
                            if let Some(call) = callback {
                                call.call1(py, (monitor.done(),))?;
                            }
                            PyResult::Ok(())
                        })
                        .err();
                        if raised.is_some() {
                            monitor.cancel();
                        }
                    }
                }
                raised
            };
            let raised = self.detach(wait);
            (worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), raised, other)
        });
        // Work that ended before it saw the flag was interrupted all the same.
        let checked = raised.map_or_else(|| self.check_signals(), Err);
        let value = checked.and_then(|()| result.map_err(to_python)).and_then(|value| {
            if let Some(call) = progress {
                call.call1((monitor.done(),))?;
            }
            Ok(value)
        });
        (value, other)
    }
}
