//! The block bookkeeping of the paged cache.

use std::sync::{Mutex, MutexGuard, PoisonError};

use numpy::{Element, IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadwriteArray1};
use numpy::{PyReadwriteArrayDyn, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyDict;
use tempa_core::kv::{self, Admission, Arrays, BlockCopy, Group, Requests};

use crate::error::to_python;

/// (group, source, target, num_tokens) of each copy.
type Copies<'py> = Bound<'py, PyArray2<i32>>;
type Longs<'py> = Bound<'py, PyArray1<i64>>;
type Admitted<'py> = (Longs<'py>, Longs<'py>, Copies<'py>);
type Events<'py> =
    (Bound<'py, PyArray1<u8>>, Longs<'py>, Longs<'py>, Bound<'py, PyArray1<u32>>, Vec<Vec<u8>>);

/// Token ids of any usual type.
#[derive(FromPyObject)]
enum Tokens<'py> {
    Uint32(PyReadonlyArray1<'py, u32>),
    Int32(PyReadonlyArray1<'py, i32>),
    Int64(PyReadonlyArray1<'py, i64>),
}

impl Tokens<'_> {
    /// The ids as `uint32`, in place where they have 32 bits, else in `narrow`.
    fn read<'a>(&'a self, narrow: &'a mut Vec<u32>) -> PyResult<&'a [u32]> {
        match self {
            Self::Uint32(ids) => Ok(ids.as_slice()?),
            Self::Int32(ids) => {
                let ids = ids.as_slice()?;
                check(ids, ids.iter().fold(0, |all, id| all | id) >= 0)?;
                // SAFETY: both types have the same size and alignment, and every bit pattern is one of either.
                Ok(unsafe { std::slice::from_raw_parts(ids.as_ptr().cast(), ids.len()) })
            }
            Self::Int64(ids) => {
                let ids = ids.as_slice()?;
                check(ids, ids.iter().fold(0, |all, id| all | id >> u32::BITS) == 0)?;
                narrow.clear();
                narrow.extend(ids.iter().map(|&id| id as u32));
                Ok(narrow)
            }
        }
    }
}

/// Names the first id that is none, unless all are right.
fn check<T: Copy + TryInto<u32> + std::fmt::Display>(ids: &[T], are_right: bool) -> PyResult<()> {
    let wrong = if are_right { None } else { ids.iter().find(|&&id| id.try_into().is_err()) };
    wrong.map_or(Ok(()), |id| {
        Err(to_python(tempa_core::Error::value(format!("{id} is not a token id: expected uint32"))))
    })
}

/// KvManager(groups, block_size, watermark, has_events, has_equal_hashes): blocks of tokens, shared by sequences.
///
/// The lock is held for one call, which never waits for anything else.
#[pyclass(frozen, module = "tempa._core")]
pub(crate) struct KvManager(Mutex<Managed>);

struct Managed {
    kv: kv::KvManager,
    /// Memory for token ids of another type.
    narrow: Vec<u32>,
    /// The tables of the last step. Held, so that no other array can have their address.
    tables: Option<Py<PyUntypedArray>>,
}

#[pymethods]
impl KvManager {
    /// A group is (num_blocks, window, sinks).
    #[new]
    fn new(
        groups: Vec<(usize, Option<usize>, usize)>,
        block_size: usize,
        watermark: usize,
        has_events: bool,
        has_equal_hashes: bool,
    ) -> PyResult<Self> {
        let group = |(num_blocks, window, sinks)| Group { num_blocks, window, sinks };
        let groups: Vec<Group> = groups.into_iter().map(group).collect();
        let make = if has_equal_hashes { kv::KvManager::with_equal_hashes } else { kv::KvManager::new };
        let mut kv = make(&groups, block_size, watermark).map_err(to_python)?;
        if has_events {
            kv.record_events();
        }
        Ok(Self(Mutex::new(Managed { kv, narrow: Vec::new(), tables: None })))
    }

    /// admit(tokens, offsets, namespaces, priorities, until, reserves) -> (handles, num_cached, copies).
    #[expect(clippy::too_many_arguments, reason = "the settings of requests are arrays of their own")]
    fn admit<'py>(
        &self,
        py: Python<'py>,
        tokens: Tokens<'py>,
        offsets: PyReadonlyArray1<'py, i64>,
        namespaces: Vec<PyBackedBytes>,
        priorities: Option<PyReadonlyArray1<'py, u8>>,
        until: Option<PyReadonlyArray1<'py, u32>>,
        reserves: Option<PyReadonlyArray1<'py, i64>>,
    ) -> PyResult<Admitted<'py>> {
        let names: Vec<&[u8]> = namespaces.iter().map(|name| &**name).collect();
        let Managed { kv, narrow, .. } = &mut *self.lock();
        let requests = Requests {
            tokens: tokens.read(narrow)?,
            offsets: offsets.as_slice()?,
            namespaces: &names,
            priorities: slice(priorities.as_ref())?,
            until: slice(until.as_ref())?,
            reserves: slice(reserves.as_ref())?,
        };
        admitted(py, &kv.admit(requests).map_err(to_python)?)
    }

    /// resume(handles) -> (handles, num_cached, copies).
    fn resume<'py>(&self, py: Python<'py>, handles: PyReadonlyArray1<'py, i64>) -> PyResult<Admitted<'py>> {
        admitted(py, &self.lock().kv.resume(handles.as_slice()?).map_err(to_python)?)
    }

    /// step(handles, counts, tokens, tables, slots, lengths) -> copies.
    #[expect(clippy::too_many_arguments, reason = "arrays in, arrays out, one call")]
    fn step<'py>(
        &self,
        py: Python<'py>,
        handles: PyReadonlyArray1<'py, i64>,
        counts: Option<PyReadonlyArray1<'py, i64>>,
        tokens: Option<Tokens<'py>>,
        tables: &Bound<'py, PyUntypedArray>,
        mut slots: PyReadwriteArray1<'py, i32>,
        mut lengths: PyReadwriteArray1<'py, i32>,
    ) -> PyResult<Copies<'py>> {
        let Managed { kv, narrow, tables: last } = &mut *self.lock();
        let is_same = last.as_ref().is_some_and(|last| last.is(tables));
        let shape = tables.shape();
        let &[.., num_rows, width] = shape else {
            return Err(PyTypeError::new_err(
                "tables are of shape (rows, blocks), or (groups, rows, blocks)",
            ));
        };
        let mut cells: PyReadwriteArrayDyn<'py, i32> = tables.extract()?;
        let arrays = Arrays {
            tables: cells.as_slice_mut()?,
            num_rows,
            width,
            slots: slots.as_slice_mut()?,
            lengths: lengths.as_slice_mut()?,
            is_same,
        };
        let counts = counts.as_ref().map(|counts| counts.as_slice()).transpose()?;
        let tokens = tokens.as_ref().map(|tokens| tokens.read(narrow)).transpose()?;
        let copies = kv.step(handles.as_slice()?, counts, tokens, arrays).map_err(to_python)?;
        if !is_same {
            *last = Some(tables.clone().unbind());
        }
        copies_array(py, &copies)
    }

    /// commit(handles): store their full blocks now.
    fn commit(&self, handles: PyReadonlyArray1<'_, i64>) -> PyResult<()> {
        self.lock().kv.commit(handles.as_slice()?).map_err(to_python)
    }

    /// fork(handle, n) -> handles of n sequences that share its tokens.
    fn fork<'py>(&self, py: Python<'py>, handle: i64, n: usize) -> PyResult<Longs<'py>> {
        Ok(self.lock().kv.fork(handle, n).map_err(to_python)?.into_pyarray(py))
    }

    /// rollback(handles, counts): take the last tokens back.
    fn rollback(
        &self,
        handles: PyReadonlyArray1<'_, i64>,
        counts: PyReadonlyArray1<'_, i64>,
    ) -> PyResult<()> {
        self.lock().kv.rollback(handles.as_slice()?, counts.as_slice()?).map_err(to_python)
    }

    /// free(handles, is_committed): end sequences.
    fn free(&self, handles: PyReadonlyArray1<'_, i64>, is_committed: bool) -> PyResult<()> {
        self.lock().kv.free(handles.as_slice()?, is_committed).map_err(to_python)
    }

    /// preempt(handles): give their blocks back, keep their tokens.
    fn preempt(&self, handles: PyReadonlyArray1<'_, i64>) -> PyResult<()> {
        self.lock().kv.preempt(handles.as_slice()?).map_err(to_python)
    }

    /// evict(num_blocks) -> how many blocks of each group became free.
    fn evict(&self, num_blocks: usize) -> Vec<usize> {
        self.lock().kv.evict(num_blocks)
    }

    /// reset(epoch) -> whether it is another one than before, and all prefixes are forgotten.
    fn reset(&self, epoch: i64) -> bool {
        self.lock().kv.reset(epoch)
    }

    /// expire(now): keep nothing longer that was kept until then.
    fn expire(&self, now: u32) -> PyResult<()> {
        self.lock().kv.expire(now).map_err(to_python)
    }

    /// fits(num_tokens) -> whether a sequence of so many fits now.
    fn fits(&self, num_tokens: usize) -> bool {
        self.lock().kv.fits(num_tokens)
    }

    /// events() -> (kinds, entries, parents, tokens, namespaces) since the last call.
    fn events<'py>(&self, py: Python<'py>) -> Events<'py> {
        let events = self.lock().kv.take_events();
        (
            events.kinds.into_pyarray(py),
            events.entries.into_pyarray(py),
            events.parents.into_pyarray(py),
            events.tokens.into_pyarray(py),
            events.namespaces.into_iter().map(Vec::from).collect(),
        )
    }

    /// stats() -> name to count.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.lock().kv.stats();
        let counts = PyDict::new(py);
        counts.set_item("num_sequences", stats.num_sequences)?;
        counts.set_item("num_stored", stats.num_stored)?;
        counts.set_item("num_queried", stats.num_queried)?;
        counts.set_item("num_hit", stats.num_hit)?;
        counts.set_item("num_evicted", stats.num_evicted)?;
        counts.set_item("num_merged", stats.num_merged)?;
        counts.set_item("num_copied", stats.num_copied)?;
        counts.set_item("num_preempted", stats.num_preempted)?;
        Ok(counts)
    }

    /// check(): raise if the bookkeeping contradicts itself.
    fn check(&self) -> PyResult<()> {
        self.lock().kv.check().map_err(to_python)
    }

    /// num_available() -> blocks of each group that no sequence lists.
    fn num_available(&self) -> Vec<usize> {
        let managed = self.lock();
        (0..managed.kv.groups().len()).map(|group| managed.kv.num_available(group)).collect()
    }

    /// num_cached() -> those of them that hold a prefix.
    fn num_cached(&self) -> Vec<usize> {
        let managed = self.lock();
        (0..managed.kv.groups().len()).map(|group| managed.kv.num_cached(group)).collect()
    }

    #[getter]
    fn bytes_per_block(&self) -> f64 {
        self.lock().kv.bytes_per_block()
    }
}

impl KvManager {
    fn lock(&self) -> MutexGuard<'_, Managed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nothing where nothing was given.
fn slice<'a, T: Element>(values: Option<&'a PyReadonlyArray1<'_, T>>) -> PyResult<&'a [T]> {
    Ok(values.map_or(Ok(&[][..]), |values| values.as_slice())?)
}

// The arrays of a call are small: to copy them is cheaper than to let Python own the vectors.

fn admitted<'py>(py: Python<'py>, admission: &Admission) -> PyResult<Admitted<'py>> {
    let handles = PyArray1::from_slice(py, &admission.handles);
    let num_cached = PyArray1::from_slice(py, &admission.num_cached);
    Ok((handles, num_cached, copies_array(py, &admission.copies)?))
}

fn copies_array<'py>(py: Python<'py>, copies: &[BlockCopy]) -> PyResult<Copies<'py>> {
    let array = PyArray2::zeros(py, [copies.len(), 4], false);
    for (row, copy) in array.readwrite().as_slice_mut()?.chunks_exact_mut(4).zip(copies) {
        let numbers = [copy.group, copy.source, copy.target, copy.num_tokens];
        row.copy_from_slice(&numbers.map(|number| number as i32));
    }
    Ok(array)
}
