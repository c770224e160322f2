//! A kernel that is loaded on a device, and what it is started with.

use std::ffi::{CString, c_void};
use std::mem::MaybeUninit;
use std::ptr::null_mut;

use super::driver::{Driver, Handle};
use super::tensor_map::Encoded;
use crate::{Error, Result};

/// Parameters that a kernel may have here, and the words that they may take together: 4 KiB, which is all that the
/// driver passes on every architecture.
const MAX_PARAMETERS: usize = 64;
const MAX_WORDS: usize = 512;

/// Threads of a block along each dimension and in all, and blocks of a grid, on every architecture.
const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];
const MAX_THREADS: u32 = 1024;
const MAX_GRID: [u32; 3] = [i32::MAX as u32, 65535, 65535];

/// The type of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parameter {
    /// An address on the device.
    Pointer,
    /// 32 bits, with a sign.
    Int,
    /// 32 bits, without a sign.
    Unsigned,
    /// 64 bits, with a sign.
    Long,
    /// 64 bits, without a sign.
    UnsignedLong,
    /// A float of 32 bits.
    Float,
    /// 128 bytes, see [`super::TensorMap`].
    TensorMap,
}

impl Parameter {
    const NAMES: [(&'static str, Self); 7] = [
        ("pointer", Self::Pointer),
        ("int", Self::Int),
        ("unsigned", Self::Unsigned),
        ("long long", Self::Long),
        ("unsigned long long", Self::UnsignedLong),
        ("float", Self::Float),
        ("TensorMap", Self::TensorMap),
    ];

    /// The type that C++ calls so, or `pointer`.
    ///
    /// # Errors
    ///
    /// An unknown name.
    pub fn named(name: &str) -> Result<Self> {
        let found = Self::NAMES.iter().find(|(known, _)| *known == name);
        found.map(|&(_, parameter)| parameter).ok_or_else(|| {
            let known = Self::NAMES.map(|(known, _)| known).join(", ");
            Error::value(format!("a kernel takes no {name:?}: expected one of {known}"))
        })
    }

    /// What C++ calls it.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|&&(_, parameter)| parameter == self).map_or("", |(name, _)| name)
    }

    /// The bits of a whole number, from the lowest; `None` if this is no whole number or has too few bits for it.
    pub fn integer(self, number: i64) -> Option<u64> {
        match self {
            Self::Int => i32::try_from(number).ok().map(|number| u64::from(number.cast_unsigned())),
            Self::Unsigned => u32::try_from(number).ok().map(u64::from),
            Self::Long => Some(number.cast_unsigned()),
            Self::UnsignedLong => u64::try_from(number).ok(),
            Self::Pointer | Self::Float | Self::TensorMap => None,
        }
    }

    /// The bits of a number as a float; `None` if it is finite and too large.
    pub fn float(number: f64) -> Option<u64> {
        let narrow = number as f32;
        (narrow.is_finite() || !number.is_finite()).then(|| u64::from(narrow.to_bits()))
    }

    fn num_words(self) -> usize {
        if self == Self::TensorMap { Encoded::NUM_WORDS } else { 1 }
    }
}

/// The values of one launch, as the driver reads them. Lives on the stack, and only what is used is written.
pub struct Arguments {
    words: [MaybeUninit<u64>; MAX_WORDS],
    num_words: usize,
}

impl Default for Arguments {
    fn default() -> Self {
        Self { words: [MaybeUninit::uninit(); MAX_WORDS], num_words: 0 }
    }
}

impl Arguments {
    /// Adds a number or an address, from its lowest bit.
    pub fn push(&mut self, word: u64) {
        if let Some(next) = self.words.get_mut(self.num_words) {
            next.write(word);
        }
        self.num_words += 1;
    }

    /// Adds a tensor map.
    pub fn push_map(&mut self, map: &Encoded) {
        map.words().for_each(|word| self.push(word));
    }
}

/// The size of a launch, and where it goes.
#[derive(Debug, Clone, Copy)]
pub struct Launch {
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y and z.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// The driver's handle of a stream of the kernel's device.
    pub stream: usize,
}

impl Launch {
    fn check(&self, max_shared_bytes: u32) -> Result<()> {
        let fits =
            |sizes: [u32; 3], limits: [u32; 3]| sizes.iter().zip(limits).all(|(&n, max)| 1 <= n && n <= max);
        if !fits(self.grid, MAX_GRID) {
            return Err(Error::value(format!("a grid of {:?} blocks cannot be launched", self.grid)));
        }
        if !fits(self.block, MAX_BLOCK) || self.block.iter().product::<u32>() > MAX_THREADS {
            return Err(Error::value(format!(
                "a block has 1 to {MAX_THREADS} threads, not {:?}",
                self.block
            )));
        }
        if self.shared_bytes > max_shared_bytes {
            return Err(Error::value(format!(
                "{} bytes of shared memory exceed {max_shared_bytes}, for which the kernel was loaded",
                self.shared_bytes
            )));
        }
        Ok(())
    }
}

/// An entry point on one device, good for the life of the process.
pub struct Kernel {
    function: Handle,
    context: Handle,
    parameters: Vec<Parameter>,
    num_words: usize,
    max_shared_bytes: u32,
}

impl Kernel {
    /// Loads an entry point of a compiled file on a device.
    ///
    /// # Errors
    ///
    /// Without a driver, if it refuses the file, has no such device or entry point, or if a block cannot have so much
    /// shared memory; and for more parameters than a launch can pass.
    pub fn load(
        cubin: &[u8],
        entry: &str,
        parameters: Vec<Parameter>,
        device: u32,
        max_shared_bytes: u32,
    ) -> Result<Self> {
        let num_words = parameters.iter().map(|parameter| parameter.num_words()).sum();
        if parameters.len() > MAX_PARAMETERS || num_words > MAX_WORDS {
            return Err(Error::value(format!(
                "kernel {entry} has {} parameters of {num_words} words: at most {MAX_PARAMETERS} of {MAX_WORDS}",
                parameters.len()
            )));
        }
        let name = CString::new(entry).map_err(|_| Error::value(format!("{entry:?} is no name")))?;
        let driver = Driver::get()?;
        let context = driver.primary_context(device)?;
        let function = driver.within(context, || {
            let function = driver.load_function(cubin, &name)?;
            if max_shared_bytes > 0 {
                driver.allow_shared_bytes(function, max_shared_bytes)?;
            }
            Ok(function)
        })?;
        Ok(Self { function, context, parameters, num_words, max_shared_bytes })
    }

    /// The types of its parameters.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Starts it.
    ///
    /// # Errors
    ///
    /// Arguments that are not those of [`Kernel::parameters`], sizes that no device launches, and what the driver says.
    ///
    /// # Safety
    ///
    /// Addresses among the arguments lead to memory of the device that is large enough for what the kernel does there,
    /// and the stream is 0 or one of the device's primary context.
    pub unsafe fn launch(&self, launch: Launch, arguments: &mut Arguments) -> Result<()> {
        launch.check(self.max_shared_bytes)?;
        if arguments.num_words != self.num_words {
            return Err(Error::value(format!(
                "arguments of {} words came for parameters of {}",
                arguments.num_words, self.num_words
            )));
        }
        let driver = Driver::get()?;
        let mut pointers = [null_mut::<c_void>(); MAX_PARAMETERS];
        let mut first = 0;
        for (pointer, parameter) in pointers.iter_mut().zip(&self.parameters) {
            // Within the array: `load` has added up the words.
            *pointer = arguments.words.as_mut_ptr().wrapping_add(first).cast();
            first += parameter.num_words();
        }
        let Launch { grid, block, shared_bytes, stream } = launch;
        driver.within(self.context, || {
            // SAFETY: as many words were written as the parameters have, each parameter takes at most its words, and
            // the rest is what the caller promises.
            unsafe { driver.launch(self.function, grid, block, shared_bytes, stream, &mut pointers) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_do_not_fit_their_type_are_refused() {
        assert_eq!(Parameter::Int.integer(-1), Some(0xFFFF_FFFF));
        assert_eq!(Parameter::Int.integer(1 << 31), None);
        assert_eq!(Parameter::Unsigned.integer(u32::MAX.into()), Some(0xFFFF_FFFF));
        assert_eq!(Parameter::Unsigned.integer(-1), None);
        assert_eq!(Parameter::Long.integer(i64::MIN), Some(1 << 63));
        assert_eq!(Parameter::UnsignedLong.integer(-1), None);
        assert_eq!(Parameter::Float.integer(1), None);
        assert_eq!(Parameter::float(1.0), Some(0x3F80_0000));
        assert_eq!(Parameter::float(1e39), None);
        assert_eq!(Parameter::float(f64::NEG_INFINITY), Some(0xFF80_0000));
        assert!(Parameter::float(f64::NAN).is_some_and(|bits| f32::from_bits(bits as u32).is_nan()));
    }

    #[test]
    fn names_are_those_of_the_declaration() {
        for (name, parameter) in Parameter::NAMES {
            assert_eq!(Parameter::named(name).unwrap(), parameter);
            assert_eq!(parameter.name(), name);
        }
        assert!(Parameter::named("double").unwrap_err().to_string().contains("\"double\""));
    }

    #[test]
    fn sizes_that_no_device_launches_are_refused() {
        let good = Launch { grid: [1, 1, 1], block: [32, 32, 1], shared_bytes: 48, stream: 0 };
        assert!(good.check(48).is_ok());
        for (wrong, said) in [
            (Launch { grid: [0, 1, 1], ..good }, "[0, 1, 1] blocks"),
            (Launch { grid: [1, 65536, 1], ..good }, "[1, 65536, 1] blocks"),
            (Launch { block: [32, 33, 1], ..good }, "not [32, 33, 1]"),
            (Launch { block: [1, 1, 65], ..good }, "not [1, 1, 65]"),
            (Launch { shared_bytes: 49, ..good }, "49 bytes of shared memory exceed 48"),
        ] {
            assert!(wrong.check(48).unwrap_err().to_string().contains(said));
        }
    }
}
