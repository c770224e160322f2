//! A slice that several threads write at once, each to its own part.

use std::marker::PhantomData;
use std::ops::Range;

/// Parts of a slice for threads. Which part is whose is the business of those who take them.
#[derive(Debug)]
pub(crate) struct Split<'a, T> {
    start: *mut T,
    len: usize,
    borrowed: PhantomData<&'a mut [T]>,
}

// SAFETY: threads get references to parts, as they would from `split_at_mut`.
unsafe impl<T: Send + Sync> Sync for Split<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Send for Split<'_, T> {}

impl<'a, T> Split<'a, T> {
    /// The slice stays borrowed for as long as parts may be taken.
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), borrowed: PhantomData }
    }

    /// How long the slice is.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// A part to write.
    ///
    /// # Safety
    /// Nothing else uses any of it while the reference lives.
    #[allow(clippy::mut_from_ref)]
    #[inline]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        // SAFETY: the range lies in the slice, and nobody else uses it.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// A part to read.
    ///
    /// # Safety
    /// Nothing writes to any of it while the reference lives.
    #[inline]
    pub(crate) unsafe fn read(&self, range: Range<usize>) -> &[T] {
        // SAFETY: nobody writes to it.
        unsafe { self.part(range) }
    }
}
