//! The activations that a product multiplies, as the weights need them.

use super::matrix::{GROUP, Precision};
use crate::attend::{Brief, to_bytes};
use crate::split::Split;

/// Rows that a product multiplies: floats, bfloat16, or floats and the same as bytes.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    floats: Vec<f32>,
    briefs: Vec<Brief>,
    bytes: Vec<i8>,
    /// Of each group of bytes.
    scales: Vec<f32>,
    /// The sum of each group of bytes.
    totals: Vec<i32>,
    num_columns: usize,
    stride: usize,
}

impl Rows {
    /// Makes room for `num_rows` rows of `num_columns`, zero or what was there.
    pub(crate) fn resize(&mut self, num_rows: usize, num_columns: usize, precision: Precision) {
        if self.num_columns != num_columns {
            // What lies between the last column and the stride is zero: nobody writes there.
            *self = Self { num_columns, stride: num_columns.next_multiple_of(GROUP), ..Self::default() };
        }
        let len = num_rows * self.stride;
        self.floats.resize(len, 0.0);
        if precision == Precision::Bfloat16 {
            self.briefs.resize(len, Brief::default());
        }
        if precision == Precision::Int8 {
            self.bytes.resize(len, 0);
            self.scales.resize(len / GROUP, 0.0);
            self.totals.resize(len / GROUP, 0);
        }
    }

    /// For threads.
    pub(crate) fn share(&mut self) -> SharedRows<'_> {
        SharedRows {
            floats: Split::new(&mut self.floats),
            briefs: Split::new(&mut self.briefs),
            bytes: Split::new(&mut self.bytes),
            scales: Split::new(&mut self.scales),
            totals: Split::new(&mut self.totals),
            num_columns: self.num_columns,
            stride: self.stride,
        }
    }
}

/// [`Rows`] that threads write and read, in different stages.
pub(crate) struct SharedRows<'a> {
    pub(super) floats: Split<'a, f32>,
    pub(super) briefs: Split<'a, Brief>,
    pub(super) bytes: Split<'a, i8>,
    /// Of each group of bytes.
    pub(super) scales: Split<'a, f32>,
    /// The sum of each group of bytes.
    pub(super) totals: Split<'a, i32>,
    num_columns: usize,
    pub(super) stride: usize,
}

impl SharedRows<'_> {
    /// A row to write.
    ///
    /// # Safety
    /// No other thread uses it in this stage.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn row(&self, row: usize) -> &mut [f32] {
        // SAFETY: the caller's.
        unsafe { self.floats.part(row * self.stride..row * self.stride + self.num_columns) }
    }

    /// The floats of a row.
    ///
    /// # Safety
    /// No thread writes to them meanwhile.
    pub(crate) unsafe fn floats(&self, row: usize) -> &[f32] {
        // SAFETY: the caller's.
        unsafe { self.floats.read(row * self.stride..row * self.stride + self.num_columns) }
    }

    /// Whether the weights are bytes.
    pub(crate) fn has_bytes(&self) -> bool {
        self.bytes.len() > 0
    }

    /// Writes some values of a row as the weights need them, but for bytes, which [`SharedRows::convert`] makes.
    ///
    /// # Safety
    /// As [`SharedRows::row`], for these values.
    #[inline(always)]
    pub(crate) unsafe fn write(&self, row: usize, first: usize, values: &[f32]) {
        let at = row * self.stride + first;
        let range = at..at + values.len();
        // SAFETY: the caller's.
        unsafe {
            if self.briefs.len() == 0 {
                copy(values, self.floats.part(range));
            } else {
                to_briefs(values, self.briefs.part(range));
            }
        }
    }

    /// Makes of the floats of a row what the weights need.
    ///
    /// # Safety
    /// As [`SharedRows::row`].
    #[inline(always)]
    pub(crate) unsafe fn convert(&self, row: usize) {
        if self.briefs.len() > 0 {
            let columns = row * self.stride..row * self.stride + self.num_columns;
            // SAFETY: the caller's.
            unsafe { to_briefs(self.floats.read(columns.clone()), self.briefs.part(columns)) };
        }
        if !self.has_bytes() {
            return;
        }
        let (groups, columns) = (self.stride / GROUP, row * self.stride..(row + 1) * self.stride);
        // SAFETY: the caller's.
        let (floats, bytes, scales, totals) = unsafe {
            (
                self.floats.read(columns.clone()),
                self.bytes.part(columns),
                self.scales.part(row * groups..(row + 1) * groups),
                self.totals.part(row * groups..(row + 1) * groups),
            )
        };
        let groups = floats.as_chunks::<GROUP>().0.iter().zip(bytes.as_chunks_mut::<GROUP>().0);
        for ((floats, bytes), (scale, total)) in groups.zip(scales.iter_mut().zip(totals)) {
            *scale = to_bytes(floats, bytes);
            *total = bytes.iter().map(|&byte| i32::from(byte)).sum();
        }
    }
}

#[inline(always)]
fn copy(values: &[f32], to: &mut [f32]) {
    for (to, &value) in to.iter_mut().zip(values) {
        *to = value;
    }
}

#[inline(always)]
fn to_briefs(values: &[f32], to: &mut [Brief]) {
    for (to, &value) in to.iter_mut().zip(values) {
        *to = Brief::new(value);
    }
}
