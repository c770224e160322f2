//! Lists of ids from Python integers that are made once.
//!
//! An integer of its own for each id takes longer to make than the id took to find.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyList};
use tempa_core::pages::prefetch_line;

/// Ids from here on get integers of their own: no usual vocabulary is as large.
const MAX_SHARED: usize = 1 << 19;

/// Integers that are on their way while others are counted.
const AHEAD: usize = 16;

/// The integers from 0 on.
#[derive(Clone)]
pub(crate) struct Ints(Arc<[Py<PyInt>]>);

/// The longest table so far. The lock is held for a copy of the pointer only: making objects can run any code.
static LONGEST: OnceLock<Mutex<Ints>> = OnceLock::new();

impl Ints {
    /// The integers below `len`, and maybe more.
    pub(crate) fn up_to(py: Python<'_>, len: usize) -> Self {
        let longest = LONGEST.get_or_init(|| Mutex::new(Self(Arc::new([]))));
        let known = longest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let len = len.min(MAX_SHARED);
        if known.0.len() >= len {
            return known;
        }
        let make = |int: usize| {
            let Ok(int) = int.into_pyobject(py);
            int.unbind()
        };
        let old = known.0.iter().map(|int| int.clone_ref(py));
        let grown = Self(old.chain((known.0.len()..len).map(make)).collect());
        *longest.lock().unwrap_or_else(PoisonError::into_inner) = grown.clone();
        grown
    }

    /// The ids as a list.
    pub(crate) fn list<'py>(&self, py: Python<'py>, ids: &[u32]) -> PyResult<Bound<'py, PyList>> {
        let own = |id: u32| {
            let Ok(int) = id.into_pyobject(py);
            int
        };
        let int = |at: usize| {
            // Counting a reference waits for the integer, so it is on its way some steps ahead.
            if let Some(int) = ids.get(at + AHEAD).and_then(|&id| self.0.get(id as usize)) {
                prefetch_line(int.as_ptr().cast());
            }
            self.0.get(ids[at] as usize).map_or_else(|| own(ids[at]), |int| int.bind(py).clone())
        };
        PyList::new(py, (0..ids.len()).map(int))
    }
}

/// While this lives, the search for cycles is off: it would go through all lists again and again as they are made,
/// and lists of integers are in no cycle.
pub(crate) struct NoCollection<'py>(Python<'py>, bool);

impl<'py> NoCollection<'py> {
    pub(crate) fn start(py: Python<'py>) -> Self {
        // SAFETY: the token shows that this thread is attached to the interpreter.
        Self(py, unsafe { ffi::PyGC_Disable() } != 0)
    }
}

impl Drop for NoCollection<'_> {
    fn drop(&mut self) {
        let Self(_py, was_on) = self;
        if *was_on {
            // SAFETY: as above.
            unsafe { ffi::PyGC_Enable() };
        }
    }
}
