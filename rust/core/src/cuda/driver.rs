//! The functions of NVIDIA's driver that are used here, all of them in CUDA 12.0 and later.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::library::Library;
use crate::{Error, Result};

/// Names another file to load the driver from.
const PLACE: &str = "TEMPA_CUDA_DRIVER";
const USUAL_PLACE: &str = "libcuda.so.1";

/// What the driver calls a context, a stream, a library, a kernel or a function: an address that only it follows.
pub(super) type Handle = usize;
/// 0 for success.
type Status = c_int;

/// Set in a forked process, where no context of the first process can be used.
static IS_FORKED: AtomicBool = AtomicBool::new(false);

/// Declares the table of functions, and how it is read from the library.
macro_rules! functions {
    ($($name:ident($($argument:ty),*);)*) => {
        /// The functions under the driver's own names.
        #[allow(non_snake_case)]
        struct Functions {
            $($name: unsafe extern "C" fn($($argument),*) -> Status,)*
        }

        impl Functions {
            fn of(library: &Library) -> std::result::Result<Self, &'static str> {
                Ok(Self {
                    $($name: {
                        const NAME: &str = stringify!($name);
                        const SYMBOL: &[u8] = concat!(stringify!($name), "\0").as_bytes();
                        let symbol = CStr::from_bytes_with_nul(SYMBOL).ok().and_then(|name| library.symbol(name));
                        let address = symbol.ok_or(NAME)?.as_ptr();
                        // SAFETY: the driver's function of this name has this type in every version from 12.0 on.
                        unsafe {
                            std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) -> Status>(address)
                        }
                    },)*
                })
            }
        }
    };
}

functions! {
    cuInit(c_uint);
    cuGetErrorName(Status, *mut *const c_char);
    cuGetErrorString(Status, *mut *const c_char);
    cuDeviceGet(*mut c_int, c_int);
    cuDevicePrimaryCtxRetain(*mut Handle, c_int);
    cuCtxGetCurrent(*mut Handle);
    cuCtxSetCurrent(Handle);
    cuLibraryLoadData(
        *mut Handle, *const u8, *mut c_int, *mut *mut c_void, c_uint, *mut c_int, *mut *mut c_void, c_uint
    );
    cuLibraryGetKernel(*mut Handle, Handle, *const c_char);
    cuKernelGetFunction(*mut Handle, Handle);
    cuFuncSetAttribute(Handle, c_int, c_int);
    cuLaunchKernel(
        Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void, *mut *mut c_void
    );
    cuTensorMapEncodeTiled(
        *mut u8, c_int, u32, u64, *const u64, *const u64, *const u32, *const u32, c_int, c_int, c_int, c_int
    );
}

/// The driver, started.
pub(super) struct Driver(Functions);

impl Driver {
    /// The one of this process, loaded and started when it is first asked for.
    pub(super) fn get() -> Result<&'static Self> {
        static DRIVER: OnceLock<Driver> = OnceLock::new();
        if IS_FORKED.load(Ordering::Relaxed) {
            return Err(Error::Device(
                "CUDA was in use when this process was forked, so it cannot be used here: start processes by the \
                 method \"spawn\""
                    .to_owned(),
            ));
        }
        if let Some(driver) = DRIVER.get() {
            return Ok(driver);
        }
        let driver = Self::load()?;
        Ok(DRIVER.get_or_init(|| {
            #[cfg(target_os = "linux")]
            super::library::after_fork(mark_forked);
            driver
        }))
    }

    fn load() -> Result<Self> {
        let place = std::env::var(PLACE).unwrap_or_else(|_| USUAL_PLACE.to_owned());
        let library = Library::open(&place).map_err(|reason| {
            Error::Device(format!("no CUDA driver: {reason}; install NVIDIA's, or name its file in {PLACE}"))
        })?;
        let functions = Functions::of(&library).map_err(|name| {
            Error::Device(format!("{place} has no {name}: the NVIDIA driver must be of CUDA 12.0 or later"))
        })?;
        let driver = Self(functions);
        // SAFETY: the first call, with the only value that is allowed.
        driver.check("cuInit", unsafe { (driver.0.cuInit)(0) })?;
        Ok(driver)
    }

    fn check(&self, call: &str, status: Status) -> Result<()> {
        if status == 0 { Ok(()) } else { Err(self.error(call, status)) }
    }

    #[cold]
    fn error(&self, call: &str, status: Status) -> Error {
        let said = |function: unsafe extern "C" fn(Status, *mut *const c_char) -> Status| {
            let mut text = std::ptr::null();
            // SAFETY: the driver writes null or the address of a string that stays.
            unsafe { (function(status, &raw mut text) == 0 && !text.is_null()).then(|| CStr::from_ptr(text)) }
        };
        let name = said(self.0.cuGetErrorName)
            .map_or_else(|| status.to_string(), |name| name.to_string_lossy().into());
        let text = said(self.0.cuGetErrorString)
            .map_or_else(String::new, |text| format!(": {}", text.to_string_lossy()));
        Error::Device(format!("{call} failed with {name}{text}"))
    }

    /// The primary context of a device, kept for the life of the process as torch keeps it.
    pub(super) fn primary_context(&self, index: u32) -> Result<Handle> {
        let index =
            c_int::try_from(index).map_err(|_| Error::value(format!("there is no device {index}")))?;
        let (mut device, mut context) = (0, 0);
        // SAFETY: written by the driver.
        self.check("cuDeviceGet", unsafe { (self.0.cuDeviceGet)(&raw mut device, index) })?;
        // SAFETY: as above, and the device is one that the driver gave us.
        let status = unsafe { (self.0.cuDevicePrimaryCtxRetain)(&raw mut context, device) };
        self.check("cuDevicePrimaryCtxRetain", status)?;
        Ok(context)
    }

    /// Calls with this context current, and leaves the thread's own as it was: none in a new thread.
    pub(super) fn within<T>(&self, context: Handle, call: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut current = 0;
        // SAFETY: written by the driver.
        self.check("cuCtxGetCurrent", unsafe { (self.0.cuCtxGetCurrent)(&raw mut current) })?;
        if current == context {
            return call();
        }
        self.set_current(context)?;
        let result = call();
        self.set_current(current)?;
        result
    }

    fn set_current(&self, context: Handle) -> Result<()> {
        // SAFETY: a context that the driver gave us, or 0 for none.
        self.check("cuCtxSetCurrent", unsafe { (self.0.cuCtxSetCurrent)(context) })
    }

    /// An entry point of a compiled file, loaded into the current context.
    pub(super) fn load_function(&self, cubin: &[u8], entry: &CStr) -> Result<Handle> {
        let (mut library, mut kernel, mut function) = (0, 0, 0);
        // SAFETY: the driver copies the code, which says how long it is, and there are no options.
        let status = unsafe {
            let (none, no_values) = (null_mut(), null_mut());
            (self.0.cuLibraryLoadData)(
                &raw mut library,
                cubin.as_ptr(),
                none,
                no_values,
                0,
                none,
                no_values,
                0,
            )
        };
        self.check("cuLibraryLoadData", status)?;
        // SAFETY: handles that the driver has just written, and a name that ends with a zero.
        let status = unsafe { (self.0.cuLibraryGetKernel)(&raw mut kernel, library, entry.as_ptr()) };
        self.check(&format!("cuLibraryGetKernel of {}", entry.to_string_lossy()), status)?;
        // Loads the code now: later, a CUDA graph might be captured.
        // SAFETY: as above.
        let status = unsafe { (self.0.cuKernelGetFunction)(&raw mut function, kernel) };
        self.check("cuKernelGetFunction", status)?;
        Ok(function)
    }

    /// Lets launches of a function ask for so much dynamic shared memory.
    pub(super) fn allow_shared_bytes(&self, function: Handle, bytes: u32) -> Result<()> {
        /// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`.
        const MAX_DYNAMIC_SHARED_BYTES: c_int = 8;
        let bytes = c_int::try_from(bytes).unwrap_or(c_int::MAX);
        // SAFETY: a function that the driver gave us.
        let status = unsafe { (self.0.cuFuncSetAttribute)(function, MAX_DYNAMIC_SHARED_BYTES, bytes) };
        self.check(&format!("cuFuncSetAttribute for {bytes} bytes of shared memory"), status)
    }

    /// Starts a function.
    ///
    /// # Safety
    ///
    /// Each pointer leads to as many bytes as the parameter at its place has, there are as many as there are parameters,
    /// and the stream is one of the current context. What the kernel does with them is the caller's affair.
    pub(super) unsafe fn launch(
        &self,
        function: Handle,
        grid: [u32; 3],
        block: [u32; 3],
        shared_bytes: u32,
        stream: Handle,
        pointers: &mut [*mut c_void],
    ) -> Result<()> {
        let ([x, y, z], [width, height, depth]) = (grid, block);
        // SAFETY: as the caller promises; the driver copies the parameters before it returns.
        let status = unsafe {
            let parameters = pointers.as_mut_ptr();
            (self.0.cuLaunchKernel)(
                function,
                x,
                y,
                z,
                width,
                height,
                depth,
                shared_bytes,
                stream,
                parameters,
                null_mut(),
            )
        };
        self.check("cuLaunchKernel", status)
    }

    /// Writes a tensor map to 128 bytes at a multiple of 64: sizes, strides and sides of the box, the innermost first.
    pub(super) fn encode_tensor_map(
        &self,
        to: &mut super::tensor_map::Encoded,
        (element, swizzle, fetch): (c_int, c_int, c_int),
        address: u64,
        sizes: &[u64],
        strides: &[u64],
        sides: &[u32],
    ) -> Result<()> {
        const STEPS: [u32; 5] = [1; 5];
        const NOT_INTERLEAVED: c_int = 0;
        const FILLED_WITH_ZEROS: c_int = 0;
        debug_assert!(
            sizes.len() <= STEPS.len() && sides.len() == sizes.len() && strides.len() + 1 == sizes.len()
        );
        // SAFETY: the slices have as many values as the rank says, and one stride less; the place is large enough and
        // aligned. The address is not read.
        let status = unsafe {
            (self.0.cuTensorMapEncodeTiled)(
                to.0.as_mut_ptr(),
                element,
                sizes.len() as u32,
                address,
                sizes.as_ptr(),
                strides.as_ptr(),
                sides.as_ptr(),
                STEPS.as_ptr(),
                NOT_INTERLEAVED,
                swizzle,
                fetch,
                FILLED_WITH_ZEROS,
            )
        };
        self.check("cuTensorMapEncodeTiled", status)
    }
}

#[cfg(target_os = "linux")]
extern "C" fn mark_forked() {
    IS_FORKED.store(true, Ordering::Relaxed);
}
