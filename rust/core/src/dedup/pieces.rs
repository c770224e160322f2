//! Lines and paragraphs that have occurred before, in any text.
//!
//! A piece counts without the white space around it. The first copy, in the order of the texts, is kept.

use std::ops::Range;

use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_128;

use super::seen::Seen;
use crate::masks::{Bits, Classify, WIDTH, Work, best};
use crate::{Error, Monitor, Result};

/// What a text is cut into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// What stands between line ends (LF, CR or both).
    Line,
    /// Lines without a blank line between them.
    Paragraph,
}

impl Piece {
    /// The piece of that name.
    ///
    /// # Errors
    /// [`Error::Value`] if there is none.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "line" => Ok(Self::Line),
            "paragraph" => Ok(Self::Paragraph),
            _ => Err(Error::value(format!("unknown piece {name:?}; expected line or paragraph"))),
        }
    }
}

/// Bytes of text that are cut and hashed before they are looked up: enough work for all threads.
const CHUNK_BYTES: usize = 1 << 20;

/// The pieces of a text, of `min_bytes` or more, that an earlier text or an earlier place of the same text has, as
/// ranges of bytes: a line with its line end, a paragraph up to the blank line after it. The monitor counts bytes.
///
/// # Errors
/// [`Error::Interrupted`] if the monitor is cancelled.
pub fn repeated_pieces<T: AsRef<str> + Sync>(
    texts: &[T],
    piece: Piece,
    min_bytes: usize,
    seen: &mut Seen,
    monitor: &Monitor,
) -> Result<Vec<Vec<Range<usize>>>> {
    let mut repeated = Vec::with_capacity(texts.len());
    let mut rest = texts;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = |text: &&T| {
            let fits = bytes < CHUNK_BYTES;
            bytes += text.as_ref().len();
            fits
        };
        let (chunk, after) = rest.split_at(rest.iter().take_while(fits).count());
        let cut = |text: &T| best(Cut { text: text.as_ref(), piece, min_bytes });
        let pieces: Vec<Pieces> = chunk.par_iter().map(cut).collect();
        for (pieces, text) in pieces.into_iter().zip(chunk) {
            let mut found = Vec::new();
            seen.insert_all(&pieces.keys, |i, is_known| {
                if is_known {
                    found.push(pieces.ranges[i].clone());
                }
            });
            repeated.push(found);
            monitor.advance(text.as_ref().len() as u64)?;
        }
        rest = after;
    }
    Ok(repeated)
}

/// A text without some ranges of bytes, which lie at the ends of characters and do not overlap.
pub fn without(text: &str, ranges: &[Range<usize>]) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut start = 0;
    for range in ranges {
        kept.push_str(&text[start..range.start]);
        start = range.end;
    }
    kept.push_str(&text[start..]);
    kept
}

/// The pieces of a text.
#[derive(Debug, Default, PartialEq)]
struct Pieces {
    ranges: Vec<Range<usize>>,
    keys: Vec<u128>,
}

/// Cutting one text, as work for the instructions of this processor.
struct Cut<'t> {
    text: &'t str,
    piece: Piece,
    min_bytes: usize,
}

impl Work for Cut<'_> {
    type Output = Pieces;

    #[inline(always)]
    unsafe fn run<C: Classify>(self) -> Pieces {
        let bytes = self.text.as_bytes();
        let mut cutter = Cutter { cut: self, pieces: Pieces::default(), open: None };
        let mut line = 0;
        for (number, chunk) in bytes.chunks(WIDTH).enumerate() {
            let mut padded = [b' '; WIDTH];
            let window = chunk.first_chunk().unwrap_or_else(|| {
                padded[..chunk.len()].copy_from_slice(chunk);
                &padded
            });
            // SAFETY: the caller's.
            let ascii = unsafe { C::classify(window) };
            for at in Bits(ascii.newline) {
                let end = number * WIDTH + at;
                cutter.line(line, end);
                line = end + 1;
            }
        }
        cutter.line(line, bytes.len());
        cutter.close(bytes.len());
        cutter.pieces
    }
}

struct Cutter<'t> {
    cut: Cut<'t>,
    pieces: Pieces,
    /// Where the paragraph at hand starts, and its text.
    open: Option<(usize, Range<usize>)>,
}

impl Cutter<'_> {
    /// Takes the line from `start` to `end`, without its line end.
    #[inline(always)]
    fn line(&mut self, start: usize, end: usize) {
        let line = &self.cut.text[start..end];
        let indented = line.trim_start();
        let first = end - indented.len();
        let last = first + indented.trim_end().len();
        match (self.cut.piece, &mut self.open) {
            (Piece::Line, _) if first < last => {
                self.push(start..(end + 1).min(self.cut.text.len()), first..last);
            }
            (Piece::Line, _) => {}
            // Between CR and LF there is no blank line.
            (Piece::Paragraph, _) if start == end && self.cut.text[..start].ends_with('\r') => {}
            (Piece::Paragraph, Some((_, text))) if first < last => text.end = last,
            (Piece::Paragraph, open @ None) if first < last => *open = Some((start, first..last)),
            (Piece::Paragraph, _) => self.close(start),
        }
    }

    /// Ends the paragraph at hand before the blank line at `end`.
    #[inline(always)]
    fn close(&mut self, end: usize) {
        if let Some((start, text)) = self.open.take() {
            self.push(start..end, text);
        }
    }

    #[inline(always)]
    fn push(&mut self, range: Range<usize>, text: Range<usize>) {
        if text.len() >= self.cut.min_bytes {
            self.pieces.ranges.push(range);
            self.pieces.keys.push(xxh3_128(&self.cut.text.as_bytes()[text]));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::dedup::{Bloom, KeySet};

    fn repeated(texts: &[&str], piece: Piece, min_bytes: usize) -> Vec<Vec<Range<usize>>> {
        let mut seen = Seen::Exact(KeySet::default());
        repeated_pieces(texts, piece, min_bytes, &mut seen, &Monitor::default()).unwrap()
    }

    fn kept(texts: &[&str], piece: Piece, min_bytes: usize) -> Vec<String> {
        let ranges = repeated(texts, piece, min_bytes);
        texts.iter().zip(ranges).map(|(text, ranges)| without(text, &ranges)).collect()
    }

    #[test]
    fn later_copies_of_lines_and_paragraphs_go() {
        let texts = ["a b\n\n  c\nd", "c  \r\ne\rd", "\na b"];
        assert_eq!(kept(&texts, Piece::Line, 1), ["a b\n\n  c\nd", "\ne\r", "\n"]);
        assert_eq!(kept(&texts, Piece::Line, 2), ["a b\n\n  c\nd", "c  \r\ne\rd", "\n"]);
        let texts = ["one\ntwo\n\nthree", "one\r\ntwo", "three\n \n\none\ntwo\n\nend"];
        assert_eq!(kept(&texts, Piece::Paragraph, 1), ["one\ntwo\n\nthree", "one\r\ntwo", " \n\n\nend"]);
    }

    #[test]
    fn a_filter_finds_what_a_set_finds() {
        let texts: Vec<String> =
            (0..500).map(|i| format!("line {}\nand {}\n\n漢字 {}", i % 70, i % 90, i % 400)).collect();
        let monitor = Monitor::default();
        let mut filter = Seen::Bloom(Bloom::new(1000, 1e-6).unwrap());
        let mut set = Seen::Exact(KeySet::default());
        let by_filter = repeated_pieces(&texts, Piece::Line, 1, &mut filter, &monitor).unwrap();
        assert_eq!(by_filter, repeated_pieces(&texts, Piece::Line, 1, &mut set, &monitor).unwrap());
    }

    proptest! {
        #[test]
        fn lines_are_those_of_the_definition(texts in prop::collection::vec("([ab\\r\\n\u{3000} 漢]|[a-c]{30,70}){0,40}", 1..6)) {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let mut known = HashSet::new();
            let found = repeated(&texts, Piece::Line, 1);
            for (text, found) in texts.iter().zip(found) {
                let mut start = 0;
                let mut expected = Vec::new();
                for line in text.split_inclusive(['\r', '\n']) {
                    if !line.trim().is_empty() && !known.insert(line.trim()) {
                        expected.push(start..start + line.len());
                    }
                    start += line.len();
                }
                prop_assert_eq!(found, expected);
            }
        }
    }
}
