//! Cutting 64 bytes of text at once.
//!
//! A window starts where a piece starts. Each kind of character becomes a mask with one bit a byte, all bytes of
//! a character alike, and the places where pieces start follow from the masks by shifts, additions and logic.
//! What depends on text after the window is left to the next one, which starts at the last place that is sure.
//! ASCII is classified by vector instructions, other characters one by one.

use super::scalar::{Scan, contraction, contraction_any_case};
use crate::bpe::unicode::Class;
use crate::masks::{Ascii, Bits, WIDTH, after, below, firsts, onward};

/// The kinds of character in a window, without any bit from `len` on unless the text ends there.
pub(super) struct Window {
    /// Bytes of whole characters.
    pub(super) len: usize,
    /// Whether the text ends at `len`. The bits after it are then white space, as nothing is.
    pub(super) is_last: bool,
    letter: u64,
    upper: u64,
    /// Letters without case.
    caseless: u64,
    mark: u64,
    number: u64,
    space: u64,
    /// First bytes of white space beyond ASCII.
    wide_space: u64,
    other: u64,
    newline: u64,
    blank: u64,
    apostrophe: u64,
    slash: u64,
    tail: u64,
}

impl Window {
    /// The window of `scan` at `pos`, of which ASCII is classified already.
    #[inline(always)]
    pub(super) fn new(scan: &Scan<'_>, pos: usize, ascii: Ascii) -> Self {
        let left = scan.text.len() - pos;
        let mut window = Self {
            len: left.min(WIDTH),
            is_last: left < WIDTH,
            letter: ascii.upper | ascii.lower,
            upper: ascii.upper,
            caseless: 0,
            mark: 0,
            number: ascii.number,
            space: ascii.space,
            wide_space: 0,
            other: 0,
            newline: ascii.newline,
            blank: ascii.blank,
            apostrophe: ascii.apostrophe,
            slash: ascii.slash,
            tail: ascii.tail,
        };
        if ascii.wide != 0 {
            window.add_wide(scan, pos, ascii.wide & !ascii.tail);
        }
        window.other = !(window.letter | window.number | window.space);
        if !window.is_last {
            window.other &= below(window.len);
        }
        window
    }

    /// Looks up the characters that start at `leads`.
    #[inline(always)]
    fn add_wide(&mut self, scan: &Scan<'_>, pos: usize, leads: u64) {
        let mut kinds = [0; Class::COUNT];
        for at in Bits(leads) {
            let (class, len) = scan.wide_at(pos + at);
            if at + len > WIDTH {
                self.end_at(at);
                break;
            }
            kinds[class as usize] |= below(len) << at;
            if class == Class::Space {
                self.wide_space |= 1 << at;
            }
        }
        self.upper |= kinds[Class::Upper as usize];
        self.caseless = kinds[Class::Caseless as usize];
        self.letter |= kinds[Class::Upper as usize] | kinds[Class::Lower as usize] | self.caseless;
        self.mark = kinds[Class::Mark as usize];
        self.number |= kinds[Class::Number as usize];
        self.space |= kinds[Class::Space as usize];
    }

    /// Forgets what starts at `len` or later.
    #[inline(always)]
    fn end_at(&mut self, len: usize) {
        self.len = len;
        self.is_last = false;
        let kept = below(len);
        self.letter &= kept;
        self.upper &= kept;
        self.caseless &= kept;
        self.number &= kept;
        self.space &= kept;
        self.other &= kept;
        self.newline &= kept;
        self.blank &= kept;
        self.apostrophe &= kept;
        self.slash &= kept;
    }

    /// The bits of `starts` that no later text can change.
    #[inline(always)]
    pub(super) fn sure(&self, starts: u64) -> u64 {
        if self.is_last {
            return starts & below(self.len);
        }
        let valid = below(self.len);
        let runs = firsts(self.letter) | firsts(self.number) | firsts(self.space) | firsts(self.other);
        // The last run may go on; up to its first byte everything is known. Numbers are cut as they come.
        let last_run = (runs & valid | 1).ilog2() as usize;
        let is_number = self.number >> last_run & 1 != 0;
        starts & if is_number { valid } else { below(last_run + 1) }
    }

    /// Last white space of each run, if something else follows it.
    #[inline(always)]
    fn last_spaces(&self) -> u64 {
        let mut last = self.space & !self.tail & !(self.space >> 1);
        for at in Bits(self.wide_space) {
            let next = at + 1 + (self.tail >> (at + 1)).trailing_ones() as usize;
            if next < WIDTH && self.space >> next & 1 == 0 {
                last |= 1 << at;
            }
        }
        last
    }

    /// Where pieces of GPT-2's pattern start.
    #[inline(always)]
    pub(super) fn gpt2(&self, scan: &Scan<'_>, pos: usize) -> u64 {
        let after_blank = self.blank << 1;
        let others = firsts(self.other) & !after_blank;
        let words = (firsts(self.letter) | firsts(self.number)) & !after_blank;
        let mut starts = others | words | firsts(self.space) | self.last_spaces();
        for at in Bits(others & self.apostrophe) {
            if let Some(len) = contraction(scan.rest(pos + at + 1)) {
                starts = starts & !(2 << at) | shifted(at + 1 + len);
            }
        }
        starts
    }

    /// Where pieces of cl100k's pattern start, with at most `most_numbers` digits in one.
    #[inline(always)]
    pub(super) fn cl100k(&self, scan: &Scan<'_>, pos: usize, most_numbers: usize) -> u64 {
        let glued = onward(self.newline, self.other << 1 & self.newline);
        let others = firsts(self.other) & !(self.blank << 1);
        let mut starts = others
            | self.words(others)
            | self.numbers(most_numbers)
            | self.spaces(self.space & !glued, self.newline & !glued);
        for at in Bits(others & self.apostrophe) {
            if let Some(len) = contraction_any_case(scan.rest(pos + at + 1)) {
                starts |= shifted(at + 1 + len);
            }
        }
        starts
    }

    /// Where pieces of o200k's pattern start.
    #[inline(always)]
    pub(super) fn o200k(&mut self, scan: &Scan<'_>, pos: usize) -> u64 {
        self.keep_simple();
        let glue = self.newline | self.slash;
        let mut glued = 0;
        for at in Bits(self.other << 1 & self.newline) {
            // Further line ends of a run that is taken already add nothing.
            if glued >> at & 1 == 0 {
                glued |= onward(glue, 1 << at);
            }
        }
        self.other &= !glued;
        let others = firsts(self.other) & !(self.blank << 1);
        let case_changes = self.upper & (self.letter & !self.upper & !self.caseless) << 1;
        let mut starts = others
            | self.words(others)
            | case_changes
            | self.numbers(3)
            | self.spaces(self.space & !glued, self.newline & !glued);
        let mut previous_end = 0;
        for at in Bits(others & self.apostrophe & self.letter << 1) {
            // The letters of one contraction do not take another.
            if at != previous_end
                && let Some(len) = contraction_any_case(scan.rest(pos + at + 1))
            {
                previous_end = at + 1 + len;
                starts = starts & (below(at) | !below(previous_end)) | shifted(previous_end);
            }
        }
        self.other |= glued & !self.newline;
        starts
    }

    /// Ends the window before what o200k treats in a way that masks do not: marks, and capitals together with letters
    /// without case.
    #[inline(always)]
    fn keep_simple(&mut self) {
        let mixed = self.upper.trailing_zeros().max(self.caseless.trailing_zeros());
        let end = mixed.min(self.mark.trailing_zeros()) as usize;
        if end < self.len {
            self.end_at(end);
        }
    }

    /// First letters that do not belong to the one character before them.
    #[inline(always)]
    fn words(&self, others: u64) -> u64 {
        let next = self.tail.wrapping_add(others << 1) & !self.tail;
        firsts(self.letter) & !((self.space & !self.newline) << 1 | next)
    }

    #[inline(always)]
    fn numbers(&self, most: usize) -> u64 {
        if most == 1 {
            return self.number & !self.tail;
        }
        if self.number & self.tail != 0 {
            return self.wide_numbers(most);
        }
        let mut starts = firsts(self.number);
        let inner = self.number & self.number << 1 & self.number << 2 & self.number << 3;
        let mut next = starts << 3 & inner;
        while next != 0 {
            starts |= next;
            next = next << 3 & inner;
        }
        starts
    }

    /// Every `most`-th character of each run of numbers.
    fn wide_numbers(&self, most: usize) -> u64 {
        let mut starts = 0;
        let mut taken = 0;
        for at in Bits(self.number & !self.tail) {
            let continues = at > 0 && self.number >> (at - 1) & 1 != 0;
            taken = if continues { taken % most + 1 } else { 1 };
            if taken == 1 {
                starts |= 1 << at;
            }
        }
        starts
    }

    /// Starts in runs of white space: the first; the one after the last line end; the last one, if something follows
    /// and it is no line end.
    #[inline(always)]
    fn spaces(&self, space: u64, newline: u64) -> u64 {
        let inner = space & !newline;
        let mut resumed = inner & newline << 1;
        if after(inner, resumed) & newline != 0 {
            // Rare: more line ends after spaces. Only the last line end of a run counts.
            for at in Bits(resumed) {
                let run = below(at + (space >> at).trailing_ones() as usize) & !below(at);
                if run & newline != 0 {
                    resumed &= !(1 << at);
                }
            }
        }
        firsts(space) | resumed | self.last_spaces() & inner
    }
}

/// The bit `at`, or none if it is past the window.
#[inline(always)]
fn shifted(at: usize) -> u64 {
    if at < WIDTH { 1 << at } else { 0 }
}
