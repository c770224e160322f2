//! The address of a tensor by DLPack's table of C functions, which torch has on its tensor types: a fraction of the time
//! of calling a method. A torch without the table is asked by the method.

use std::ffi::{CStr, c_int, c_void};
use std::mem::MaybeUninit;
use std::sync::OnceLock;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyCapsuleMethods, PyType, PyTypeMethods};

/// The version of the table that is described here; later minor versions only add to its end.
const MAJOR: u32 = 1;
const CAPSULE: &CStr = c"dlpack_exchange_api";
/// Types whose objects have memory of their own; others are asked by their method.
const TYPES: [&str; 2] = ["torch.Tensor", "torch.nn.parameter.Parameter"];

/// DLPack's `DLTensor`.
#[repr(C)]
struct Described {
    data: *mut c_void,
    _device: [c_int; 2],
    _num_dims: c_int,
    _dtype: u32,
    _shape: *mut i64,
    _strides: *mut i64,
    byte_offset: u64,
}

type Describe = unsafe extern "C" fn(*mut c_void, *mut Described) -> c_int;

/// DLPack's `DLPackExchangeAPI`, as far as it is used.
#[repr(C)]
struct Table {
    _version: [u32; 2],
    _previous: *const c_void,
    _managed_tensors: [*const c_void; 3],
    describe: Option<Describe>,
}

/// A type of `TYPES`, kept so that its address stays its own, and its function if it has one.
struct Known {
    of: Py<PyType>,
    describe: Option<Describe>,
}

/// Where a tensor's elements start.
pub(crate) fn address(tensor: &Bound<'_, PyAny>) -> PyResult<u64> {
    if let Some(describe) = describe(tensor) {
        let mut described = MaybeUninit::<Described>::uninit();
        // SAFETY: the function is the one of the object's type, and fills the place that it gets if it returns 0.
        unsafe {
            if describe(tensor.as_ptr().cast(), described.as_mut_ptr()) == 0 {
                let described = described.assume_init();
                return Ok(described.data.addr() as u64 + described.byte_offset);
            }
        }
        drop(PyErr::take(tensor.py()));
    }
    tensor.call_method0(intern!(tensor.py(), "data_ptr"))?.extract()
}

fn describe(tensor: &Bound<'_, PyAny>) -> Option<Describe> {
    static KNOWN: [OnceLock<Known>; TYPES.len()] = [const { OnceLock::new() }; TYPES.len()];
    let of = tensor.get_type_ptr();
    if let Some(known) = KNOWN.iter().filter_map(OnceLock::get).find(|known| known.of.as_ptr() == of.cast()) {
        return known.describe;
    }
    let of = tensor.get_type();
    let name = of.fully_qualified_name().ok()?;
    let (known, _) = KNOWN.iter().zip(TYPES).find(|(_, wanted)| name == *wanted)?;
    known.get_or_init(|| Known { describe: read_table(&of), of: of.clone().unbind() }).describe
}

fn read_table(of: &Bound<'_, PyType>) -> Option<Describe> {
    let capsule = of.getattr(intern!(of.py(), "__dlpack_c_exchange_api__")).ok()?;
    let table = capsule.cast::<PyCapsule>().ok()?.pointer_checked(Some(CAPSULE)).ok()?;
    // SAFETY: a capsule of this name leads to a table that stays, and every version of it starts with its version.
    let version = unsafe { table.cast::<[u32; 2]>().read() };
    if version[0] != MAJOR {
        return None;
    }
    // SAFETY: as above; this is what a table of this version starts with.
    unsafe { table.cast::<Table>().as_ref() }.describe
}
