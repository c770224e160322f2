//! Launches compiled kernels through NVIDIA's driver, which is looked for when it is first needed: nothing of CUDA is
//! there at build time, and a machine without a driver gets an error. torch keeps memory and streams; its context, the
//! primary one of the device, is used here too.

mod driver;
mod kernel;
mod library;
mod tensor_map;

pub use kernel::{Arguments, Kernel, Launch, Parameter};
pub use tensor_map::{Encoded, TensorMap};
