//! The one table from core errors to Python exceptions.

use std::io::ErrorKind;

use pyo3::exceptions::{PyKeyError, PyKeyboardInterrupt, PyOSError, PyValueError};
use pyo3::prelude::*;
use tempa_core::{Error, Kind};

pyo3::create_exception!(
    tempa,
    TempaError,
    pyo3::exceptions::PyException,
    "Base of the errors only tempa raises."
);

/// Maps one core error. An `OSError` gets errno and file name, so Python picks the right subclass.
pub(crate) fn to_python(error: Error) -> PyErr {
    let message = error.to_string();
    match error.kind() {
        Kind::Value => PyValueError::new_err(message),
        Kind::Key => PyKeyError::new_err(message),
        Kind::Device => TempaError::new_err(message),
        Kind::Interrupted => PyKeyboardInterrupt::new_err(()),
        Kind::Io => match error {
            Error::Io { path, source } => match source.raw_os_error() {
                Some(code) => PyOSError::new_err((code, describe(&source), path.into_os_string())),
                None => PyOSError::new_err(format!("{}: {source}", path.display())),
            },
            _ => PyOSError::new_err(message),
        },
    }
}

fn describe(source: &std::io::Error) -> String {
    match source.kind() {
        ErrorKind::NotFound => "no such file or directory".to_owned(),
        ErrorKind::PermissionDenied => "permission denied".to_owned(),
        ErrorKind::StorageFull => "no space left on device".to_owned(),
        _ => source.to_string(),
    }
}
