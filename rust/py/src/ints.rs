//! Lists of ids from Python integers that are made once.
//!
//! An integer of its own for each id takes longer to make than the id took to find.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use pyo3::prelude::*;
use pyo3::types::{PyInt, PyList};
use tempa_core::Ragged;

/// Ids from here on get integers of their own: no usual vocabulary is as large.
const MAX_SHARED: usize = 1 << 19;

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
        let int = |&id: &u32| self.0.get(id as usize).map_or_else(|| own(id), |int| int.bind(py).clone());
        PyList::new(py, ids.iter().map(int))
    }

    /// The rows as a list of lists.
    pub(crate) fn lists<'py>(&self, py: Python<'py>, rows: &Ragged<u32>) -> PyResult<Bound<'py, PyList>> {
        let lists: Vec<_> = rows.rows().map(|row| self.list(py, row)).collect::<PyResult<_>>()?;
        PyList::new(py, lists)
    }
}
