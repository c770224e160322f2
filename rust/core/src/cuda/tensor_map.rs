//! A tensor as the bulk copies of Hopper see it.

use super::driver::Driver;
use crate::{Error, Result};

const MAX_RANK: usize = 4;
const MAX_SIDE: u64 = 256;
const MAX_SIZE: u64 = 1 << 32;
const MAX_STRIDE_BYTES: u64 = 1 << 40;
/// What addresses, strides and rows of a box are multiples of.
const UNIT_BYTES: u64 = 16;
/// What the second cache fetches at once of rows that are as long; else it fetches half of it.
const WIDE_FETCH_BYTES: u64 = 256;

/// The driver's names for elements by their size; more about them only matters to arithmetic.
const ELEMENTS: [(u64, i32); 4] = [(1, 0), (2, 1), (4, 2), (8, 4)];
const SWIZZLES: [(u64, i32); 4] = [(0, 0), (32, 1), (64, 2), (128, 3)];
const FETCH_128_BYTES: i32 = 2;
const FETCH_256_BYTES: i32 = 3;

/// What a kernel gets, as the driver has written it.
#[repr(align(64))]
pub struct Encoded(pub(super) [u8; Self::NUM_WORDS * 8]);

impl Encoded {
    pub(super) const NUM_WORDS: usize = 16;

    pub(super) fn words(&self) -> impl Iterator<Item = u64> {
        self.0.as_chunks().0.iter().map(|&bytes| u64::from_ne_bytes(bytes))
    }
}

/// A tensor and how much of it one copy moves, within the limits of `cuTensorMapEncodeTiled`. Elements outside the
/// tensor are read as zeros.
#[derive(Debug, Clone)]
pub struct TensorMap {
    address: u64,
    element_bytes: u64,
    rank: usize,
    // The innermost dimension first.
    sizes: [u64; MAX_RANK],
    stride_bytes: [u64; MAX_RANK],
    sides: [u32; MAX_RANK],
    swizzle_bytes: u64,
}

impl TensorMap {
    /// Describes a tensor by its shape, strides in elements, and the box that one copy moves, the innermost dimension
    /// last in all of them.
    ///
    /// # Errors
    ///
    /// Names the first rule that is broken.
    pub fn new(
        address: u64,
        element_bytes: u64,
        shape: &[i64],
        strides: &[i64],
        sides: &[i64],
        swizzle_bytes: u64,
    ) -> Result<Self> {
        let refuse = |rule: &str| {
            Err(Error::value(format!(
                "a tensor map needs {rule}: shape {shape:?}, strides {strides:?}, elements of {element_bytes} bytes, \
                 box {sides:?}, swizzle {swizzle_bytes}"
            )))
        };
        let rank = shape.len();
        if !(2..=MAX_RANK).contains(&rank) || strides.len() != rank {
            return refuse("a tensor of 2 to 4 dimensions");
        }
        if sides.len() != rank {
            return refuse("a box with as many dimensions");
        }
        if !ELEMENTS.iter().any(|&(size, _)| size == element_bytes) {
            return refuse("elements of 1, 2, 4 or 8 bytes");
        }
        let mut map = Self {
            address,
            element_bytes,
            rank,
            sizes: [0; MAX_RANK],
            stride_bytes: [0; MAX_RANK],
            sides: [0; MAX_RANK],
            swizzle_bytes,
        };
        for (dim, ((&size, &stride), &side)) in shape.iter().zip(strides).zip(sides).rev().enumerate() {
            let (Ok(size), Ok(side)) = (u64::try_from(size), u64::try_from(side)) else {
                return refuse("sizes that are not negative");
            };
            if !(1..=MAX_SIZE).contains(&size) {
                return refuse("1 to 2^32 elements along each dimension");
            }
            if !(1..=MAX_SIDE).contains(&side) {
                return refuse("1 to 256 elements along each side of the box");
            }
            let stride = u64::try_from(stride).ok().and_then(|stride| stride.checked_mul(element_bytes));
            let Some(stride) = stride.filter(|&stride| stride < MAX_STRIDE_BYTES) else {
                return refuse("strides of 0 to 2^40 bytes");
            };
            if dim == 0 && stride != element_bytes {
                return refuse("a last dimension without gaps");
            }
            if dim > 0 && !stride.is_multiple_of(UNIT_BYTES) {
                return refuse("strides of a multiple of 16 bytes");
            }
            (map.sizes[dim], map.stride_bytes[dim], map.sides[dim]) = (size, stride, side as u32);
        }
        let row_bytes = u64::from(map.sides[0]) * element_bytes;
        if !address.is_multiple_of(UNIT_BYTES) {
            return refuse("an address that is a multiple of 16");
        }
        if !row_bytes.is_multiple_of(UNIT_BYTES) {
            return refuse("rows of the box of a multiple of 16 bytes");
        }
        if !SWIZZLES.iter().any(|&(bytes, _)| bytes == swizzle_bytes) {
            return refuse("a swizzle of 0, 32, 64 or 128 bytes");
        }
        if swizzle_bytes > 0 && row_bytes > swizzle_bytes {
            return refuse("rows of the box within the swizzle");
        }
        Ok(map)
    }

    /// Elements along each dimension, the innermost first as in all that follows.
    pub fn sizes(&self) -> &[u64] {
        &self.sizes[..self.rank]
    }

    /// Bytes from one element to the next along each dimension.
    pub fn stride_bytes(&self) -> &[u64] {
        &self.stride_bytes[..self.rank]
    }

    /// Elements of the box along each dimension.
    pub fn sides(&self) -> &[u32] {
        &self.sides[..self.rank]
    }

    /// What a kernel gets.
    ///
    /// # Errors
    ///
    /// Without a driver, and if it refuses the tensor for a rule of its own.
    pub fn encoded(&self) -> Result<Encoded> {
        let named = |names: [(u64, i32); 4], wanted| {
            names.iter().find(|(bytes, _)| *bytes == wanted).map_or(0, |&(_, name)| name)
        };
        let is_wide = self.sizes[0] * self.element_bytes >= WIDE_FETCH_BYTES;
        let fetch = if is_wide { FETCH_256_BYTES } else { FETCH_128_BYTES };
        let mut encoded = Encoded([0; Encoded::NUM_WORDS * 8]);
        Driver::get()?.encode_tensor_map(
            &mut encoded,
            (named(ELEMENTS, self.element_bytes), named(SWIZZLES, self.swizzle_bytes), fetch),
            self.address,
            self.sizes(),
            &self.stride_bytes()[1..],
            self.sides(),
        )?;
        Ok(encoded)
    }
}
