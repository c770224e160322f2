//! Characters in long runs of equal ones.
//!
//! [`count`] is the definition. [`Links`] looks at 64 bytes at once and counts where that may be more than nothing.

use crate::masks::{WIDTH, below};
use crate::text::traits::lower;

/// Equal characters in a row that count as repeated.
const MIN_RUN: u64 = 10;

/// Characters in runs of [`MIN_RUN`] or more equal ones, where case does not count and spaces are skipped.
pub(super) fn count(text: &str) -> u64 {
    let (mut repeated, mut len, mut last) = (0, 0, None);
    for char in text.chars().filter(|char| !char.is_ascii_whitespace()).map(lower) {
        len = if last == Some(char) { len + 1 } else { 1 };
        last = Some(char);
        repeated += match len {
            MIN_RUN => MIN_RUN,
            len => u64::from(len > MIN_RUN),
        };
    }
    repeated
}

/// What [`Links`] is told about a window.
#[derive(Clone, Copy, Default)]
pub(super) struct Masks {
    /// Bytes that may belong to the same run as the byte before: spaces, what follows one, what is equal to it.
    pub(super) linked: u64,
    pub(super) visible: u64,
    pub(super) tail: u64,
}

impl Masks {
    /// The first bytes of visible characters.
    fn firsts(self) -> u64 {
        self.visible & !self.tail
    }
}

/// The masks of a window and the next as one.
#[inline(always)]
fn join(before: u64, now: u64) -> u128 {
    u128::from(before) | u128::from(now) << WIDTH
}

/// Finds the places where a long run may be, and counts there.
///
/// A run of ten visible characters has nine linked ones after its first, and no byte between that is not. It never
/// goes over a break: a visible character that is not linked.
#[derive(Default)]
pub(super) struct Links {
    /// The previous window, shifted so that its last byte is the highest bit.
    before: Masks,
    /// The last break, and the last before the previous window.
    last_break: usize,
    early_break: usize,
    /// Where a part of the text begins that is to be counted.
    pending: Option<usize>,
    /// The text up to here is done.
    done: usize,
    repeated: u64,
}

impl Links {
    /// Takes the masks of the `len` bytes at `pos`, at most 64.
    #[inline(always)]
    pub(super) fn add(&mut self, text: &str, pos: usize, len: usize, now: Masks) {
        let breaks = now.firsts() & !now.linked;
        let (early, last) = (self.early_break, self.last_break);
        if breaks != 0 {
            self.last_break = pos + breaks.ilog2() as usize;
            if let Some(start) = self.pending.take() {
                self.done = self.last_break;
                self.repeated += count(&text[start..self.done]);
            }
        }
        // A run over more than two windows fills one.
        if self.has_nine(now) || now.linked == below(len) {
            self.pending = self.pending.or(Some(early.max(self.done)));
        }
        let shift = WIDTH - len;
        let linked = now.linked << shift;
        self.before = Masks { linked, visible: now.visible << shift, tail: now.tail << shift };
        self.early_break = last;
    }

    /// Whether nine characters in a row are linked in this window and the one before, spaces apart.
    #[inline(always)]
    fn has_nine(&self, now: Masks) -> bool {
        let linked = join(self.before.linked, now.linked);
        // The lowest bits of nine in a row.
        let pairs = linked & linked >> 1;
        let fours = pairs & pairs >> 2;
        let nines = fours & fours >> 4 & linked >> 8;
        nines != 0 && self.has_nine_first(now, linked, nines)
    }

    /// The same, of runs of at least nine bytes, each of which has its bits in `nines`.
    #[cold]
    fn has_nine_first(&self, now: Masks, linked: u128, mut nines: u128) -> bool {
        let firsts = join(self.before.firsts(), now.firsts());
        while nines != 0 {
            let start = nines.trailing_zeros();
            let run = u128::MAX >> (u128::BITS - (!(linked >> start)).trailing_zeros()) << start;
            if u64::from((run & firsts).count_ones()) >= MIN_RUN - 1 {
                return true;
            }
            nines &= !run;
        }
        false
    }

    /// Characters in long runs.
    pub(super) fn finish(self, text: &str) -> u64 {
        self.repeated + self.pending.map_or(0, |start| count(&text[start..]))
    }
}
