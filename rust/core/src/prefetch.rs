//! Memory that is asked for before it is needed.

/// Asks for the cache line of a slot.
#[inline(always)]
pub(crate) fn prefetch<T>(slots: &[T], slot: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(slot) = slots.get(slot) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: any address may be prefetched.
        unsafe { _mm_prefetch(std::ptr::from_ref(slot).cast(), _MM_HINT_T0) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (slots, slot);
}
