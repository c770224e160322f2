//! Kernels on torch's tensors: arguments go from Python straight to where the driver reads them.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::types::{PyFloat, PyInt, PyTuple};
use tempa_core::cuda::{self, Arguments, Kernel, Launch, Parameter};

use crate::border::Offload;
use crate::error::to_python;
use crate::exchange;

/// CudaKernel(cubin, entry, parameters, device, shared_bytes): an entry point, loaded on a device.
#[pyclass(frozen, module = "tempa._core")]
pub(crate) struct CudaKernel {
    inner: Kernel,
    /// The only device it runs on.
    #[pyo3(get)]
    device: u32,
}

#[pymethods]
impl CudaKernel {
    #[new]
    fn new(
        py: Python<'_>,
        cubin: PyBackedBytes,
        entry: &str,
        parameters: Vec<PyBackedStr>,
        device: u32,
        shared_bytes: u32,
    ) -> PyResult<Self> {
        let inner = py.offload(|| {
            let parameters =
                parameters.iter().map(|name| Parameter::named(name)).collect::<Result<_, _>>()?;
            Kernel::load(&cubin, entry, parameters, device, shared_bytes)
        })?;
        Ok(Self { inner, device })
    }

    /// launch(arguments, grid, block, shared_bytes, stream): tensors, None for a missing one, numbers, tensor maps.
    fn launch(
        &self,
        py: Python<'_>,
        arguments: &Bound<'_, PyTuple>,
        grid: &Bound<'_, PyAny>,
        block: &Bound<'_, PyAny>,
        shared_bytes: i64,
        stream: usize,
    ) -> PyResult<()> {
        let parameters = self.inner.parameters();
        if arguments.len() != parameters.len() {
            return Err(PyValueError::new_err(format!(
                "the kernel takes {} arguments, but {} came",
                parameters.len(),
                arguments.len()
            )));
        }
        let mut values = Arguments::default();
        for (place, (argument, &parameter)) in arguments.iter_borrowed().zip(parameters).enumerate() {
            read(&mut values, place, &argument, parameter)?;
        }
        let launch = Launch {
            grid: three("grid", grid)?,
            block: three("block", block)?,
            shared_bytes: shared_bytes
                .try_into()
                .map_err(|_| PyValueError::new_err(format!("shared_bytes cannot be {shared_bytes}")))?,
            stream,
        };
        // Detached, since a full queue waits for the device, which may wait for another thread's kernel.
        // SAFETY: addresses are those of tensors, and what the kernel needs of them is checked by the operations that
        // launch it; the stream is torch's.
        py.detach(|| unsafe { self.inner.launch(launch, &mut values) }).map_err(to_python)
    }
}

fn read(
    values: &mut Arguments,
    place: usize,
    argument: &Bound<'_, PyAny>,
    parameter: Parameter,
) -> PyResult<()> {
    let wrong_type = || {
        let came = argument.get_type();
        PyTypeError::new_err(format!("argument {place} is declared {}, got {came}", parameter.name()))
    };
    let too_large = || {
        PyValueError::new_err(format!("argument {place} is declared {}, got {argument}", parameter.name()))
    };
    let word = match parameter {
        Parameter::Pointer if argument.is_none() => 0,
        Parameter::Pointer => exchange::address(argument).map_err(|_| wrong_type())?,
        Parameter::TensorMap => {
            let map = argument.cast::<TensorMap>().map_err(|_| wrong_type())?;
            values.push_map(&map.get().inner.encoded().map_err(to_python)?);
            return Ok(());
        }
        Parameter::Float => {
            let number = if let Ok(float) = argument.cast::<PyFloat>() {
                float.value()
            } else {
                argument.cast::<PyInt>().map_err(|_| wrong_type())?.extract().map_err(|_| too_large())?
            };
            Parameter::float(number).ok_or_else(too_large)?
        }
        Parameter::UnsignedLong => {
            argument.cast::<PyInt>().map_err(|_| wrong_type())?.extract::<u64>().map_err(|_| too_large())?
        }
        Parameter::Int | Parameter::Unsigned | Parameter::Long => {
            let number = argument.cast::<PyInt>().map_err(|_| wrong_type())?;
            let number = number.extract::<i64>().map_err(|_| too_large())?;
            parameter.integer(number).ok_or_else(too_large)?
        }
    };
    values.push(word);
    Ok(())
}

/// A size along x, or along x, y and so on; 1 where none is given.
fn three(what: &str, size: &Bound<'_, PyAny>) -> PyResult<[u32; 3]> {
    let mut sizes = [1; 3];
    let wrong = || PyValueError::new_err(format!("{what} must be 1 to 3 numbers of 32 bits, got {size}"));
    if let Ok(tuple) = size.cast::<PyTuple>() {
        if tuple.is_empty() || tuple.len() > 3 {
            return Err(wrong());
        }
        for (to, from) in sizes.iter_mut().zip(tuple.iter_borrowed()) {
            *to = from.extract().map_err(|_| wrong())?;
        }
    } else {
        sizes[0] = size.extract().map_err(|_| wrong())?;
    }
    Ok(sizes)
}

/// TensorMap(tensor, box, swizzle_bytes=0): a tensor and how much of it one bulk copy moves.
#[pyclass(frozen, module = "tempa._core")]
pub(crate) struct TensorMap {
    inner: cuda::TensorMap,
    /// What is copied from or to.
    #[pyo3(get)]
    tensor: Py<PyAny>,
    /// Elements of one copy along each dimension of the tensor.
    #[pyo3(get)]
    r#box: Py<PyTuple>,
    /// 128, 64, 32, or 0 for none.
    #[pyo3(get)]
    swizzle_bytes: u64,
}

#[pymethods]
impl TensorMap {
    #[new]
    #[pyo3(signature = (tensor, r#box, swizzle_bytes=0))]
    fn new(tensor: &Bound<'_, PyAny>, r#box: &Bound<'_, PyTuple>, swizzle_bytes: u64) -> PyResult<Self> {
        let py = tensor.py();
        let shape: Vec<i64> = tensor.getattr(intern!(py, "shape"))?.extract()?;
        let strides: Vec<i64> = tensor.call_method0(intern!(py, "stride"))?.extract()?;
        let inner = cuda::TensorMap::new(
            tensor.call_method0(intern!(py, "data_ptr"))?.extract()?,
            tensor.call_method0(intern!(py, "element_size"))?.extract()?,
            &shape,
            &strides,
            &r#box.extract::<Vec<i64>>()?,
            swizzle_bytes,
        );
        let (tensor, r#box) = (tensor.clone().unbind(), r#box.clone().unbind());
        Ok(Self { inner: inner.map_err(to_python)?, tensor, r#box, swizzle_bytes })
    }

    /// Elements along each dimension, the innermost first as in the next two.
    #[getter]
    fn sizes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.inner.sizes())
    }

    /// Bytes from one element to the next along each dimension.
    #[getter]
    fn stride_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.inner.stride_bytes())
    }

    /// Elements of the box along each dimension.
    #[getter]
    fn sides<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.inner.sides())
    }
}
