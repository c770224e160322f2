//! Large tables on large pages, where the system has them: probing a table of megabytes costs mostly the search
//! for its pages otherwise.

use std::alloc::{Layout, handle_alloc_error};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytemuck::Pod;
use memmap2::MmapMut;

/// A slice of fixed length, zero at first.
#[derive(Debug)]
pub(super) struct Pages<T> {
    map: MmapMut,
    len: usize,
    values: PhantomData<T>,
}

impl<T: Pod> Pages<T> {
    /// `len` zeros. Memory is taken when it is first written.
    pub(super) fn zeroed(len: usize) -> Self {
        let size = len * size_of::<T>();
        let no_memory = |_| handle_alloc_error(Layout::new::<T>());
        let map = MmapMut::map_anon(size.max(1)).unwrap_or_else(no_memory);
        // A wish: without large pages everything works, only slower.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Self { map, len, values: PhantomData }
    }
}

impl<T: Pod> Deref for Pages<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: the map has room for `len` values and starts on a page, which suits every type; any bytes are a `T`.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast(), self.len) }
    }
}

impl<T: Pod> DerefMut for Pages<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and the map is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr().cast(), self.len) }
    }
}

/// Starts to fetch a value into the nearest cache.
#[inline(always)]
pub(super) fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..size_of::<T>()).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: all processors of this kind have the instruction, and the line is one of the value's.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast::<i8>().add(line)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_zero_and_keep_what_is_written() {
        for len in [0, 1, 1 << 20] {
            let mut pages = Pages::<u64>::zeroed(len);
            assert_eq!(pages.len(), len);
            assert!(pages.iter().all(|&value| value == 0));
            if let Some(last) = pages.last_mut() {
                *last = 7;
                assert_eq!(pages[len - 1], 7);
            }
        }
    }
}
