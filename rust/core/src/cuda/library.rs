//! A shared library that is opened at run time and never closed.

#[cfg(target_os = "linux")]
pub(super) use linux::{Library, after_fork};
#[cfg(not(target_os = "linux"))]
pub(super) use other::Library;

#[cfg(target_os = "linux")]
mod linux {
    use std::ffi::{CStr, CString, c_void};
    use std::ptr::NonNull;

    /// An open library.
    pub(in crate::cuda) struct Library(NonNull<c_void>);

    impl Library {
        /// Opens a file, looked for as the system looks for libraries; the error is the system's.
        pub(in crate::cuda) fn open(name: &str) -> Result<Self, String> {
            let path = CString::new(name).map_err(|error| error.to_string())?;
            // SAFETY: the path ends with a zero. What the library does when it is loaded is its own affair, as
            // for every library that a program is linked to.
            let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
            NonNull::new(handle).map(Self).ok_or_else(|| {
                // SAFETY: after a failure the system returns a string that is valid until the next call of its kind
                // in this thread, or null.
                let message =
                    unsafe { libc::dlerror().cast_const().as_ref().map(|text| CStr::from_ptr(text)) };
                message
                    .map_or_else(|| format!("{name} cannot be opened"), |text| text.to_string_lossy().into())
            })
        }

        /// The address of a function.
        pub(in crate::cuda) fn symbol(&self, name: &CStr) -> Option<NonNull<c_void>> {
            // SAFETY: the library is open, and the name ends with a zero.
            NonNull::new(unsafe { libc::dlsym(self.0.as_ptr(), name.as_ptr()) })
        }
    }

    /// Has `call` run in every process that is forked from this one.
    pub(in crate::cuda) fn after_fork(call: extern "C" fn()) {
        // SAFETY: the function stays, as this library is never unloaded. A refusal means that memory is short, and then
        // a forked process has the driver's error instead of ours.
        unsafe { libc::pthread_atfork(None, None, Some(call)) };
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    use std::ffi::{CStr, c_void};
    use std::ptr::NonNull;

    /// Never made: CUDA runs on Linux only.
    pub(in crate::cuda) enum Library {}

    impl Library {
        pub(in crate::cuda) fn open(name: &str) -> Result<Self, String> {
            Err(format!("{name} exists on Linux only"))
        }

        pub(in crate::cuda) fn symbol(&self, _name: &CStr) -> Option<NonNull<c_void>> {
            match *self {}
        }
    }
}
