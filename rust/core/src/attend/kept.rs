//! How keys and values are kept in blocks: as float32, as bfloat16, or as bytes with a scale.

use bytemuck::Pod;

use crate::lanes::{Lanes, WIDTH};

/// The bits of a bfloat16.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub struct Brief(pub u16);

impl Brief {
    /// Those with these bits.
    pub fn of(bits: &[u16]) -> &[Self] {
        bytemuck::cast_slice(bits)
    }

    /// Those with these bits, to be written.
    pub fn of_mut(bits: &mut [u16]) -> &mut [Self] {
        bytemuck::cast_slice_mut(bits)
    }

    /// The nearest one, the even one of two.
    #[inline(always)]
    pub fn new(value: f32) -> Self {
        let bits = value.to_bits();
        if value.is_nan() {
            return Self((bits >> 16) as u16 | 0x40);
        }
        Self(((bits + 0x7FFF + (bits >> 16 & 1)) >> 16) as u16)
    }

    /// Its value.
    #[inline(always)]
    pub fn value(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }
}

/// The shape of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Tokens per block.
    pub block_size: usize,
    /// Key and value heads.
    pub num_heads: usize,
    /// Values per head.
    pub head_dim: usize,
}

impl Shape {
    /// Rows of `head_dim` in a block.
    fn rows(self) -> usize {
        self.block_size * self.num_heads
    }

    /// The row of a head at a place of a block: what a head reads lies in one piece.
    pub(crate) fn row(self, head: usize, place: usize) -> usize {
        head * self.block_size + place
    }
}

/// An element of a block. A block is `(num_heads, block_size, head_dim)` elements, then what else a kind needs.
pub trait Kept: Pod + Send + Sync {
    /// Elements of a block.
    fn block_len(shape: Shape) -> usize {
        shape.rows() * shape.head_dim
    }

    /// What the elements of a row of a block are multiplied by.
    #[inline(always)]
    fn scale(_all: &[Self], _block: usize, _shape: Shape, _row: usize) -> f32 {
        1.0
    }

    /// Writes a row of a block.
    fn write(block: &mut [Self], shape: Shape, row: usize, values: &[f32]);

    /// Sixteen elements as floats, not yet scaled.
    ///
    /// # Safety
    /// The processor has the instructions of `L`.
    #[doc(hidden)]
    unsafe fn load<L: Lanes>(from: &[Self; WIDTH]) -> L::Floats;
}

impl Kept for f32 {
    fn write(block: &mut [Self], shape: Shape, row: usize, values: &[f32]) {
        block[row * shape.head_dim..][..shape.head_dim].copy_from_slice(values);
    }

    #[inline(always)]
    unsafe fn load<L: Lanes>(from: &[Self; WIDTH]) -> L::Floats {
        // SAFETY: the caller's.
        unsafe { L::load(from) }
    }
}

impl Kept for Brief {
    fn write(block: &mut [Self], shape: Shape, row: usize, values: &[f32]) {
        for (kept, &value) in block[row * shape.head_dim..][..shape.head_dim].iter_mut().zip(values) {
            *kept = Self::new(value);
        }
    }

    #[inline(always)]
    unsafe fn load<L: Lanes>(from: &[Self; WIDTH]) -> L::Floats {
        // SAFETY: the caller's.
        unsafe { L::load_brief(bytemuck::cast_ref(from)) }
    }
}

/// Each row has its own scale, a float32 behind the rows of the block: whoever copies blocks copies the scales.
impl Kept for i8 {
    fn block_len(shape: Shape) -> usize {
        shape.rows() * (shape.head_dim + size_of::<f32>())
    }

    #[inline(always)]
    fn scale(all: &[Self], block: usize, shape: Shape, row: usize) -> f32 {
        let rows = block * Self::block_len(shape) + shape.rows() * shape.head_dim;
        let at = rows + row * size_of::<f32>();
        let bytes = all[at..].first_chunk().copied().unwrap_or_default();
        f32::from_le_bytes(bytes.map(|byte: i8| byte as u8))
    }

    fn write(block: &mut [Self], shape: Shape, row: usize, values: &[f32]) {
        let (elements, scales) = block.split_at_mut(shape.rows() * shape.head_dim);
        let row_elements = &mut elements[row * shape.head_dim..][..shape.head_dim];
        let scale = to_bytes(values, row_elements);
        for (kept, byte) in scales[row * size_of::<f32>()..].iter_mut().zip(scale.to_le_bytes()) {
            *kept = byte as i8;
        }
    }

    #[inline(always)]
    unsafe fn load<L: Lanes>(from: &[Self; WIDTH]) -> L::Floats {
        // SAFETY: the caller's.
        unsafe { L::load_bytes(from) }
    }
}

/// Values as whole numbers from -127 to 127, to be multiplied by the scale that is returned. What is not finite
/// makes the scale so.
#[inline(always)]
pub(crate) fn to_bytes(values: &[f32], bytes: &mut [i8]) -> f32 {
    let scale = largest_scale(values);
    to_bytes_by(values, scale, bytes);
    scale
}

/// What makes 127 of the largest value; NaN or infinite if one is.
#[inline(always)]
pub(crate) fn largest_scale(values: &[f32]) -> f32 {
    // Without their signs, bits have the order of the values, with NaN behind infinity.
    let largest = values.iter().fold(0, |largest, value| (value.to_bits() & 0x7FFF_FFFF).max(largest));
    f32::from_bits(largest) / 127.0
}

/// The whole numbers nearest to `value / scale`, which are at most 127.
#[inline(always)]
pub(crate) fn to_bytes_by(values: &[f32], scale: f32, bytes: &mut [i8]) {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to a whole number, which the low bits then hold
    let inverse = if scale > f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
    for (byte, &value) in bytes.iter_mut().zip(values) {
        *byte = (value * inverse + ROUND).to_bits() as i8;
    }
}
