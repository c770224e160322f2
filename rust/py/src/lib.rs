//! `tempa._core`: the Rust algorithms as a private Python module. Conversions only; one file per module.

use pyo3::prelude::*;

mod border;
mod error;
mod rng;

/// The private extension module; `python/tempa` is the public face.
#[pymodule]
mod _core {
    use super::*;

    #[pymodule_export]
    use error::TempaError;
    #[pymodule_export]
    use rng::{random_bits, random_uniform};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
