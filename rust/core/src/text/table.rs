//! A byte for every character, found in two steps.

use std::collections::HashMap;

use crate::masks::{Ascii, Classify, WIDTH};

/// Code points that differ in the last byte of their UTF-8 alone.
const PAGE: usize = 64;
const NUM_PAGES: usize = 0x11_0000 / PAGE;
/// Bytes that can be read from a place: a window, and what its last character may need.
pub(crate) const READABLE: usize = WIDTH + 16;

/// What begins here, with spaces behind the end of the text, which `padded` holds.
#[inline(always)]
pub(crate) fn readable<'w>(rest: &'w [u8], padded: &'w mut [u8; READABLE]) -> &'w [u8; READABLE] {
    if let Some(window) = rest.first_chunk() {
        return window;
    }
    padded[..rest.len()].copy_from_slice(rest);
    padded
}

/// A page number for each 64 code points, and the distinct pages.
pub(crate) struct CharTable {
    page_of: Vec<u16>,
    pages: Vec<[u8; PAGE]>,
    /// For each byte from 0xc0 that may start a character, what is known of its characters.
    leads: [u8; PAGE],
    /// The byte of all of them, if they share one.
    shared: [u8; PAGE],
}

/// Bits of [`CharTable::leads`]: characters of three bytes or more, of four, that share their byte.
const THREE: u8 = 1;
const FOUR: u8 = 2;
const SHARED: u8 = 4;

impl CharTable {
    /// The table of `byte_of`, which gives 0 for what is not assigned.
    pub(crate) fn build(byte_of: impl Fn(char) -> u8) -> Self {
        let (mut page_of, mut pages) = (vec![0; NUM_PAGES], vec![[0; PAGE]]);
        let mut known = HashMap::from([([0; PAGE], 0)]);
        for (number, place) in page_of.iter_mut().enumerate() {
            // Between the last ideographs and the last marks nothing is assigned.
            if (0xd00..0x3800).contains(&number) || number > 0x3807 {
                continue;
            }
            let page =
                std::array::from_fn(|i| char::from_u32((number * PAGE + i) as u32).map_or(0, &byte_of));
            *place = *known.entry(page).or_insert_with(|| {
                pages.push(page);
                pages.len() - 1
            }) as u16;
        }
        let mut table = Self { page_of, pages, leads: [0; PAGE], shared: [0; PAGE] };
        for lead in 0xc2..=0xf4_usize {
            // Each lead byte has the pages of its characters in a row; the first may be those of fewer bytes.
            let (numbers, bits) = match lead {
                0xc2..0xe0 => (lead & 0x1f..(lead & 0x1f) + 1, 0),
                0xe0..0xf0 => ((lead & 0xf) << 6..((lead & 0xf) + 1) << 6, THREE),
                _ => ((lead & 7) << 12..((lead & 7) + 1) << 12, THREE | FOUR),
            };
            let byte = table.page(numbers.start)[0];
            let is_shared = numbers.into_iter().all(|number| *table.page(number) == [byte; PAGE]);
            table.leads[lead % PAGE] = bits | if is_shared { SHARED } else { 0 };
            table.shared[lead % PAGE] = byte;
        }
        table
    }

    /// The byte of a code point; of another number, 0.
    #[inline(always)]
    pub(crate) fn get(&self, code: u32) -> u8 {
        self.page(code as usize / PAGE)[code as usize % PAGE]
    }

    #[inline(always)]
    fn page(&self, number: usize) -> &[u8; PAGE] {
        &self.pages[usize::from(self.page_of.get(number).copied().unwrap_or(0))]
    }

    /// Looks up the characters beyond ASCII of a window that starts with a whole character.
    ///
    /// Characters whose first byte says all are looked up at once, the others with those that differ from them in
    /// their last byte alone: in text of one script, few steps.
    ///
    /// # Safety
    /// The processor has the instructions of `C`.
    #[inline(always)]
    pub(crate) unsafe fn look_up<C: Classify>(&self, window: &[u8; READABLE], ascii: &Ascii) -> Wide {
        let after = |offset: usize| window[offset..].first_chunk().unwrap_or(&[b' '; WIDTH]);
        let (first, second, third, fourth) = (after(0), after(1), after(2), after(3));
        // SAFETY: the caller's.
        let equal = |bytes, byte: u8| unsafe { C::equal(bytes, &[byte; WIDTH]) };
        let leads = ascii.wide & !ascii.tail;
        let mut of_leads = [0; WIDTH];
        // SAFETY: the caller's.
        unsafe { C::look_up(first, &self.leads, leads, &mut of_leads) };
        // SAFETY: the caller's.
        let (three, four) = unsafe { (C::having(&of_leads, THREE), C::having(&of_leads, FOUR)) };
        let cut = leads & 1 << 63 | three & 3 << 62 | four & 7 << 61;
        let len = if cut == 0 { WIDTH } else { cut.trailing_zeros() as usize };
        let leads = leads & crate::masks::below(len);
        let mut bytes = [0; WIDTH];
        // SAFETY: the caller's.
        let shared = leads & unsafe { C::having(&of_leads, SHARED) };
        // SAFETY: the caller's.
        unsafe { C::look_up(first, &self.shared, shared, &mut bytes) };
        let mut rest = leads & !shared;
        while rest != 0 {
            let at = rest.trailing_zeros() as usize % WIDTH;
            let tail = |offset: usize| usize::from(window[at + offset] & 0x3f);
            let lead = window[at];
            let same = rest & equal(first, lead);
            let (same, number, last) = match lead {
                0..0xe0 => (same, usize::from(lead & 0x1f), second),
                0xe0..0xf0 => {
                    (same & equal(second, window[at + 1]), usize::from(lead & 0xf) << 6 | tail(1), third)
                }
                _ => (
                    same & equal(second, window[at + 1]) & equal(third, window[at + 2]),
                    usize::from(lead & 7) << 12 | tail(1) << 6 | tail(2),
                    fourth,
                ),
            };
            // SAFETY: the caller's.
            unsafe { C::look_up(last, self.page(number), same, &mut bytes) };
            rest &= !same;
        }
        Wide { bytes, leads, three: three & leads, four: four & leads, len }
    }
}

/// The characters beyond ASCII of a window, by their first bytes.
pub(crate) struct Wide {
    bytes: [u8; WIDTH],
    pub(crate) leads: u64,
    /// Characters of three bytes or more, and of four.
    pub(crate) three: u64,
    pub(crate) four: u64,
    /// Bytes of the window that hold whole characters.
    pub(crate) len: usize,
}

impl Wide {
    /// The first bytes of the characters that have any of `bits` in the table.
    ///
    /// # Safety
    /// The processor has the instructions of `C`.
    #[inline(always)]
    pub(crate) unsafe fn having<C: Classify>(&self, bits: u8) -> u64 {
        // SAFETY: the caller's.
        unsafe { C::having(&self.bytes, bits) }
    }

    /// All bytes of characters.
    #[inline(always)]
    pub(crate) fn own(&self, leads: u64) -> u64 {
        leads | leads << 1 | (leads & self.three) << 2 | (leads & self.four) << 3
    }

    /// The last bytes of characters.
    #[inline(always)]
    pub(crate) fn last(&self, leads: u64) -> u64 {
        (leads & !self.three) << 1 | (leads & self.three & !self.four) << 2 | (leads & self.four) << 3
    }
}
