//! Large tables on large pages, where the system has them: probing a table of megabytes costs mostly the search
//! for its pages otherwise.

use std::alloc::{Layout, handle_alloc_error};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytemuck::Pod;
use memmap2::MmapMut;

/// A slice of fixed length, zero at first.
#[derive(Debug)]
pub(crate) struct Pages<T> {
    map: MmapMut,
    len: usize,
    values: PhantomData<T>,
}

impl<T: Pod> Pages<T> {
    /// `len` zeros. Memory is taken when it is first written.
    pub(crate) fn zeroed(len: usize) -> Self {
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
pub(crate) fn prefetch<T>(value: &T) {
    for line in (0..size_of::<T>()).step_by(64) {
        prefetch_line(std::ptr::from_ref(value).cast::<u8>().wrapping_add(line));
    }
}

/// Starts to fetch what is around an address, which may be any, into the nearest cache.
#[inline(always)]
pub fn prefetch_line(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: all processors of this kind have the instruction, which does nothing for an address without memory.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Reserves room for `len` values, on large pages where the system has them: first writes to a large result cost
/// mostly the handing out of its pages otherwise. Room that is never written takes no memory. Without so much address
/// space nothing happens, and the vector grows as any other.
pub fn reserve<T: Pod>(values: &mut Vec<T>, len: usize) {
    if values.try_reserve_exact(len).is_err() {
        return;
    }
    #[cfg(target_os = "linux")]
    {
        let room = values.spare_capacity_mut();
        let (start, end) = (room.as_ptr().addr(), room.as_ptr_range().end.addr());
        let (first, last) = (start.next_multiple_of(PAGE), end / PAGE * PAGE);
        if last > first + LARGE_PAGE {
            // SAFETY: the pages are within the vector's memory, and the advice does not change what is on them.
            // It is a wish, so that a refusal does no harm.
            unsafe {
                libc::madvise(
                    room.as_mut_ptr().cast::<u8>().add(first - start).cast(),
                    last - first,
                    libc::MADV_HUGEPAGE,
                )
            };
        }
    }
}

/// Multiples of all page sizes in use, and the usual size of a large page.
#[cfg(target_os = "linux")]
const PAGE: usize = 1 << 16;
#[cfg(target_os = "linux")]
const LARGE_PAGE: usize = 2 << 20;

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

    #[test]
    fn reserved_room_is_used() {
        for len in [0, 10, 3 << 20] {
            let mut values = vec![7u32];
            reserve(&mut values, len);
            assert!(values.capacity() > len);
            let start = values.as_ptr();
            values.extend(0..len as u32);
            assert_eq!((values.as_ptr(), values.len()), (start, len + 1));
        }
        let mut values = vec![7u64];
        reserve(&mut values, usize::MAX / 8);
        assert_eq!(values, [7]);
    }
}
