//! The one error type of the crate.

use std::path::{Path, PathBuf};

/// What a caller can do about an [`Error`]; the Python border maps each kind to one exception class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An argument or a piece of data has a value that cannot be used.
    Value,
    /// A name or an id is not in the table it was looked up in.
    Key,
    /// The operating system refused a file operation.
    Io,
    /// A device or its driver refused.
    Device,
    /// The caller asked to stop.
    Interrupted,
}

/// What can go wrong in this crate. Lower case, no full stop, says what was expected and what came.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An argument is out of its range; the message names it, its value and the range.
    #[error("{0}")]
    Value(String),
    /// A key is unknown; the message names it.
    #[error("{0}")]
    Key(String),
    /// A file operation failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file the operation was about.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file is not what its reader expects: truncated, altered, or another format.
    #[error("{}: {reason}", path.display())]
    Format {
        /// The file that was read.
        path: PathBuf,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// A device, or its driver, is missing or has refused a call.
    #[error("{0}")]
    Device(String),
    /// The work was cancelled through its [`crate::Monitor`].
    #[error("interrupted")]
    Interrupted,
}

/// The result of every fallible function of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A [`Error::Value`] from anything printable.
    pub fn value(message: impl Into<String>) -> Self {
        Self::Value(message.into())
    }

    /// A [`Error::Format`] about `path`.
    pub fn format(path: &Path, reason: impl Into<String>) -> Self {
        Self::Format { path: path.to_owned(), reason: reason.into() }
    }

    /// Attaches the file name to an operating-system error: `.map_err(Error::io(path))`.
    pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    /// What the caller can do about it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Value(_) | Self::Format { .. } => Kind::Value,
            Self::Key(_) => Kind::Key,
            Self::Io { .. } => Kind::Io,
            Self::Device(_) => Kind::Device,
            Self::Interrupted => Kind::Interrupted,
        }
    }
}
